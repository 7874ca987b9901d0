//! Lanes: their own counters, shown at each scrape.

use std::collections::BTreeMap;

use prometheus::{Error, Registry};

use super::snapshot::{Rows, Snapshot};
use crate::lane::counters::{AgentLaneStats, LANDED, MUX, REFUSED, ServerLaneStats};

const EVENTS: (&str, &str) = ("konduit_lanes_total", "What happened on lanes, by event.");
const LANES: (&str, &str) = ("konduit_lanes", "Lanes and dials that wait for one, by state.");
const TO_MUX: (&str, &str) =
    ("konduit_mux_fallbacks_total", "Flows that travel as packets although a lane was wanted, by reason.");
const REFUSALS: (&str, &str) = ("konduit_lanes_refused_total", "Lanes refused in their hello, by reason.");
const LANDINGS: (&str, &str) = (
    "konduit_lanes_landed_total",
    "Where opened lanes landed: the server they were for, and the one reached.",
);

/// Shows a server's lane counters.
pub(super) fn register_server(
    registry: &Registry,
    stats: impl Fn() -> ServerLaneStats + Clone + Send + Sync + 'static,
) -> Result<(), Error> {
    let read = |rows: fn(ServerLaneStats) -> Rows| {
        let stats = stats.clone();
        move || rows(stats())
    };
    registry.register(Box::new(Snapshot::counter(
        EVENTS.0,
        EVENTS.1,
        &["event"],
        read(|stats| {
            named([
                ("kept", stats.kept),
                ("handshake_resumed", stats.resumed),
                ("handshake_full", stats.full),
                ("hello_failed", stats.hello_failed),
                ("asked", stats.asked),
                ("flow_on_warm", stats.on_warm),
                ("flow_on_new", stats.on_new),
                ("lost_in_dial", stats.lost_in_dial),
                ("found_dead", stats.found_dead),
                ("retired", stats.retired),
                ("surplus", stats.surplus),
            ])
        }),
    )?))?;
    registry.register(Box::new(Snapshot::gauge(
        LANES.0,
        LANES.1,
        &["state"],
        read(|stats| named([("idle", stats.idle), ("waited_for", stats.waiting)])),
    )?))?;
    registry.register(Box::new(Snapshot::counter(
        TO_MUX.0,
        TO_MUX.1,
        &["reason"],
        read(|stats| {
            named([
                ("too_many_waiting", stats.mux_busy),
                ("many_dials", stats.mux_paced),
                ("answered_by_agent", stats.mux_by_agent),
            ])
        }),
    )?))?;
    registry.register(Box::new(Snapshot::counter(
        REFUSALS.0,
        REFUSALS.1,
        &["reason"],
        read(|stats| labelled(&stats.labelled, REFUSED)),
    )?))
}

/// Shows an agent's lane counters.
pub(super) fn register_agent(
    registry: &Registry,
    stats: impl Fn() -> AgentLaneStats + Clone + Send + Sync + 'static,
) -> Result<(), Error> {
    let read = |rows: fn(AgentLaneStats) -> Rows| {
        let stats = stats.clone();
        move || rows(stats())
    };
    registry.register(Box::new(Snapshot::counter(
        EVENTS.0,
        EVENTS.1,
        &["event"],
        read(|stats| {
            named([
                ("opened", stats.opened),
                ("failed", stats.failed),
                ("handshake_resumed", stats.resumed),
                ("handshake_full", stats.full),
                ("over_ceiling", stats.over_ceiling),
                ("dial_repeated", stats.repeated),
                ("dial_abandoned", stats.abandoned),
            ])
        }),
    )?))?;
    registry.register(Box::new(Snapshot::gauge(
        LANES.0,
        LANES.1,
        &["state"],
        read(|stats| named([("idle", stats.idle)])),
    )?))?;
    registry.register(Box::new(Snapshot::counter(
        TO_MUX.0,
        TO_MUX.1,
        &["reason"],
        read(|stats| labelled(&stats.labelled, MUX)),
    )?))?;
    registry.register(Box::new(Snapshot::counter(
        REFUSALS.0,
        REFUSALS.1,
        &["reason"],
        read(|stats| labelled(&stats.labelled, REFUSED)),
    )?))?;
    registry.register(Box::new(Snapshot::counter(
        LANDINGS.0,
        LANDINGS.1,
        &["wanted", "reached", "hit"],
        read(|stats| labelled(&stats.labelled, LANDED).into_iter().map(split).collect()),
    )?))
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
