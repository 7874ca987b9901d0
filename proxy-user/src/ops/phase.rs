//! Where a process is in its life, told to whoever wants to know.

use tokio::sync::watch;

/// The phases follow one another; one may be left out, none comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Listeners are being bound.
    Starting,
    /// Every listener is bound and served.
    Serving,
    /// The first signal came: work in hand goes on, and for an agent new dials too.
    Draining,
    /// What still runs is ended.
    Stopping,
    Stopped,
}

/// The one who moves the phase.
#[derive(Debug, Clone)]
pub struct PhaseTeller(watch::Sender<Phase>);

impl Default for PhaseTeller {
    fn default() -> PhaseTeller {
        PhaseTeller(watch::channel(Phase::Starting).0)
    }
}

impl PhaseTeller {
    /// Moves on to `next`; an earlier phase is never gone back to.
    pub fn reach(&self, next: Phase) {
        let moved = self.0.send_if_modified(|now| {
            let ahead = next > *now;
            if ahead {
                *now = next;
            }
            ahead
        });
        if moved {
            tracing::info!(phase = ?next, "Phase");
        }
    }

    pub fn now(&self) -> Phase {
        *self.0.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_phase_comes_back() {
        let teller = PhaseTeller::default();
        let watch = teller.watch();
        teller.reach(Phase::Draining);
        teller.reach(Phase::Serving);
        assert_eq!((teller.now(), *watch.borrow()), (Phase::Draining, Phase::Draining));
    }
}
