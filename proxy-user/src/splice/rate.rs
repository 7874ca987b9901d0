//! How fast a direction moves, and what that makes of it.

use std::time::{Duration, Instant};

use super::policy::{BULK_BYTES, BULK_REST, BULK_WINDOW, BURST_BYTES};

#[derive(Debug)]
pub(super) struct Rate {
    window: Instant,
    bytes: u64,
    /// Bytes per second in the last window that is over.
    speed: u64,
    /// When a window last reached the bulk rate.
    bulk: Option<Instant>,
    /// When a window last held a burst; at first, when the direction began.
    burst: Instant,
}

impl Rate {
    pub(super) fn new(now: Instant) -> Rate {
        Rate { window: now, bytes: 0, speed: 0, bulk: None, burst: now }
    }

    pub(super) fn note(&mut self, now: Instant, bytes: usize) {
        let took = now.saturating_duration_since(self.window);
        if took >= BULK_WINDOW {
            self.speed = (self.bytes as f64 / took.as_secs_f64()) as u64;
            self.window = now;
            self.bytes = 0;
        }
        self.bytes += bytes as u64;
        if self.bytes >= BURST_BYTES {
            self.burst = now;
        }
        if self.bytes >= BULK_BYTES {
            self.bulk = Some(now);
        }
    }

    /// More came at once than a calm direction sends, whoever moved it.
    pub(super) fn surge(&mut self, now: Instant) {
        self.burst = now;
        self.bulk = Some(now);
    }

    pub(super) fn speed(&self) -> u64 {
        self.speed
    }

    /// A direction is bulk by its rate, never by its total: a shell that ran for a week is none.
    pub(super) fn is_bulk(&self, now: Instant) -> bool {
        self.rests_at().is_some_and(|at| now < at)
    }

    /// Small or rare for long enough to believe it.
    pub(super) fn is_calm(&self, now: Instant, after: Duration) -> bool {
        now.saturating_duration_since(self.burst) >= after
    }

    /// When a direction that is bulk now will no longer be, if it stays quiet.
    pub(super) fn rests_at(&self) -> Option<Instant> {
        self.bulk.map(|at| at + BULK_REST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bulk_is_a_rate_and_wears_off() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for i in 0..1000 {
            rate.note(start + i * BULK_WINDOW, 64 << 10);
        }
        let now = start + 1000 * BULK_WINDOW;
        assert!((1_250_000..1_350_000).contains(&rate.speed()), "{}", rate.speed());
        assert!(!rate.is_bulk(now), "64 KiB per window is not bulk, however long");
        rate.note(now, BULK_BYTES as usize);
        assert!(rate.is_bulk(now));
        assert!(!rate.is_bulk(now + BULK_REST));
        let after = Duration::from_secs(2);
        assert!(!rate.is_calm(now + after / 2, after));
        assert!(rate.is_calm(now + after, after));
    }
}
