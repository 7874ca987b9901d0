//! A reader that reads nothing behind a peer of upstream's: whoever holds that peer's stream back counts it.

use std::time::{Duration, Instant};

use proxy_tests::konduit::Frontend;
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, SOON, connect, until};
use proxy_tests::scrape::Page;
use proxy_tests::targets::Target;
use proxy_tests::upstream::{AgentPlan, ServerPlan, UpstreamAgent, UpstreamServer};
use proxy_user::ops::metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The most a pause takes is 100 ms.
const LOOK: Duration = Duration::from_millis(5);

fn page(registry: &prometheus::Registry) -> Page {
    Page::parse(&String::from_utf8_lossy(&metrics::encode(registry).unwrap()))
}

/// Until this was above 0, looked at often.
async fn above_0(what: &str, value: impl Fn() -> f64) -> anyhow::Result<()> {
    let began = Instant::now();
    while value() <= 0.0 {
        anyhow::ensure!(began.elapsed() < SOON, "{what} stayed 0");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_counts_the_streams_of_upstreams_agents_that_wait() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let server = RunningServer::start(ground.server_options("server"))?;
    let registry = server.dialer.metrics.registry();
    let full = || page(registry).sum("server_full_receive_channels", &[("service_method", "Connect")]);
    let pauses = || page(registry).sum("konduit_mux_pauses_total", &[]);
    let agent = UpstreamAgent::start(AgentPlan {
        id: "agent".to_owned(),
        port: server.agent_port(),
        ca: ground.path("ca.crt"),
        cert: ground.path("client.crt"),
        key: ground.path("client.key"),
    })?;
    server.has_agents(1).await?;
    let target =
        Target::start(|mut stream| async move { while stream.write_all(&[7; 64 << 10]).await.is_ok() {} });
    let target = target.await?;
    let mut client = server.open(&target.name()).await?;
    // It has begun, and nobody reads on.
    client.read_u8().await?;
    above_0("full_receive_channels", full).await?;
    assert!(pauses() >= 1.0);
    assert_eq!(page(registry).sum("server_full_receive_channels", &[("service_method", "Proxy")]), 0.0);
    drop(client);
    until("the stream to go on", || full() == 0.0 && server.flows().is_empty()).await?;
    agent.kill().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_counts_its_pauses_towards_upstreams_server() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let socket = ground.path("frontend.sock");
    let server = UpstreamServer::start(ServerPlan {
        id: "server".to_owned(),
        count: 1,
        agent_port: 0,
        ca: ground.path("ca.crt"),
        cert: ground.path("server.crt"),
        key: ground.path("server.key"),
        frontend: Frontend::Connect,
        socket: socket.clone(),
    })?;
    let agent = RunningAgent::start(ground.agent_options("agent", server.agents.port()))?;
    until("the agent", || server.backends() == 1).await?;
    let target = Target::start(|stream| async move {
        let _open = stream;
        std::future::pending().await
    });
    let target = target.await?;
    let (mut client, head) = connect(&socket, &target.name()).await?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    let flood = async { while client.write_all(&[7; 64 << 10]).await.is_ok() {} };
    let pauses = || page(agent.metrics.registry()).sum("konduit_mux_pauses_total", &[]);
    tokio::select! {
        counted = above_0("konduit_mux_pauses_total", pauses) => counted,
        () = flood => anyhow::bail!("the flow ended before"),
    }
}
