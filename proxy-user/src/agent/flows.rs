//! The agent's flows: a lane or a mux stream on one side, the target on the other.

use std::sync::Arc;

use tokio::net::TcpStream;

use super::dial::Targets;
use super::phase::{Life, Phase};
use crate::flow::{DialError, FlowTable, Path};
use crate::lane::open::{BoxFuture, Host, LaneFlow};
use crate::ops::metrics::{AgentMetrics, Segment};
use crate::splice::{End, Splicer, Watched};
use crate::wire::ids::ServerId;

/// What dials and flows need, whichever server asked. Cheap to clone.
#[derive(Clone)]
pub struct Flows {
    pub targets: Targets,
    pub splicer: Splicer,
    pub table: FlowTable,
    pub metrics: AgentMetrics,
}

impl Flows {
    /// Takes a flow over: it runs in a task of its own until it ends.
    pub fn carry(&self, client: End, target: End, address: &str, server: &ServerId, path: Path) {
        tokio::spawn(self.run(client, target, address, server, path));
    }

    /// A flow, until it ends.
    pub fn run(
        &self,
        client: End,
        target: End,
        address: &str,
        server: &ServerId,
        path: Path,
    ) -> impl Future<Output = ()> + Send + use<> {
        let flow = self.table.open(address, server.as_str(), path);
        let endpoint = self.metrics.endpoint();
        let join = self.splicer.join(client, target, flow.meter());
        async move {
            flow.finish(join.await);
            drop(endpoint);
        }
    }
}

/// A connected target as one side of a join.
pub(super) fn target_end(stream: TcpStream) -> End {
    End::watched(Watched::Tcp(stream))
}

/// The dials and flows of one server's lanes.
pub(super) struct LaneHost {
    flows: Flows,
    server: ServerId,
    life: Life,
}

impl Host for LaneHost {
    fn dial<'a>(&'a self, protocol: &'a str, address: &'a str) -> BoxFuture<'a, Result<End, DialError>> {
        Box::pin(async move {
            let _work = self.flows.table.busy();
            // They count as the packets that they would be, as on the server.
            self.flows.metrics.packet(Segment::ToAgent, "DIAL_REQ");
            let target = self.flows.targets.dial(protocol, address).await.map(target_end);
            self.flows.metrics.packet(Segment::FromAgent, "DIAL_RSP");
            target
        })
    }

    fn carry(&self, flow: LaneFlow) {
        let LaneFlow { lane, path, target, address, .. } = flow;
        self.flows.carry(lane, target, &address, &self.server, path);
    }

    fn renew(&self) {
        tracing::info!(server = %self.server, "This agent's certificate has changed; registering under the new one");
        self.life.reach(Phase::Stale);
    }
}

impl LaneHost {
    pub(super) fn new(flows: &Flows, server: &ServerId, life: Life) -> Arc<LaneHost> {
        Arc::new(LaneHost { flows: flows.clone(), server: server.clone(), life })
    }
}
