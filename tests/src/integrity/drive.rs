//! Drives one end of a flow by its plan, and a whole load of flows.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::client::one_flow;
use super::pattern::Pattern;
use super::plan::{Half, Plan};
use super::tally::{Fault, Tally};
use super::target::CheckedTarget;
use crate::load::{Conn, Way};

/// A flow without any progress for so long is stuck.
pub(super) const STUCK: Duration = Duration::from_secs(40);

/// How much goes on at once.
#[derive(Debug, Clone)]
pub struct Load {
    pub flows_at_once: usize,
    pub time: Duration,
    /// Bytes of the largest direction.
    pub most: u64,
    /// Another seed, other flows.
    pub seed: u64,
}

/// Runs flows one after the other on as many threads as the load says, until its time is over.
pub fn run(way: &Way, target: &CheckedTarget, load: &Load) -> Tally {
    run_telling(way, target, load, Duration::MAX, |_| {})
}

/// As [`run`], and `tell`s how it stands so often.
pub fn run_telling(
    way: &Way,
    target: &CheckedTarget,
    load: &Load,
    every: Duration,
    mut tell: impl FnMut(&Tally),
) -> Tally {
    let (tally, next, stop) = (Mutex::new(Tally::default()), AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    // Nothing is sent on it: it ends with the last thread.
    let (alive, ended) = mpsc::sync_channel::<()>(0);
    thread::scope(|scope| {
        let (tally, next, stop) = (&tally, &next, &stop);
        for alive in vec![alive; load.flows_at_once] {
            scope.spawn(move || {
                let _alive = alive;
                while began.elapsed() < load.time && !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let plan = Plan::of((load.seed << 32) + number, load.most);
                    let (bytes, faults) = one_flow(way, target, &plan);
                    let mut tally = tally.lock().expect("no panic while it is held");
                    tally.add(plan.shape, bytes, faults);
                    // A hundred faults say as much as a million.
                    stop.store(tally.faults.len() > 100, Ordering::Relaxed);
                }
            });
        }
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(every) {
            tell(&tally.lock().expect("no panic while it is held"));
        }
    });
    tally.into_inner().expect("no panic while it is held")
}

/// Tells the other direction's sender that this direction has ended.
pub(super) struct Turn(SyncSender<()>);

pub(super) fn turn() -> (Turn, Receiver<()>) {
    let (tell, told) = mpsc::sync_channel(1);
    (Turn(tell), told)
}

/// Sends one direction by its plan. An error means the flow broke; the position is the pattern's.
pub(super) fn send(
    conn: &mut Conn,
    half: &Half,
    flow: u64,
    up: bool,
    other_ended: &Receiver<()>,
) -> (u64, Result<()>) {
    let mut pattern = Pattern::new(flow, up);
    let outcome = send_all(conn, half, &mut pattern, other_ended);
    (pattern.position(), outcome)
}

fn send_all(conn: &mut Conn, half: &Half, pattern: &mut Pattern, other_ended: &Receiver<()>) -> Result<()> {
    if half.after_other {
        // Either it ended or its reader gave up; in both cases nothing holds us.
        let _ = other_ended.recv_timeout(STUCK * 2);
    }
    let end = half.abort_at.unwrap_or(half.bytes);
    let mut buffer = vec![0; half.piece.max(64)];
    let mut chatter = half.chatter;
    while pattern.position() < end {
        let left = usize::try_from(end - pattern.position()).unwrap_or(usize::MAX);
        let piece = if chatter > 0 { 64 } else { half.piece };
        if chatter > 0 {
            chatter -= 1;
            thread::sleep(half.pause);
        }
        let piece = &mut buffer[..piece.min(left)];
        pattern.fill(piece);
        let written = conn.write(piece)?;
        pattern.advance(written);
    }
    Ok(())
}

/// How reading a direction ended.
pub(super) enum Read1 {
    Eof,
    Error(std::io::Error),
    Wrong(Fault),
}

/// Reads one direction to its end and checks every byte.
pub(super) fn receive(conn: &mut Conn, half: &Half, flow: u64, up: bool, ended: Turn) -> (u64, Read1) {
    let mut pattern = Pattern::new(flow, up);
    let (mut buffer, mut scratch) = (vec![0; 128 << 10], Vec::new());
    let mut until_nap = half.nap.map_or(u64::MAX, |(bytes, _)| bytes);
    let how = loop {
        let came = match conn.read(&mut buffer) {
            Ok(0) => break Read1::Eof,
            Ok(came) => came,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => break Read1::Error(error),
        };
        if let Err(mismatch) = pattern.check(&buffer[..came], &mut scratch) {
            break Read1::Wrong(Fault::Corrupt(mismatch));
        }
        if pattern.position() > half.bytes {
            break Read1::Wrong(Fault::Long { came: pattern.position(), of: half.bytes });
        }
        until_nap = until_nap.saturating_sub(came as u64);
        if let (0, Some((bytes, nap))) = (until_nap, half.nap) {
            thread::sleep(nap);
            until_nap = bytes;
        }
    };
    // The sender that waits for this may be gone already.
    let _ = ended.0.try_send(());
    (pattern.position(), how)
}

/// What is wrong about how a direction was received, if anything.
pub(super) fn judge(half: &Half, aborted: bool, strict: bool, at: u64, how: Read1) -> Option<Fault> {
    match how {
        Read1::Wrong(fault) => Some(fault),
        // Where the flow was aborted, any error is the right end; a clean end is one only where everything came.
        Read1::Error(error) if aborted && !is_timeout(&error) => None,
        Read1::Error(error) => Some(Fault::Broken { at, of: half.bytes, why: words(&error) }),
        Read1::Eof if at == half.bytes => None,
        Read1::Eof if aborted && strict => Some(Fault::AbortLookedClean { at }),
        Read1::Eof if aborted => None,
        Read1::Eof => Some(Fault::Short { came: at, of: half.bytes }),
    }
}

pub(super) fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

pub(super) fn words(error: &std::io::Error) -> String {
    if is_timeout(error) { format!("stuck for {} s", STUCK.as_secs()) } else { error.to_string() }
}

/// Ends the sending direction as the plan says.
pub(super) fn finish_sending(conn: &Conn, half: &Half) {
    if half.abort_at.is_none() {
        // A peer that is gone already has nothing to be told.
        let _ = conn.shutdown(Shutdown::Write);
    }
}
