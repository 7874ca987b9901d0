//! Bulk flows: as fast as the way allows or paced by the sender, until dropped.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::target::{CHUNK, PACED_CHUNK};
use super::{Conn, Job, Target, Way};
use crate::cpu::Whose;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// From the target, as fast as it goes.
    Down,
    /// To the target, as fast as it goes.
    Up,
    /// From the target, each sender paced to so many bytes per second.
    Paced(u64),
    /// To the target over TCP, each sender paced to so many bytes per second.
    PacedUp(u64),
}

impl Kind {
    fn is_up(self) -> bool {
        matches!(self, Kind::Up | Kind::PacedUp(_))
    }
}

/// Flows under way. Dropping ends them.
pub struct Bulk {
    kind: Kind,
    read: Arc<AtomicU64>,
    conns: Vec<Conn>,
    threads: Vec<JoinHandle<()>>,
}

/// What one look at running flows gave.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Bits that arrived per nanosecond, of all flows together.
    pub gbit: f64,
    /// CPU seconds per 10^9 bytes that arrived.
    pub cpu: f64,
}

impl Rate {
    /// `busy` in seconds.
    fn of(bytes: u64, took: Duration, busy: f64) -> Result<Rate> {
        if bytes == 0 {
            return Err(Error::other(format!("not a byte arrived in {took:?}")));
        }
        let bytes = bytes as f64;
        Ok(Rate { gbit: bytes * 8.0 / took.as_nanos() as f64, cpu: busy / (bytes / 1e9) })
    }
}

impl Bulk {
    pub fn start(way: &Way, kind: Kind, flows: usize) -> Result<Bulk> {
        let mut bulk = Bulk { kind, read: Arc::default(), conns: Vec::new(), threads: Vec::new() };
        for _ in 0..flows {
            let conn = match kind {
                Kind::Down => way.start(Job::Down)?,
                Kind::Up => way.start(Job::Up)?,
                Kind::Paced(rate) => way.start_with(Job::Paced, rate)?,
                Kind::PacedUp(rate) => {
                    let conn = way.start(Job::Up)?;
                    conn.pace(rate)?;
                    conn
                }
            };
            bulk.conns.push(conn.try_clone()?);
            let read = bulk.read.clone();
            let thread = thread::Builder::new().name("bulk".into()).stack_size(64 << 10);
            bulk.threads.push(thread.spawn(move || match kind {
                Kind::Up => write_on(conn, CHUNK),
                Kind::PacedUp(_) => write_on(conn, PACED_CHUNK),
                Kind::Down | Kind::Paced(_) => read_on(conn, &read),
            })?);
        }
        Ok(bulk)
    }

    /// Bytes that arrived so far, at the client or (for flows up) at the target.
    pub fn moved(&self, target: &Target) -> u64 {
        if self.kind.is_up() { target.sunk() } else { self.read.load(Ordering::Relaxed) }
    }

    /// Looks at the running flows for `window`.
    pub fn measure(&self, target: &Target, cpu: &Whose, window: Duration) -> Result<Rate> {
        let (used, began, before) = (cpu.used()?, Instant::now(), self.moved(target));
        thread::sleep(window);
        let (bytes, took) = (self.moved(target) - before, began.elapsed());
        Rate::of(bytes, took, cpu.used()? - used)
    }

    /// Flows whose thread ended before it was asked to: lost flows.
    pub fn lost(&self) -> usize {
        self.threads.iter().filter(|thread| thread.is_finished()).count()
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        for conn in &self.conns {
            let _ = conn.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn read_on(mut conn: Conn, read: &AtomicU64) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(n @ 1..) = conn.read(&mut buffer) {
        read.fetch_add(n as u64, Ordering::Relaxed);
    }
}

pub(super) fn write_on(mut conn: Conn, chunk: usize) {
    let buffer = vec![0xa5; chunk];
    while conn.write_all(&buffer).is_ok() {}
}

/// Asks for exactly `bytes` on a flow that may have a past, and times them to the last one.
pub fn take(conn: &mut Conn, bytes: u64) -> Result<Duration> {
    let mut buffer = vec![0; CHUNK];
    let (began, mut left) = (Instant::now(), bytes);
    while left > 0 {
        match conn.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => left = left.saturating_sub(n as u64),
        }
    }
    Ok(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_that_stand_still_have_no_rate() {
        let second = Duration::from_secs(1);
        let rate = Rate::of(500_000_000, second, 0.25).unwrap();
        assert_eq!((rate.gbit, rate.cpu), (4.0, 0.5));
        assert!(Rate::of(0, second, 0.25).is_err());
    }
}
