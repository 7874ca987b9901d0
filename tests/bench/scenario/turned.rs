//! A flow that was interactive and then turns bulky: what the engine chose for the one must not hold the other.

use std::io::{Read, Write};
use std::thread::sleep;
use std::time::Duration;

use proxy_tests::load::{Job, bulk};

use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Line, Sample, rounds};
use crate::route::Route;

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let ours = context.ours();
    let routes = context.routes(&ours)?;
    // So much that a retransmission timer of 200 ms is no more than a part of it.
    let bytes = context.choose(4 << 30, 2 << 30);
    let context = &*context;
    let samples = rounds(context.rounds(), &routes, |route| {
        let cold = cold(route, bytes)?;
        let (before, turns) = (route.shares()?, route.turns()?);
        let turned = turned(route, bytes)?;
        sleep(context.settle());
        // Else nothing had to be taken back from the kernel, or nothing was.
        route.check_promoted_since(&before)?;
        route.check_demoted_since(turns)?;
        Ok::<Sample, _>(vec![("cold", cold), ("turned", turned)])
    })?;
    let mut lines = Vec::new();
    for route in &ours {
        let gate = samples.gate_of((route, "turned"), (route, "cold"), Bound::AtLeast(0.9));
        let gate = gate.with_floor(Bound::AtLeast(0.25));
        lines.push(
            samples
                .line(&format!("{} MiB after ten small messages", bytes >> 20), "turned", "Gbit/s")
                .with_gate(gate),
        );
    }
    lines.push(samples.line("the same, started cold", "cold", "Gbit/s"));
    Ok(lines)
}

fn cold(route: &Route, bytes: u64) -> anyhow::Result<f64> {
    let mut conn = route.way.start_with(Job::Exactly, bytes)?;
    Ok(rate(bytes, bulk::take(&mut conn, bytes)?))
}

/// Ten messages over three seconds: by then `auto` has promoted the flow.
fn turned(route: &Route, bytes: u64) -> anyhow::Result<f64> {
    let mut conn = route.way.start_with(Job::Turn, bytes)?;
    let mut message = [0x2e; 64];
    for at in 0..10 {
        conn.write_all(&message)?;
        conn.read_exact(&mut message)?;
        // After the last one the target sends by itself.
        if at < 9 {
            sleep(Duration::from_millis(330));
        }
    }
    Ok(rate(bytes, bulk::take(&mut conn, bytes)?))
}

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 * 8.0 / took.as_nanos() as f64
}
