//! Leases: create, get, list, watch, update and delete, with resource versions that conflict.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{failure, lock};

pub(super) struct Leases {
    store: Mutex<Store>,
    changed: watch::Sender<u64>,
    /// Happens once, right behind the next list that is taken.
    behind_list: Mutex<Option<Behind>>,
    /// The HTTP status of every watch; 0: they are well.
    no_watch: AtomicU16,
}

type Behind = Box<dyn FnOnce(&Leases) + Send>;

#[derive(Default)]
struct Store {
    version: u64,
    leases: BTreeMap<(String, String), Value>,
    events: Vec<(u64, Value)>,
    conflicts: usize,
}

impl Default for Leases {
    fn default() -> Leases {
        Leases {
            store: Mutex::default(),
            changed: watch::channel(0).0,
            behind_list: Mutex::default(),
            no_watch: AtomicU16::new(0),
        }
    }
}

impl Store {
    fn change(&mut self, kind: &str, key: (String, String), mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        lease["metadata"]["namespace"] = json!(key.0);
        self.events.push((self.version, json!({ "type": kind, "object": lease })));
        match kind {
            "DELETED" => self.leases.remove(&key),
            _ => self.leases.insert(key, lease.clone()),
        };
        lease
    }
}

impl Leases {
    pub(super) fn all(&self) -> Vec<Value> {
        lock(&self.store).leases.values().cloned().collect()
    }

    pub(super) fn put(&self, namespace: &str, name: &str, labels: &Value, ago: Duration) {
        let renewed = k8s_time(ago);
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": name, "labels": labels },
            "spec": { "holderIdentity": name, "leaseDurationSeconds": 300, "renewTime": renewed },
        });
        let mut store = lock(&self.store);
        let key = (namespace.to_owned(), name.to_owned());
        let kind = if store.leases.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        store.change(kind, key, lease);
        self.changed.send_replace(store.version);
    }

    pub(super) fn remove(&self, name: &str) {
        let mut store = lock(&self.store);
        let key = ("kube-system".to_owned(), name.to_owned());
        if let Some(lease) = store.leases.get(&key).cloned() {
            store.change("DELETED", key, lease);
        }
        self.changed.send_replace(store.version);
    }

    pub(super) fn conflict(&self, count: usize) {
        lock(&self.store).conflicts = count;
    }

    pub(super) fn behind_list(&self, what: impl FnOnce(&Leases) + Send + 'static) {
        *lock(&self.behind_list) = Some(Box::new(what));
    }

    pub(super) fn refuse_watches(&self, code: u16) {
        self.no_watch.store(code, Ordering::Relaxed);
    }

    /// What a watch is refused with.
    pub(super) fn no_watch(&self) -> Option<(u16, Value)> {
        let code = self.no_watch.load(Ordering::Relaxed);
        (code != 0).then(|| failure(code, "Unwell", "the stand-in was told to refuse watches"))
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What happened in `namespace`, or in all if that is empty, after `version` to leases that `selector` selects.
    pub(super) fn since(&self, namespace: &str, version: u64, selector: &str) -> (u64, Vec<Value>) {
        let store = lock(&self.store);
        let fits = |(at, event): &&(u64, Value)| {
            *at > version
                && (namespace.is_empty() || event["object"]["metadata"]["namespace"] == json!(namespace))
                && selects(selector, &event["object"])
        };
        (store.version, store.events.iter().filter(fits).map(|(_, event)| event.clone()).collect())
    }

    pub(super) fn list(&self, namespace: &str, selector: &str) -> (u16, Value) {
        let store = lock(&self.store);
        let of = |key: &(String, String)| namespace.is_empty() || key.0 == namespace;
        let fits = store.leases.iter().filter(|(key, lease)| of(key) && selects(selector, lease));
        let items: Vec<&Value> = fits.map(|(_, lease)| lease).collect();
        let list = json!({
            "kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1",
            "metadata": { "resourceVersion": store.version.to_string() }, "items": items,
        });
        drop(store);
        let behind = lock(&self.behind_list).take();
        if let Some(behind) = behind {
            behind(self);
        }
        (200, list)
    }

    pub(super) fn one(&self, method: &str, key: (String, String), body: Value) -> (u16, Value) {
        let mut store = lock(&self.store);
        let found = store.leases.get(&key).cloned();
        let answer = match (method, found) {
            ("POST", Some(_)) => failure(409, "AlreadyExists", "leases already exists"),
            ("POST", None) => (201, store.change("ADDED", key, body)),
            (_, None) => failure(404, "NotFound", "leases not found"),
            ("GET", Some(lease)) => (200, lease),
            ("PUT", Some(lease)) => {
                let read = &body["metadata"]["resourceVersion"];
                let outdated = !read.is_null() && *read != lease["metadata"]["resourceVersion"];
                if outdated || store.conflicts > 0 {
                    store.conflicts = store.conflicts.saturating_sub(1);
                    failure(409, "Conflict", "the object has been modified")
                } else {
                    (200, store.change("MODIFIED", key, body))
                }
            }
            ("DELETE", Some(lease)) => {
                let wanted = &body["preconditions"]["resourceVersion"];
                if !wanted.is_null() && *wanted != lease["metadata"]["resourceVersion"] {
                    failure(409, "Conflict", "the ResourceVersion in the precondition does not match")
                } else {
                    store.change("DELETED", key, lease);
                    (
                        200,
                        json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }),
                    )
                }
            }
            _ => failure(405, "MethodNotAllowed", "the server does not allow this method"),
        };
        self.changed.send_replace(store.version);
        answer
    }
}

/// Equality, `in` and existence: what the tests ask for.
fn selects(selector: &str, lease: &Value) -> bool {
    let labels = &lease["metadata"]["labels"];
    let mut rest = selector.trim();
    while !rest.is_empty() {
        let closing = rest.find(')').filter(|_| rest.find('(') < rest.find(',') && rest.contains('('));
        let end = closing.map_or_else(|| rest.find(',').unwrap_or(rest.len()), |at| at + 1);
        let (term, more) = rest.split_at(end);
        rest = more.trim_start_matches(',').trim();
        let holds = if let Some((key, values)) = term.split_once(" in ") {
            let values = values.trim().trim_matches(['(', ')']);
            values.split(',').any(|value| labels[key.trim()] == json!(value.trim()))
        } else if let Some((key, value)) = term.split_once('=') {
            labels[key.trim()] == json!(value.trim_start_matches('=').trim())
        } else {
            !labels[term.trim()].is_null()
        };
        if !holds {
            return false;
        }
    }
    true
}

/// RFC 3339 with microseconds, `ago` before now.
fn k8s_time(ago: Duration) -> String {
    let now = std::time::SystemTime::now() - ago;
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Howard Hinnant's civil_from_days.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}
