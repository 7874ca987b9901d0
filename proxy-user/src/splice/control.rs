//! What the holder of a [`Join`](super::Join) and the engine thread share about one flow.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The order matters: a flag is set before the owner is read, an owner is stored before the flag is read. So
/// either the canceller finds the new owner or the new owner finds the flag.
#[derive(Debug, Default)]
pub(super) struct Control {
    cancelled: AtomicBool,
    /// The thread that runs the flow, by its place in the engine's list.
    owner: AtomicUsize,
    /// The flow's key on that thread.
    key: AtomicUsize,
}

impl Control {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    pub(super) fn owner(&self) -> usize {
        self.owner.load(Ordering::SeqCst)
    }

    pub(super) fn set_owner(&self, owner: usize) {
        self.owner.store(owner, Ordering::SeqCst);
    }

    pub(super) fn key(&self) -> usize {
        self.key.load(Ordering::Relaxed)
    }

    pub(super) fn set_key(&self, key: usize) {
        self.key.store(key, Ordering::Relaxed);
    }
}
