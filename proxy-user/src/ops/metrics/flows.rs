//! Flows and their bytes, read from the flow table: a byte of a live flow counts as soon as it was moved.

use prometheus::{Error, Registry};

use super::snapshot::{Rows, Snapshot};
use crate::flow::{Direction, Engine, FlowTable, Outcome, Path, Totals};

pub(super) fn register(registry: &Registry, flows: &FlowTable) -> Result<(), Error> {
    let reader = |read: fn(&Totals) -> Rows| {
        let flows = flows.clone();
        move || read(&flows.totals())
    };
    registry.register(Box::new(Snapshot::counter(
        "konduit_bytes_total",
        "Bytes of flows handed over, by path, direction and engine.",
        &["path", "direction", "engine"],
        reader(bytes),
    )?))?;
    registry.register(Box::new(Snapshot::gauge(
        "konduit_flows",
        "Flows that live, by path.",
        &["path"],
        reader(live),
    )?))?;
    registry.register(Box::new(Snapshot::counter(
        "konduit_flows_total",
        "Flows that ended, by path and outcome.",
        &["path", "outcome"],
        reader(ended),
    )?))
}

fn bytes(totals: &Totals) -> Rows {
    let mut rows = Rows::new();
    for path in Path::ALL {
        for (direction, name) in [(Direction::Up, "to_target"), (Direction::Down, "to_client")] {
            for engine in Engine::ALL {
                let labels = [path.name(), name, engine.name()].map(str::to_owned).to_vec();
                rows.push((labels, totals.bytes(path, direction, engine)));
            }
        }
    }
    rows
}

fn live(totals: &Totals) -> Rows {
    Path::ALL.into_iter().map(|path| (vec![path.name().to_owned()], totals.live(path))).collect()
}

fn ended(totals: &Totals) -> Rows {
    let row = |path: Path, outcome: Outcome| {
        (vec![path.name().to_owned(), outcome.name().to_owned()], totals.ended(path, outcome))
    };
    Path::ALL.into_iter().flat_map(|path| Outcome::ALL.map(|outcome| row(path, outcome))).collect()
}
