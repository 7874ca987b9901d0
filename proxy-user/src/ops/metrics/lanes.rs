//! Lanes: their own counters, shown at each scrape.

use std::collections::BTreeMap;

use prometheus::{Error, Registry};

use super::snapshot::{Rows, Snapshot};
use crate::lane::counters::{AgentLaneStats, LANDED, MUX, REFUSED, ServerLaneStats};

/// Name and HELP.
type Family = (&'static str, &'static str);

const EVENTS: Family = ("konduit_lanes_total", "What happened on lanes, by event.");
const LANES: Family = ("konduit_lanes", "Lanes and dials that wait for one, by state.");
pub(super) const TO_MUX: Family =
    ("konduit_mux_fallbacks_total", "Flows that travel as packets and not on a lane, by reason.");
const REFUSALS: Family = ("konduit_lanes_refused_total", "Lanes refused in their hello, by reason.");
const LANDINGS: Family = (
    "konduit_lanes_landed_total",
    "Where opened lanes landed: the server they were for, and the one reached.",
);

/// Shows a server's lane counters.
pub(super) fn register_server(
    registry: &Registry,
    stats: impl Fn() -> ServerLaneStats + Clone + Send + Sync + 'static,
) -> Result<(), Error> {
    let show = Show { registry, stats };
    show.counter(EVENTS, &["event"], |stats| {
        named([
            ("kept", stats.kept),
            ("handshake_resumed", stats.resumed),
            ("handshake_full", stats.full),
            ("hello_failed", stats.hello_failed),
            ("asked", stats.asked),
            ("flow_on_warm", stats.on_warm),
            ("flow_on_new", stats.on_new),
            ("returned", stats.returned),
            ("lost_in_dial", stats.lost_in_dial),
            ("found_dead", stats.found_dead),
            ("retired", stats.retired),
            ("surplus", stats.surplus),
        ])
    })?;
    show.gauge(LANES, &["state"], |stats| named([("idle", stats.idle), ("waited_for", stats.waiting)]))?;
    show.counter(REFUSALS, &["reason"], |stats| labelled(&stats.labelled, REFUSED))
}

/// Shows an agent's lane counters.
pub(super) fn register_agent(
    registry: &Registry,
    stats: impl Fn() -> AgentLaneStats + Clone + Send + Sync + 'static,
) -> Result<(), Error> {
    let show = Show { registry, stats };
    show.counter(EVENTS, &["event"], |stats| {
        named([
            ("opened", stats.opened),
            ("failed", stats.failed),
            ("handshake_resumed", stats.resumed),
            ("handshake_full", stats.full),
            ("over_ceiling", stats.over_ceiling),
            ("dial_repeated", stats.repeated),
            ("dial_abandoned", stats.abandoned),
        ])
    })?;
    show.gauge(LANES, &["state"], |stats| named([("idle", stats.idle)]))?;
    show.counter(TO_MUX, &["reason"], |stats| labelled(&stats.labelled, MUX))?;
    show.counter(REFUSALS, &["reason"], |stats| labelled(&stats.labelled, REFUSED))?;
    show.counter(LANDINGS, &["wanted", "reached", "hit"], |stats| {
        labelled(&stats.labelled, LANDED).into_iter().map(split).collect()
    })
}

/// Registers families whose rows are read from one source at each scrape.
struct Show<'a, F> {
    registry: &'a Registry,
    stats: F,
}

impl<S: 'static, F: Fn() -> S + Clone + Send + Sync + 'static> Show<'_, F> {
    fn counter(
        &self,
        (name, help): Family,
        labels: &'static [&'static str],
        rows: fn(S) -> Rows,
    ) -> Result<(), Error> {
        let stats = self.stats.clone();
        self.registry.register(Box::new(Snapshot::counter(name, help, labels, move || rows(stats()))?))
    }

    fn gauge(
        &self,
        (name, help): Family,
        labels: &'static [&'static str],
        rows: fn(S) -> Rows,
    ) -> Result<(), Error> {
        let stats = self.stats.clone();
        self.registry.register(Box::new(Snapshot::gauge(name, help, labels, move || rows(stats()))?))
    }
}

fn named<const N: usize>(counts: [(&str, u64); N]) -> Rows {
    counts.into_iter().map(|(name, count)| (vec![name.to_owned()], count)).collect()
}

fn labelled(counts: &BTreeMap<(&'static str, String), u64>, family: &str) -> Rows {
    let ours = counts.iter().filter(|((name, _), _)| *name == family);
    ours.map(|((_, label), count)| (vec![label.clone()], *count)).collect()
}

/// `wanted,reached` as two labels, and whether they are the same.
fn split((labels, count): (Vec<String>, u64)) -> (Vec<String>, u64) {
    let both = labels.concat();
    let (wanted, reached) = both.split_once(',').unwrap_or((&both, &both));
    let hit = if wanted == reached { "yes" } else { "no" };
    (vec![wanted.to_owned(), reached.to_owned(), hit.to_owned()], count)
}
