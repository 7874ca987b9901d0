//! How many warm lanes a control stream is worth, from the dials that the server sees and the lanes that they use up.

use std::time::{Duration, Instant};

/// Bounds of the time that a lane takes from being asked for to its arrival, and what it is taken for at first.
const LEAD: [Duration; 3] = [Duration::from_millis(20), Duration::from_millis(100), Duration::from_secs(1)];
/// The busiest window counts half as much after this long.
pub(super) const HALF_LIFE: Duration = Duration::from_secs(10);
/// Without dials for this long a control stream holds no lanes.
pub(super) const FORGET: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Demand {
    /// Smoothed time from asking to arrival: dials within it come before the lanes that they ask for.
    lead: Duration,
    window: Instant,
    /// Lanes that dials took since, less those that came back.
    in_window: u32,
    peak: f64,
    peak_at: Instant,
    last: Option<Instant>,
}

impl Demand {
    pub(super) fn new(now: Instant) -> Demand {
        Demand { lead: LEAD[1], window: now, in_window: 0, peak: 0.0, peak_at: now, last: None }
    }

    pub(super) fn dialled(&mut self, now: Instant) {
        if now.duration_since(self.window) > self.lead {
            self.window = now;
            self.in_window = 0;
        }
        self.in_window += 1;
        self.last = Some(now);
        let seen = f64::from(self.in_window);
        if seen >= self.decayed(now) {
            self.peak = seen;
            self.peak_at = now;
        }
    }

    /// A dial's lane came back and is there for the next one.
    pub(super) fn returned(&mut self) {
        self.in_window = self.in_window.saturating_sub(1);
    }

    /// A lane came this long after it was asked for.
    pub(super) fn arrived_after(&mut self, took: Duration) {
        let [least, _, most] = LEAD;
        // Half as much again, for those behind it.
        self.lead = ((self.lead * 7 + took * 3 / 2) / 8).clamp(least, most);
    }

    /// Warm lanes to have: one more than the busiest window of late took.
    pub(super) fn target(&self, now: Instant) -> usize {
        match self.last {
            Some(last) if now.duration_since(last) < FORGET => self.decayed(now).ceil() as usize + 1,
            _ => 0,
        }
    }

    fn decayed(&self, now: Instant) -> f64 {
        let age = now.duration_since(self.peak_at).as_secs_f64();
        self.peak * 0.5f64.powf(age / HALF_LIFE.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_held_before_the_first_dial_and_long_after_the_last() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        assert_eq!(demand.target(start), 0);
        demand.dialled(start);
        assert_eq!(demand.target(start), 2);
        assert_eq!(demand.target(start + FORGET - Duration::from_secs(1)), 2);
        assert_eq!(demand.target(start + FORGET), 0);
    }

    #[test]
    fn the_slower_lanes_come_the_more_are_held() {
        let start = Instant::now();
        let busy = |took: u64| {
            let mut demand = Demand::new(start);
            (0..50).for_each(|_| demand.arrived_after(Duration::from_millis(took)));
            (0..2000).for_each(|n| demand.dialled(start + Duration::from_millis(n)));
            demand.target(start + Duration::from_secs(2))
        };
        // A dial each millisecond.
        assert!((20..=25).contains(&busy(1)), "{}", busy(1));
        assert!((140..=160).contains(&busy(100)), "{}", busy(100));
    }

    #[test]
    fn lanes_that_come_back_need_no_others_in_their_place() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        for n in 0..2000 {
            let now = start + Duration::from_millis(n);
            demand.dialled(now);
            if n % 100 > 2 {
                demand.returned();
            }
        }
        let target = demand.target(start + Duration::from_secs(2));
        assert!((4..=8).contains(&target), "{target}");
    }

    #[test]
    fn a_burst_is_remembered_and_fades() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        for _ in 0..40 {
            demand.dialled(start + Duration::from_millis(3));
        }
        assert_eq!(demand.target(start), 41);
        assert_eq!(demand.target(start + Duration::from_millis(3) + HALF_LIFE), 21);
        // A single dial later neither forgets the burst nor renews it.
        demand.dialled(start + HALF_LIFE);
        assert_eq!(demand.target(start + Duration::from_millis(3) + HALF_LIFE * 2), 11);
    }
}
