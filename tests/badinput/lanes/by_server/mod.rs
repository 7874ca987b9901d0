//! A played server's words to our agent.

mod play;
mod server;
mod stage;

use std::time::Duration;

use proxy_tests::runner::{Ground, RunningAgent, until};
use proxy_tests::scrape::Page;
use proxy_user::net::listener::TcpListener;
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use proxy_user::ops::metrics;

use self::server::Server;
use super::{Shape, Word, all_closed, each, sayings};
use crate::cell::LONG;
use crate::{panics, puppet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// In place of the hello.
    Hello,
    /// In the pool, never dialled on.
    Warm,
    /// A dial was said, its target is silent.
    Dialled,
    /// And the agent has acknowledged it.
    Acknowledged,
    /// It carries the flow of a dial.
    Flow,
    /// Back in the pool after a dial that failed.
    Again,
    /// Back in the pool after a flow that ended.
    Ended,
    /// Opened for a dial that came over the control stream, whose target is silent.
    Claimed,
    /// Opened for a dial whose target answered.
    Answered,
    /// It carries the flow of that dial.
    Joined,
}

const MOMENTS: [Moment; 10] = [
    Moment::Hello,
    Moment::Warm,
    Moment::Dialled,
    Moment::Acknowledged,
    Moment::Flow,
    Moment::Again,
    Moment::Ended,
    Moment::Claimed,
    Moment::Answered,
    Moment::Joined,
];

#[derive(Debug, Clone, Copy)]
struct Case {
    moment: Moment,
    word: Word,
    shape: Shape,
    raw: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for moment in MOMENTS {
        for (word, shape) in sayings(moment == Moment::Hello) {
            let flows = matches!(moment, Moment::Flow | Moment::Joined);
            // A flow in clear may have left its frames before it ends.
            let ended = moment == Moment::Ended;
            for raw in [true, false].into_iter().filter(|raw| flows || *raw != ended) {
                cases.push(Case { moment, word, shape, raw });
            }
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_says_on_a_lane_harms_its_own_dial_at_most() {
    panics::watch();
    let ground = Ground::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1", 0).unwrap();
    let mut options = ground.agent_options("agent", listener.local_addr().port());
    (options.lanes.mode, options.lanes.security) = (LanesMode::Always, LaneSecurity::Raw);
    // No dial is to go over packets because the machine is busy.
    options.lanes.wait = LONG;
    // Each case takes a stream of its own.
    (options.sync_interval, options.sync_interval_cap) = (Duration::from_millis(1), Duration::from_millis(5));
    let stage = stage::accept(listener, &ground).await;
    let agent = RunningAgent::start(options).unwrap();
    let count = |name: &str, labels: &[(&str, &str)]| {
        let text = metrics::encode(agent.metrics.registry()).unwrap();
        Page::parse(&String::from_utf8_lossy(&text)).sum(name, labels)
    };
    let (_, mut bystander) = stage.streams.lock().await.recv().await.unwrap();
    let conn = puppet::dial(&mut bystander, &stage.echo.name()).await;
    let watch = tokio::spawn(async move {
        loop {
            puppet::ping(&mut bystander, conn).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    each(cases(), |case| {
        let stage = stage.clone();
        async move { Server::start(stage, case).await.play().await }
    })
    .await;
    until("an end of all flows but the bystander's", || agent.flows.len() == 1).await.unwrap();
    let targets = || count("open_endpoint_connections", &[]);
    until("all targets but the bystander's to be left", || targets() == 1.0).await.unwrap();
    let idle = || count("konduit_lanes", &[("state", "idle")]);
    until("all lanes to be given up", || idle() == 0.0).await.unwrap();
    all_closed(&stage.played).await;
    watch.abort();
    assert!(watch.await.unwrap_err().is_cancelled(), "the bystander's flow was harmed");
    assert_eq!(panics::seen(), [""; 0]);
}
