//! A server and its agents, each ours or upstream's.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use proxy_tests::child::Child;
use proxy_tests::konduit::Frontend;
use proxy_tests::ports;
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, SOON, until};
use proxy_tests::scrape::http_get;
use proxy_tests::targets::Target;
use proxy_tests::upstream::{AgentPlan, ServerPlan, UpstreamAgent, UpstreamServer};
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use proxy_user::server::options::Mode;
use rustix::process::Signal;

use crate::flow::{Dialling, Flow};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Upstream,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pairing {
    pub server: Side,
    pub agent: Side,
    pub frontend: Frontend,
    /// Where both are ours.
    pub lanes: bool,
}

pub(crate) enum ServerEnd {
    Ours(Box<RunningServer>),
    Peer(UpstreamServer),
    Program(Child),
}

pub(crate) enum AgentEnd {
    Ours(RunningAgent),
    Peer(UpstreamAgent),
    Program(Child, u16),
}

pub(crate) struct Pair {
    // Dropped in this order: agents would complain of a server that is gone.
    pub agents: Vec<AgentEnd>,
    pub server: Option<ServerEnd>,
    pub pairing: Pairing,
    port: u16,
    ground: Ground,
}

impl Pair {
    pub(crate) async fn start(pairing: Pairing) -> anyhow::Result<Pair> {
        let [port] = ports::free()?;
        let mut pair = Pair { agents: Vec::new(), server: None, pairing, port, ground: Ground::new()? };
        pair.start_server()?;
        pair.start_agent().await?;
        pair.dials().await?;
        Ok(pair)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.ground.path("server.sock")
    }

    /// The frontend is the played one, whose HTTP/2 library refuses a percent-encoded authority.
    pub(crate) fn plain_authority(&self) -> bool {
        matches!(self.server, Some(ServerEnd::Peer(_)))
    }

    pub(crate) fn start_server(&mut self) -> anyhow::Result<()> {
        let ground = &self.ground;
        let path = |name| ground.path(name);
        let program = std::env::var_os("KONDUIT_UPSTREAM_SERVER");
        self.server = Some(match (self.pairing.server, program) {
            (Side::Ours, _) => {
                let mut options = ground.server_options("server");
                options.agent_port = self.port;
                options.delete_existing_uds_file = true;
                if self.pairing.frontend == Frontend::Grpc {
                    options.mode = Mode::Grpc;
                }
                (options.lanes.mode, options.lanes.security) = self.lanes();
                ServerEnd::Ours(Box::new(RunningServer::start(options)?))
            }
            (Side::Upstream, None) => ServerEnd::Peer(UpstreamServer::start(ServerPlan {
                id: "server".to_owned(),
                count: 1,
                agent_port: self.port,
                ca: path("ca.crt"),
                cert: path("server.crt"),
                key: path("server.key"),
                frontend: self.pairing.frontend,
                socket: self.socket(),
            })?),
            (Side::Upstream, Some(program)) => {
                let [health, admin] = ports::free()?;
                let mode = match self.pairing.frontend {
                    Frontend::Grpc => "grpc",
                    Frontend::Connect => "http-connect",
                };
                let mut command = Command::new(program);
                command.args([
                    format!("--mode={mode}"),
                    format!("--uds-name={}", self.socket().display()),
                    "--delete-existing-uds-file".to_owned(),
                    "--server-port=0".to_owned(),
                    format!("--agent-port={}", self.port),
                    format!("--cluster-cert={}", path("server.crt").display()),
                    format!("--cluster-key={}", path("server.key").display()),
                    format!("--cluster-ca-cert={}", path("ca.crt").display()),
                    format!("--health-port={health}"),
                    format!("--admin-port={admin}"),
                    "--server-id=server".to_owned(),
                ]);
                let child = Child::start("server", &path(""), &mut command)?;
                ports::wait_unix(&self.socket(), SOON).context("upstream's server does not listen")?;
                ServerEnd::Program(child)
            }
        });
        Ok(())
    }

    fn lanes(&self) -> (LanesMode, LaneSecurity) {
        match self.pairing.lanes {
            true => (LanesMode::Always, LaneSecurity::Raw),
            false => (LanesMode::Off, LaneSecurity::Encrypt),
        }
    }

