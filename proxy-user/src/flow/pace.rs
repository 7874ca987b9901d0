//! How often something costly may happen: a burst at once, then at a steady rate.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Pace {
    burst: f64,
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Pace {
    pub(crate) fn new(burst: u32, per_second: impl Into<f64>, now: Instant) -> Pace {
        let burst = f64::from(burst);
        Pace { burst, per_second: per_second.into(), left: burst, at: now }
    }

    /// Whether it may happen once more; then it counts.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.take_some(1, now) == 1
    }

    /// How often of `most` it may happen; so often it counts.
    pub(crate) fn take_some(&mut self, most: usize, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.per_second).min(self.burst);
        self.at = self.at.max(now);
        let taken = most.min(self.left as usize);
        self.left -= taken as f64;
        taken
    }

    /// How long after the last [`Pace::take`] the next may succeed.
    pub(crate) fn pause(&self) -> Duration {
        Duration::try_from_secs_f64((1.0 - self.left) / self.per_second).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_the_rest_at_the_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(3, 10, start);
        let taken = |pace: &mut Pace, at| (0..100).filter(|_| pace.take(at)).count();
        assert_eq!(taken(&mut pace, start), 3);
        assert_eq!(taken(&mut pace, start + Duration::from_millis(90)), 0);
        assert_eq!(taken(&mut pace, start + Duration::from_millis(250)), 2);
        // A clock that was read earlier neither gives nor takes.
        assert_eq!(taken(&mut pace, start), 0);
        assert_eq!(pace.take_some(2, start + Duration::from_secs(60)), 2);
        assert_eq!(pace.take_some(2, start + Duration::from_secs(60)), 1);
        assert!((0.099..0.101).contains(&pace.pause().as_secs_f64()), "{:?}", pace.pause());
    }
}
