//! Short flows: dial, one echo, close.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use proxy_tests::load::echo::{self, Times};
use proxy_user::flow::Path;

use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Line, rounds};
use crate::route::Route;

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let routes = context.routes(&routes_of(context))?;
    let context = &*context;
    let before = flows(&routes)?;
    let samples = rounds(context.rounds(), &routes, |route| {
        let warm_before = on_warm_lanes(route)?;
        // One client that dials now and then finds a warm lane.
        let (mut seconds, until) = (Vec::new(), Instant::now() + context.window());
        while Instant::now() < until {
            seconds.push(echo::short_flow(&route.way)?.as_secs_f64());
            sleep(Duration::from_millis(5));
        }
        if [Path::LaneRaw, Path::LaneEncrypt].iter().any(|lane| route.path == Some(lane.name())) {
            let (dials, warm) = (seconds.len() as f64, on_warm_lanes(route)? - warm_before);
            anyhow::ensure!(warm >= WARM * dials, "only {warm} of {dials} dials found a warm lane");
        }
        let alone = Times::of(seconds);
        let churn = echo::churn(&route.way, 8, context.window())?;
        let why = churn.why.unwrap_or_default();
        anyhow::ensure!(churn.errors == 0, "{} of the dials failed; the first: {why}", churn.errors);
        anyhow::ensure!(churn.per_second > 0.0, "no flow came to its end in {:?}", context.window());
        sleep(context.settle());
        Ok(vec![("rate", churn.per_second), ("dial", alone.micros(0.5))])
    })?;
    let mut rate = samples.line("dial + echo + close, 8 clients", "rate", "/s");
    let mut dial = samples.line("dial to first echo p50, 1 client", "dial", "µs");
    for ours in routes_of(context).into_iter().skip(2) {
        // Every flow on a lane pays for a TLS handshake; `auto` may spare it most of them.
        let least = if ours == AUTO { 0.8 } else { 0.45 };
        let gate = samples.gate("rate", (&ours, "haproxy"), Bound::AtLeast(least));
        rate = rate.with_gate(gate.with_floor(Bound::AtLeast(0.05)));
        if ours != AUTO {
            let gate = samples.gate("dial", (&ours, "haproxy"), Bound::AtMost(1.2));
            dial = dial.with_gate(gate.with_floor(Bound::AtMost(6.0)));
        }
    }
    for ((name, before), (_, after)) in before.iter().zip(&flows(&routes)?) {
        if !after.is_empty() {
            rate = rate.with_note(format!("{name}, flows by path: {}", shares(before, after)));
        }
    }
    Ok(vec![rate, dial])
}

/// Dials so far that found a lane at hand.
fn on_warm_lanes(route: &Route) -> anyhow::Result<f64> {
    route.sum("konduit_lanes_total", &[("event", "flow_on_warm")])
}

/// Flows of every route that have ended so far, by path.
fn flows(routes: &[Rc<Route>]) -> anyhow::Result<Vec<(String, BTreeMap<String, f64>)>> {
    routes.iter().map(|route| Ok((route.name.clone(), route.flows()?))).collect()
}

/// `lane-raw 98 %, mux 2 %`
fn shares(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> String {
    let more = |path: &String| after[path] - before.get(path).copied().unwrap_or(0.0);
    let all: f64 = after.keys().map(more).sum();
    let each = after.keys().filter(|path| more(path) > 0.0);
    let words: Vec<_> = each.map(|path| format!("{path} {:.1} %", 100.0 * more(path) / all)).collect();
    words.join(", ")
}

/// Of a client's dials that are to tell what one on a warm lane takes.
const WARM: f64 = 0.95;
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
