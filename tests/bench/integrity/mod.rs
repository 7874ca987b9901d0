//! `bench integrity`: wrong, lost or repeated bytes, leaks, and engines that did not move what they were to, over every
//! route that is asked for.

mod leak;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use proxy_tests::integrity::{CheckedTarget, Load, run as run_load, run_telling};
use proxy_tests::link::{self, Link, Nature};
use proxy_tests::netns;
use proxy_user::flow::Engine;

use self::leak::{has_leaked, held_in_words, settled};
use crate::context::log_directory;
use crate::kernel::Watch;
use crate::route::{Carried, Route};
use crate::start::Starter;

#[derive(Args, Clone)]
#[group(skip)]
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

/// How often a run says how it stands.
const TELL_EVERY: Duration = Duration::from_secs(30);

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
    let mut kernel_log = Watch::start()?;
    let time = Duration::from_secs_f64(options.minutes * 60.0 / options.routes.len().max(1) as f64);
    let load = Load { flows_at_once: options.flows, time, most: options.most << 20, seed: options.seed };
    let mut sound = true;
    for (number, name) in options.routes.iter().enumerate() {
        eprintln!("== {name} ({} of {}), {} s", number + 1, options.routes.len(), time.as_secs());
        let outcome = match name.strip_prefix("link/") {
            Some(name) => over_link(options, name, &load),
            None => {
                let target = CheckedTarget::start("127.0.0.1:0".parse()?)?;
                one_route(&starter(options, target.address, None)?, name, &target, &load)
            }
        };
        let outcome = outcome.and_then(|words| kernel_log.check_after_the_end().map(|()| words));
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
    if netns::are_denied() {
        return Ok("nothing was tested".to_owned());
    }
    let link = Link::new(&bad_link())?;
    let target = link.far.run(|| Ok(CheckedTarget::start(SocketAddr::from((link::FAR, 0)))?))?;
    let starter = starter(options, target.address, Some(&link))?;
    let words = link.near.run(|| one_route(&starter, name, &target, load));
    let happened = link.in_words();
    let counts = &link.counts;
    let made = [&counts.lost, &counts.late, &counts.overlapped].map(|count| count.load(Ordering::Relaxed));
    anyhow::ensure!(words.is_err() || !made.contains(&0), "the bad link was too good: {happened}");
    words.map(|words| format!("{words}; {happened}")).with_context(|| happened)
}

fn one_route(
    starter: &Starter<'_>,
    name: &str,
    target: &CheckedTarget,
    load: &Load,
) -> anyhow::Result<String> {
    let route = starter.start(name)?;
    if let Some(why) = route.unproven() {
        return Ok(format!("!!! SKIPPED, nothing was tested: {why}"));
    }
    // A first, short load fills pools and lazily made things, so that what grows after it is a leak.
    let warm = Load { time: Duration::from_secs(2).min(load.time), seed: load.seed + 1, ..load.clone() };
    run_load(&route.way, target, &warm);
    let before = settled(&route)?;
    let (began, shares, events) = (Instant::now(), route.shares()?, route.turns()?);
    let tally = run_telling(&route.way, target, load, TELL_EVERY, |tally| {
        eprintln!("   {} s: {}", began.elapsed().as_secs(), tally.in_short());
    });
    let took = began.elapsed().as_secs();
    let moved = route.shares()?.since(&shares);
    anyhow::ensure!(tally.faults.is_empty(), "{tally}\n  {}", moved.in_words());
    anyhow::ensure!(tally.flows > 0 && tally.bytes > 0, "no flow was checked: {tally}");
    route.check_path(&moved)?;
    route.check_engine(&moved, Carried::Everywhere)?;
    let after = settled(&route)?;
    let mut words = format!("{tally}, {took} s; {}; {}", held_in_words(&before, &after), moved.in_words());
    if route.may_promote() {
        let [promoted, demoted] = route.turns_since(events)?;
        words += &format!("; promoted {promoted}, demoted {demoted} times");
        // Else a part of what the engine does by its own choice was not tried.
        anyhow::ensure!(promoted > 0.0 && demoted > 0.0, "no flow changed its engine both ways: {words}");
    }
    words += &format!("; {} bytes passed", of_mapped(&route, "passed")?);
    anyhow::ensure!(!has_leaked(&before, &after), "leaked: {words}");
    if starter.link.is_some() {
        let trimmed = of_mapped(&route, "trimmed")?;
        let forced = route.engine == Some(Engine::Sockmap);
        anyhow::ensure!(trimmed > 0.0 || !forced, "no verdict met a retransmission that overlaps: {words}");
        words += &format!("; {trimmed} bytes trimmed");
    }
    Ok(words)
}

/// Bytes that retransmissions brought again and a verdict cut off, or that passed through userspace though mapped.
fn of_mapped(route: &Route, what: &'static str) -> anyhow::Result<f64> {
    route.sum("konduit_engine_bytes_total", &[("what", what)])
}
