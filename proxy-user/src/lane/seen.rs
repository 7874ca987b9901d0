//! Dial numbers an agent has served, so that a dial which arrives again is not served twice.

use std::collections::{HashMap, VecDeque};

/// More than the dials that can be under way at a time.
const REMEMBERED: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Seen {
    attempts: HashMap<u64, u32>,
    order: VecDeque<u64>,
}

impl Seen {
    /// Whether this attempt of the dial is to be served: it is newer than any before it. A repeated attempt, or
    /// an old one that a slow lane delivers late, is not; the server has dropped that lane.
    pub(super) fn admit(&mut self, number: u64, attempt: u32) -> bool {
        if let Some(last) = self.attempts.get_mut(&number) {
            let newer = attempt > *last;
            *last = attempt.max(*last);
            return newer;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.attempts.remove(&oldest);
        }
        self.order.push_back(number);
        self.attempts.insert(number, attempt);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_served_once_and_never_after_a_newer_one() {
        let mut seen = Seen::default();
        assert!(seen.admit(7, 1));
        assert!(!seen.admit(7, 1));
        assert!(seen.admit(7, 3));
        assert!(!seen.admit(7, 2));
        assert!(seen.admit(8, 1));
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut seen = Seen::default();
        for number in 0..2 * REMEMBERED as u64 {
            assert!(seen.admit(number, 1));
        }
        assert_eq!(seen.attempts.len(), REMEMBERED);
        assert!(seen.admit(0, 1), "forgotten");
        assert!(!seen.admit(2 * REMEMBERED as u64 - 1, 1));
    }
}
