//! One server or one agent, ours or upstream's, in this process or as a program.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use proxy_tests::child::Child;
use proxy_tests::konduit::{Frontend, binaries};
use proxy_tests::ports;
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, SOON, until};
use proxy_tests::scrape::Page;
use proxy_tests::upstream::{AgentPlan, Seen, ServerPlan, UpstreamAgent, UpstreamServer};
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use proxy_user::server::options::Mode;
use rustix::process::Signal;

use crate::pair::Pairing;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Upstream,
}

pub(crate) enum ServerEnd {
    /// Ends when dropped.
    Ours {
        _serves: Box<RunningServer>,
    },
    Peer(UpstreamServer),
    Program(Child),
}

pub(crate) enum AgentEnd {
    Ours(RunningAgent),
    Peer(UpstreamAgent),
    /// With its health port.
    Program(Child, u16),
}

/// Where a server is, and what it says of itself.
pub(crate) struct Place<'a> {
    pub id: &'a str,
    /// How many servers there are, as it tells agents.
    pub count: usize,
    pub port: u16,
    pub socket: &'a Path,
}

fn lanes(pairing: Pairing) -> (LanesMode, LaneSecurity) {
    match pairing.lanes {
        true => (LanesMode::Always, LaneSecurity::Raw),
        false => (LanesMode::Off, LaneSecurity::Encrypt),
    }
}

fn lane_flags(pairing: Pairing) -> &'static [&'static str] {
    match pairing.lanes {
        true => &["--operator-socket=", "--lanes=always", "--lane-security=raw"],
        false => &["--operator-socket=", "--lanes=off"],
    }
}

/// The program that plays this side, with flags that only ours knows; `None`: it is played in this process.
fn program(side: Side, pairing: Pairing, name: &str) -> anyhow::Result<Option<Command>> {
    Ok(match side {
        Side::Ours if pairing.killed => {
            let mut command = Command::new(binaries()?.join(name));
            command.args(lane_flags(pairing));
            Some(command)
        }
        Side::Ours => None,
        Side::Upstream => {
            let names =
                [("proxy-server", "KONDUIT_UPSTREAM_SERVER"), ("proxy-agent", "KONDUIT_UPSTREAM_AGENT")];
            let variable = names.iter().find(|(of, _)| *of == name).map(|(_, variable)| variable);
            variable.and_then(std::env::var_os).map(Command::new)
        }
    })
}

impl ServerEnd {
    /// Listens when this is done.
    pub(crate) async fn start(ground: &Ground, pairing: Pairing, at: Place<'_>) -> anyhow::Result<ServerEnd> {
        let path = |name| ground.path(name);
        let frontend = pairing.frontend;
        if let Some(mut command) = program(pairing.server, pairing, "proxy-server")? {
            let [health, admin] = ports::free()?;
            let mode = match frontend {
                Frontend::Grpc => "grpc",
                Frontend::Connect => "http-connect",
            };
            command.args([
                format!("--mode={mode}"),
                format!("--uds-name={}", at.socket.display()),
                "--delete-existing-uds-file".to_owned(),
                "--server-port=0".to_owned(),
                format!("--agent-port={}", at.port),
                format!("--cluster-cert={}", path("server.crt").display()),
                format!("--cluster-key={}", path("server.key").display()),
                format!("--cluster-ca-cert={}", path("ca.crt").display()),
                format!("--health-port={health}"),
                format!("--admin-port={admin}"),
                format!("--server-id={}", at.id),
                format!("--server-count={}", at.count),
            ]);
            let mut child = Child::start(&format!("server-{health}"), &path(""), &mut command)?;
            let listens = || {
                std::os::unix::net::UnixStream::connect(at.socket).is_ok()
                    && std::net::TcpStream::connect(("127.0.0.1", at.port)).is_ok()
            };
            if let Err(error) = until("a server that listens", listens).await {
                child.check()?;
                return Err(error);
            }
            return Ok(ServerEnd::Program(child));
        }
        if pairing.server == Side::Upstream {
            return Ok(ServerEnd::Peer(UpstreamServer::start(ServerPlan {
                id: at.id.to_owned(),
                count: at.count,
                agent_port: at.port,
                ca: path("ca.crt"),
                cert: path("server.crt"),
                key: path("server.key"),
                frontend,
                socket: at.socket.to_owned(),
            })?));
        }
        let mut options = ground.server_options(at.id);
        options.uds_name = at.socket.display().to_string();
        options.agent_port = at.port;
        options.server_count = at.count.try_into()?;
        options.delete_existing_uds_file = true;
        if frontend == Frontend::Grpc {
            options.mode = Mode::Grpc;
        }
        (options.lanes.mode, options.lanes.security) = lanes(pairing);
        Ok(ServerEnd::Ours { _serves: Box::new(RunningServer::start(options)?) })
    }

