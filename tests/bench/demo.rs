//! The demo: a direct connection, then our server and agent with encrypted and with raw lanes, side by side.

use std::fs;
use std::process::ExitCode;
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

use proxy_tests::load::bulk::Kind;
use proxy_tests::load::echo::{Echo, Times};
use proxy_tests::runner::ABILITIES;
use proxy_user::flow::Engine;

use crate::Options;
use crate::context::Context;
use crate::kernel::Watch;
use crate::method::{Line, Samples, rounds};
use crate::report::short;
use crate::route::{Route, Shares};
use crate::scenario::throughput;
use crate::{network, picture};

const ROUTES: [&str; 3] = ["direct", "konduit-encrypt", "konduit-raw"];
/// How long a look at bulk lasts.
const LOOK: Duration = Duration::from_secs(2);
const BAR: usize = 40;

pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    let out = options.out.clone();
    let mut context = Context::new(options, Watch::where_readable()?)?;
    println!("Certificates, a target, and two pairs of proxy-server and proxy-agent, all on this machine.");
    let routes = context.routes(&ROUTES)?;
    for route in routes.iter().filter(|route| route.name != "direct") {
        println!("  {} runs", route.name);
    }
    let lines = [
        bulk(&context, &routes, Kind::Down, "download")?,
        bulk(&context, &routes, Kind::Up, "upload")?,
        round_trips(&context, &routes)?,
    ];
    lines.iter().for_each(show);
    let path = out.join("demo.svg");
    let note = network::note(&network::of_machine(), context.options.noisy);
    fs::write(&path, picture::draw(lines.iter().map(|line| ("", line)), &note))?;
    println!("\nThe same as a picture: {}", path.display());
    println!("What each process said: {}", context.directory.display());
    drop(routes);
    context.end().check_after_the_end()?;
    Ok(ExitCode::SUCCESS)
}

fn bulk(context: &Context, routes: &[Rc<Route>], kind: Kind, title: &str) -> anyhow::Result<Line> {
    let samples = rounds(1, routes, |route| {
        let before = route.shares()?;
        let sample = throughput::measure(context, route, kind, 1, LOOK)?;
        check_moved_by_kernel(route, kind, &route.shares()?.since(&before))?;
        Ok(sample)
    })?;
    Ok(beside_direct(samples, &format!("one {title}"), "gbit", "Gbit/s"))
}

/// Round trips of a flow that the engine has known for a while, as `kubectl exec` is one.
fn round_trips(context: &Context, routes: &[Rc<Route>]) -> anyhow::Result<Line> {
    let samples = rounds(1, routes, |route| {
        let before = route.shares()?;
        let mut echo = Echo::open(&route.way)?;
        for _ in 0..120 {
            echo.trip()?;
            sleep(Duration::from_millis(20));
        }
        let times = Times::of(echo.trips(2000, context.window(), Duration::from_secs(5))?);
        route.check_promoted_since(&before)?;
        Ok(vec![("p50", times.micros(0.5))])
    })?;
    Ok(beside_direct(samples, "64 bytes there and back, median", "p50", "µs"))
}

/// An error when a hop copied what the kernel can move on raw lanes. What goes up at the server comes from a Unix socket,
/// from which bulk is copied.
fn check_moved_by_kernel(route: &Route, kind: Kind, moved: &Shares) -> anyhow::Result<()> {
    if route.path != Some("lane-raw") || ABILITIES.splice.why_not().is_some() {
        return Ok(());
    }
    for (hop, _) in route.pages.iter().filter(|(hop, _)| *hop == "agent" || kind == Kind::Down) {
        let copied = moved.of_engine(hop, Engine::Copy.name());
        anyhow::ensure!(copied < 0.5, "{}: {hop} copied bulk: {}", route.name, moved.in_words());
    }
    Ok(())
}

fn beside_direct(samples: Samples, title: &str, metric: &'static str, unit: &'static str) -> Line {
    let line = samples.line(title, metric, unit);
    ROUTES[1..].iter().fold(line, |line, ours| {
        let ratio = samples.ratio(metric, ours, "direct");
        line.with_ratio(ratio)
    })
}

fn show(line: &Line) {
    println!("\n{} [{}]", line.figure, line.unit);
    let longest = line.values.iter().map(|(_, value)| value.median).fold(f64::MIN_POSITIVE, f64::max);
    for (route, value) in &line.values {
        let length = (value.median / longest * BAR as f64).round() as usize;
        let what = format!("{route} / direct");
        let beside = line.ratios.iter().find(|(ratio, _)| *ratio == what);
        let beside = beside.map_or(String::new(), |(_, ratio)| format!("  {} × direct", short(ratio.median)));
        println!("  {route:<16} {:<BAR$} {:>7}{beside}", "█".repeat(length), short(value.median));
    }
    for (route, shares) in line.shares.iter().filter(|(_, shares)| !shares.is_empty()) {
        println!("  {route} moved by  {shares}");
    }
}
