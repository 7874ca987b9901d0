//! Nodes: list in pages, and watch.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{failure, lock};

/// A page has no more, whatever is asked for.
const PAGE: usize = 2;

pub(super) struct Nodes {
    store: Mutex<Store>,
    changed: watch::Sender<u64>,
    circle: AtomicBool,
}

#[derive(Default)]
struct Store {
    version: u64,
    /// What happened before is forgotten.
    oldest: u64,
    nodes: BTreeMap<String, Value>,
    events: Vec<(u64, Value)>,
}

impl Default for Nodes {
    fn default() -> Nodes {
        Nodes { store: Mutex::default(), changed: watch::channel(0).0, circle: AtomicBool::new(false) }
    }
}

impl Nodes {
    /// With this internal address and these pod ranges.
    pub(super) fn put(&self, name: &str, address: &str, pods: &[&str]) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": name },
            "spec": { "podCIDR": pods.first(), "podCIDRs": pods },
            "status": { "addresses": [
                { "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name },
            ]},
        });
        let mut store = lock(&self.store);
        let kind = if store.nodes.contains_key(name) { "MODIFIED" } else { "ADDED" };
        let node = store.change(kind, node);
        store.nodes.insert(name.into(), node);
        self.changed.send_replace(store.version);
    }

    pub(super) fn remove(&self, name: &str) {
        let mut store = lock(&self.store);
        if let Some(node) = store.nodes.remove(name) {
            store.change("DELETED", node);
        }
        self.changed.send_replace(store.version);
    }

    pub(super) fn forget(&self) {
        let mut store = lock(&self.store);
        store.version += 1;
        store.oldest = store.version;
        self.changed.send_replace(store.version);
    }

    /// Whether every list goes on behind its first node, however far it came.
    pub(super) fn go_round(&self, circle: bool) {
        self.circle.store(circle, Ordering::Relaxed);
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What happened after `version`.
    pub(super) fn since(&self, version: u64) -> (u64, Vec<Value>) {
        let store = lock(&self.store);
        if version < store.oldest {
            let (_, gone) = failure(410, "Expired", "too old resource version");
            return (store.version, vec![json!({ "type": "ERROR", "object": gone })]);
        }
        let later = store.events.iter().filter(|(at, _)| *at > version);
        (store.version, later.map(|(_, event)| event.clone()).collect())
    }

    /// The page that begins behind the node that `token` names.
    pub(super) fn list(&self, limit: usize, token: &str) -> (u16, Value) {
        let store = lock(&self.store);
        let size = if limit == 0 { usize::MAX } else { limit.min(PAGE) };
        let rest: Vec<_> = store.nodes.iter().filter(|(name, _)| name.as_str() > token).collect();
        let page = &rest[..rest.len().min(size)];
        let next = page.last().filter(|_| page.len() < rest.len());
        let first = store.nodes.first_key_value().filter(|_| self.circle.load(Ordering::Relaxed));
        let next = first.map(|(name, _)| name).or(next.map(|(name, _)| *name));
        let list = json!({
            "kind": "NodeList", "apiVersion": "v1",
            "metadata": { "resourceVersion": store.version.to_string(), "continue": next.map_or("", String::as_str) },
            "items": page.iter().map(|(_, node)| node).collect::<Vec<_>>(),
        });
        (200, list)
    }
}

impl Store {
    fn change(&mut self, kind: &str, mut node: Value) -> Value {
        self.version += 1;
        node["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.events.push((self.version, json!({ "type": kind, "object": node })));
        node
    }
}
