//! The machine's CPU for downloads at a fixed rate, as most flows are. The kernel paces no Unix socket, so none goes up.

use proxy_tests::load::bulk::Kind;

use super::throughput::measure;
use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Line, rounds};

/// 1 Gbit/s, in bytes per second.
const RATE: u64 = 125_000_000;
/// What each sender must get through of its Gbit/s, and what even where gates are only shown.
const KEPT: [f64; 2] = [0.9, 0.5];

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let routes = context.routes(&context.bulk_routes())?;
    let context = &*context;
    let mut lines = Vec::new();
    for flows in [1, 4] {
        let samples = rounds(context.rounds(), &routes, |route| {
            let sample = measure(context, route, Kind::Paced(RATE), flows, context.window() * 2)?;
            let kept = sample[0].1 / flows as f64;
            let least = KEPT[usize::from(context.options.show_only)];
            anyhow::ensure!(
                context.options.noisy || kept > least,
                "{} carried only {kept:.2} Gbit/s of each sender's 1",
                route.name
            );
            Ok(sample)
        })?;
        let mut line = samples.line(&format!("{flows} × 1 Gbit/s down, CPU"), "cpu", "s/GB");
        for ours in context.ours() {
            let gate = samples.gate("cpu", (&ours, "haproxy"), Bound::AtMost(0.6));
            line = line.with_gate(gate.with_floor(Bound::AtMost(1.5)));
        }
        lines.push(line);
    }
    Ok(lines)
}
