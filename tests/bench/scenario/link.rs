//! A network that is no loopback: 1 Gbit/s with a delay each way. Every engine has to fill it as a direct
//! connection does.
//!
//! Segments cross the link in offloaded pieces, as between two machines with usual network cards; rate and delay are
//! those of the single segments with their headers.

use std::net::SocketAddr;
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

use proxy_tests::cpu::Whose;
use proxy_tests::link::{self, Link, Nature};
use proxy_tests::load::Target;
use proxy_tests::load::bulk::{Bulk, Kind};
use proxy_tests::netns;

use crate::context::Context;
use crate::gate::{Bound, Spread};
use crate::method::{Gate, Line, Sample, Samples, rounds_carried};
use crate::route::{Carried, Route, Shares};
use crate::start::Starter;

const RATE: u64 = 1_000_000_000;
/// Half of the link, in bytes per second.
const PACED: u64 = RATE / 8 / 2;
const DIRECT: &str = "direct";
const MAPPED: &str = "join-sockmap";
const WINDOW: Duration = Duration::from_millis(800);
/// What a flow that nothing disturbs has redirected is booked once a second.
const PACED_WINDOW: Duration = Duration::from_millis(2500);
/// What is on the wire at the end of a flow still has to arrive or be refused.
const ON_THE_WIRE: Duration = Duration::from_millis(200);

/// Windows open over many round trips, one after the other on the hops, and the engine makes up its mind.
fn warm_up(delay: Duration) -> Duration {
    Duration::from_millis(400) + 40 * delay
}

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    if netns::are_denied() {
        return Ok(lines);
    }
    for delay in context.choose(vec![5, 20], vec![5]) {
        let nature = Nature::clean(Duration::from_millis(delay), RATE);
        let link = Link::new(&nature)?;
        let target = link.far.run(|| Ok(Target::on(SocketAddr::from((link::FAR, 0)))?))?;
        let starter = Starter {
            target: target.address,
            directory: context.directory.join(format!("link-{delay}")),
            binaries: context.options.binaries.clone(),
            link: Some(&link),
        };
        let names = names(context);
        let count = context.rounds();
        let measured = link.near.run(|| over(&starter, &target, &names, count, nature.delay))?;
        lines.extend(measured);
        if let Some(last) = lines.pop() {
            lines.push(last.with_note(format!("the link: {}", link.in_words())));
        }
    }
    Ok(lines)
}

fn names(context: &Context) -> Vec<String> {
    let engines = ["join-copy", "join-splice", "join-sockmap", "join-auto"].map(str::to_owned);
    [DIRECT.to_owned()].into_iter().chain(engines).chain(context.ours()).collect()
}

fn over(
    starter: &Starter<'_>,
    target: &Target,
    names: &[String],
    count: usize,
    delay: Duration,
) -> anyhow::Result<Vec<Line>> {
    let routes: Vec<Rc<Route>> =
        names.iter().map(|name| Ok(Rc::new(starter.start(name)?))).collect::<anyhow::Result<_>>()?;
    let title = format!("{} ms each way", delay.as_millis());
    let mut lines = Vec::new();
    for way in [Toward::Client, Toward::Target] {
        lines.extend(saturated(&routes, target, count, delay, way, &title)?);
    }
    let few: Vec<_> = routes.into_iter().filter(|route| [DIRECT, MAPPED].contains(&&*route.name)).collect();
    for way in [Toward::Client, Toward::Target] {
        lines.extend(paced(&few, target, count, delay, way, &title)?);
    }
    Ok(lines)
}

