//! The control streams there are, and how many of them each strategy can pick from.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::handle::AgentHandle;
use crate::ops::metrics::ServerMetrics;
use crate::server::options::Strategy;
use crate::server::pick::known::Known;
use crate::server::pick::nodes::Node;
use crate::wire::range::Range;

/// Every live control stream, in order of arrival.
pub struct Registry {
    streams: RwLock<Arc<Vec<Arc<AgentHandle>>>>,
    known: RwLock<Known>,
    /// Held by whoever changes one of both and counts then: one after the other.
    changing: Mutex<()>,
    next: AtomicU64,
    strategies: Vec<Strategy>,
    metrics: ServerMetrics,
}

impl Registry {
    pub fn new(strategies: Vec<Strategy>, metrics: ServerMetrics) -> Arc<Registry> {
        let registry = Registry {
            streams: RwLock::default(),
            known: RwLock::default(),
            changing: Mutex::default(),
            next: AtomicU64::new(1),
            strategies,
            metrics,
        };
        registry.count();
        Arc::new(registry)
    }

    /// A number for a stream to come.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Can be picked from here on, until the guard drops.
    pub fn add(self: &Arc<Self>, handle: Arc<AgentHandle>) -> Registered {
        self.change(|| {
            if self.is_node_local() {
                let streams = self.streams();
                let live = streams.iter().flat_map(|stream| stream.ranges.iter().copied());
                self.known.write().unwrap_or_else(PoisonError::into_inner).add(&handle.ranges, live);
            }
            self.set_streams(|streams| streams.push(handle.clone()));
        });
        Registered { registry: self.clone(), handle }
    }

    /// The Kubernetes API lists these nodes and no others.
    pub fn set_nodes(&self, nodes: Vec<Node>) {
        self.change_nodes(|known, is_live| known.set_nodes(nodes, is_live));
    }

    pub fn put_node(&self, node: Node) {
        // Most news of a node are of its health.
        if self.known().nodes().get(&node.name).is_some_and(|before| **before == node) {
            return;
        }
        self.change_nodes(|known, is_live| known.put_node(node, is_live));
    }

    pub fn remove_node(&self, name: &str) {
        self.change_nodes(|known, is_live| known.remove_node(name, is_live));
    }

    pub fn is_node_local(&self) -> bool {
        self.strategies.contains(&Strategy::NodeLocal)
    }

    pub fn streams(&self) -> Arc<Vec<Arc<AgentHandle>>> {
        self.streams.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ranges of nodes, for `nodeLocal`; empty without it.
    pub fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server is ready: its first strategy has something to pick from. Draining streams count. `nodeLocal`, which
    /// leaves to the next what is no known node's, is not the first alone.
    pub fn is_ready(&self) -> bool {
        let streams = self.streams();
        let known = self.known();
        let first = self.strategies.iter().position(|strategy| *strategy != Strategy::NodeLocal);
        let asked = self.strategies.iter().take(first.map_or(usize::MAX, |first| first + 1));
        asked.into_iter().any(|strategy| keys(*strategy, &streams, &known) > 0)
    }

    fn set_streams(&self, change: impl FnOnce(&mut Vec<Arc<AgentHandle>>)) {
        let mut changed = self.streams().to_vec();
        change(&mut changed);
        *self.streams.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(changed);
    }

    fn change_nodes(&self, change: impl FnOnce(&mut Known, &dyn Fn(Range) -> bool)) {
        self.change(|| {
            let streams = self.streams();
            let live: HashSet<Range> =
                streams.iter().flat_map(|stream| stream.ranges.iter().copied()).collect();
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            change(&mut known, &|range| live.contains(&range));
        });
    }

    fn change(&self, change: impl FnOnce()) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        change();
        self.count();
    }

    fn count(&self) {
        let (streams, known) = (self.streams(), self.known());
        for strategy in &self.strategies {
            self.metrics.ready_backends(strategy.name(), keys(*strategy, &streams, &known));
        }
    }
}

/// Distinct keys that a strategy can pick by, as upstream counts them.
fn keys(strategy: Strategy, streams: &[Arc<AgentHandle>], known: &Known) -> usize {
    match strategy {
        Strategy::Default => streams.iter().map(|stream| &stream.id).collect::<HashSet<_>>().len(),
        Strategy::DestHost => {
            streams.iter().flat_map(|stream| stream.identifiers.hosts()).collect::<HashSet<_>>().len()
        }
        Strategy::DefaultRoute => {
            let routed = streams.iter().filter(|stream| stream.identifiers.default_route);
            routed.map(|stream| &stream.id).collect::<HashSet<_>>().len()
        }
        Strategy::NodeLocal => {
            let named = streams.iter().flat_map(|stream| stream.ranges.iter().copied());
            let nodes = streams.iter().flat_map(|stream| known.nodes().of(stream));
            named.chain(nodes.flat_map(|node| node.ranges())).collect::<HashSet<_>>().len()
        }
    }
}

/// A stream that can be picked.
pub struct Registered {
    registry: Arc<Registry>,
    handle: Arc<AgentHandle>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.change(|| {
            self.registry.set_streams(|streams| streams.retain(|stream| stream.number != self.handle.number));
        });
        self.handle.lose();
    }
}
