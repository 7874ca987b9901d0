//! Bulk: one and eight streams, each direction, saturated.

use std::thread::sleep;
use std::time::Duration;

use proxy_tests::load::bulk::{Bulk, Kind};

use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Line, Sample, rounds};
use crate::route::Route;

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let routes = context.routes(&context.bulk_routes())?;
    let context = &*context;
    let mut lines = Vec::new();
    for (kind, way) in [(Kind::Down, "down"), (Kind::Up, "up")] {
        for flows in [1, 8] {
            let samples = rounds(context.rounds(), &routes, |route| {
                measure(context, route, kind, flows, context.window())
            })?;
            let title = format!("{flows} stream{} {way}", if flows == 1 { "" } else { "s" });
            let mut line = samples.line(&title, "gbit", "Gbit/s");
            let mut cpu = samples.line(&format!("{title}, CPU"), "cpu", "s/GB");
            for ours in context.ours() {
                line = line
                    .with_gate(
                        samples
                            .gate("gbit", (&ours, "haproxy"), Bound::AtLeast(1.4))
                            .with_floor(Bound::AtLeast(0.7)),
                    )
                    .with_ratio(samples.ratio("gbit", &ours, "direct"));
                let gate = samples.gate("cpu", (&ours, "haproxy"), Bound::AtMost(0.75));
                cpu = cpu.with_gate(gate.with_floor(Bound::AtMost(1.5)));
            }
            lines.extend([line, cpu]);
        }
    }
    Ok(lines)
}

/// One look at `flows` saturated flows.
pub fn measure(
    context: &Context,
    route: &Route,
    kind: Kind,
    flows: usize,
    window: Duration,
) -> anyhow::Result<Sample> {
    let bulk = Bulk::start(&route.way, kind, flows)?;
    sleep(context.warm_up());
    let rate = bulk.measure(&context.target, &context.whose_cpu(route), window)?;
    anyhow::ensure!(bulk.lost() == 0, "{} of {flows} bulk flows ended by themselves", bulk.lost());
    drop(bulk);
    // What the end of the flows costs belongs to nobody's window.
    sleep(context.settle());
    Ok(vec![("gbit", rate.gbit), ("cpu", rate.cpu)])
}
