//! `bench integrity`: wrong, lost or repeated bytes, and leaks, over every route that is asked for.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use proxy_tests::integrity::{CheckedTarget, Load, run as run_load};
use proxy_tests::load::Target;
use proxy_tests::memory::open_fds;
use proxy_tests::ports;
use proxy_tests::scrape::Page;

use crate::context::Context;
use crate::route::Route;

#[derive(Args, Clone)]
pub struct Options {
    /// How long in all, shared by the routes.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Routes: direct, konduit-LANES[-ENGINE], join-ENGINE.
    #[arg(long, value_delimiter = ',', default_values = DEFAULT)]
    routes: Vec<String>,
    /// Flows at once.
    #[arg(long, default_value_t = 24)]
    flows: usize,
    /// Bytes of the largest direction of a flow, in MiB.
    #[arg(long, default_value_t = 16)]
    most: u64,
    /// Other numbers give other flows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: crate::Options,
}

const DEFAULT: [&str; 7] = [
    "konduit-raw",
    "konduit-raw-sockmap",
    "konduit-raw-splice",
    "konduit-raw-copy",
    "konduit-encrypt",
    "konduit-mux",
    "join-auto",
];

pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let target = CheckedTarget::start("127.0.0.1:0".parse()?)?;
    let mut context = Context::towards(options.common.clone(), Target::start()?, target.address)?;
    let each = Duration::from_secs_f64(options.minutes * 60.0 / options.routes.len().max(1) as f64);
    let mut sound = true;
    for name in &options.routes {
        let load =
            Load { flows_at_once: options.flows, time: each, most: options.most << 20, seed: options.seed };
        match one_route(&mut context, name, &target, &load) {
            Ok(words) => println!("{name}: {words}"),
            Err(error) => {
                sound = false;
                println!("{name}: FAILED: {error:#}");
            }
        }
        match context.new_kernel_warnings() {
            Ok(warnings) if warnings.is_empty() => {}
            Ok(warnings) => {
                sound = false;
                println!("{name}: FAILED: new kernel warnings:\n  {}", warnings.join("\n  "));
            }
            Err(error) => println!("   kernel log not checked: {error:#}"),
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one_route(
    context: &mut Context,
    name: &str,
    target: &CheckedTarget,
    load: &Load,
) -> anyhow::Result<String> {
    let route = context.route(name)?;
    // A first, short load fills pools and lazily made things, so that what grows after it is a leak.
    let warm = Load { time: Duration::from_secs(2).min(load.time), seed: load.seed + 1, ..load.clone() };
    run_load(&route.way, target, &warm);
    let before = settled(&route)?;
    let (began, shares) = (Instant::now(), route.shares()?);
    let tally = run_load(&route.way, target, load);
    let took = began.elapsed().as_secs();
    let moved = route.shares()?.since(&shares);
    anyhow::ensure!(tally.faults.is_empty(), "{tally}\n  {}", moved.in_words());
    route.check_path(&moved)?;
    let after = settled(&route)?;
    let words = format!("{tally}, {took} s; fds {before:?} → {after:?}; {}", moved.in_words());
    // Warm lanes come and go; two dozen descriptors are not the flows of such a run.
    let leaked = before.iter().zip(&after).any(|(before, after)| *after > before + 24);
    anyhow::ensure!(!leaked, "descriptors leaked: {words}");
    context.end(name);
    Ok(words)
}

/// Waits until no flow is left anywhere, then counts open descriptors.
fn settled(route: &Route) -> anyhow::Result<Vec<usize>> {
    let none_left = || {
        route.pages.iter().all(|(_, page)| {
            Page::get(*page).is_ok_and(|page| LIVE.iter().all(|name| page.sum(name, &[]) == 0.0))
        })
    };
    ports::wait(Duration::from_secs(15), "the end of all flows", none_left)
        .with_context(|| live_flows(route))?;
    Ok(route.pids.iter().map(|pid| open_fds(*pid)).collect())
}

/// Gauges of what exists while a flow does.
const LIVE: [&str; 2] = ["konduit_flows", "_open_endpoint_connections"];

fn live_flows(route: &Route) -> String {
    let mut words = String::from("still there:");
    for (hop, page) in &route.pages {
        for name in LIVE {
            let left = Page::get(*page).map_or(f64::NAN, |page| page.sum(name, &[]));
            if left != 0.0 {
                words += &format!(" {hop} {name} {left}");
            }
        }
    }
    words
}
