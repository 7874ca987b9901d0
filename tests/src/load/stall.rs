//! Flows that nobody reads: the target sends without end, the client never takes a byte.

use std::io::Result;

use super::{Conn, Job, Way};

/// Stalled flows; dropping closes them.
pub struct Stalled {
    conns: Vec<Conn>,
}

impl Stalled {
    pub fn open(way: &Way, flows: usize) -> Result<Stalled> {
        let conns = (0..flows).map(|_| way.start(Job::Down)).collect::<Result<_>>()?;
        Ok(Stalled { conns })
    }

    /// Flows where the target neither sends nor reads.
    pub fn idle(way: &Way, flows: usize) -> Result<Stalled> {
        let conns = (0..flows).map(|_| way.start(Job::Hold)).collect::<Result<_>>()?;
        Ok(Stalled { conns })
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
