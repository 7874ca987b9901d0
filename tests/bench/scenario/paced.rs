//! The machine's CPU for flows at a fixed rate, as most are.

use proxy_tests::load::bulk::Kind;

use super::throughput::measure;
use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Line, rounds};

/// 1 Gbit/s, in bytes per second.
const RATE: u64 = 125_000_000;

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let routes = context.routes(&context.bulk_routes())?;
    let context = &*context;
    let mut lines = Vec::new();
    for flows in [1, 4] {
        let samples = rounds(context.rounds(), &routes, |route| {
            let sample = measure(context, route, Kind::Paced(RATE), flows, context.window() * 2)?;
            let kept = sample[0].1 / flows as f64;
            anyhow::ensure!(
                context.options.noisy || context.options.show_only || kept > 0.9,
                "{} carried only {kept:.2} Gbit/s of each sender's 1",
                route.name
            );
            Ok(sample)
        })?;
        let mut line = samples.line(&format!("{flows} × 1 Gbit/s, CPU"), "cpu", "s/GB");
        for ours in context.ours() {
            let gate = samples.gate("cpu", (&ours, "haproxy"), Bound::AtMost(0.6));
            line = line.with_gate(gate.with_floor(Bound::AtMost(1.5)));
        }
        lines.push(line);
    }
    Ok(lines)
}
