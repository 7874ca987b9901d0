//! Busy polling: waiting awake for an event that comes sooner than a sleeping CPU wakes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::policy::BUSY_POLL_WORTH;

/// The right to poll awake, which one thread of the process has at a time: a second CPU stays for whoever is waited for.
#[derive(Debug, Default)]
pub(super) struct Wakefulness(Option<AtomicBool>);

impl Wakefulness {
    /// Nobody's, where it was not asked for or the process may use no second CPU (affinity, or the container's quota).
    pub(super) fn new(asked: bool, cpus: usize) -> Wakefulness {
        Wakefulness((asked && cpus > 1).then(AtomicBool::default))
    }
}

/// Has the right until it is dropped.
pub(super) struct Awake<'a>(&'a AtomicBool);

impl Drop for Awake<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Whether an engine thread's next event is near. The last wait is the measure, as in the kernel's haltpoll: a flow
/// that goes to and fro without a pause is waited for awake, after a keystroke and its echo one poll is in vain.
#[derive(Debug, Default)]
pub(super) struct BusyPoll {
    near: bool,
}

impl BusyPoll {
    /// The right to poll now, where that is worth it and no other thread does.
    pub(super) fn begin<'a>(&self, right: &'a Wakefulness) -> Option<Awake<'a>> {
        let taken = right.0.as_ref().filter(|_| self.near)?;
        (!taken.swap(true, Ordering::Acquire)).then(|| Awake(taken))
    }

    /// A wait is over after so long, asleep or awake.
    pub(super) fn note(&mut self, waited: Duration) {
        self.near = waited < BUSY_POLL_WORTH;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_only_where_the_last_event_came_soon() {
        let right = Wakefulness::new(true, 2);
        let mut busy = BusyPoll::default();
        assert!(busy.begin(&right).is_none(), "nothing is known yet");
        busy.note(BUSY_POLL_WORTH - Duration::from_nanos(1));
        assert!(busy.begin(&right).is_some());
        busy.note(BUSY_POLL_WORTH);
        assert!(busy.begin(&right).is_none());
    }

    #[test]
    fn one_thread_at_a_time_and_none_without_a_second_cpu() {
        let busy = BusyPoll { near: true };
        let right = Wakefulness::new(true, 2);
        let first = busy.begin(&right);
        assert!(first.is_some() && busy.begin(&right).is_none());
        drop(first);
        assert!(busy.begin(&right).is_some());
        assert!(busy.begin(&Wakefulness::new(true, 1)).is_none());
        assert!(busy.begin(&Wakefulness::new(false, 2)).is_none());
    }
}
