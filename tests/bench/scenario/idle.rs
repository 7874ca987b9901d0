//! Memory of flows that do nothing.

use std::thread::sleep;
use std::time::Duration;

use proxy_tests::load::stall::Stalled;
use proxy_tests::memory::Held;

use crate::context::Context;
use crate::method::{Line, Sample, rounds};
use crate::route::Route;

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let routes = context.routes(&context.bulk_routes())?;
    let flows = context.choose(1000, 200);
    let samples = rounds(1, &routes, |route| look(route, flows))?;
    Ok(vec![
        samples.line(&format!("resident memory per idle flow, {flows} of them"), "rss", "KiB"),
        samples.line("sockets, slab and resident memory per idle flow", "all", "KiB"),
    ])
}

fn look(route: &Route, flows: usize) -> anyhow::Result<Sample> {
    let before = Held::now(&route.pids)?;
    let idle = Stalled::idle(&route.way, flows)?;
    sleep(Duration::from_secs(3));
    let after = Held::now(&route.pids)?;
    anyhow::ensure!(idle.lost() == 0, "{} of {flows} idle flows ended by themselves", idle.lost());
    drop(idle);
    sleep(Duration::from_secs(2));
    let each = |bytes: i64| bytes as f64 / flows as f64 / 1024.0;
    let rss = after.rss as i64 - before.rss as i64;
    Ok(vec![("rss", each(rss)), ("all", each(after.grown_since(&before)))])
}
