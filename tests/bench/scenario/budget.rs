//! An agent with little memory to give: 64 stalled flows, half of them in both directions, on clear or encrypted lanes
//! or on packets, share a budget of 8 MiB, one interactive flow goes on.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use proxy_tests::load::echo::Echo;
use proxy_tests::load::stall::Stalled;
use proxy_tests::memory::{pipe_bytes, rss, socket_bytes};

use super::stalled::{STARTED, beside, settle_echo};
use crate::context::Context;
use crate::gate::{Bound, Spread};
use crate::method::{Gate, Line, rounds};

/// Names of the routes.
const LANES: &str = "budget";
const ENCRYPTED: &str = "budget-encrypt";
const PACKETS: &str = "budget-mux";

const FLOWS: usize = 64;

const BUDGET: f64 = (8 << 20) as f64;
const MIB: f64 = (1 << 20) as f64;

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let start = |name, how| context.starter.start_konduit(name, how, &["--buffer-budget=8MiB"]).map(Rc::new);
    let routes = [start(LANES, "raw")?, start(ENCRYPTED, "encrypt")?, start(PACKETS, "mux")?];
    let context = &*context;
    let time = context.choose(Duration::from_secs(10), Duration::from_secs(3));
    thread::sleep(STARTED);
    let mut least = BTreeMap::new();
    let samples = rounds(context.rounds(), &routes, |route| {
        let agent = route.pids[1];
        let mut echo = Echo::open(&route.way)?;
        settle_echo(&mut echo)?;
        let (before, _) = beside(&mut echo, &route.way, Duration::from_secs(3))?;
        // What the process itself grows by, since it held least: it keeps for itself what a round made it take.
        let resident = least.entry(agent).or_insert(u64::MAX);
        *resident = rss(agent).min(*resident);
        let resident = *resident;
        let stalled =
            [Stalled::open(&route.way, FLOWS / 2)?, Stalled::open_both_ways(&route.way, FLOWS / 2)?];
        thread::sleep(Duration::from_secs(2));
        let (during, _) = beside(&mut echo, &route.way, time)?;
        let (sockets, pipes) = (socket_bytes(agent)? as f64, pipe_bytes(agent) as f64);
        let grown = rss(agent).saturating_sub(resident) as f64;
        let held = sockets + pipes + grown;
        let lost: usize = stalled.iter().map(Stalled::lost).sum();
        anyhow::ensure!(lost == 0, "{lost} of {FLOWS} stalled flows were ended");
        anyhow::ensure!(held > 0.0, "flows that nobody reads hold nothing: they did not stall");
        drop(stalled);
        // What they held goes back before the next round.
        thread::sleep(Duration::from_secs(2));
        Ok(vec![
            ("held", held / MIB),
            ("sockets", sockets / MIB),
            ("pipes", pipes / MIB),
            ("resident", grown / MIB),
            ("share", held / BUDGET),
            ("trips", during.micros(0.99) / before.micros(0.99)),
        ])
    })?;
    // A p99 of one look is chance; what is held is not.
    let line = |title: &str, metric, unit, [bound, floor]: [f64; 2]| {
        [LANES, ENCRYPTED, PACKETS].into_iter().fold(samples.line(title, metric, unit), |line, route| {
            let value = Spread::of(samples.of(route, metric)).map_or(f64::NAN, |spread| spread.median);
            let gate = Gate::on(route, value, Bound::AtMost(bound));
            line.with_gate(gate.with_floor(Bound::AtMost(floor)))
        })
    };
    Ok(vec![
        samples.line("held by an agent with 64 stalled flows and a budget of 8 MiB", "held", "MiB"),
        samples.line("of that in sockets", "sockets", "MiB"),
        samples.line("of that in pipes", "pipes", "MiB"),
        samples.line("of that, growth of resident memory", "resident", "MiB"),
        line("the same, in budgets", "share", "budgets", [1.5, 3.0]),
        line("round trip p99, during / before", "trips", "ratio", [2.0, 20.0]),
    ])
}
