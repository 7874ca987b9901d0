//! How an agent looks for servers: its pauses, and what it does with one that it has already.

use std::time::Duration;

use proxy_tests::runner::{Ground, RunningAgent, until};
use proxy_tests::scrape::Page;
use proxy_user::ops::metrics::encode;

use crate::goaway::Upstream;

const INTERVAL: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_millis(300);

fn start(ground: &Ground, upstream: &Upstream) -> RunningAgent {
    let mut options = ground.agent_options("agent", upstream.port());
    (options.sync_interval, options.sync_interval_cap) = (INTERVAL, CAP);
    RunningAgent::start(options).unwrap()
}

fn gauge(agent: &RunningAgent, name: &str) -> f64 {
    Page::parse(&String::from_utf8(encode(agent.metrics.registry()).unwrap()).unwrap()).sum(name, &[])
}

/// From one connection's arrival to the next: a pause begins when the attempt has failed, which is later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pauses_grow_to_the_cap_while_a_server_refuses() {
    let ground = Ground::new().unwrap();
    let upstream = Upstream::new(&ground).await;
    let agent = start(&ground, &upstream);
    // An answer without a server's id, as of one that refuses.
    let _ = upstream.answer(&[]).await;
    let mut before = upstream.arrived();
    for pause in [100, 150, 225, 300, 300] {
        let _ = upstream.answer(&[]).await;
        let gap = upstream.arrived() - before;
        before = upstream.arrived();
        assert!(gap >= Duration::from_millis(pause), "{gap:?} after the last attempt, not {pause} ms");
        assert_eq!(gauge(&agent, "open_server_connections"), 0.0);
    }
    let (first, _) = upstream.answer(&[("serverid", "one"), ("servercount", "1")]).await;
    until("the server", || agent.servers.connected() == 1).await.unwrap();
    assert_eq!(gauge(&agent, "open_server_connections"), 1.0);
    drop(first);
    // Nobody else is looked for while the one server there is is connected.
    let (_kept, _) = upstream.answer(&[("serverid", "one"), ("servercount", "1")]).await;
    until("the server again", || agent.servers.connected() == 1).await.unwrap();
    let another = tokio::time::timeout(2 * CAP, upstream.answer(&[]));
    assert!(another.await.is_err(), "a second connection to the one server");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_twice_is_left_at_once_without_backoff() {
    let ground = Ground::new().unwrap();
    let upstream = Upstream::new(&ground).await;
    let agent = start(&ground, &upstream);
    let (mut first, _) = upstream.answer(&[("serverid", "one"), ("servercount", "2")]).await;
    until("the server", || agent.servers.connected() == 1).await.unwrap();
    let mut before = upstream.arrived();
    for _ in 0..5 {
        // What a duplicate says of the number of servers does not count.
        let (mut twice, _) = upstream.answer(&[("serverid", "one"), ("servercount", "9")]).await;
        let gap = upstream.arrived() - before;
        before = upstream.arrived();
        assert!(gap >= INTERVAL, "{gap:?} after the last attempt");
        assert_eq!(twice.hear().await, None, "the duplicate is kept");
        assert_eq!(agent.servers.connected(), 1);
        assert_eq!(
            (gauge(&agent, "open_server_connections"), gauge(&agent, "known_server_count")),
            (1.0, 2.0)
        );
    }
    let (_second, _) = upstream.answer(&[("serverid", "two"), ("servercount", "2")]).await;
    until("both servers", || agent.servers.connected() == 2).await.unwrap();
    assert_eq!(gauge(&agent, "open_server_connections"), 2.0);
    assert_eq!(gauge(&agent, "stream_errors_total"), 0.0, "a duplicate is no failure");
    let another = tokio::time::timeout(2 * CAP, upstream.answer(&[]));
    assert!(another.await.is_err(), "a third server is looked for");
    let quiet = tokio::time::timeout(Duration::ZERO, first.hear()).await;
    assert!(quiet.is_err(), "the first stream was told {quiet:?}");
}
