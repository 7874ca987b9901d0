//! What processes hold when no flow is there, before a load and after it.

use std::time::Duration;

use anyhow::Context as _;
use proxy_tests::memory::open_fds_by_kind;
use proxy_tests::ports;
use proxy_tests::scrape::Page;

use crate::route::Route;

/// What a process holds while no flow is there, beside its idle lanes: these come and go with the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub sockets: usize,
    /// Pipes in the pool, among others.
    pub other_fds: usize,
    pub tasks: usize,
}

/// A scrape, a lane on its way, a timer's task come and go.
const PLAY: usize = 8;
/// A pipe that was lent once stays in the pool with its two ends; what is lent is looked at by itself.
const POOL_PLAY: usize = 64;

pub fn has_leaked(before: &[Held], after: &[Held]) -> bool {
    let more = |(before, after): (&Held, &Held)| {
        after.sockets > before.sockets + PLAY
            || after.tasks > before.tasks + PLAY
            || after.other_fds > before.other_fds + POOL_PLAY
    };
    before.iter().zip(after).any(more)
}

pub fn held_in_words(before: &[Held], after: &[Held]) -> String {
    let both = |what: fn(&Held) -> usize| {
        let [before, after] = [before, after].map(|held| held.iter().map(what).collect::<Vec<_>>());
        format!("{before:?} → {after:?}")
    };
    let [sockets, others, tasks] =
        [both(|held| held.sockets), both(|held| held.other_fds), both(|held| held.tasks)];
    format!("beside idle lanes: sockets {sockets}, other fds {others}, tasks {tasks}")
}

/// Waits until nothing of a flow is left anywhere, then looks at what the processes hold.
pub fn settled(route: &Route) -> anyhow::Result<Vec<Held>> {
    ports::wait(Duration::from_secs(20), "the end of all flows", || still_there(route).is_empty())
        .with_context(|| format!("still there:{}", still_there(route)))?;
    let held = route.pids.iter().zip(&route.pages).map(|(pid, (hop, page))| {
        let page = Page::get(*page)?;
        let fds = open_fds_by_kind(*pid);
        let lanes = page.sum("konduit_lanes", &[("state", "idle")]) as usize;
        let tasks = page.sum("konduit_tasks", &[]) as usize;
        // The server's wait in its pool, the agent's each in a task.
        let waiting = if *hop == "agent" { lanes } else { 0 };
        let (sockets, tasks) = (fds.sockets.saturating_sub(lanes), tasks.saturating_sub(waiting));
        Ok(Held { sockets, other_fds: fds.others, tasks })
    });
    held.collect()
}

/// Gauges of what exists while a flow or its dial does: the flow itself, its socket or pipe or place in the
/// kernel's maps, its wait for a lane. And what no flow may leave in those maps.
const LIVE: [(&str, &[(&str, &str)]); 9] = [
    ("konduit_flows", &[]),
    ("_open_endpoint_connections", &[]),
    ("_pending_backend_dials", &[]),
    ("_http_connections", &[]),
    ("konduit_engine", &[("what", "flows")]),
    ("konduit_engine", &[("what", "mapped")]),
    ("konduit_engine", &[("what", "forgotten")]),
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
    fn what_grows_beyond_the_play_is_a_leak() {
        let first = Held { sockets: 20, other_fds: 40, tasks: 10 };
        let before = [first, Held { sockets: 5, other_fds: 30, tasks: 5 }];
        let grown = |sockets, other_fds, tasks| {
            [first, Held { sockets: 5 + sockets, other_fds: 30 + other_fds, tasks: 5 + tasks }]
        };
        assert!(!has_leaked(&before, &before));
        assert!(!has_leaked(&before, &grown(PLAY, POOL_PLAY, PLAY)));
        assert!(has_leaked(&before, &grown(PLAY + 1, 0, 0)));
        assert!(has_leaked(&before, &grown(0, POOL_PLAY + 1, 0)));
        assert!(has_leaked(&before, &grown(0, 0, PLAY + 1)));
    }
}