    /// SIGKILL, or what is the same for a peer in this process.
    pub(crate) async fn kill(self) -> anyhow::Result<()> {
        match self {
            ServerEnd::Ours { .. } => anyhow::bail!("not a program: the pairing is not to be killed"),
            ServerEnd::Peer(server) => {
                server.kill().await;
                Ok(())
            }
            ServerEnd::Program(child) => end(child),
        }
    }

    pub(crate) fn seen(&self) -> Option<&Seen> {
        match self {
            ServerEnd::Peer(server) => Some(server.seen()),
            _ => None,
        }
    }
}

impl AgentEnd {
    /// Looks for servers on `port` from now on.
    pub(crate) fn start(ground: &Ground, pairing: Pairing, port: u16) -> anyhow::Result<AgentEnd> {
        let path = |name| ground.path(name);
        if let Some(mut command) = program(pairing.agent, pairing, "proxy-agent")? {
            let [health, admin] = ports::free()?;
            command.args([
                "--proxy-server-host=127.0.0.1".to_owned(),
                format!("--proxy-server-port={port}"),
                format!("--ca-cert={}", path("ca.crt").display()),
                format!("--agent-cert={}", path("client.crt").display()),
                format!("--agent-key={}", path("client.key").display()),
                "--agent-id=agent".to_owned(),
                "--sync-interval=100ms".to_owned(),
                "--sync-interval-cap=500ms".to_owned(),
                format!("--health-server-port={health}"),
                format!("--admin-server-port={admin}"),
            ]);
            let child = Child::start(&format!("agent-{health}"), &path(""), &mut command)?;
            return Ok(AgentEnd::Program(child, health));
        }
        if pairing.agent == Side::Upstream {
            return Ok(AgentEnd::Peer(UpstreamAgent::start(AgentPlan {
                id: "agent".to_owned(),
                port,
                ca: path("ca.crt"),
                cert: path("client.crt"),
                key: path("client.key"),
            })?));
        }
        let mut options = ground.agent_options("agent", port);
        (options.lanes.mode, options.lanes.security) = lanes(pairing);
        Ok(AgentEnd::Ours(RunningAgent::start(options)?))
    }

    /// Until it has so many servers.
    pub(crate) async fn has(&self, servers: usize) -> anyhow::Result<()> {
        let has = || match self {
            AgentEnd::Ours(agent) => agent.servers.connected() == servers,
            AgentEnd::Peer(agent) => agent.connected() == servers,
            AgentEnd::Program(_, health) => {
                let page = Page::get(std::net::SocketAddr::from(([127, 0, 0, 1], *health)));
                let open = "konnectivity_network_proxy_agent_open_server_connections";
                page.is_ok_and(|page| page.sum(open, &[]) == servers as f64)
            }
        };
        until(&format!("an agent with {servers} servers"), has).await
    }

    /// The first SIGTERM.
    pub(crate) async fn drain(&self) -> anyhow::Result<()> {
        match self {
            AgentEnd::Ours(agent) => agent.trigger.start(),
            AgentEnd::Peer(agent) => agent.drain().await,
            AgentEnd::Program(child, _) => child.signal(Signal::TERM)?,
        }
        Ok(())
    }

    /// As [`ServerEnd::kill`].
    pub(crate) async fn kill(self) -> anyhow::Result<()> {
        match self {
            AgentEnd::Ours(_) => anyhow::bail!("not a program: the pairing is not to be killed"),
            AgentEnd::Peer(agent) => {
                agent.kill().await;
                Ok(())
            }
            AgentEnd::Program(child, _) => end(child),
        }
    }

    pub(crate) fn seen(&self) -> Option<&Seen> {
        match self {
            AgentEnd::Peer(agent) => Some(agent.seen()),
            _ => None,
        }
    }
}

fn end(mut child: Child) -> anyhow::Result<()> {
    child.signal(Signal::KILL)?;
    child.wait(SOON).map(drop).context("after SIGKILL")
}