    /// One agent more, all with one name, and waits until it has its server.
    pub(crate) async fn start_agent(&mut self) -> anyhow::Result<()> {
        let ground = &self.ground;
        let path = |name| ground.path(name);
        let program = std::env::var_os("KONDUIT_UPSTREAM_AGENT");
        let agent = match (self.pairing.agent, program) {
            (Side::Ours, _) => {
                let mut options = ground.agent_options("agent", self.port);
                (options.lanes.mode, options.lanes.security) = self.lanes();
                AgentEnd::Ours(RunningAgent::start(options)?)
            }
            (Side::Upstream, None) => AgentEnd::Peer(UpstreamAgent::start(AgentPlan {
                id: "agent".to_owned(),
                port: self.port,
                ca: path("ca.crt"),
                cert: path("client.crt"),
                key: path("client.key"),
            })?),
            (Side::Upstream, Some(program)) => {
                let [health, admin] = ports::free()?;
                let mut command = Command::new(program);
                command.args([
                    "--proxy-server-host=127.0.0.1".to_owned(),
                    format!("--proxy-server-port={}", self.port),
                    format!("--ca-cert={}", path("ca.crt").display()),
                    format!("--agent-cert={}", path("client.crt").display()),
                    format!("--agent-key={}", path("client.key").display()),
                    "--agent-id=agent".to_owned(),
                    "--sync-interval=100ms".to_owned(),
                    "--sync-interval-cap=500ms".to_owned(),
                    format!("--health-server-port={health}"),
                    format!("--admin-server-port={admin}"),
                ]);
                let name = format!("agent-{health}");
                AgentEnd::Program(Child::start(&name, &path(""), &mut command)?, health)
            }
        };
        self.agents.push(agent);
        let agent = self.agents.last().context("it was just added")?;
        until("the agent to know its server", || agent.connected()).await
    }

    pub(crate) async fn kill_server(&mut self) -> anyhow::Result<()> {
        match self.server.take() {
            Some(ServerEnd::Ours(server)) => server.end().await,
            Some(ServerEnd::Peer(server)) => {
                server.kill().await;
                Ok(())
            }
            Some(ServerEnd::Program(child)) => end(child),
            None => Ok(()),
        }
    }

    pub(crate) async fn kill_agent(&mut self) -> anyhow::Result<()> {
        match self.agents.remove(0) {
            AgentEnd::Ours(agent) => agent.end().await,
            AgentEnd::Peer(agent) => {
                agent.kill().await;
                Ok(())
            }
            AgentEnd::Program(child, _) => end(child),
        }
    }

    pub(crate) async fn dial(&self, target: &str) -> anyhow::Result<Flow> {
        Flow::dial(self.pairing.frontend, &self.socket(), target).await
    }

    pub(crate) async fn begin(&self, target: &str) -> anyhow::Result<Dialling> {
        Dialling::begin(self.pairing.frontend, &self.socket(), target).await
    }

    /// Until a flow works.
    pub(crate) async fn dials(&self) -> anyhow::Result<()> {
        let target = Target::echo().await?;
        let began = std::time::Instant::now();
        loop {
            match self.dial(&target.name()).await {
                Ok(mut flow) => return flow.exchange(1000, 1).await,
                Err(error) if began.elapsed() > SOON => return Err(error),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    }

    /// The peers met nothing that upstream would not know, or would not survive.
    pub(crate) fn kept_to_the_contract(&self) {
        let server = self.server.iter().filter_map(|server| match server {
            ServerEnd::Peer(server) => Some(server.seen()),
            _ => None,
        });
        let agents = self.agents.iter().filter_map(|agent| match agent {
            AgentEnd::Peer(agent) => Some(agent.seen()),
            _ => None,
        });
        for seen in server.chain(agents) {
            assert_eq!((seen.count("foreign"), seen.count("crash")), (0, 0), "{:?}", seen.all());
        }
    }
}

impl AgentEnd {
    fn connected(&self) -> bool {
        match self {
            AgentEnd::Ours(agent) => agent.servers.connected() == 1,
            AgentEnd::Peer(agent) => agent.connected() == 1,
            AgentEnd::Program(_, health) => {
                http_get(std::net::SocketAddr::from(([127, 0, 0, 1], *health)), "/readyz").is_ok()
            }
        }
    }
}

fn end(mut child: Child) -> anyhow::Result<()> {
    child.signal(Signal::KILL)?;
    child.wait(SOON).map(drop)
}
