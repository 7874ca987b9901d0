//! `bench integrity`: wrong, lost or repeated bytes, and leaks, over every route that is asked for.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use proxy_tests::integrity::{CheckedTarget, Load, run as run_load};
use proxy_tests::kernel_log::KernelLog;
use proxy_tests::link::{self, Link, Nature};
use proxy_tests::memory::open_fds;
use proxy_tests::ports;
use proxy_tests::scrape::Page;

use crate::context::log_directory;
use crate::route::Route;
use crate::start::Starter;

#[derive(Args, Clone)]
pub struct Options {
    /// How long in all, shared by the routes.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Routes: direct, konduit-LANES[-ENGINE], join-ENGINE; `link/` in front puts a bad link between the hops.
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

const DEFAULT: [&str; 9] = [
    "konduit-raw",
    "konduit-raw-sockmap",
    "konduit-raw-splice",
    "konduit-raw-copy",
    "konduit-encrypt",
    "konduit-mux",
    "join-auto",
    "link/join-sockmap",
    "link/konduit-raw",
];

/// Loss, reordering and retransmissions that overlap what has arrived.
fn bad_link() -> Nature {
    Nature {
        lose_one_in: Some(2000),
        delay_one_in: Some(500),
        overlap_one_in: Some(20),
        ..Nature::clean(Duration::from_millis(2), 1_000_000_000)
    }
}

pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut kernel_log = KernelLog::watch();
    let time = Duration::from_secs_f64(options.minutes * 60.0 / options.routes.len().max(1) as f64);
    let load = Load { flows_at_once: options.flows, time, most: options.most << 20, seed: options.seed };
    let mut sound = true;
    for name in &options.routes {
        let outcome = match name.strip_prefix("link/") {
            Some(name) => over_link(options, name, &load),
            None => {
                let target = CheckedTarget::start("127.0.0.1:0".parse()?)?;
                one_route(&starter(options, target.address, None)?, name, &target, &load)
            }
        };
        let outcome = outcome.and_then(|words| match &mut kernel_log {
            Ok(log) => {
                let warnings = log.new_warnings()?;
                anyhow::ensure!(warnings.is_empty(), "new kernel warnings:\n  {}", warnings.join("\n  "));
                Ok(words)
            }
            Err(error) => Ok(format!("{words}; kernel log not checked: {error}")),
        });
        sound &= outcome.is_ok();
        match outcome {
            Ok(words) => println!("{name}: {words}"),
            Err(error) => println!("{name}: FAILED: {error:#}"),
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn starter<'link>(
    options: &Options,
    target: SocketAddr,
    link: Option<&'link Link>,
) -> anyhow::Result<Starter<'link>> {
    let directory = log_directory(&options.common)?;
    Ok(Starter { target, directory, binaries: options.common.binaries.clone(), link })
}

fn over_link(options: &Options, name: &str, load: &Load) -> anyhow::Result<String> {
    let link = Link::new(&bad_link())?;
    let target = link.far.run(|| Ok(CheckedTarget::start(SocketAddr::from((link::FAR, 0)))?))?;
    let starter = starter(options, target.address, Some(&link))?;
    let words = link.near.run(|| one_route(&starter, name, &target, load));
    let happened = link.in_words();
    words.map(|words| format!("{words}; {happened}")).with_context(|| happened)
}

fn one_route(
    starter: &Starter<'_>,
    name: &str,
    target: &CheckedTarget,
    load: &Load,
) -> anyhow::Result<String> {
    let route = starter.start(name)?;
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
    // Warm lanes and pooled pipes come and go; the flows of such a run are hundreds.
    let leaked = before.iter().zip(&after).any(|(before, after)| *after > before + 64);
    anyhow::ensure!(!leaked, "descriptors leaked: {words}");
    Ok(words)
}

/// Waits until no flow is left anywhere, then counts open descriptors.
fn settled(route: &Route) -> anyhow::Result<Vec<usize>> {
    let none_left = || {
        route.pages.iter().all(|(_, page)| {
            Page::get(*page).is_ok_and(|page| LIVE.iter().all(|name| page.sum(name, &[]) == 0.0))
        })
    };
    ports::wait(Duration::from_secs(20), "the end of all flows", none_left)
        .with_context(|| still_there(route))?;
    Ok(route.pids.iter().map(|pid| open_fds(*pid)).collect())
}

/// Gauges of what exists while a flow does.
const LIVE: [&str; 2] = ["konduit_flows", "_open_endpoint_connections"];

fn still_there(route: &Route) -> String {
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
