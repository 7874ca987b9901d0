//! One control stream: opening it, and answering what its server asks.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tonic::{Extensions, Request, Status, Streaming};

use super::flows::{Flows, LaneHost, target_end};
use super::goaway::Tap;
use super::options::Options;
use super::phase::Life;
use super::route::{Route, RouteError, SILENCE};
use crate::flow::{DialError, Path};
use crate::lane::{AgentLanes, AgentStream, Answered, Ticket};
use crate::mux::{Link, LinkEnd, Outlet};
use crate::net::pulse::{Followed, Pulse};
use crate::net::refusal::is_about_certificate;
use crate::ops::log;
use crate::ops::metrics::Segment;
use crate::splice::End;
use crate::wire::ids::{DialId, ServerId};
use crate::wire::metadata::{AgentHello, MetadataError, ServerHello};
use crate::wire::packet::{Answer, DialRequest, DialResponse, MAX_PACKET, Packet};
use crate::wire::pb::{self, agent_service_client::AgentServiceClient};

/// For the server's response headers; upstream waits for ever, which stalls the discovery of all others.
pub(super) const HELLO: Duration = Duration::from_secs(20);
/// What a server may send before we read it. The brake towards an upstream server works through this window alone.
const WINDOW: u32 = 1 << 20;

/// Why a control stream did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Connect(#[from] RouteError),
    #[error("HTTP/2 with the server failed: {}", log::with_causes(.0))]
    Http(#[from] tonic::transport::Error),
    #[error("the server refused the control stream: {}", log::status(.0))]
    Refused(#[from] Status),
    #[error("no answer from the server within {0:?}; its log and its CPU tell whether it stands still")]
    Silent(Duration),
    #[error(
        "the server's answer makes no sense: {0}; see that host and port are those that a proxy-server has for agents"
    )]
    Metadata(#[from] MetadataError),
    #[error(
        "the server does not take this agent's certificate (TLS alert {0:?}): the server's --cluster-ca-cert must know \
         who signed --agent-cert, and that must be valid"
    )]
    Certificate(AlertDescription),
    #[error("the server wants to see a certificate: give this agent one by --agent-cert and --agent-key")]
    NoCertificate,
}

impl OpenError {
    /// The connection ended with this alert.
    fn of(alert: AlertDescription) -> Option<OpenError> {
        match alert {
            AlertDescription::CertificateRequired => Some(OpenError::NoCertificate),
            alert => is_about_certificate(alert).then_some(OpenError::Certificate(alert)),
        }
    }
}

/// A stream whose server has answered; dropped as it is, the stream ends.
pub struct Opening {
    pub hello: ServerHello,
    pub life: Life,
    /// Of the connection.
    pub pulse: Pulse,
    inbound: Streaming<pb::Packet>,
    outlet: oneshot::Sender<Outlet>,
}

impl Opening {
    /// # Errors
    /// What failed first on the way.
    pub async fn open(route: &Route, hello: &AgentHello, options: &Options) -> Result<Opening, OpenError> {
        let alert = Arc::new(OnceLock::new());
        let opened = Opening::with(route, hello, options, alert.clone()).await;
        opened.map_err(|error| alert.get().copied().and_then(OpenError::of).unwrap_or(error))
    }

    async fn with(
        route: &Route,
        hello: &AgentHello,
        options: &Options,
        alert: Arc<OnceLock<AlertDescription>>,
    ) -> Result<Opening, OpenError> {
        let headers = hello.write()?;
        let stream = route.connect().await?;
        // Go's floor; below it servers answer with ENHANCE_YOUR_CALM.
        let keepalive = options.keepalive_time.max(Duration::from_secs(10));
        let life = Life::new();
        let pulse = Pulse::new(SILENCE);
        let stream = Followed::new(stream, pulse.clone());
        let mut once = Some(TokioIo::new(Tap::new(stream, life.clone(), alert)));
        let connector = tower::service_fn(move |_: http::Uri| {
            let stream = once.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected));
            async move { stream }
        });
        let channel = Endpoint::from_shared(format!("http://{}", route.authority()))?
            .http2_keep_alive_interval(keepalive)
            .keep_alive_timeout(SILENCE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect_with_connector(connector)
            .await?;
        let (outlet, late) = oneshot::channel::<Outlet>();
        let outbound = late.map(|outlet| futures_util::stream::iter(outlet.ok()).flatten()).flatten_stream();
        let outbound = outbound.filter_map(|packet| std::future::ready(packet.ok()));
        let request =
            Request::from_parts(MetadataMap::from_headers(headers), Extensions::default(), outbound);
        let mut client = AgentServiceClient::new(channel).max_decoding_message_size(MAX_PACKET);
        let answered = tokio::time::timeout(options.hello_timeout, client.connect(request)).await;
        let answered = answered.map_err(|_| OpenError::Silent(options.hello_timeout))??;
        let (metadata, inbound, _) = answered.into_parts();
        let hello = ServerHello::read(metadata.as_ref())?;
        Ok(Opening { hello, life, pulse, inbound, outlet })
    }
}

