//! The bounded queue of commands into an engine thread, with the eventfd that wakes it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::SpliceError;
use super::control::Control;
use super::pair::Pair;
use super::policy::INBOX_BOUND;

pub(super) enum Command {
    /// A flow to run from now on, new or from another thread.
    Adopt(Box<Pair>),
    /// Something about the flow is to be seen: its flag says cancelled, or a mapped direction fills up, passes
    /// or may have left.
    Look(Arc<Control>),
}

pub(super) struct Inbox {
    /// None once its thread has stopped.
    queue: Mutex<Option<VecDeque<Command>>>,
    wake: OwnedFd,
    /// A look found no room: every flow must be looked at.
    sweep: AtomicBool,
    stop: AtomicBool,
}

impl Inbox {
    pub(super) fn new() -> Result<Inbox, SpliceError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| SpliceError::Poll(error.into()))?;
        Ok(Inbox {
            queue: Mutex::new(Some(VecDeque::new())),
            wake,
            sweep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        })
    }

    /// Gives the flow back when the queue is full or its thread has stopped.
    pub(super) fn adopt(&self, pair: Box<Pair>) -> Result<(), Box<Pair>> {
        match self.push(Command::Adopt(pair)) {
            Err(Command::Adopt(pair)) => Err(pair),
            _ => Ok(()),
        }
    }

    pub(super) fn look(&self, control: Arc<Control>) {
        if self.push(Command::Look(control)).is_err() {
            self.sweep.store(true, Ordering::Release);
            self.ring();
        }
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn take_sweep(&self) -> bool {
        self.sweep.swap(false, Ordering::AcqRel)
    }

    /// Everything that waits; rings no more until the next push.
    pub(super) fn take(&self) -> VecDeque<Command> {
        // An eventfd read resets it; it fails only when it was zero.
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Everything that waits; no more can come.
    pub(super) fn close(&self) -> VecDeque<Command> {
        self.lock().take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<Command>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, command: Command) -> Result<(), Command> {
        let first = match &mut *self.lock() {
            Some(queue) if queue.len() < INBOX_BOUND => {
                queue.push_back(command);
                queue.len() == 1
            }
            _ => return Err(command),
        };
        if first {
            self.ring();
        }
        Ok(())
    }

    fn ring(&self) {
        // Fails only when the counter is at its end, and then it rings already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
