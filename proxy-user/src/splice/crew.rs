//! The engine threads as one crew: quick ones for interactive flows, bulk ones beside them, what they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::SpliceError;
use super::budget::{Grant, Grants, Room};
use super::busy::Wakefulness;
use super::control::Control;
use super::inbox::Inbox;
use super::pair::Pair;
use super::pipe::Pool;
use super::sockmap::KernelMap;
use super::stats::Stats;
use super::worker::Worker;

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Quick,
    Bulk,
}

/// What all engine threads share. The first half of the inboxes is of the quick threads.
pub(super) struct Crew {
    inboxes: Vec<Inbox>,
    next: AtomicUsize,
    pub(super) pipes: Pool,
    /// None where the kernel's map was not proven or not allowed.
    pub(super) map: Option<Arc<KernelMap>>,
    pub(super) stats: Stats,
    pub(super) wakefulness: Wakefulness,
    pub(super) grants: Arc<Grants>,
    pub(super) calm_after: Duration,
    pub(super) orphan_after: Duration,
}

impl Crew {
    pub(super) fn inbox(&self, index: usize) -> &Inbox {
        &self.inboxes[index % self.inboxes.len()]
    }

    pub(super) fn role(&self, index: usize) -> Role {
        if index < self.quick() { Role::Quick } else { Role::Bulk }
    }

    fn quick(&self) -> usize {
        self.inboxes.len() / 2
    }

    /// The thread that should run a flow which was on thread `index` and has the other role now.
    pub(super) fn counterpart(&self, index: usize) -> usize {
        (index + self.quick()) % self.inboxes.len()
    }

    /// Hands a flow to a thread; gives it back when too many wait there.
    pub(super) fn hand(&self, index: usize, pair: Box<Pair>) -> Result<(), Box<Pair>> {
        pair.control().set_owner(index);
        self.inbox(index).adopt(pair)
    }

    /// Wakes the flows with a mapped direction that fills up, is full, or passes.
    pub(super) fn tell_overflows(&self) {
        let now = Instant::now();
        for control in self.map.iter().flat_map(|map| map.overflowed(now)) {
            self.look(control);
        }
    }

    /// Lets a flow's owner look at it.
    pub(super) fn look(&self, control: Arc<Control>) {
        self.inbox(control.owner()).look(control);
    }

    /// A flow with this grant is over.
    pub(super) fn left(&self, grant: Grant) {
        self.grants.give_back(grant);
        self.stats.flows.fetch_sub(1, Ordering::Relaxed);
    }

    /// The quick thread for the next new flow.
    pub(super) fn next(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.quick()
    }
}

/// The grant of a flow that is copied on tokio; dropping it gives the grant back.
pub(super) struct Share {
    threads: Arc<Threads>,
    pub(super) grant: Grant,
}

impl Share {
    pub(super) fn take(threads: &Arc<Threads>) -> Share {
        Share { grant: threads.crew().grants.take(), threads: threads.clone() }
    }

    /// The same for an end that is no socket.
    pub(super) fn room(&self) -> Room {
        Room::new(self.grant, &self.threads.crew().grants)
    }

    pub(super) fn orphan_after(&self) -> Duration {
        self.threads.crew().orphan_after
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.threads.crew().grants.give_back(self.grant);
    }
}

/// Keeps the threads running; they stop with its last holder (a splicer or a join).
pub(super) struct Threads(Arc<Crew>);

impl Threads {
    /// Starts `count` quick and as many bulk threads.
    pub(super) fn start(
        count: usize,
        budget: u64,
        map: Option<Arc<KernelMap>>,
        wakefulness: Wakefulness,
        [calm_after, orphan_after]: [Duration; 2],
    ) -> Result<Threads, SpliceError> {
        let inboxes = (0..count.max(1) * 2).map(|_| Inbox::new()).collect::<Result<Vec<_>, _>>()?;
        let crew = Arc::new(Crew {
            inboxes,
            next: AtomicUsize::new(0),
            pipes: Pool::new(budget),
            grants: Arc::new(Grants::new(budget)),
            map,
            stats: Stats::default(),
            wakefulness,
            calm_after,
            orphan_after,
        });
        let threads = Threads(crew.clone());
        for index in 0..crew.inboxes.len() {
            let worker = Worker::new(index, crew.clone())?;
            let name = match crew.role(index) {
                Role::Quick => format!("splice-{index}"),
                Role::Bulk => format!("splice-bulk-{}", index - crew.quick()),
            };
            std::thread::Builder::new()
                .name(name)
                .spawn(move || worker.run())
                .map_err(SpliceError::Thread)?;
        }
        Ok(threads)
    }

    pub(super) fn crew(&self) -> &Crew {
        &self.0
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.0.inboxes.iter().for_each(Inbox::stop);
    }
}
