//! The pool of pipes for splice(2): bounded in descriptors and bytes, shared by the engine threads.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::{Resource, getrlimit};

use super::policy::{PIPE_BYTES, PIPE_SHARE_OF_FDS, PIPES_KEPT};

/// A pipe that is empty whenever the pool holds it.
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

pub(super) struct Pool {
    free: Mutex<Vec<Pipe>>,
    /// Pipes in existence, free or lent.
    made: AtomicUsize,
    most: usize,
}

impl Pool {
    /// A pool whose pipes hold `bytes` at most, and an eighth of the descriptors the process may have.
    pub(super) fn new(bytes: u64) -> Pool {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
        let most = (bytes / PIPE_BYTES as u64).min(descriptors / 2 / PIPE_SHARE_OF_FDS);
        Pool { free: Mutex::new(Vec::new()), made: AtomicUsize::new(0), most: most as usize }
    }

    /// `None` when the budget is used up or the kernel refuses: the flow is copied then.
    pub(super) fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Some(pipe);
        }
        if self.made.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.made.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let Ok((read, write)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else {
            self.made.fetch_sub(1, Ordering::Relaxed);
            return None;
        };
        // Without CAP_SYS_RESOURCE a user has 64 MiB of pipes in all; a smaller pipe only means smaller steps.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Some(Pipe { read, write })
    }

    pub(super) fn lent(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.made.load(Ordering::Relaxed).saturating_sub(free)
    }

    /// Takes an empty pipe back.
    pub(super) fn give(&self, pipe: Pipe) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < PIPES_KEPT {
            free.push(pipe);
            return;
        }
        drop(free);
        self.scrap(pipe);
    }

    /// Closes a pipe, whatever it holds.
    pub(super) fn scrap(&self, pipe: Pipe) {
        drop(pipe);
        self.made.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_lends_no_more_than_its_budget_and_reuses_what_comes_back() {
        let pool = Pool::new(2 * PIPE_BYTES as u64);
        let one = pool.take().unwrap();
        let two = pool.take().unwrap();
        assert!(pool.take().is_none(), "the budget is two pipes");
        pool.give(one);
        let again = pool.take().unwrap();
        pool.scrap(two);
        assert!(pool.take().is_some(), "a scrapped pipe makes room");
        pool.give(again);
    }
}
