//! What each strategy can pick from, as `ready_backends` counts it.

use proxy_tests::runner::{Ground, RunningAgent, RunningServer, until};
use proxy_tests::scrape::Page;
use proxy_user::ops::metrics;
use proxy_user::server::options::{Strategies, Strategy};

/// Upstream's managers: hosts for `destHost`, agents for the others, whatever number of streams they have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_count_for_dest_host_and_agents_for_the_others() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let mut options = ground.server_options("server");
    options.proxy_strategies =
        Strategies(vec![Strategy::DestHost, Strategy::DefaultRoute, Strategy::Default]);
    let server = RunningServer::start(options)?;
    let ready = || {
        let text = metrics::encode(server.dialer.metrics.registry()).unwrap();
        let page = Page::parse(&String::from_utf8_lossy(&text));
        ["destHost", "defaultRoute", "default"]
            .map(|strategy| page.sum("server_ready_backends", &[("proxy_strategy", strategy)]))
    };
    assert_eq!(ready(), [0.0; 3]);
    let agent = |id: &str, identifiers: &str| {
        let mut options = ground.agent_options(id, server.agent_port());
        options.agent_identifiers = identifiers.into();
        RunningAgent::start(options)
    };
    let _one = agent("one", "host=a.example&ipv4=10.0.0.1")?;
    until("two hosts of one agent", || ready() == [2.0, 0.0, 1.0]).await?;
    let _two = agent("two", "host=a.example&host=b.example&default-route=true")?;
    until("a host that both have once", || ready() == [3.0, 1.0, 2.0]).await?;
    let three = agent("three", "default-route=true")?;
    until("two default routes", || ready() == [3.0, 2.0, 3.0]).await?;
    let _again = agent("two", "host=b.example&default-route=true")?;
    server.has_agents(4).await?;
    assert_eq!(ready(), [3.0, 2.0, 3.0]);
    drop(three);
    until("one default route", || ready() == [3.0, 1.0, 2.0]).await
}
