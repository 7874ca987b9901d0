//! Round trips of 64 bytes, alone and beside bulk.

use std::thread::sleep;
use std::time::{Duration, Instant};

use proxy_tests::load::bulk::{Bulk, Kind};
use proxy_tests::load::echo::{self, Echo};

use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Line, Sample, rounds, rounds_carried};
use crate::route::Route;

/// So many samples make a p99.
const ENOUGH: usize = 2000;
/// The short form asks whether there is a figure at all; HAProxy makes 200 in its look beside bulk.
const A_FEW: usize = 20;
/// Where the scheduler puts the four wake-ups of a trip makes it 45 or 100 µs, on every route and for a whole look:
/// of five rounds the median is chance. So many times as many rounds as elsewhere, but for the short form.
const MORE_ROUNDS: usize = 3;
/// As many for the short form beside bulk flows: where their threads run makes HAProxy's p99 there 1.6 or 23 ms.
const LOADED_LOOKS: usize = 3;

pub fn alone(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let routes = context.routes(&context.bulk_routes())?;
    let context = &*context;
    let count = context.choose(MORE_ROUNDS, 1) * context.rounds();
    let samples = rounds_carried(count, &routes, Route::must_carry_of_calm, |route| {
        let before = route.shares()?;
        let mut echo = Echo::open(&route.way)?;
        // Interactive flows are settled flows: what the engine does with them it has done by then.
        let settled =
            Instant::now() + context.choose(Duration::from_millis(2600), Duration::from_millis(2400));
        while Instant::now() < settled {
            echo.trip()?;
            sleep(Duration::from_millis(20));
        }
        let times = echo::Times::of(echo.trips(ENOUGH, context.window(), Duration::from_secs(5))?);
        route.check_promoted_since(&before)?;
        anyhow::ensure!(times.count() >= A_FEW, "only {} round trips in 5 s", times.count());
        Ok(vec![("p50", times.micros(0.5)), ("p99", times.micros(0.99))])
    })?;
    let mut p50 = samples.line("round trip p50", "p50", "µs");
    for ours in context.ours() {
        p50 = p50.with_gate(
            samples.gate("p50", (&ours, "haproxy"), Bound::AtMost(0.85)).with_floor(Bound::AtMost(5.0)),
        );
    }
    Ok(vec![p50, samples.line("round trip p99", "p99", "µs")])
}

pub fn loaded(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let mut names = context.bulk_routes();
    if context.options.ours.is_empty() {
        // What sockmap alone gives: both hops TCP to TCP, and nothing else in the map's way.
        names.push("join-sockmap".to_owned());
    }
    let routes = context.routes(&names)?;
    let context = &*context;
    let count = context.choose(1, LOADED_LOOKS) * context.rounds();
    let samples = rounds(count, &routes, |route| beside_bulk(context, route))?;
    let mut p99 = samples.line("round trip p99 beside 4 bulk flows", "p99", "µs");
    let mut bulk = samples.line("the bulk flows meanwhile", "gbit", "Gbit/s");
    for ours in context.ours() {
        p99 = p99.with_gate(
            samples.gate("p99", (&ours, "haproxy"), Bound::AtMost(0.25)).with_floor(Bound::AtMost(1.0)),
        );
        bulk = bulk.with_gate(
            samples.gate("gbit", (&ours, "haproxy"), Bound::AtLeast(1.0)).with_floor(Bound::AtLeast(0.4)),
        );
    }
    Ok(vec![samples.line("round trip p50 beside 4 bulk flows", "p50", "µs"), p99, bulk])
}

/// One interactive flow beside four downloads. HAProxy needs 20 ms for a trip then, so the samples of a round
/// come from as long a look as it takes, up to a bound.
fn beside_bulk(context: &Context, route: &Route) -> anyhow::Result<Sample> {
    let shares = route.shares()?;
    let mut echo = Echo::open(&route.way)?;
    let settled = Instant::now() + Duration::from_millis(2300);
    while Instant::now() < settled {
        echo.trip()?;
        sleep(Duration::from_millis(20));
    }
    // Of the flow that is measured; the others may outrun their readers.
    route.check_engine(&route.shares()?.since(&shares), route.must_carry_of_calm())?;
    let bulk = Bulk::start(&route.way, Kind::Down, 4)?;
    sleep(context.warm_up());
    let (before, began) = (bulk.moved(&context.target), Instant::now());
    let longest = context.choose(Duration::from_secs(45), Duration::from_secs(4));
    let times = echo::Times::of(echo.trips(ENOUGH, context.window(), longest)?);
    let enough = times.count() >= context.choose(ENOUGH, A_FEW);
    anyhow::ensure!(enough, "{} round trips in {longest:?} are too few for a p99", times.count());
    let gbit = (bulk.moved(&context.target) - before) as f64 * 8.0 / began.elapsed().as_nanos() as f64;
    anyhow::ensure!(gbit > 0.0, "the bulk flows stood still meanwhile");
    anyhow::ensure!(bulk.lost() == 0, "{} of 4 bulk flows ended by themselves", bulk.lost());
    drop(bulk);
    sleep(context.settle());
    route.check_promoted_since(&shares)?;
    Ok(vec![("p50", times.micros(0.5)), ("p99", times.micros(0.99)), ("gbit", gbit)])
}
