//! What all links of a process hold together, how much of it one flow may hold, and which flow has to go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Notify;

use super::brake::Limits;
use super::link::Inner;
use super::state::Dialect;
use crate::wire::ids::ConnId;

/// Shared by every link of a process.
#[derive(Default)]
pub struct Pool {
    pub(super) limits: Limits,
    queued: AtomicU64,
    /// The part of it that no window bounds.
    unbounded: AtomicU64,
    /// A flow was read from or ended: a paused reader looks again.
    pub(super) moved: Notify,
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

    pub(super) fn add(&self, dialect: Dialect, bytes: u64) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        if dialect == Dialect::Upstream {
            self.unbounded.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes were read or forgotten. Between our own ends no reader ever pauses.
    pub(super) fn sub(&self, dialect: Dialect, bytes: u64) {
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
        if dialect == Dialect::Upstream {
            self.unbounded.fetch_sub(bytes, Ordering::Relaxed);
            self.moved.notify_waiters();
        }
    }

    /// The last bound of every flow from an upstream peer: as much as all of them leave free. A flow alone stops at
    /// half of the whole, two at a third each, so the total is never reached and small flows always find room.
    pub(super) fn last_bound(&self) -> u64 {
        self.limits.total.saturating_sub(self.unbounded.load(Ordering::Relaxed))
    }

    /// Ends the largest of the flows at their last bound whose reader is too slow, on whichever link it is; false
    /// when there is none.
    pub(super) fn give_up_slowest(&self) -> bool {
        let links: Vec<Arc<Inner>> = {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.iter().filter_map(Weak::upgrade).collect()
        };
        let (now, bound) = (Instant::now(), self.last_bound());
        let slowest = links
            .iter()
            .filter(|link| link.config.dialect == Dialect::Upstream)
            .filter_map(|link| {
                let book = link.book();
                let slow = book
                    .flows
                    .iter()
                    .filter(|(_, flow)| flow.queued > 0 && flow.queued >= bound && flow.is_too_slow(now));
                slow.map(|(conn, flow)| (flow.queued, *conn)).max().map(|(queued, conn)| (queued, conn, link))
            })
            .max_by_key(|(queued, ..)| *queued);
        match slowest {
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
            self.left(flow.give_up());
            book.settle(conn);
        }
        drop(book);
        self.config.observer.gave_up(conn);
    }
}
