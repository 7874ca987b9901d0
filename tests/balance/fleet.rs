//! Replicas behind one address, an agent that knows only that, and what dials cost.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use proxy_tests::balancer::{Balancer, Manner};
use proxy_tests::konduit::Frontend;
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, connect, until};
use proxy_tests::targets::Target;
use proxy_tests::upstream::{ServerPlan, UpstreamServer};
use proxy_user::flow::Outcome;
use proxy_user::flow::Path as Carried;
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) struct Fleet {
    pub agent: RunningAgent,
    pub servers: Vec<RunningServer>,
    pub balancer: Balancer,
    pub ground: Ground,
}

impl Fleet {
    /// So many replicas of ours, and these, and an agent; waits for nothing.
    pub(crate) async fn start(manner: Manner, replicas: usize, others: &[u16]) -> anyhow::Result<Fleet> {
        let ground = Ground::new()?;
        Fleet::with(ground, manner, replicas, others).await
    }

    pub(crate) async fn with(
        ground: Ground,
        manner: Manner,
        replicas: usize,
        others: &[u16],
    ) -> anyhow::Result<Fleet> {
        let mut servers = Vec::new();
        for number in 0..replicas {
            servers.push(server(&ground, &format!("ours-{number}"), replicas + others.len())?);
        }
        let mut ports: Vec<u16> = servers.iter().map(RunningServer::agent_port).collect();
        ports.extend(others);
        let balancer = Balancer::start(manner, &ports).await?;
        let mut options = ground.agent_options("agent", balancer.port);
        (options.lanes.mode, options.lanes.security) = (LanesMode::Always, LaneSecurity::Raw);
        if let Manner::SourceHash = manner {
            // Every lane gets where it is wanted: one that a busy machine opens slowly is waited for.
            options.lanes.wait = Duration::from_secs(4);
        }
        if let Manner::Only(name) = manner {
            options.alpn_proto = vec![name.to_owned()];
        }
        let agent = RunningAgent::start(options)?;
        Ok(Fleet { agent, servers, balancer, ground })
    }

    /// Flows that lanes carried so far.
    pub(crate) fn on_lanes(&self) -> u64 {
        self.servers.iter().map(|server| ended(server, Carried::LaneRaw)).sum()
    }

    /// Until the agent has found so many servers.
    pub(crate) async fn found(&self, servers: usize) -> anyhow::Result<()> {
        let has = || self.agent.servers.connected() == servers;
        until(&format!("an agent with {servers} servers"), has).await
    }
}

pub(crate) fn server(ground: &Ground, id: &str, count: usize) -> anyhow::Result<RunningServer> {
    let mut options = ground.server_options(id);
    options.server_count = count.try_into()?;
    (options.lanes.mode, options.lanes.security) = (LanesMode::Always, LaneSecurity::Raw);
    RunningServer::start(options)
}

pub(crate) fn upstreams(ground: &Ground, count: usize) -> anyhow::Result<UpstreamServer> {
    UpstreamServer::start(ServerPlan {
        id: "upstreams".to_owned(),
        count,
        agent_port: 0,
        ca: ground.path("ca.crt"),
        cert: ground.path("server.crt"),
        key: ground.path("server.key"),
        frontend: Frontend::Connect,
        socket: ground.path("upstreams.sock"),
    })
}

/// A dial and one exchange; how long the dial took.
pub(crate) async fn dial(socket: &Path, target: &Target) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let (mut stream, head) = connect(socket, &target.name()).await?;
    let took = began.elapsed();
    ensure!(head == "HTTP/1.1 200 Connection Established\r\n\r\n", "{head}");
    stream.write_all(b"through a balancer").await?;
    let mut back = [0; 18];
    let read = stream.read_exact(&mut back);
    tokio::time::timeout(proxy_tests::runner::SOON, read).await.context("no byte comes back")??;
    ensure!(&back == b"through a balancer");
    Ok(took)
}

/// Dials each of these one after the other, round and round, for so long; the longest dial.
pub(crate) async fn dial_for(time: Duration, sockets: &[&Path], target: &Target) -> anyhow::Result<Duration> {
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < time {
        for socket in sockets {
            longest = longest.max(dial(socket, target).await?);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(longest)
}

/// Flows of this server that ended so far, on this path.
pub(crate) fn ended(server: &RunningServer, path: Carried) -> u64 {
    let totals = server.flows().totals();
    Outcome::ALL.into_iter().map(|how| totals.ended(path, how)).sum()
}
