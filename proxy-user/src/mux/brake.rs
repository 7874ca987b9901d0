//! The brake towards an upstream peer, whose flows cannot be stopped one by one: when to pause the whole stream,
//! and when to give a flow up instead. Pure; time is given.

use std::time::{Duration, Instant};

/// What the mux may hold, and for how long it may make others wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that one flow may queue before the stream is paused for it (`--mux-flow-buffer`).
    pub flow: u64,
    /// Bytes that all flows of the process from upstream's peers may queue together (`--mux-buffer`).
    pub total: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { flow: 4 << 20, total: 64 << 20 }
    }
}

impl Limits {
    /// How far a flow has to drain until a stream that was paused for it goes on: the room lets a burst in, so that a
    /// flow that drains at 5 MB/s or more is slowed down to its reader's pace by pauses that all end early, also one
    /// that was carried beyond its bound while its reader rested.
    pub fn step(&self) -> u64 {
        (self.flow / 8).min(512 << 10)
    }
}

/// The longest single pause.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// The most that pauses without effect may take of any second.
const SHARE: Duration = Duration::from_millis(200);
const PERIOD: Duration = Duration::from_secs(1);
/// A flow at its bound of which nobody took a byte for this long is given up.
pub const STALLED: Duration = Duration::from_secs(10);
/// What the reader of a flow at its last bound has to take within [`PATIENCE`], in bytes: for less the whole stream
/// does not wait.
pub const PACE: u64 = 256 << 10;
pub const PATIENCE: Duration = Duration::from_secs(1);

/// The book of one stream's pauses.
///
/// A pause that ended because the flow drained costs nothing: its neighbours waited for bytes that were being
/// delivered anyway. A pause that ran its whole length is charged, and no second may hold more than 20 % of those.
#[derive(Debug)]
pub struct Brake {
    period: Instant,
    spent: Duration,
    /// Spent in the period before, which still weighs for the part of it that lies within the last second.
    before: Duration,
}

impl Brake {
    pub fn new(now: Instant) -> Brake {
        Brake { period: now, spent: Duration::ZERO, before: Duration::ZERO }
    }

    /// How long the stream may pause now; `None` when this second's share is used up.
    pub fn allowance(&mut self, now: Instant) -> Option<Duration> {
        self.turn(now);
        let left = PERIOD.saturating_sub(now - self.period);
        let weighed = self.before.mul_f64(left.as_secs_f64() / PERIOD.as_secs_f64());
        let allowance = SHARE.saturating_sub(self.spent + weighed).min(LONGEST_PAUSE);
        (allowance >= Duration::from_millis(1)).then_some(allowance)
    }

    /// Books a pause that did not end by itself.
    pub fn charge(&mut self, now: Instant, pause: Duration) {
        self.turn(now);
        self.spent += pause;
    }

    fn turn(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.period);
        if elapsed >= PERIOD {
            self.before = if elapsed < 2 * PERIOD { self.spent } else { Duration::ZERO };
            self.spent = Duration::ZERO;
            self.period = if elapsed < 2 * PERIOD { self.period + PERIOD } else { now };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_holds_more_than_a_fifth_of_pauses_without_effect() {
        let start = Instant::now();
        let mut brake = Brake::new(start);
        let mut now = start;
        let mut pauses: Vec<(Instant, Duration)> = Vec::new();
        while now < start + Duration::from_secs(5) {
            match brake.allowance(now) {
                Some(pause) => {
                    assert!(pause <= LONGEST_PAUSE);
                    pauses.push((now, pause));
                    now += pause;
                    brake.charge(now, pause);
                }
                None => now += Duration::from_millis(1),
            }
        }
        for (from, _) in &pauses {
            let within = pauses.iter().filter(|(at, _)| at >= from && *at < *from + PERIOD);
            let total: Duration = within.map(|(_, pause)| *pause).sum();
            assert!(total <= Duration::from_millis(300), "{total:?} within one second");
        }
        let total: Duration = pauses.iter().map(|(_, pause)| *pause).sum();
        assert!(total > Duration::from_millis(700), "the share is used: {total:?}");
        assert!(total <= Duration::from_millis(1200), "{total:?} in five seconds");
    }

    #[test]
    fn a_pause_that_drained_the_flow_is_free() {
        let start = Instant::now();
        let mut brake = Brake::new(start);
        for i in 0..1000 {
            assert_eq!(brake.allowance(start + Duration::from_millis(i)), Some(LONGEST_PAUSE));
        }
    }
}
