//! Short flows: dial, one echo, close.

use std::thread::sleep;
use std::time::{Duration, Instant};

use proxy_tests::load::echo::{self, Times};

use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Line, rounds};

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let routes = context.routes(&routes_of(context))?;
    let context = &*context;
    let samples = rounds(context.rounds(), &routes, |route| {
        // One client that dials now and then always finds a warm lane.
        let (mut seconds, until) = (Vec::new(), Instant::now() + context.window());
        while Instant::now() < until {
            seconds.push(echo::short_flow(&route.way)?.as_secs_f64());
            sleep(Duration::from_millis(5));
        }
        let alone = Times::of(seconds);
        let churn = echo::churn(&route.way, 8, context.window())?;
        let why = churn.why.unwrap_or_default();
        anyhow::ensure!(churn.errors == 0, "{} of the dials failed; the first: {why}", churn.errors);
        sleep(context.settle());
        Ok(vec![("rate", churn.per_second), ("dial", alone.micros(0.5))])
    })?;
    let mut rate = samples.line("dial + echo + close, 8 clients", "rate", "/s");
    let mut dial = samples.line("dial to first echo p50, 1 client", "dial", "µs");
    for ours in routes_of(context).into_iter().skip(2) {
        // Every flow on a lane pays for a TLS handshake; `auto` may spare it most of them.
        let least = if ours == AUTO { 0.8 } else { 0.45 };
        rate = rate.with_gate(samples.gate("rate", (&ours, "haproxy"), Bound::AtLeast(least)));
        if ours != AUTO {
            dial = dial.with_gate(samples.gate("dial", (&ours, "haproxy"), Bound::AtMost(1.2)));
        }
    }
    Ok(vec![rate, dial])
}

/// Lanes or packets, as the server sees fit.
const AUTO: &str = "konduit-auto";

/// As elsewhere, and with TLS lanes: what a dial costs is the same question there.
fn routes_of(context: &Context) -> Vec<String> {
    let mut names = context.bulk_routes();
    if context.options.ours.is_empty() {
        names.extend(["konduit-encrypt".to_owned(), AUTO.to_owned()]);
    }
    names
}
