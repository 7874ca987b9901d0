//! A network that is no loopback: 1 Gbit/s with a delay each way. Every engine has to fill it as a direct
//! connection does.

use std::net::SocketAddr;
use std::rc::Rc;
use std::thread::sleep;
use std::time::Duration;

use proxy_tests::cpu::Whose;
use proxy_tests::link::{self, Link, Nature};
use proxy_tests::load::Target;
use proxy_tests::load::bulk::{Bulk, Kind};

use crate::context::Context;
use crate::gate::Bound;
use crate::method::{Gate, Line, rounds};
use crate::route::Route;
use crate::start::Starter;

const RATE: u64 = 1_000_000_000;
/// Windows have to open over many round trips before anybody looks.
const WARM_UP: Duration = Duration::from_millis(2500);
const WINDOW: Duration = Duration::from_millis(2500);

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
        let count = context.choose(2, 1);
        let measured = link.near.run(|| over(&starter, &target, &names, count, delay))?;
        lines.extend(measured.into_iter().map(|line| line.with_note(link.in_words())));
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
    delay: u64,
) -> anyhow::Result<Vec<Line>> {
    let routes: Vec<Rc<Route>> =
        names.iter().map(|name| Ok(Rc::new(starter.start(name)?))).collect::<anyhow::Result<_>>()?;
    let mut lines = Vec::new();
    for (kind, way) in [(Kind::Down, "down"), (Kind::Up, "up")] {
        let samples = rounds(count, &routes, |route| {
            let bulk = Bulk::start(&route.way, kind, 1)?;
            sleep(WARM_UP);
            let rate = bulk.measure(target, &Whose::Machine, WINDOW)?;
            anyhow::ensure!(bulk.lost() == 0, "the flow ended by itself");
            drop(bulk);
            // What is on the wire still has to arrive or be refused.
            sleep(Duration::from_millis(200));
            Ok(vec![("gbit", rate.gbit)])
        })?;
        let mut line = samples.line(&format!("{delay} ms each way, 1 stream {way}"), "gbit", "Gbit/s");
        for name in names.iter().filter(|name| *name != "direct") {
            line = line.with_gate(samples.gate("gbit", (name, "direct"), Bound::AtLeast(0.9)));
        }
        // The hop whose source is across the link: its reader keeps up, so it may not leave the kernel's hands.
        let hop = if kind == Kind::Down { "hop 1" } else { "hop 2" };
        let kept = samples.shares_of("join-sockmap").of_engine(hop, "sockmap");
        let what = format!("join-sockmap, share that stayed in redirect at {hop}");
        lines.push(line.with_gate(Gate::on(what, kept, Bound::AtLeast(0.9))));
    }
    Ok(lines)
}
