//! Letting bytes of a steady bulk source gather, so that one wake-up moves many of them.
//!
//! A sender paced at 1 Gbit/s sends 95 KB at a time: 1,300 wake-ups a second on each hop, and each wakes the next
//! one. The kernel holds readiness back until so much waits as the source sends in [`GATHER_TIME`] (SO_RCVLOWAT);
//! its end and its errors wake at once. A source that then falls silent has more to do than to send, perhaps it
//! waits for an answer: the deadline finds what it sent, and it is left alone for a growing while.

use std::time::{Duration, Instant};

use super::Plain;
use super::kernel::sock::receive_at_least;
use super::policy::{
    GATHER_FASTEST, GATHER_LEAST, GATHER_MOST, GATHER_PATIENCE, GATHER_PAUSE_LEAST, GATHER_PAUSE_MOST,
    GATHER_STEADY, GATHER_TIME,
};

#[derive(Debug, Default)]
pub(super) struct Gather {
    /// What the kernel waits for; `None`: any byte.
    armed: Option<Armed>,
    /// Bytes since the source was last empty.
    helping: u64,
    /// Not before.
    again: Option<Instant>,
    pause: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Armed {
    bytes: u64,
    since: Instant,
    deadline: Instant,
}

impl Gather {
    pub(super) fn took(&mut self, bytes: usize) {
        self.helping += bytes as u64;
    }

    /// As much came as was waited for: asking for more is a call without an answer. What is left behind wakes with
    /// the next bytes, or at the deadline.
    pub(super) fn is_sated(&self) -> bool {
        self.armed.is_some_and(|armed| self.helping >= armed.bytes)
    }

    /// The source has no more for now, `speed` in bytes per second until now.
    pub(super) fn emptied(&mut self, source: &Plain, speed: u64, now: Instant) {
        let helping = std::mem::take(&mut self.helping);
        match self.armed {
            Some(armed) if helping < armed.bytes => self.give_up(source, armed, now),
            _ => self.arm(source, speed, helping, now),
        }
    }

    fn arm(&mut self, source: &Plain, speed: u64, helping: u64, now: Instant) {
        if speed > GATHER_FASTEST {
            return self.disarm(source);
        }
        let bytes = (speed * GATHER_TIME.as_micros() as u64 / 1_000_000).min(GATHER_MOST);
        let deadline = now + GATHER_PATIENCE;
        if let Some(armed) = &mut self.armed {
            armed.deadline = deadline;
            if bytes >= armed.bytes / 2 && bytes <= armed.bytes * 2 {
                return;
            }
        }
        // What comes in larger helpings by itself needs no waiting.
        let worth = bytes >= GATHER_LEAST && helping < bytes && self.again.is_none_or(|at| now >= at);
        if !worth {
            return;
        }
        let since = self.armed.map_or(now, |armed| armed.since);
        let told = match source {
            Plain::Tcp(socket) => receive_at_least(socket, bytes as u32).is_ok(),
            // Readiness of a Unix socket knows no such bound.
            Plain::Unix(_) => false,
        };
        self.armed = told.then_some(Armed { bytes, since, deadline });
    }

    fn give_up(&mut self, source: &Plain, armed: Armed, now: Instant) {
        self.disarm(source);
        let steady = now.saturating_duration_since(armed.since) >= GATHER_STEADY;
        self.pause = if steady { GATHER_PAUSE_LEAST } else { self.pause * 2 };
        self.pause = self.pause.clamp(GATHER_PAUSE_LEAST, GATHER_PAUSE_MOST);
        self.again = Some(now + self.pause);
    }

    /// Any byte wakes again.
    pub(super) fn disarm(&mut self, source: &Plain) {
        if let (Some(_), Plain::Tcp(socket)) = (self.armed.take(), source) {
            // Fails on a dead socket only, which wakes by its error.
            let _ = receive_at_least(socket, 1);
        }
    }

    /// When to look whether something came after all.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.armed.map(|armed| armed.deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn sockets() -> (TcpStream, Plain) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        sender.set_nodelay(true).unwrap();
        (sender, Plain::Tcp(listener.accept().unwrap().0))
    }

    fn is_readable(source: &Plain) -> bool {
        let mut fds = [PollFd::new(source, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap() == 1
    }

    const SPEED: u64 = 50_000_000;

    #[test]
    fn the_kernel_waits_for_a_helping_of_a_fast_source_and_tells_its_end() {
        let (mut sender, source) = sockets();
        let (mut gather, now) = (Gather::default(), Instant::now());
        gather.emptied(&source, SPEED, now);
        let wanted = gather.armed.unwrap().bytes as usize;
        sender.write_all(&vec![0; wanted - 1]).unwrap();
        assert!(!is_readable(&source), "not yet as much as was asked for");
        sender.write_all(&[0]).unwrap();
        assert!(is_readable(&source));
        gather.took(wanted);
        assert!(gather.is_sated());
        gather.emptied(&source, SPEED, now);
        assert_eq!(gather.deadline(), Some(now + GATHER_PATIENCE));

        let (sender, source) = sockets();
        gather = Gather::default();
        gather.emptied(&source, SPEED, now);
        sender.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(is_readable(&source), "an end does not wait");
    }

    #[test]
    fn a_source_that_falls_silent_is_left_alone_for_longer_each_time() {
        let (mut sender, source) = sockets();
        let (mut gather, mut now) = (Gather::default(), Instant::now());
        gather.emptied(&source, SPEED, now);
        sender.write_all(&[0; 100]).unwrap();
        gather.took(100);
        gather.emptied(&source, SPEED, now);
        assert_eq!(gather.deadline(), None);
        assert!(is_readable(&source), "any byte wakes again");

        let mut waited = Vec::new();
        for _ in 0..3 {
            let begun = now;
            while gather.deadline().is_none() {
                now += Duration::from_millis(1);
                gather.emptied(&source, SPEED, now);
            }
            waited.push(now - begun);
            gather.emptied(&source, SPEED, now);
        }
        assert!(
            waited[0] >= GATHER_PAUSE_LEAST && waited[1] > waited[0] && waited[2] > waited[1],
            "{waited:?}"
        );
    }

    #[test]
    fn slow_and_saturated_sources_unix_sources_and_large_helpings_wake_at_once() {
        let (_sender, source) = sockets();
        let (mut gather, now) = (Gather::default(), Instant::now());
        gather.emptied(&source, 1_000_000, now);
        assert_eq!(gather.deadline(), None);
        gather.took(1 << 20);
        gather.emptied(&source, SPEED, now);
        assert_eq!(gather.deadline(), None);
        gather.emptied(&source, SPEED, now);
        assert!(gather.deadline().is_some());
        gather.took(1 << 20);
        gather.emptied(&source, 20 * SPEED, now);
        assert_eq!(gather.deadline(), None, "a saturated source wakes at once");
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        gather.emptied(&Plain::Unix(unix), SPEED, now);
        assert_eq!(gather.deadline(), None);
    }
}
