//! The splice engine's own counters, shown at each scrape.

use prometheus::{Error, Registry};

use super::snapshot::{Rows, Snapshot};
use crate::splice::{Fallback, Snapshot as Counts};

/// Shows an engine's counters.
pub(super) fn register(
    registry: &Registry,
    counts: impl Fn() -> Counts + Clone + Send + Sync + 'static,
) -> Result<(), Error> {
    let read = |rows: fn(Counts) -> Rows| {
        let counts = counts.clone();
        move || rows(counts())
    };
    registry.register(Box::new(Snapshot::gauge(
        "konduit_engine",
        "What the engine holds now: flows on its threads, directions in the kernel's map, entries of the map that \
         are no direction's (told while none is mapped), pipes lent.",
        &["what"],
        read(|now| {
            named([
                ("flows", now.flows),
                ("mapped", now.mapped),
                ("forgotten", now.forgotten),
                ("pipes", now.pipes),
            ])
        }),
    )?))?;
    registry.register(Box::new(Snapshot::counter(
        "konduit_engine_events_total",
        "What happened in the engine, by event. A violation is a direction whose counts disagree with the kernel's, a \
         busy poll are up to 50 µs that a thread looked for its next event instead of sleeping.",
        &["event"],
        read(|now| {
            named([
                ("promoted", now.promotions),
                ("demoted", now.demotions),
                ("busy_poll", now.busy_polls),
                ("violation", now.violations),
            ])
        }),
    )?))?;
    registry.register(Box::new(Snapshot::counter(
        "konduit_engine_bytes_total",
        "Bytes of mapped directions that a verdict cut off, as delivered before, or passed to userspace.",
        &["what"],
        read(|now| named([("trimmed", now.trimmed), ("passed", now.passed)])),
    )?))?;
    registry.register(Box::new(Snapshot::counter(
        "konduit_engine_fallbacks_total",
        "Times a flow or direction got less than the engine in force allows, by reason.",
        &["reason"],
        read(|now| {
            let row = |reason: Fallback| (vec![reason.name().to_owned()], now.fallbacks(reason));
            Fallback::ALL.into_iter().map(row).collect()
        }),
    )?))
}

fn named<const N: usize>(counts: [(&str, u64); N]) -> Rows {
    counts.into_iter().map(|(name, count)| (vec![name.to_owned()], count)).collect()
}
