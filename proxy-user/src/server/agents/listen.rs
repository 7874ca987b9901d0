//! The agents' port: mutual TLS, lanes to the one side by their ALPN name, control streams to the other.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::preface;
use super::service::Service;
use super::unknown::TellUnknown;
use crate::lane::record::RecordExact;
use crate::lane::{self, ALPN_LANE, ServerLanes};
use crate::net::listener::{Accepted, Remote, TcpListener};
use crate::net::newcomers::Newcomers;
use crate::net::pulse::Pulse;
use crate::net::room::{Of, tell_no_room};
use crate::net::seldom::Seldom;
use crate::net::sockopt;
use crate::net::tls::{HandshakeError, Identity, ServerEndpoint};
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::ServerMetrics;
use crate::server::start;
use crate::wire::packet::MAX_PACKET;
use crate::wire::pb::agent_service_server::AgentServiceServer;

/// TLS, and then, for a control stream, the first words of HTTP/2.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// Unanswered pings and unacknowledged bytes end a control stream after this long.
const SILENCE: Duration = Duration::from_secs(20);
/// Nobody is idle for longer: balancers forget what is, some after 10 s and without a word, and a dial would wait for
/// an answer that cannot come. An agent answers as many pings as it is sent.
pub(crate) const IDLE: Duration = Duration::from_secs(5);
/// Tokens and many identifiers exceed the usual 16 KiB.
const MAX_HEADERS: u32 = 16 << 20;
/// What a peer may send before we read it. The brake towards an upstream agent works through this window alone.
const WINDOW: u32 = 1 << 20;
/// How long agents may take to leave once they were told to; half of it passes before their streams are ended, since
/// an agent whose stream ends closes the connection, perhaps before it read the GOAWAY.
const GOODBYE: Duration = Duration::from_millis(500);

/// Who is at the other end of a control stream.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    pub remote: Option<Remote>,
    pub identity: Option<Identity>,
    /// Of the connection.
    pub pulse: Pulse,
    pub progress: Arc<watch::Sender<Progress>>,
}

/// How far a connection on the agents' port is from being an agent's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Progress {
    /// It says nothing, and may have to make room for another.
    #[default]
    Silent,
    /// An agent named itself; what it shows is being checked.
    Asks,
    Registered,
}

impl Peer {
    /// A connection that is an agent's stays one, whatever another of its streams asks for.
    pub fn goes(&self, to: Progress) {
        self.progress.send_if_modified(|progress| {
            let goes = *progress != Progress::Registered && *progress != to;
            if goes {
                *progress = to;
            }
            goes
        });
    }

