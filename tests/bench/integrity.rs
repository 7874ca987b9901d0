//! `bench integrity`: wrong, lost or repeated bytes, leaks, and engines that did not move what they were to, over every
//! route that is asked for.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use proxy_tests::integrity::{CheckedTarget, Load, run as run_load};
use proxy_tests::kernel_log::{KernelLog, is_miscount_of_forced_sockmap};
use proxy_tests::link::{self, Link, Nature};
use proxy_tests::memory::open_fds;
use proxy_tests::ports;
use proxy_tests::scrape::Page;
use proxy_user::flow::Engine;

use crate::context::log_directory;
use crate::route::Route;
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

/// The kernel destroys a socket that was in a map so long after its end, and warns only then.
const SOCKETS_GONE: Duration = Duration::from_secs(1);

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
    for (number, name) in options.routes.iter().enumerate() {
        eprintln!("== {name} ({} of {}), {} s", number + 1, options.routes.len(), time.as_secs());
        let outcome = match name.strip_prefix("link/") {
            Some(name) => over_link(options, name, &load),
            None => {
                let target = CheckedTarget::start("127.0.0.1:0".parse()?)?;
                one_route(&starter(options, target.address, None)?, name, &target, &load)
            }
        };
        let outcome = outcome.and_then(|words| match &mut kernel_log {
            Ok(log) => Ok(words + &kernel_faults(name, log)?),
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

/// Fails on what the kernel warned of since the last route; a fault of its own that is known is said aloud.
fn kernel_faults(route: &str, log: &mut KernelLog) -> anyhow::Result<String> {
    std::thread::sleep(SOCKETS_GONE);
    let (known, new): (Vec<_>, Vec<_>) =
        log.new_warnings()?.into_iter().partition(|warning| is_known(route, warning));
    anyhow::ensure!(new.is_empty(), "new kernel warnings:\n  {}", new.join("\n  "));
    Ok(known
        .iter()
        .map(|warning| format!("\n  !!! A KNOWN FAULT OF THE KERNEL (ARCHITECTURE.md): {warning}"))
        .collect())
}

fn is_known(route: &str, warning: &str) -> bool {
    route.ends_with("-sockmap") && is_miscount_of_forced_sockmap(warning)
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
    let (began, shares) = (Instant::now(), route.shares()?);
    let tally = run_load(&route.way, target, load);
    let took = began.elapsed().as_secs();
    let moved = route.shares()?.since(&shares);
    anyhow::ensure!(tally.faults.is_empty(), "{tally}\n  {}", moved.in_words());
    route.check_path(&moved)?;
    route.check_engine(&moved)?;
    let after = settled(&route)?;
    let mut words = format!("{tally}, {took} s; {}; {}", held_in_words(&before, &after), moved.in_words());
    anyhow::ensure!(!has_leaked(&before, &after), "leaked: {words}");
    if starter.link.is_some() {
        let trimmed = trimmed(&route)?;
        let forced = route.engine == Some(Engine::Sockmap);
        anyhow::ensure!(trimmed > 0.0 || !forced, "no verdict met a retransmission that overlaps: {words}");
        words += &format!("; {trimmed} bytes trimmed");
    }
    Ok(words)
}

/// Bytes that retransmissions brought again and a verdict cut off.
fn trimmed(route: &Route) -> anyhow::Result<f64> {
    let of = |(_, page): &(_, SocketAddr)| -> anyhow::Result<f64> {
        Ok(Page::get(*page)?.sum("konduit_engine_bytes_total", &[("what", "trimmed")]))
    };
    route.pages.iter().map(of).sum()
}

/// What a process holds while no flow is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    fds: usize,
    tasks: usize,
}

/// Warm lanes, with a task each, and pooled pipes come and go; the flows of such a run are hundreds.
const PLAY: usize = 64;

fn has_leaked(before: &[Held], after: &[Held]) -> bool {
    let more =
        |(before, after): (&Held, &Held)| after.fds > before.fds + PLAY || after.tasks > before.tasks + PLAY;
    before.iter().zip(after).any(more)
}

fn held_in_words(before: &[Held], after: &[Held]) -> String {
    let both = |what: fn(&Held) -> usize| {
        let [before, after] = [before, after].map(|held| held.iter().map(what).collect::<Vec<_>>());
        format!("{before:?} → {after:?}")
    };
    format!("fds {}, tasks {}", both(|held| held.fds), both(|held| held.tasks))
}

/// Waits until nothing of a flow is left anywhere, then looks at what the processes hold.
fn settled(route: &Route) -> anyhow::Result<Vec<Held>> {
    ports::wait(Duration::from_secs(20), "the end of all flows", || still_there(route).is_empty())
        .with_context(|| format!("still there:{}", still_there(route)))?;
    let held = route.pids.iter().enumerate().map(|(index, pid)| {
        let page = route.pages.get(index).and_then(|(_, page)| Page::get(*page).ok());
        let tasks = page.map_or(0.0, |page| page.sum("konduit_tasks", &[]));
        Held { fds: open_fds(*pid), tasks: tasks as usize }
    });
    Ok(held.collect())
}

/// Gauges of what exists while a flow or its dial does: the flow itself, its socket or pipe or place in the
/// kernel's maps, its wait for a lane.
const LIVE: [(&str, &[(&str, &str)]); 8] = [
    ("konduit_flows", &[]),
    ("_open_endpoint_connections", &[]),
    ("_pending_backend_dials", &[]),
    ("_http_connections", &[]),
    ("konduit_engine", &[("what", "flows")]),
    ("konduit_engine", &[("what", "mapped")]),
    ("konduit_engine", &[("what", "pipes")]),
    ("konduit_lanes", &[("state", "waited_for")]),
];

/// What is left of flows, in words; nothing when all is gone.
fn still_there(route: &Route) -> String {
    let mut words = String::new();
    let mut idle = Vec::new();
    for (hop, page) in &route.pages {
        let Ok(page) = Page::get(*page) else {
            words += &format!(" {hop} (its page cannot be read)");
            continue;
        };
        for (name, labels) in LIVE {
            let left = page.sum(name, labels);
            if left != 0.0 {
                words += &format!(" {hop} {name}{labels:?} {left}");
            }
        }
        idle.push(page.sum("konduit_lanes", &[("state", "idle")]));
    }
    // A lane that only one end knows of is lost.
    if idle.windows(2).any(|pair| pair[0] != pair[1]) {
        words += &format!(" idle lanes that the ends do not agree on {idle:?}");
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_known_only_where_sockmap_is_forced() {
        let warning = "net/ipv4/af_inet.c:157 inet_sock_destruct+0x169/0x190, 1 times, last in kworker/1:0";
        assert!(is_known("konduit-raw-sockmap", warning) && is_known("link/join-sockmap", warning));
        assert!(!is_known("konduit-raw", warning) && !is_known("join-auto", warning));
        assert!(!is_known(
            "konduit-raw-sockmap",
            "net/core/stream.c:216 sk_stream_kill_queues+0x10, 1 times"
        ));
    }

    #[test]
    fn what_grows_beyond_the_play_is_a_leak() {
        let before = [Held { fds: 40, tasks: 10 }, Held { fds: 30, tasks: 5 }];
        let grown = |fds, tasks| [before[0], Held { fds: 30 + fds, tasks: 5 + tasks }];
        assert!(!has_leaked(&before, &before));
        assert!(!has_leaked(&before, &grown(PLAY, PLAY)));
        assert!(has_leaked(&before, &grown(PLAY + 1, 0)));
        assert!(has_leaked(&before, &grown(0, PLAY + 1)));
    }
}
