//! `AgentService.Connect`: an agent registers, and its control stream is served until it ends.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::handle::AgentHandle;
use super::listen::{Peer, Progress};
use super::registry::Registry;
use crate::lane::{Fallback, ServerLanes};
use crate::mux::{Dialect, Link, LinkConfig, LinkEnd, Observer, Pool, Role};
use crate::ops::metrics::{GaugeGuard, Segment, ServerMetrics, Service as Method};
use crate::server::auth::Authenticator;
use crate::wire::code;
use crate::wire::ids::{ConnId, ServerId};
use crate::wire::metadata::{AgentHello, Secret, ServerHello};
use crate::wire::packet::Packet;
use crate::wire::pb;

/// What every control stream needs.
#[derive(Clone)]
pub struct Service {
    pub server: ServerId,
    /// How many servers there are, as told to agents.
    pub count: u32,
    pub registry: Arc<Registry>,
    pub metrics: ServerMetrics,
    pub pool: Arc<Pool>,
    /// `None`: `--lanes=off`.
    pub lanes: Option<ServerLanes>,
    /// `None`: agents need no token.
    pub authenticator: Option<Authenticator>,
    /// The control streams that there are.
    pub running: TaskTracker,
}

type Outbound = Pin<Box<dyn Stream<Item = Result<pb::Packet, Status>> + Send>>;

#[tonic::async_trait]
impl pb::agent_service_server::AgentService for Service {
    type ConnectStream = Outbound;

    async fn connect(&self, request: Request<Streaming<pb::Packet>>) -> Result<Response<Outbound>, Status> {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
        let hello = AgentHello::read(request.metadata().as_ref()).map_err(|error| {
            self.metrics.konduit.refused("agents", "metadata");
            tracing::warn!(%error, from = %peer, "Refused a control stream");
            Status::unknown(error.to_string())
        })?;
        peer.goes(Progress::Asks);
        if let Some(authenticator) = &self.authenticator
            && let Err(error) = authenticator.check(request.metadata().as_ref()).await
        {
            self.metrics.konduit.refused("agents", "token");
            tracing::warn!(agent = %hello.agent, from = %peer, %error, "Refused an agent");
            peer.goes(Progress::Silent);
            return Err(Status::from(&error));
        }
        let (link, outlet) = Link::new(LinkConfig {
            role: Role::Dialer,
            dialect: Dialect::of_version(hello.mux),
            pool: self.pool.clone(),
            observer: Arc::new(AgentPackets(self.metrics.clone())),
            pulse: peer.pulse.clone(),
        });
        let number = self.registry.number();
        let metrics = self.metrics.clone();
        let without = if self.lanes.is_none() { Fallback::LanesOff } else { Fallback::PeerWithoutLanes };
        let link_too = link.clone();
        let handle =
            AgentHandle::new(hello.agent.clone(), hello.identifiers, number, link_too, metrics, without);
        let handle = Arc::new(handle.came_from(peer.address()));
        let ticket = match &self.lanes {
            Some(lanes) if hello.lanes => Some(negotiate(lanes, &peer, &handle)?),
            _ => None,
        };
        let answer = ServerHello {
            server: self.server.clone(),
            count: self.count,
            mux: hello.mux,
            lane_ticket: ticket,
        };
        let headers = answer.write().map_err(|error| Status::internal(error.to_string()))?;
        // Registered no later than the response headers: whoever sees the agent connected may dial.
        let registered = self.registry.add(handle.clone());
        peer.goes(Progress::Registered);
        let lanes = handle.has_lanes();
        tracing::info!(agent = %hello.agent, stream = number, from = %peer, lanes, "Agent connected");

        let (inbound, metrics) = (request.into_inner(), self.metrics.clone());
        self.running.spawn(async move {
            let _open = metrics.grpc_connection(Method::Connect);
            let end = link.run(inbound, |packet| handle.handle(packet)).await;
            drop(registered);
            if let Some(code) = end.code() {
                metrics.stream_error(Segment::FromAgent, code::name(code), "Unknown");
            }
            if let LinkEnd::Malformed(error) = &end {
                tracing::warn!(agent = %handle.id, %error, "Ended a control stream");
            }
            tracing::info!(agent = %handle.id, stream = number, why = %end, "Agent disconnected");
        });
        Ok(Response::from_parts(MetadataMap::from_headers(headers), Box::pin(outlet), Default::default()))
    }
}

fn negotiate(lanes: &ServerLanes, peer: &Peer, handle: &Arc<AgentHandle>) -> Result<Secret, Status> {
    let link = handle.link.clone();
    let ask = Box::new(move |lanes| {
        // A stream that has ended needs none.
        let _ = link.send(Packet::WantLanes { lanes });
    });
    let stream =
        lanes.stream(peer.identity.clone(), ask).map_err(|error| Status::internal(error.to_string()))?;
    let ticket = Secret(stream.ticket().to_text());
    handle.set_lanes(stream);
    Ok(ticket)
}

struct AgentPackets(ServerMetrics);

impl Observer for AgentPackets {
    fn sent(&self, kind: &'static str) {
        self.0.packet(Segment::ToAgent, kind);
    }

    fn received(&self, kind: &'static str) {
        self.0.packet(Segment::FromAgent, kind);
    }

    fn unsent(&self, kind: &'static str) {
        self.0.stream_error(Segment::ToAgent, code::name(Code::Cancelled), kind);
    }

    fn pauses(&self, _: ConnId) -> Option<GaugeGuard> {
        self.0.konduit.mux_paused();
        Some(self.0.full_receive_channel(Method::Connect))
    }

    fn gave_up(&self, conn: ConnId) {
        tracing::warn!(%conn, "Ended a flow that nobody read");
        self.0.konduit.flow_ended_by_us("stalled");
    }
}
