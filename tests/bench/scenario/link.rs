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

use crate::context::Context;
use crate::gate::{Bound, Spread};
use crate::method::{Gate, Line, rounds};
use crate::route::Route;
use crate::start::Starter;

const RATE: u64 = 1_000_000_000;
const MAPPED: &str = "join-sockmap";
const WINDOW: Duration = Duration::from_millis(800);

/// Windows open over many round trips, one after the other on the hops, and the engine makes up its mind.
fn warm_up(delay: Duration) -> Duration {
    Duration::from_millis(400) + 40 * delay
}

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
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
    ["direct".to_owned()].into_iter().chain(engines).chain(context.ours()).collect()
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
    let mut lines = Vec::new();
    for (kind, way) in [(Kind::Down, "down"), (Kind::Up, "up")] {
        // The hop whose source is across the link: its reader keeps up, so it may not leave the kernel's hands.
        let hop = if kind == Kind::Down { "hop 1" } else { "hop 2" };
        let samples = rounds(count, &routes, |route| {
            let before = route.shares()?;
            let bulk = Bulk::start(&route.way, kind, 1)?;
            sleep(warm_up(delay));
            let rate = bulk.measure(target, &Whose::Machine, WINDOW)?;
            anyhow::ensure!(bulk.lost() == 0, "the flow ended by itself");
            drop(bulk);
            // What is on the wire still has to arrive or be refused.
            sleep(Duration::from_millis(200));
            let mut sample = vec![("gbit", rate.gbit)];
            if route.name == MAPPED {
                sample.push(("kept", route.shares()?.since(&before).of_engine(hop, "sockmap")));
            }
            Ok(sample)
        })?;
        let title = format!("{} ms each way, 1 stream {way}", delay.as_millis());
        let mut line = samples.line(&title, "gbit", "Gbit/s");
        for name in names.iter().filter(|name| *name != "direct") {
            line = line.with_gate(samples.gate("gbit", (name, "direct"), Bound::AtLeast(0.9)));
        }
        let kept = Spread::of(samples.of(MAPPED, "kept")).map_or(f64::NAN, |spread| spread.median);
        let stayed = samples
            .line(&format!("{title}: what stayed in redirect"), "kept", "share")
            .without_shares()
            .with_gate(Gate::on(MAPPED, kept, Bound::AtLeast(0.9)));
        lines.extend([line, stayed]);
    }
    Ok(lines)
}
