//! The gRPC frontend with lanes: every byte in a packet, in a gRPC message, in an HTTP/2 frame.

use proxy_tests::load::bulk::Kind;

use super::throughput::measure;
use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Line, rounds};

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let routes = context.routes(&["haproxy", "konduit-grpc-raw", "konduit-grpc-mux"])?;
    let context = &*context;
    let mut lines = Vec::new();
    for (kind, way) in [(Kind::Down, "down"), (Kind::Up, "up")] {
        let samples =
            rounds(context.rounds(), &routes, |route| measure(context, route, kind, 1, context.window()))?;
        let line = samples.line(&format!("gRPC frontend, 1 stream {way}"), "gbit", "Gbit/s").with_gate(
            samples
                .gate("gbit", ("konduit-grpc-raw", "haproxy"), Bound::AtLeast(0.5))
                .with_floor(Bound::AtLeast(0.25)),
        );
        lines.push(line);
        lines.push(samples.line(&format!("gRPC frontend, 1 stream {way}, CPU"), "cpu", "s/GB"));
    }
    Ok(lines)
}