/// Serves one stream to its end. When its server wants to end it, it is looked at each `probe` whether anybody needs it.
pub async fn serve(
    opening: Opening,
    link: Link,
    outlet: Outlet,
    flows: Flows,
    lanes: Option<AgentLanes>,
    probe: Duration,
) -> LinkEnd {
    let Opening { hello, life, inbound, outlet: slot, .. } = opening;
    // Fails when the stream has ended already, which its reader sees.
    let _ = slot.send(outlet);
    let ticket = hello.lane_ticket.and_then(|ticket| ticket.0.parse::<Ticket>().ok());
    let lanes = lanes.zip(ticket).map(|(lanes, ticket)| {
        let host = LaneHost::new(&flows, &hello.server, life.clone());
        Arc::new(lanes.stream(hello.server.as_str(), ticket, host))
    });
    let server =
        Arc::new(Serving { server: hello.server, link: link.clone(), flows, lanes, dials: Mutex::default() });
    let end = tokio::select! {
        end = link.run(inbound, |packet| server.handle(packet)) => end,
        never = server.leave(&life, probe) => match never {},
    };
    server.dials().values().for_each(CancellationToken::cancel);
    end
}

/// What one server may ask for.
struct Serving {
    server: ServerId,
    link: Link,
    flows: Flows,
    lanes: Option<Arc<AgentStream>>,
    /// Dials that were not answered yet.
    dials: Mutex<HashMap<DialId, CancellationToken>>,
}

impl Serving {
    fn handle(self: &Arc<Self>, packet: Packet) {
        match packet {
            Packet::DialRequest(request) => self.dial(request),
            Packet::CloseDial { dial } => {
                if let Some(dial) = self.dials().remove(&dial) {
                    dial.cancel();
                }
            }
            Packet::WantLanes { lanes } => {
                if let Some(stream) = &self.lanes {
                    stream.want(lanes);
                }
            }
            other => tracing::debug!(server = %self.server, packet = other.kind(), "Ignored a packet"),
        }
    }

    /// A server that is told to end in good order waits for this stream. Its flows go on until they end, new dials
    /// included; then it is closed.
    async fn leave(&self, life: &Life, probe: Duration) -> Infallible {
        life.leaving().await;
        let mut probe = tokio::time::interval(probe);
        loop {
            probe.tick().await;
            if self.link.flows() == 0 && self.dials().is_empty() {
                self.link.close(Ok(()));
            }
        }
    }

    fn dial(self: &Arc<Self>, request: DialRequest) {
        let cancelled = CancellationToken::new();
        self.dials().insert(request.dial, cancelled.clone());
        let serving = self.clone();
        tokio::spawn(async move {
            let work = serving.flows.table.busy();
            let dial = request.dial;
            let answered = cancelled.run_until_cancelled_owned(Box::pin(serving.answer(request))).await;
            serving.dials().remove(&dial);
            drop((work, serving));
            // Nobody cancels it now; the task goes on as the flow's.
            if let Some(Some(flow)) = answered {
                flow.await;
            }
        });
    }

    /// Gives the flow back that runs on the control stream now, if it does.
    async fn answer(&self, request: DialRequest) -> Option<impl Future<Output = ()> + use<>> {
        let DialRequest { dial, protocol, address, lane_dial } = request;
        let target = async { self.flows.targets.dial(&protocol, &address).await.map(target_end) };
        let outcome = match &self.lanes {
            Some(lanes) if lane_dial != 0 => match lanes.answer(lane_dial, target).await {
                Answered::Lane(lane, path, target) => {
                    self.flows.metrics.packet(Segment::FromAgent, "DIAL_RSP");
                    self.flows.carry(lane, target, &address, &self.server, path);
                    return None;
                }
                Answered::Mux(target) => Ok(target),
                Answered::Failed(error) => Err(error),
                Answered::Over => {
                    self.flows.metrics.packet(Segment::FromAgent, "DIAL_RSP");
                    return None;
                }
            },
            _ => target.await,
        };
        self.on_stream(dial, &address, outcome)
    }

    /// Answers on the control stream. DIAL_RSP goes ahead of every byte of its flow.
    fn on_stream(
        &self,
        dial: DialId,
        address: &str,
        outcome: Result<End, DialError>,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let (outcome, flow) = match outcome {
            Ok(target) => match self.link.open() {
                Ok(stream) => (Ok(Answer::Here(stream.conn())), Some((stream, target))),
                Err(_) => return None, // the stream has ended: nobody waits
            },
            Err(error) => (Err(error), None),
        };
        let sent = self.link.send(Packet::DialResponse(DialResponse { dial, outcome }));
        let (stream, target) = flow.filter(|_| sent.is_ok())?;
        Some(self.flows.run(End::stream(stream), target, address, &self.server, Path::Mux))
    }

    fn dials(&self) -> MutexGuard<'_, HashMap<DialId, CancellationToken>> {
        self.dials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