/// A source that outruns the link has to wait somewhere: the hop that sends into the link must leave the kernel's
/// hands, the hop that reads from it may not.
fn saturated(
    routes: &[Rc<Route>],
    target: &Target,
    count: usize,
    delay: Duration,
    way: Toward,
    title: &str,
) -> anyhow::Result<Vec<Line>> {
    let hop = way.receiving_hop();
    let samples = rounds_carried(
        count,
        routes,
        |_| Carried::Somewhere,
        |route| {
            let before = route.shares()?;
            let bulk = Bulk::start(&route.way, way.saturated(), 1)?;
            sleep(warm_up(delay));
            let rate = bulk.measure(target, &Whose::Machine, WINDOW)?;
            anyhow::ensure!(bulk.lost() == 0, "the flow ended by itself");
            drop(bulk);
            sleep(ON_THE_WIRE);
            kept(vec![("gbit", rate.gbit)], route, &before, hop)
        },
    )?;
    let title = format!("{title}, 1 stream {}", way.in_words());
    let mut line = samples.line(&title, "gbit", "Gbit/s");
    for route in routes.iter().filter(|route| route.name != DIRECT) {
        line = line.with_gate(
            samples.gate("gbit", (&route.name, DIRECT), Bound::AtLeast(0.9)).with_floor(Bound::AtLeast(0.5)),
        );
    }
    let stayed = format!("{title}: what stayed in redirect at {hop}, which reads from the link");
    Ok(vec![line, kept_line(&samples, &stayed)])
}

/// A source that the link carries easily: the hop that sends into the link has no reason to leave the kernel's hands,
/// however long the round trip.
fn paced(
    routes: &[Rc<Route>],
    target: &Target,
    count: usize,
    delay: Duration,
    way: Toward,
    title: &str,
) -> anyhow::Result<Vec<Line>> {
    let hop = way.sending_hop();
    // Until the windows have opened, the source outruns them.
    let samples = rounds_carried(
        count,
        routes,
        |_| Carried::Everywhere,
        |route| {
            let bulk = Bulk::start(&route.way, way.paced(), 1)?;
            sleep(warm_up(delay));
            let before = route.shares()?;
            let rate = bulk.measure(target, &Whose::Machine, PACED_WINDOW)?;
            let sample = kept(vec![("gbit", rate.gbit)], route, &before, hop)?;
            anyhow::ensure!(bulk.lost() == 0, "the flow ended by itself");
            drop(bulk);
            sleep(ON_THE_WIRE);
            Ok(sample)
        },
    )?;
    let title = format!("{title}, 1 stream {} paced at 0.5 Gbit/s", way.in_words());
    let gate = samples.gate("gbit", (MAPPED, DIRECT), Bound::AtLeast(0.9)).with_floor(Bound::AtLeast(0.5));
    let line = samples.line(&title, "gbit", "Gbit/s").with_gate(gate);
    let stayed = format!("{title}: what stayed in redirect at {hop}, which sends into the link");
    Ok(vec![line, kept_line(&samples, &stayed)])
}

/// The sample with the share that the kernel redirected at `hop` since `before`.
fn kept(mut sample: Sample, route: &Route, before: &Shares, hop: &str) -> anyhow::Result<Sample> {
    if route.name == MAPPED {
        sample.push(("kept", route.shares()?.since(before).of_engine(hop, "sockmap")));
    }
    Ok(sample)
}

fn kept_line(samples: &Samples, title: &str) -> Line {
    let kept = Spread::of(samples.of(MAPPED, "kept")).map_or(f64::NAN, |spread| spread.median);
    let gate = Gate::on(MAPPED, kept, Bound::AtLeast(0.9)).with_floor(Bound::AtLeast(0.5));
    samples.line(title, "kept", "share").without_shares().with_gate(gate)
}

/// Where the bytes of a flow go. The link is between the hops.
#[derive(Clone, Copy)]
enum Toward {
    Client,
    Target,
}

impl Toward {
    fn in_words(self) -> &'static str {
        match self {
            Toward::Client => "down",
            Toward::Target => "up",
        }
    }

    fn saturated(self) -> Kind {
        match self {
            Toward::Client => Kind::Down,
            Toward::Target => Kind::Up,
        }
    }

    fn paced(self) -> Kind {
        match self {
            Toward::Client => Kind::Paced(PACED),
            Toward::Target => Kind::PacedUp(PACED),
        }
    }

    /// The hop whose source is across the link.
    fn receiving_hop(self) -> &'static str {
        match self {
            Toward::Client => "hop 1",
            Toward::Target => "hop 2",
        }
    }

    /// The hop whose destination is across the link.
    fn sending_hop(self) -> &'static str {
        match self {
            Toward::Client => "hop 2",
            Toward::Target => "hop 1",
        }
    }
}
