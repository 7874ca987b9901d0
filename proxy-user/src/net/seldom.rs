//! What may be met thousands of times a second is told once in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often something may be told.
pub(crate) struct Seldom {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    pub(crate) const fn new(every: Duration) -> Seldom {
        Seldom { every, last: Mutex::new(None) }
    }

    /// Whether it may be told now; then it counts.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= self.every);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_once_in_a_while() {
        let (seldom, start) = (Seldom::new(Duration::from_secs(10)), Instant::now());
        let told = [0, 1, 9, 10, 11, 20].map(|second| seldom.take(start + Duration::from_secs(second)));
        assert_eq!(told, [true, false, false, true, false, true]);
    }
}
