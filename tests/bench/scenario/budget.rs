//! An agent with little memory to give: 64 stalled flows share a budget of 8 MiB, one interactive flow goes on.

use std::time::Duration;

use proxy_tests::load::echo::Echo;
use proxy_tests::load::stall::Stalled;
use proxy_tests::memory::{pipe_bytes, rss, socket_bytes};

use super::stalled::{beside, settle_echo};
use crate::context::Context;
use crate::gate::{Bound, Spread};
use crate::method::{Gate, Line, rounds};

const FLOWS: usize = 64;
const BUDGET: f64 = (8 << 20) as f64;
const MIB: f64 = (1 << 20) as f64;

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let route =
        std::rc::Rc::new(context.starter.start_konduit("budget", "raw", &["--buffer-budget=8MiB"])?);
    let agent = route.pids[1];
    let held =
        || -> anyhow::Result<f64> { Ok((socket_bytes(agent)? + pipe_bytes(agent) + rss(agent)) as f64) };
    let context = &*context;
    let time = context.choose(Duration::from_secs(10), Duration::from_secs(3));
    let samples = rounds(1, &[route], |route| {
        let mut echo = Echo::open(&route.way)?;
        settle_echo(&mut echo)?;
        let (before, _) = beside(&mut echo, &route.way, Duration::from_secs(3))?;
        let start = held()?;
        let stalled = Stalled::open(&route.way, FLOWS)?;
        std::thread::sleep(Duration::from_secs(2));
        let (during, _) = beside(&mut echo, &route.way, time)?;
        let grown = held()? - start;
        let lost = stalled.lost() as f64;
        Ok(vec![
            ("held", grown / MIB),
            ("share", grown / BUDGET),
            ("trips", during.micros(0.99) / before.micros(0.99)),
            ("lost", lost),
        ])
    })?;
    let value = |metric| Spread::of(samples.of("budget", metric)).map_or(f64::NAN, |spread| spread.median);
    let line = |title: &str, metric, unit, bound| {
        samples.line(title, metric, unit).with_gate(Gate::on("agent", value(metric), bound))
    };
    Ok(vec![
        samples.line("held by an agent with 64 stalled flows and a budget of 8 MiB", "held", "MiB"),
        line("the same, in budgets", "share", "budgets", Bound::AtMost(1.5)),
        line("round trip p99, during / before", "trips", "ratio", Bound::AtMost(2.0)),
        line("flows that were ended", "lost", "flows", Bound::AtMost(0.0)),
    ])
}
