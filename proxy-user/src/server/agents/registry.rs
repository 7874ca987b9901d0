//! The control streams there are, and how many of them each strategy can pick from.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::handle::AgentHandle;
use crate::ops::metrics::ServerMetrics;
use crate::server::options::Strategy;
use crate::server::pick::range::Known;

/// Every live control stream, in order of arrival.
pub struct Registry {
    streams: RwLock<Arc<Vec<Arc<AgentHandle>>>>,
    known: RwLock<Known>,
    next: AtomicU64,
    strategies: Vec<Strategy>,
    metrics: ServerMetrics,
}

impl Registry {
    pub fn new(strategies: Vec<Strategy>, metrics: ServerMetrics) -> Arc<Registry> {
        let registry = Registry {
            streams: RwLock::default(),
            known: RwLock::default(),
            next: AtomicU64::new(1),
            strategies,
            metrics,
        };
        registry.count(&[]);
        Arc::new(registry)
    }

    /// A number for a stream to come.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Can be picked from here on, until the guard drops.
    pub fn add(self: &Arc<Self>, handle: Arc<AgentHandle>) -> Registered {
        if self.strategies.contains(&Strategy::NodeLocal) {
            let streams = self.streams();
            let live = streams.iter().flat_map(|stream| stream.ranges.iter().copied());
            self.known.write().unwrap_or_else(PoisonError::into_inner).add(&handle.ranges, live);
        }
        self.change(|streams| streams.push(handle.clone()));
        Registered { registry: self.clone(), handle }
    }

    pub fn streams(&self) -> Arc<Vec<Arc<AgentHandle>>> {
        self.streams.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ranges of nodes, for `nodeLocal`; empty without it.
    pub fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server is ready: its first strategy has something to pick from. Draining streams count.
    pub fn is_ready(&self) -> bool {
        let streams = self.streams();
        self.strategies.first().is_some_and(|first| keys(*first, &streams) > 0)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<AgentHandle>>)) {
        let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = streams.to_vec();
        change(&mut changed);
        self.count(&changed);
        *streams = Arc::new(changed);
    }

    fn count(&self, streams: &[Arc<AgentHandle>]) {
        for strategy in &self.strategies {
            self.metrics.ready_backends(strategy.name(), keys(*strategy, streams));
        }
    }
}

/// Distinct keys that a strategy can pick by, as upstream counts them.
fn keys(strategy: Strategy, streams: &[Arc<AgentHandle>]) -> usize {
    match strategy {
        Strategy::Default => streams.iter().map(|stream| &stream.id).collect::<HashSet<_>>().len(),
        Strategy::DestHost => {
            streams.iter().flat_map(|stream| stream.identifiers.hosts()).collect::<HashSet<_>>().len()
        }
        Strategy::DefaultRoute => {
            let routed = streams.iter().filter(|stream| stream.identifiers.default_route);
            routed.map(|stream| &stream.id).collect::<HashSet<_>>().len()
        }
        Strategy::NodeLocal => streams.iter().flat_map(|stream| &stream.ranges).collect::<HashSet<_>>().len(),
    }
}

/// A stream that can be picked.
pub struct Registered {
    registry: Arc<Registry>,
    handle: Arc<AgentHandle>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.change(|streams| streams.retain(|stream| stream.number != self.handle.number));
        self.handle.lose();
    }
}