    pub fn address(&self) -> Option<IpAddr> {
        match self.remote? {
            Remote::Tcp(address) => Some(address.ip()),
            Remote::Unix { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.remote {
            Some(remote) => remote.fmt(f),
            None => f.write_str("an unknown address"),
        }
    }
}

/// Serves the agents' port until `stop`; then agents are told GOAWAY and every control stream ends. An upstream agent
/// drops its flows soon after a GOAWAY, so none is sent while they may run; but from the begin of the `drain` on nobody
/// new is let in, and whoever looks for a server finds another.
pub async fn serve(
    listener: TcpListener,
    tls: ServerEndpoint,
    service: Service,
    keepalive: Duration,
    mut drain: DrainWatch,
    stop: CancellationToken,
) {
    let (accepted, incoming) = mpsc::channel(16);
    let (lanes, registry, metrics) =
        (service.lanes.clone(), service.registry.clone(), service.metrics.clone());
    let (streams, running, stopped) = (registry.clone(), service.running.clone(), stop.clone());
    let goodbye = async move {
        stopped.cancelled().await;
        streams.streams().iter().for_each(|stream| stream.link.dismiss());
    };
    let service = TellUnknown(AgentServiceServer::new(service).max_decoding_message_size(MAX_PACKET));
    let incoming = ReceiverStream::new(incoming).map(Ok::<Control, io::Error>);
    let grpc = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(keepalive.min(IDLE)))
        .http2_keepalive_timeout(Some(SILENCE))
        .http2_max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .serve_with_incoming_shutdown(service, incoming, goodbye);
    // Held until the end: without anybody who may send connections the streams there are would be told to go.
    let open = accepted.clone();
    let accepting = async move {
        tokio::select! {
            () = accept(listener, tls, lanes, metrics, accepted) => {}
            () = drain.draining() => {}
        }
    };
    let ending = async {
        stop.cancelled().await;
        tokio::time::sleep(GOODBYE / 2).await;
        registry.streams().iter().for_each(|stream| stream.link.close(Ok(())));
        tokio::time::sleep(GOODBYE / 2).await;
    };
    let serving = async {
        if let Err(error) = grpc.await {
            tracing::error!(%error, "The agents' port failed");
        }
    };
    tokio::select! {
        () = serving => {}
        ((), ()) = async { tokio::join!(accepting, ending) } => {}
    }
    drop(open);
    // Each has a last word for the log.
    running.close();
    let _ = tokio::time::timeout(GOODBYE, running.wait()).await;
}

async fn accept(
    listener: TcpListener,
    tls: ServerEndpoint,
    lanes: Option<ServerLanes>,
    metrics: ServerMetrics,
    control: mpsc::Sender<Control>,
) {
    let most = start::newcomers();
    let newcomers = Newcomers::new(most);
    loop {
        let accepted = listener.accept().await;
        let Some(newcomer) = newcomers.admit().await else {
            metrics.konduit.refused("agents", "room");
            tell_no_room(Of::Newcomers, most as u64);
            continue;
        };
        let (tls, lanes, control) = (tls.clone(), lanes.clone(), control.clone());
        let metrics = metrics.clone();
        // On the heap at once: the state of a handshake is large, and a task is moved about before it runs.
        tokio::spawn(Box::pin(async move {
            let (stream, peer) = tokio::select! {
                sorted = sort(accepted, &tls, lanes, &metrics) => match sorted {
                    Some(sorted) => sorted,
                    None => return,
                },
                () = newcomer.lost() => return metrics.konduit.refused("agents", "room"),
            };
            // Fails when the server stops.
            let _ = control.send(Control::new(stream, peer, newcomer, metrics)).await;
        }));
    }
}

/// Agents come back each second, by the thousand: told once in a while.
const EVERY: Duration = Duration::from_secs(10);

fn tell(remote: &Remote, error: &HandshakeError) {
    static OF_CERTIFICATES: Seldom = Seldom::new(EVERY);
    static OF_ELSE: Seldom = Seldom::new(EVERY);
    if error.is_peer_gone() {
        tracing::trace!(from = %remote, "Left the agents' port without a TLS handshake");
    } else if error.is_about_certificate() {
        if OF_CERTIFICATES.take(Instant::now()) {
            tracing::warn!(from = %remote, %error, "No TLS handshake with an agent");
        }
    } else if OF_ELSE.take(Instant::now()) {
        tracing::debug!(from = %remote, %error, "No TLS handshake on the agents' port");
    }
}

/// Serves a lane to where it belongs; what may become a control stream is given back, its preface heard.
async fn sort(
    accepted: Accepted<TcpStream>,
    tls: &ServerEndpoint,
    lanes: Option<ServerLanes>,
    metrics: &ServerMetrics,
) -> Option<(TlsStream<RecordExact<TcpStream>>, Peer)> {
    let remote = accepted.remote;
    let accepted = match lane::handshake(tls, lanes.as_ref(), accepted, HANDSHAKE).await {
        Ok(accepted) => accepted,
        Err(error) => {
            metrics.konduit.refused("agents", "tls");
            tell(&remote, &error);
            return None;
        }
    };
    let alpn = accepted.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    if alpn == Some(ALPN_LANE) {
        if let Some(lanes) = lanes {
            lanes.accept(accepted).await;
        }
        return None;
    }
    let Accepted { mut stream, tls, .. } = accepted;
    stream.get_mut().0.pass_through();
    // Whoever says nothing, or something else, must not hold a connection for ever, and the gRPC library would not
    // tell of it.
    if let Err(error) = preface::hear(&mut stream, HANDSHAKE).await {
        metrics.konduit.refused("agents", "preface");
        static SAID: Seldom = Seldom::new(EVERY);
        if SAID.take(Instant::now()) {
            tracing::debug!(from = %remote, %error, "No HTTP/2 on the agents' port");
        }
        // Fails on a connection that is gone.
        let _ = stream.shutdown().await;
        return None;
    }
    // Upstream's peers have it too: a dead peer is noticed in 20 s. A socket that is gone already says so when read.
    let _ = sockopt::set_user_timeout(stream.get_ref().0.get_ref(), SILENCE);
    let identity = tls.and_then(|tls| tls.identity);
    let (pulse, progress) = (Pulse::new(SILENCE), Arc::default());
    Some((stream, Peer { remote: Some(remote), identity, pulse, progress }))
}
