//! Eight readers that never read, with senders that never stop, beside everybody else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proxy_tests::load::Way;
use proxy_tests::load::echo::{self, Echo, Times};
use proxy_tests::load::stall::Stalled;
use proxy_tests::memory::Held;

use crate::context::Context;
use crate::gate::{Bound, Spread};
use crate::method::{Gate, Line, Sample, rounds};
use crate::route::Route;

const FLOWS: usize = 8;
const MIB: f64 = (1 << 20) as f64;
/// The threads of a start end after 10 s, and give back more than many flows hold, which is no credit for those.
pub const STARTED: Duration = Duration::from_secs(12);
/// An eighth of what one stalled flow of ours holds.
const EIGHTH_OF_A_FLOW: f64 = 1.0;
/// A dial that waited for something: no busy machine makes one as slow as that.
const SLOW_DIAL_MS: f64 = 1000.0;

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let mut names = vec!["haproxy".to_owned()];
    names.extend(context.ours());
    let routes = context.routes(&names)?;
    let context = &*context;
    thread::sleep(STARTED);
    let samples = rounds(context.rounds(), &routes, |route| look(context, route))?;
    let held = samples.line("held per stalled flow, eight stalled readers", "held", "MiB");
    let mut lines = vec![context.ours().iter().fold(held, |line, ours| {
        let gate = samples.gate("held", (ours, "haproxy"), Bound::AtMost(1.0));
        line.with_gate(gate.with_floor(Bound::AtMost(2.0)))
    })];
    for (title, metric, unit, bound) in [
        ("growth of all eight in the second half of the stall", "growth", "MiB", EIGHTH_OF_A_FLOW),
        ("all of it left 2 s after the end", "left", "MiB", EIGHTH_OF_A_FLOW),
    ] {
        lines.push(context.ours().iter().fold(samples.line(title, metric, unit), |line, ours| {
            // In any round: a leak is one however seldom.
            let worst = Spread::of(samples.of(ours, metric)).map_or(f64::NAN, |spread| spread.most);
            let gate = Gate::on(format!("{ours}, the worst round"), worst, Bound::AtMost(bound));
            line.with_gate(gate.with_floor(Bound::AtMost(8.0 * bound)))
        }));
    }
    for (title, metric, unit, bound) in [
        ("round trip p99 of others, during / before", "trips", "ratio", Bound::AtMost(1.5)),
        ("dial to first echo p50, during / before", "dials", "ratio", Bound::AtMost(1.5)),
    ] {
        lines.push(context.ours().iter().fold(samples.line(title, metric, unit), |line, ours| {
            let value = Spread::of(samples.of(ours, metric)).map_or(f64::NAN, |spread| spread.median);
            // One look's p99 is chance, but not by so much.
            line.with_gate(Gate::on(ours, value, bound).with_floor(Bound::AtMost(20.0)))
        }));
    }
    let slowest = samples.line("the slowest dial to first echo during that", "slowest", "ms");
    lines.push(context.ours().iter().fold(slowest, |line, ours| {
        let worst = Spread::of(samples.of(ours, "slowest")).map_or(f64::NAN, |spread| spread.most);
        let what = format!("{ours}, the worst round");
        line.with_gate(
            Gate::on(what, worst, Bound::AtMost(SLOW_DIAL_MS)).with_floor(Bound::AtMost(SLOW_DIAL_MS)),
        )
    }));
    Ok(lines)
}

fn look(context: &Context, route: &Route) -> anyhow::Result<Sample> {
    let time = context.choose(Duration::from_secs(30), Duration::from_secs(6));
    let mut echo = Echo::open(&route.way)?;
    settle_echo(&mut echo)?;
    let (trips_before, dials_before) = beside(&mut echo, &route.way, Duration::from_secs(3))?;
    let (start, start_lasting) = (Held::now(&route.pids)?, Held::lasting(&route.pids)?);
    let stalled = Stalled::open(&route.way, FLOWS)?;
    // The windows fill; the memory is held from then on.
    thread::sleep(Duration::from_secs(2));
    let (trips, dials) = beside(&mut echo, &route.way, time / 2)?;
    let half = Held::lasting(&route.pids)?;
    let (more_trips, more_dials) = beside(&mut echo, &route.way, time / 2)?;
    let (end, end_lasting) = (Held::now(&route.pids)?.grown_since(&start), Held::lasting(&route.pids)?);
    anyhow::ensure!(stalled.lost() == 0, "{} of {FLOWS} stalled flows were ended", stalled.lost());
    let held = (end + stalled.unread_unix() as i64) as f64 / FLOWS as f64 / MIB;
    anyhow::ensure!(held > 0.0, "flows that nobody reads hold nothing: they did not stall");
    drop(stalled);
    thread::sleep(Duration::from_millis(1500));
    let left = Held::lasting(&route.pids)?.grown_by_parts(&start_lasting) as f64 / MIB;
    let worse = |first: &Times, second: &Times, q| first.micros(q).max(second.micros(q));
    Ok(vec![
        ("held", held),
        ("growth", end_lasting.grown_by_parts(&half) as f64 / MIB),
        ("left", left),
        ("trips", worse(&trips, &more_trips, 0.99) / trips_before.micros(0.99)),
        ("dials", worse(&dials, &more_dials, 0.5) / dials_before.micros(0.5)),
        ("slowest", worse(&dials, &more_dials, 1.0) / 1000.0),
    ])
}

/// Interactive for long enough that the engine has made up its mind.
pub fn settle_echo(echo: &mut Echo) -> anyhow::Result<()> {
    let settled = Instant::now() + Duration::from_millis(2400);
    while Instant::now() < settled {
        echo.trip()?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Round trips of an open flow, one every millisecond or so, and a new dial now and then, for `time`.
pub fn beside(echo: &mut Echo, way: &Way, time: Duration) -> anyhow::Result<(Times, Times)> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let dialling = scope.spawn(|| {
            let mut seconds = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                seconds.push(echo::short_flow(way)?.as_secs_f64());
                thread::sleep(Duration::from_millis(50));
            }
            Ok::<_, std::io::Error>(seconds)
        });
        let (mut trips, began) = (Vec::new(), Instant::now());
        let outcome = loop {
            if began.elapsed() >= time {
                break Ok(());
            }
            match echo.trip() {
                Ok(took) => trips.push(took.as_secs_f64()),
                Err(error) => break Err(error),
            }
            thread::sleep(Duration::from_micros(500));
        };
        stop.store(true, Ordering::Relaxed);
        let dials = dialling.join().map_err(|_| anyhow::anyhow!("the dialling thread panicked"))?;
        outcome?;
        Ok((Times::of(trips), Times::of(dials?)))
    })
}
