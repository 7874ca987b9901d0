//! A server and its agents in this process, on ports of the kernel's choice and with certificates of their own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context, bail};
use proxy_user::agent::{self, Agent, Servers};
use proxy_user::flow::FlowTable;
use proxy_user::lane::ServerLanes;
use proxy_user::ops::drain::{self, DrainTrigger};
use proxy_user::ops::metrics::AgentMetrics;
use proxy_user::server::agents::registry::Registry;
use proxy_user::server::dial::Dialer;
use proxy_user::server::options::{self, Mode};
use proxy_user::server::{Bound, BoundFrontend, Server};
use proxy_user::splice::proof::Abilities;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::certs::Certs;

/// What this machine can do, proven once for all servers and agents of a test binary.
pub static ABILITIES: LazyLock<Abilities> = LazyLock::new(proxy_user::splice::proof::prove);

/// For whatever should happen at once: wide, for machines that are busy.
pub const SOON: Duration = Duration::from_secs(20);

/// Certificates and sockets that a test's processes share; removed with it.
pub struct Ground {
    directory: TempDir,
    pub certs: Certs,
}

impl Ground {
    pub fn new() -> anyhow::Result<Ground> {
        let directory = TempDir::new()?;
        let certs = Certs::new(directory.path(), "konduit")?;
        certs.server("server", &["127.0.0.1", "localhost"])?;
        certs.client("client", "system:konnectivity-server", None)?;
        Ok(Ground { directory, certs })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// An http-connect server on a Unix socket named after `id`, for agents with a certificate.
    pub fn server_options(&self, id: &str) -> options::Options {
        options::Options {
            mode: Mode::HttpConnect,
            uds_name: self.text(&format!("{id}.sock")),
            server_port: 0,
            agent_port: 0,
            agent_bind_address: "127.0.0.1".into(),
            cluster_cert: self.text("server.crt"),
            cluster_key: self.text("server.key"),
            cluster_ca_cert: self.text("ca.crt"),
            server_id: id.into(),
            operator_socket: String::new(),
            ..options::Options::default()
        }
    }

    /// An agent that looks for servers on `port` twice a second.
    pub fn agent_options(&self, id: &str, port: u16) -> agent::options::Options {
        agent::options::Options {
            proxy_server_host: "127.0.0.1".into(),
            proxy_server_port: port.into(),
            ca_cert: self.text("ca.crt"),
            agent_cert: self.text("client.crt"),
            agent_key: self.text("client.key"),
            agent_id: id.into(),
            sync_interval: Duration::from_millis(100),
            sync_interval_cap: Duration::from_millis(500),
            operator_socket: String::new(),
            ..agent::options::Options::default()
        }
    }
}

/// A server that serves in this process until dropped.
pub struct RunningServer {
    pub bound: Bound,
    pub dialer: Dialer,
    /// `None`: `--lanes=off`.
    pub lanes: Option<ServerLanes>,
    stop: CancellationToken,
    trigger: DrainTrigger,
    task: JoinHandle<()>,
}

impl RunningServer {
    pub fn start(options: options::Options) -> anyhow::Result<RunningServer> {
        let server = Server::bind(options, &ABILITIES)?;
        let (bound, dialer) = (server.bound().clone(), server.dialer().clone());
        let lanes = server.lanes().cloned();
        let (trigger, watch) = drain::channel();
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(watch, stop.clone()));
        Ok(RunningServer { bound, dialer, lanes, stop, trigger, task })
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.dialer.registry
    }

    pub fn flows(&self) -> &FlowTable {
        &self.dialer.flows
    }

    pub fn agent_port(&self) -> u16 {
        self.bound.agents.port()
    }

    pub fn socket(&self) -> &Path {
        match &self.bound.frontend {
            BoundFrontend::Uds(path) => path,
            BoundFrontend::Tcp(_) => Path::new(""),
        }
    }

    /// Until so many control streams are there.
    pub async fn has_agents(&self, count: usize) -> anyhow::Result<()> {
        until(&format!("{count} agents"), || self.registry().streams().len() == count).await
    }

    /// Sends a CONNECT and gives the connection back with the reply's head.
    pub async fn connect(&self, target: &str) -> anyhow::Result<(UnixStream, String)> {
        connect(self.socket(), target).await
    }

    /// Like [`RunningServer::connect`], when it has to succeed.
    pub async fn open(&self, target: &str) -> anyhow::Result<UnixStream> {
        let (stream, head) = self.connect(target).await?;
        if head != "HTTP/1.1 200 Connection Established\r\n\r\n" {
            bail!("the dial to {target} failed: {head:?}");
        }
        Ok(stream)
    }

    /// Cuts everything and waits until nothing of the server is left.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.cut();
        (&mut self.task).await.context("the server panicked")
    }

    fn cut(&self) {
        self.trigger.cut();
        self.stop.cancel();
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.cut();
    }
}

/// An agent that serves in this process until dropped.
pub struct RunningAgent {
    pub servers: Arc<Servers>,
    pub flows: FlowTable,
    pub metrics: AgentMetrics,
    pub trigger: DrainTrigger,
    task: JoinHandle<()>,
}

impl RunningAgent {
    pub fn start(options: agent::options::Options) -> anyhow::Result<RunningAgent> {
        let agent = Agent::new(options, &ABILITIES)?;
        let (servers, flows) = (agent.servers().clone(), agent.flows().clone());
        let metrics = agent.metrics().clone();
        let (trigger, watch) = drain::channel();
        let task = tokio::spawn(async move { agent.run(watch).await });
        Ok(RunningAgent { servers, flows, metrics, trigger, task })
    }

    /// Ends the agent's control streams and waits until it is gone; flows on lanes would go on.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.trigger.cut();
        (&mut self.task).await.context("the agent panicked")
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        self.trigger.cut();
    }
}

/// One server, one agent, connected.
pub struct Cell {
    pub server: RunningServer,
    pub agent: RunningAgent,
    pub ground: Ground,
}

impl Cell {
    /// `adjust` changes the options of both before they start.
    pub async fn start(
        adjust: impl FnOnce(&mut options::Options, &mut agent::options::Options),
    ) -> anyhow::Result<Cell> {
        let ground = Ground::new()?;
        let mut server_options = ground.server_options("server");
        let mut agent_options = ground.agent_options("agent", 0);
        adjust(&mut server_options, &mut agent_options);
        let server = RunningServer::start(server_options)?;
        agent_options.proxy_server_port = server.agent_port().into();
        let agent = RunningAgent::start(agent_options)?;
        server.has_agents(1).await?;
        until("the agent to know its server", || agent.servers.connected() == 1).await?;
        Ok(Cell { server, agent, ground })
    }
}

/// Sends a CONNECT over a Unix socket and reads the reply's head, byte by byte.
pub async fn connect(socket: &Path, target: &str) -> anyhow::Result<(UnixStream, String)> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes()).await?;
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        std::io::Result::Ok(())
    };
    tokio::time::timeout(SOON, read).await.context("no reply to a CONNECT")??;
    Ok((stream, String::from_utf8(head)?))
}

/// Waits for something that has no event to wait for.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let began = tokio::time::Instant::now();
    while !holds() {
        if began.elapsed() > SOON {
            bail!("not within {SOON:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
