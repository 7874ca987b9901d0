//! Lanes that stay encrypted, beside what operators used before: `ssh -L`.

use proxy_tests::load::bulk::Kind;

use super::throughput::measure;
use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Line, rounds};

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let routes = context.routes(&["ssh", "konduit-encrypt", "konduit-mux"])?;
    let context = &*context;
    let mut lines = Vec::new();
    for (kind, way) in [(Kind::Down, "down"), (Kind::Up, "up")] {
        let samples =
            rounds(context.rounds(), &routes, |route| measure(context, route, kind, 1, context.window()))?;
        let line = samples.line(&format!("encrypted, 1 stream {way}"), "gbit", "Gbit/s").with_gate(
            samples
                .gate("gbit", ("konduit-encrypt", "ssh"), Bound::AtLeast(1.3))
                .with_floor(Bound::AtLeast(0.6)),
        );
        lines.push(line);
        lines.push(samples.line(&format!("encrypted, 1 stream {way}, CPU"), "cpu", "s/GB"));
    }
    Ok(lines)
}
