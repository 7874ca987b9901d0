//! A server and its agents in this process, with a frontend of choice, and what they count.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxy_tests::certs::Pair;
use proxy_tests::konduit::{Frontend, Lanes};
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, until};
use proxy_tests::scrape::Page;
use proxy_user::agent;
use proxy_user::net::tls::{ClientEndpoint, ClientTls};
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use proxy_user::ops::metrics;
use proxy_user::server::BoundFrontend;
use proxy_user::server::options::{Mode, Options};

/// What a cell is to be like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub frontend: Frontend,
    /// The frontend on TCP with client certificates, instead of a Unix socket.
    pub tls: bool,
    pub lanes: Lanes,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { frontend: Frontend::Connect, tls: false, lanes: Lanes::Raw }
    }
}

pub(crate) struct Cell {
    // Dropped in this order: agents would complain of a server that is gone.
    agents: Vec<RunningAgent>,
    pub server: RunningServer,
    pub ground: Ground,
}

impl Cell {
    /// Starts a server and one agent, and waits until they know each other.
    pub(crate) async fn start(plan: Plan) -> anyhow::Result<Cell> {
        Cell::with(plan, |_| {}).await
    }

    /// As [`Cell::start`]; `change` has a last look at the server's options.
    pub(crate) async fn with(plan: Plan, change: impl FnOnce(&mut Options)) -> anyhow::Result<Cell> {
        let mut cell = Cell::serve(plan, change)?;
        cell.start_agent(plan, |_| {})?;
        cell.server.has_agents(1).await?;
        Ok(cell)
    }

    /// A server without an agent.
    pub(crate) fn server(plan: Plan) -> anyhow::Result<Cell> {
        Cell::serve(plan, |_| {})
    }

    /// As [`Cell::server`]; `change` has a last look at its options.
    pub(crate) fn serve(plan: Plan, change: impl FnOnce(&mut Options)) -> anyhow::Result<Cell> {
        let ground = Ground::new()?;
        let mut options = ground.server_options("server");
        if plan.frontend == Frontend::Grpc {
            options.mode = Mode::Grpc;
        }
        if plan.tls {
            options.uds_name = String::new();
            options.server_bind_address = "127.0.0.1".to_owned();
            options.server_cert = options.cluster_cert.clone();
            options.server_key = options.cluster_key.clone();
            options.server_ca_cert = options.cluster_ca_cert.clone();
        }
        (options.lanes.mode, options.lanes.security) = lanes(plan.lanes);
        change(&mut options);
        Ok(Cell { agents: Vec::new(), server: RunningServer::start(options)?, ground })
    }

    /// One agent more; `change` has a last look at its options.
    pub(crate) fn start_agent(
        &mut self,
        plan: Plan,
        change: impl FnOnce(&mut agent::options::Options),
    ) -> anyhow::Result<()> {
        let mut options = self.ground.agent_options("agent", self.server.agent_port());
        (options.lanes.mode, options.lanes.security) = lanes(plan.lanes);
        change(&mut options);
        self.agents.push(RunningAgent::start(options)?);
        Ok(())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.server.socket().to_owned()
    }

    /// The TCP port of the frontend.
    pub(crate) fn frontend(&self) -> SocketAddr {
        match &self.server.bound.frontend {
            BoundFrontend::Tcp(address) => *address,
            BoundFrontend::Uds(path) => panic!("the frontend is at {}", path.display()),
        }
    }

    /// A client's certificate that both ports of the server accept.
    pub(crate) fn client(&self) -> Pair {
        Pair { cert: self.ground.path("client.crt"), key: self.ground.path("client.key") }
    }

    /// TLS towards the server.
    pub(crate) fn tls(&self, identity: Option<&Pair>, alpn: &[u8]) -> ClientEndpoint {
        tls(&self.ground.certs.ca(), identity, alpn)
    }

    /// The sum of the server's series whose name ends so and that carry these labels.
    pub(crate) fn server_count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        count(self.server.dialer.metrics.registry(), name, labels)
    }

    /// The same of the agents'.
    pub(crate) fn agent_count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.agents.iter().map(|agent| count(agent.metrics.registry(), name, labels)).sum()
    }

    /// Until a sum of the server's series has this value.
    pub(crate) async fn server_counts(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        until(&format!("{name}{labels:?} is {value}"), || self.server_count(name, labels) == value)
            .await
            .unwrap();
    }
}

pub(crate) fn tls(ca: &Path, identity: Option<&Pair>, alpn: &[u8]) -> ClientEndpoint {
    let identity = identity.map(|pair| (pair.cert.clone(), pair.key.clone()));
    ClientTls { ca: ca.to_owned(), identity, alpn: vec![alpn.to_vec()] }.watch().unwrap()
}

fn count(registry: &prometheus::Registry, name: &str, labels: &[(&str, &str)]) -> f64 {
    let text = metrics::encode(registry).unwrap();
    Page::parse(&String::from_utf8_lossy(&text)).sum(name, labels)
}

fn lanes(lanes: Lanes) -> (LanesMode, LaneSecurity) {
    match lanes {
        Lanes::Raw => (LanesMode::Always, LaneSecurity::Raw),
        Lanes::Encrypt => (LanesMode::Always, LaneSecurity::Encrypt),
        Lanes::Auto => (LanesMode::Auto, LaneSecurity::Raw),
        Lanes::Mux => (LanesMode::Off, LaneSecurity::Encrypt),
    }
}

/// Nothing here takes this long unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(20);
