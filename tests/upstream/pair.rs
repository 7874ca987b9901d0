//! Servers and their agents, each ours or upstream's, and the clients of a test's choice in front of them.

use std::path::PathBuf;

use anyhow::Context;
use proxy_tests::konduit::Frontend;
use proxy_tests::ports;
use proxy_tests::runner::{Ground, SOON};
use proxy_tests::targets::Target;

pub(crate) use crate::ends::Side;
use crate::ends::{AgentEnd, Place, ServerEnd};
use crate::flow::{Dialling, Flow};
use crate::go::{Bridge, Tunnel};

/// Who asks for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The test itself, by a CONNECT or a gRPC call.
    Own,
    /// Upstream's client, which knows gRPC only.
    Go(Tunnel),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Pairing {
    pub server: Side,
    pub agent: Side,
    pub frontend: Frontend,
    /// Where both are ours.
    pub lanes: bool,
    /// Ours are programs then, which SIGKILL ends.
    pub killed: bool,
}

impl Pairing {
    pub(crate) fn callers(self) -> &'static [Caller] {
        match self.frontend {
            Frontend::Connect => &[Caller::Own],
            Frontend::Grpc => &[Caller::Own, Caller::Go(Tunnel::Single), Caller::Go(Tunnel::Reusable)],
        }
    }
}

/// One server and its frontend's clients.
pub(crate) struct Front {
    /// `None`: killed.
    pub server: Option<ServerEnd>,
    id: String,
    count: usize,
    pub port: u16,
    socket: PathBuf,
    bridges: Vec<Bridge>,
    pairing: Pairing,
}

impl Front {
    pub(crate) async fn start(
        ground: &Ground,
        pairing: Pairing,
        id: &str,
        count: usize,
    ) -> anyhow::Result<Front> {
        let [port] = ports::free()?;
        let socket = ground.path(&format!("{id}.sock"));
        let (id, bridges) = (id.to_owned(), Vec::new());
        let mut front = Front { server: None, id, count, port, socket, bridges, pairing };
        front.start_server(ground).await?;
        for caller in pairing.callers() {
            if let Caller::Go(tunnel) = caller {
                // The played server's HTTP/2 library refuses a percent-encoded authority.
                let plain = matches!(front.server, Some(ServerEnd::Peer(_)));
                front.bridges.push(Bridge::start(ground, &front.socket, *tunnel, plain).await?);
            }
        }
        Ok(front)
    }

    pub(crate) async fn start_server(&mut self, ground: &Ground) -> anyhow::Result<()> {
        let place = Place { id: &self.id, count: self.count, port: self.port, socket: &self.socket };
        self.server = Some(ServerEnd::start(ground, self.pairing, place).await?);
        Ok(())
    }

    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.server.take().context("it was killed before")?.kill().await
    }

    pub(crate) async fn begin(&self, caller: Caller, target: &str) -> anyhow::Result<Dialling> {
        match self.bridges.iter().find(|bridge| caller == Caller::Go(bridge.tunnel)) {
            Some(bridge) => Dialling::begin(Frontend::Connect, &bridge.socket, target).await,
            None => Dialling::begin(self.pairing.frontend, &self.socket, target).await,
        }
    }

    pub(crate) async fn dial(&self, caller: Caller, target: &str) -> anyhow::Result<Flow> {
        self.begin(caller, target).await?.answered().await.with_context(|| format!("a dial by {caller:?}"))
    }

    /// A flow of every caller's, proven by an echo.
    pub(crate) async fn flows(&self, target: &Target) -> anyhow::Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for caller in self.pairing.callers() {
            let mut flow = self.dial(*caller, &target.name()).await?;
            flow.exchange(5000, flows.len() as u64).await?;
            flows.push(flow);
        }
        Ok(flows)
    }

    /// Until flows of every caller's work.
    pub(crate) async fn dials(&self) -> anyhow::Result<()> {
        let target = Target::echo().await?;
        let began = std::time::Instant::now();
        loop {
            match self.flows(&target).await {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > SOON => return Err(error),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    }
}

/// One server and its agents.
pub(crate) struct Pair {
    // Dropped in this order: agents would complain of a server that is gone.
    pub agents: Vec<AgentEnd>,
    front: Front,
    pub pairing: Pairing,
    ground: Ground,
}

impl Pair {
    pub(crate) async fn start(pairing: Pairing) -> anyhow::Result<Pair> {
        let ground = Ground::new()?;
        let front = Front::start(&ground, pairing, "server", 1).await?;
        let mut pair = Pair { agents: Vec::new(), front, pairing, ground };
        pair.start_agent().await?;
        pair.dials().await?;
        Ok(pair)
    }

    pub(crate) async fn start_server(&mut self) -> anyhow::Result<()> {
        self.front.start_server(&self.ground).await
    }

    /// One agent more, all with one name, and waits until it has its server.
    pub(crate) async fn start_agent(&mut self) -> anyhow::Result<()> {
        let agent = AgentEnd::start(&self.ground, self.pairing, self.front.port)?;
        agent.has(1).await?;
        self.agents.push(agent);
        Ok(())
    }

    pub(crate) async fn kill_server(&mut self) -> anyhow::Result<()> {
        self.front.kill().await
    }

    pub(crate) async fn kill_agent(&mut self) -> anyhow::Result<()> {
        self.agents.remove(0).kill().await
    }

    /// By the test itself.
    pub(crate) async fn dial(&self, target: &str) -> anyhow::Result<Flow> {
        self.front.dial(Caller::Own, target).await
    }

    pub(crate) async fn dial_by(&self, caller: Caller, target: &str) -> anyhow::Result<Flow> {
        self.front.dial(caller, target).await
    }

    /// A flow of every caller's, proven by an echo.
    pub(crate) async fn flows(&self, target: &Target) -> anyhow::Result<Vec<Flow>> {
        self.front.flows(target).await
    }

    pub(crate) async fn begin(&self, caller: Caller, target: &str) -> anyhow::Result<Dialling> {
        self.front.begin(caller, target).await
    }

    /// Until flows of every caller's work.
    pub(crate) async fn dials(&self) -> anyhow::Result<()> {
        self.front.dials().await
    }

    /// The peers met nothing that upstream would not know, or would not survive.
    pub(crate) fn kept_to_the_contract(&self) {
        kept_to_the_contract([&self.front], &self.agents);
    }
}

pub(crate) fn kept_to_the_contract<'a>(
    fronts: impl IntoIterator<Item = &'a Front>,
    agents: impl IntoIterator<Item = &'a AgentEnd>,
) {
    let servers = fronts.into_iter().filter_map(|front| front.server.as_ref()?.seen());
    for seen in servers.chain(agents.into_iter().filter_map(AgentEnd::seen)) {
        assert_eq!((seen.count("foreign"), seen.count("crash")), (0, 0), "{:?}", seen.all());
    }
}
