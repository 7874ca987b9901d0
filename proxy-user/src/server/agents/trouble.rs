//! An agent that fails dials by itself is asked last for a while: it is the least busy of all, and would else be asked
//! for every one of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::flow::DialReason;

/// How long an agent is avoided after its first failure; twice as long after each further one in a row.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(60);

/// Whether an agent's last dials failed for want of something that another agent may have: a way to the target,
/// descriptors, an answer.
#[derive(Debug, Default)]
pub(super) struct Trouble(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    in_a_row: u32,
    until: Option<Instant>,
}

impl Trouble {
    /// What became of a dial. An answer of the target, a refusal included, ends the trouble.
    pub(super) fn note(&self, failed: Option<DialReason>, now: Instant) {
        match failed {
            None | Some(DialReason::Refused | DialReason::Reset) => *self.state() = State::default(),
            Some(
                DialReason::Timeout
                | DialReason::NoRoute
                | DialReason::NetworkUnreachable
                | DialReason::Exhausted
                | DialReason::ConnectTimedOut
                | DialReason::NoLocalAddress
                | DialReason::AgentTimeout
                | DialReason::SendTimeout,
            ) => {
                let mut state = self.state();
                let pause = FIRST.saturating_mul(1 << state.in_a_row.min(16)).min(LAST);
                state.in_a_row += 1;
                state.until = Some(now + pause);
            }
            // Of the name or the address that was asked for, or of the client.
            Some(_) => {}
        }
    }

    pub(super) fn is_in(&self, now: Instant) -> bool {
        self.state().until.is_some_and(|until| now < until)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_count_for_longer_and_an_answer_ends_them() {
        let (trouble, now) = (Trouble::default(), Instant::now());
        trouble.note(Some(DialReason::NoRoute), now);
        assert!(trouble.is_in(now) && !trouble.is_in(now + FIRST));
        trouble.note(Some(DialReason::Exhausted), now);
        assert!(trouble.is_in(now + FIRST) && !trouble.is_in(now + 2 * FIRST));
        for _ in 0..100 {
            trouble.note(Some(DialReason::AgentTimeout), now);
        }
        assert!(!trouble.is_in(now + LAST));
        trouble.note(Some(DialReason::Refused), now);
        assert!(!trouble.is_in(now));
    }

    #[test]
    fn want_of_a_way_is_trouble_by_whatever_name() {
        for reason in [DialReason::Timeout, DialReason::ConnectTimedOut, DialReason::NoLocalAddress] {
            let (trouble, now) = (Trouble::default(), Instant::now());
            trouble.note(Some(reason), now);
            assert!(trouble.is_in(now), "{reason:?}");
        }
    }

    #[test]
    fn names_and_clients_are_no_fault_of_the_agent() {
        let (trouble, now) = (Trouble::default(), Instant::now());
        for reason in [DialReason::NoSuchHost, DialReason::BadAddress, DialReason::Cancelled] {
            trouble.note(Some(reason), now);
        }
        assert!(!trouble.is_in(now));
    }
}
