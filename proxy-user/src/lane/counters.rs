//! What happened on lanes, counted; metrics read snapshots of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Refusal;

macro_rules! counters {
    ($(#[$doc:meta])* $live:ident, $snapshot:ident { $($(#[$field_doc:meta])* $name:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub struct $live {
            $($name: AtomicU64,)*
            labelled: Labelled,
        }

        $(#[$doc])*
        #[derive(Debug, Default, Clone, PartialEq, Eq)]
        pub struct $snapshot {
            $($(#[$field_doc])* pub $name: u64,)*
            /// Counters with a label: `(family, label) -> count`.
            pub labelled: BTreeMap<(&'static str, String), u64>,
        }

        impl $live {
            pub(super) fn handshake(&self, resumed: bool) {
                if resumed { self.resumed.bump() } else { self.full.bump() }
            }

            pub(super) fn snapshot(&self) -> $snapshot {
                $snapshot {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    labelled: self.labelled.snapshot(),
                }
            }
        }
    };
}

counters! {
    /// A server's side of lanes.
    ServerCounters, ServerLaneStats {
        /// Lanes that showed a good ticket and were kept.
        kept,
        /// TLS handshakes of lanes that resumed a session.
        resumed,
        /// TLS handshakes of lanes in full.
        full,
        /// Lanes lost in their hello: silence, garbage, an end.
        hello_failed,
        /// Lanes asked for.
        asked,
        /// Flows on a lane that was warm.
        on_warm,
        /// Flows on a lane that was opened for their dial.
        on_new,
        /// Lanes that came back from a short flow, for the next one.
        returned,
        /// Lanes that did not acknowledge a dial in time, or ended under it; the dial went on elsewhere.
        lost_in_dial,
        /// Idle lanes found dead by a ping or when they were to be used.
        found_dead,
        /// Idle lanes closed for their age.
        retired,
        /// Idle lanes closed for lack of dials.
        surplus,
        /// Gauge: idle lanes now.
        idle,
        /// Gauge: dials waiting for a lane now.
        waiting,
    }
}

counters! {
    /// An agent's side of lanes.
    AgentCounters, AgentLaneStats {
        /// Lanes opened: TLS and hello done, ticket shown.
        opened,
        /// Lanes that could not be opened.
        failed,
        /// TLS handshakes of lanes that resumed a session.
        resumed,
        /// TLS handshakes of lanes in full.
        full,
        /// Lanes not opened although asked for: the agent's own ceiling.
        over_ceiling,
        /// Dials heard a second time and discarded.
        repeated,
        /// Dials that the server gave up while they were under way.
        abandoned,
        /// Gauge: lanes open or being opened that carry no flow.
        idle,
    }
}

/// Counters by family and label; few enough for a map under a lock.
#[derive(Debug, Default)]
pub(super) struct Labelled(Mutex<BTreeMap<(&'static str, String), u64>>);

/// Labels of one family beyond which further ones are counted as "other".
const MAX_LABELS: usize = 256;

impl Labelled {
    pub(super) fn add(&self, family: &'static str, label: &str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (family, label.to_owned());
        let has_room = |counts: &BTreeMap<_, _>| {
            counts.keys().filter(|(other, _)| *other == family).count() < MAX_LABELS
        };
        let key = if counts.contains_key(&key) || has_room(&counts) { key } else { (family, "other".into()) };
        *counts.entry(key).or_default() += 1;
    }

    fn snapshot(&self) -> BTreeMap<(&'static str, String), u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The family under which a server counts refused lanes by reason, and an agent the refusals it met.
pub const REFUSED: &str = "refused";
/// The family under which an agent counts flows that went to the mux although a lane was asked for.
pub const MUX: &str = "mux";
/// The family under which an agent counts where its lanes landed: `wanted,reached` as server ids.
pub const LANDED: &str = "landed";

impl ServerCounters {
    pub(super) fn kept(&self) {
        self.kept.bump();
    }

    pub(super) fn hello_failed(&self) {
        self.hello_failed.bump();
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.labelled.add(REFUSED, refusal.name());
    }

    pub(super) fn asked(&self, lanes: u64) {
        self.asked.fetch_add(lanes, Ordering::Relaxed);
    }

    pub(super) fn on_warm(&self) {
        self.on_warm.bump();
    }

    pub(super) fn on_new(&self) {
        self.on_new.bump();
    }

    pub(super) fn returned(&self) {
        self.returned.bump();
    }

    pub(super) fn lost_in_dial(&self) {
        self.lost_in_dial.bump();
    }

    pub(super) fn found_dead(&self) {
        self.found_dead.bump();
    }

    pub(super) fn retired(&self) {
        self.retired.bump();
    }

    pub(super) fn surplus(&self) {
        self.surplus.bump();
    }
}

impl AgentCounters {
    pub(super) fn opened(&self) {
        self.opened.bump();
    }

    pub(super) fn failed(&self) {
        self.failed.bump();
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.labelled.add(REFUSED, refusal.name());
    }

    pub(super) fn landed(&self, wanted: &str, reached: &str) {
        self.labelled.add(LANDED, &format!("{wanted},{reached}"));
    }

    pub(super) fn over_ceiling(&self) {
        self.over_ceiling.bump();
    }

    pub(super) fn repeated(&self) {
        self.repeated.bump();
    }

    pub(super) fn abandoned(&self) {
        self.abandoned.bump();
    }

    /// A flow that asked for a lane runs on the mux.
    pub(super) fn on_mux(&self, why: OnMux) {
        let name = match why {
            OnMux::Late => "lane_late",
            OnMux::Failing => "lanes_failing",
            OnMux::Ceiling => "lanes_at_ceiling",
            OnMux::Off => "lanes_off",
            OnMux::Draining => "draining",
            OnMux::Lost => "lane_lost",
        };
        self.labelled.add(MUX, name);
    }
}

/// Why an agent answered on the mux although it was asked to answer on a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnMux {
    /// No lane came in time.
    Late,
    /// Lanes towards the server are given up for a while.
    Failing,
    /// As many are open as there may be.
    Ceiling,
    /// Lanes are switched off here.
    Off,
    /// An agent that drains opens no lane.
    Draining,
    /// The lane ended before it carried the flow.
    Lost,
}

trait Bump {
    fn bump(&self);
}

impl Bump for AtomicU64 {
    fn bump(&self) {
        self.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_with_many_labels_takes_no_others_room() {
        let labelled = Labelled::default();
        (0..=MAX_LABELS).for_each(|server| labelled.add(LANDED, &server.to_string()));
        labelled.add(LANDED, "0");
        labelled.add(REFUSED, "wrong_secret");
        let counts = labelled.snapshot();
        let of = |family, label: &str| counts.get(&(family, label.to_owned())).copied();
        assert_eq!((of(LANDED, "0"), of(LANDED, "other")), (Some(2), Some(1)));
        assert_eq!((of(REFUSED, "wrong_secret"), of(REFUSED, "other")), (Some(1), None));
    }
}
