//! Flows that nobody reads: the target sends without end, the client never takes a byte.

use std::io::Result;
use std::net::Shutdown;
use std::thread::{self, JoinHandle};

use super::bulk::write_on;
use super::target::CHUNK;
use super::{Conn, Job, Way};

/// Stalled flows; dropping closes them.
pub struct Stalled {
    conns: Vec<Conn>,
    writers: Vec<JoinHandle<()>>,
}

impl Stalled {
    pub fn open(way: &Way, flows: usize) -> Result<Stalled> {
        let conns = (0..flows).map(|_| way.start(Job::Down)).collect::<Result<_>>()?;
        Ok(Stalled { conns, writers: Vec::new() })
    }

    /// Flows whose client sends without end as well, and whose target reads no more than that client does.
    pub fn open_both_ways(way: &Way, flows: usize) -> Result<Stalled> {
        let mut stalled = Stalled::open(way, flows)?;
        for conn in &stalled.conns {
            let conn = conn.try_clone()?;
            let thread = thread::Builder::new().name("stalled".into()).stack_size(64 << 10);
            stalled.writers.push(thread.spawn(move || write_on(conn, CHUNK))?);
        }
        Ok(stalled)
    }

    /// Flows where the target neither sends nor reads.
    pub fn idle(way: &Way, flows: usize) -> Result<Stalled> {
        let conns = (0..flows).map(|_| way.start(Job::Hold)).collect::<Result<_>>()?;
        Ok(Stalled { conns, writers: Vec::new() })
    }

    /// Bytes that wait in Unix sockets of the client: memory that no counter of the machine names.
    pub fn unread_unix(&self) -> u64 {
        self.conns.iter().filter(|conn| conn.is_unix()).map(Conn::unread).sum()
    }

    /// Flows that ended although nobody ended them.
    pub fn lost(&self) -> usize {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds: Vec<_> = self.conns.iter().map(|conn| PollFd::new(conn, PollFlags::RDHUP)).collect();
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&now)) {
            Ok(_) => fds
                .iter()
                .filter(|fd| fd.revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR))
                .count(),
            Err(_) => self.conns.len(),
        }
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        if self.writers.is_empty() {
            return;
        }
        for conn in &self.conns {
            // One that is gone already holds no writer.
            let _ = conn.shutdown(Shutdown::Both);
        }
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}
