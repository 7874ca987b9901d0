//! How far the connection to a server is in its life.

use tokio::sync::watch;

/// A connection only goes on from one to a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Wanted as it is.
    Current,
    /// Came under a certificate that this agent shows no more: looked for anew, kept until there is another.
    Stale,
    /// Its server wants it to end, or another has taken its place: served until its flows are over.
    Leaving,
}

/// The phase of one connection, for all who move it on or wait for it.
#[derive(Debug, Clone)]
pub struct Life(watch::Sender<Phase>);

impl Life {
    pub(super) fn new() -> Life {
        Life(watch::Sender::new(Phase::Current))
    }

    pub(super) fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to `phase`; nothing happens to a connection that is there or beyond.
    pub(super) fn reach(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let on = *now < phase;
            *now = phase.max(*now);
            on
        });
    }

    pub(super) async fn leaving(&self) {
        // Fails without a sender only.
        let _ = self.0.subscribe().wait_for(|phase| *phase == Phase::Leaving).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_life_goes_on_and_never_back() {
        let life = Life::new();
        let other = life.clone();
        let left = tokio::spawn(async move { other.leaving().await });
        for (reached, phase) in [
            (Phase::Current, Phase::Current),
            (Phase::Stale, Phase::Stale),
            (Phase::Current, Phase::Stale),
            (Phase::Leaving, Phase::Leaving),
            (Phase::Stale, Phase::Leaving),
        ] {
            assert!(!left.is_finished() || life.phase() == Phase::Leaving);
            life.reach(reached);
            assert_eq!(life.phase(), phase);
        }
        left.await.unwrap();
        life.leaving().await;
    }
}
