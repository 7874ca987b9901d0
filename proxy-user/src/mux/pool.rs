//! What all links of a process hold together, and the flow that has to go when it is too much.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::brake::Limits;
use super::link::Inner;
use super::state::Dialect;
use crate::wire::ids::ConnId;

/// Shared by every link of a process.
#[derive(Default)]
pub struct Pool {
    pub(super) limits: Limits,
    queued: AtomicU64,
    links: Mutex<Vec<Weak<Inner>>>,
}

impl Pool {
    pub fn new(limits: Limits) -> Arc<Pool> {
        Arc::new(Pool { limits, ..Pool::default() })
    }

    /// Bytes that were received on packets and wait to be read.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    pub(super) fn join(&self, link: &Arc<Inner>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| link.strong_count() > 0);
        links.push(Arc::downgrade(link));
    }

    pub(super) fn add(&self, bytes: u64) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sub(&self, bytes: u64) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.queued() > self.limits.total
    }

    /// Ends the largest flow from which nobody took a byte for `idle`, on whichever link it is; false when there is
    /// none.
    pub(super) fn give_up_largest(&self, idle: Duration) -> bool {
        let links: Vec<Arc<Inner>> = {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.iter().filter_map(Weak::upgrade).collect()
        };
        let now = Instant::now();
        let largest = links
            .iter()
            .filter(|link| link.config.dialect == Dialect::Upstream)
            .filter_map(|link| {
                let book = link.book();
                let idle =
                    book.flows.iter().filter(|(_, flow)| flow.queued > 0 && flow.idle_for(now) >= idle);
                idle.map(|(conn, flow)| (flow.queued, *conn)).max().map(|(queued, conn)| (queued, conn, link))
            })
            .max_by_key(|(queued, ..)| *queued);
        match largest {
            Some((_, conn, link)) => {
                link.give_up(conn);
                true
            }
            None => false,
        }
    }
}

impl Inner {
    /// Ends a flow that nobody reads: both its ends see an abort.
    pub(super) fn give_up(&self, conn: ConnId) {
        let mut book = self.book();
        if let Some(flow) = book.flows.get_mut(&conn) {
            self.config.pool.sub(flow.give_up());
            book.settle(conn);
        }
        drop(book);
        self.moved.notify_waiters();
        self.config.observer.gave_up(conn);
    }
}
