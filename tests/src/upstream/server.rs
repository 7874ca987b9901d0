//! Upstream's proxy-server: agents on one port, a frontend on a Unix socket, two tables between them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Response;
use proxy_user::net::cipher::TlsPolicy;
use proxy_user::net::listener::{Accepted, TcpListener};
use proxy_user::net::tls::{ALPN_H2, ServerEndpoint, ServerTls};
use proxy_user::wire::pb::{self, PacketType, packet::Payload};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Life;
use super::agent::packet;
use super::clients::Client;
use super::frontends;
use super::seen::{CRASH, Seen};
use super::stream::{Inbound, Outbound};
use crate::konduit::Frontend;

const HANDSHAKE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub struct ServerPlan {
    pub id: String,
    /// How many servers there are, as agents are told.
    pub count: usize,
    /// On 127.0.0.1; 0 takes a free one.
    pub agent_port: u16,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    pub frontend: Frontend,
    pub socket: PathBuf,
}

/// A running server; dropped, it is gone as a killed process is.
pub struct UpstreamServer {
    pub agents: SocketAddr,
    shared: Arc<Shared>,
    life: Life,
}

pub(super) struct Shared {
    plan: ServerPlan,
    pub(super) seen: Seen,
    /// In the order of their arrival.
    backends: Mutex<Vec<Backend>>,
    /// By dial id, of all agents together.
    pub(super) pending: Mutex<HashMap<i64, Tunnel>>,
    /// By the agent's name and its connection id, which counts in each stream by itself.
    pub(super) established: Mutex<HashMap<(String, i64), Tunnel>>,
    started: AtomicU64,
}

/// One agent's stream.
#[derive(Clone)]
pub(super) struct Backend {
    pub(super) agent: String,
    number: u64,
    draining: Arc<AtomicBool>,
    pub(super) to_agent: mpsc::Sender<pb::Packet>,
    /// Cancelled when the stream has ended.
    pub(super) gone: CancellationToken,
}

#[derive(Clone)]
pub(super) struct Tunnel {
    pub(super) client: Client,
    pub(super) backend: Backend,
    /// The frontend stream that it belongs to.
    pub(super) stream: u64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UpstreamServer {
    pub fn start(plan: ServerPlan) -> anyhow::Result<UpstreamServer> {
        let tls = ServerTls {
            cert: plan.cert.clone(),
            key: plan.key.clone(),
            client_ca: Some(plan.ca.clone()),
            alpn: vec![ALPN_H2.to_vec()],
            require_alpn: true,
            policy: TlsPolicy::default(),
        };
        let tls = tls.watch()?;
        let listener = TcpListener::bind("127.0.0.1", plan.agent_port)?;
        let agents = listener.local_addr();
        // As with --delete-existing-uds-file; there may be none.
        let _ = std::fs::remove_file(&plan.socket);
        let frontend = UnixListener::bind(&plan.socket)?;
        let shared = Arc::new(Shared {
            plan,
            seen: Seen::default(),
            backends: Mutex::default(),
            pending: Mutex::default(),
            established: Mutex::default(),
            started: AtomicU64::new(0),
        });
        let life = Life::default();
        life.spawn(accept_agents(shared.clone(), life.clone(), listener, tls));
        life.spawn(accept_clients(shared.clone(), life.clone(), frontend));
        Ok(UpstreamServer { agents, shared, life })
    }

    pub fn seen(&self) -> &Seen {
        &self.shared.seen
    }

    /// Streams of agents.
    pub fn backends(&self) -> usize {
        lock(&self.shared.backends).len()
    }

    /// Flows that it believes to be there.
    pub fn established(&self) -> usize {
        lock(&self.shared.established).len()
    }

    /// As SIGKILL.
    pub async fn kill(self) {
        self.life.end().await;
    }
}

impl Drop for UpstreamServer {
    fn drop(&mut self) {
        self.life.end.cancel();
    }
}

impl Shared {
    /// A number for a stream.
    pub(super) fn number(&self) -> u64 {
        self.started.fetch_add(1, Ordering::Relaxed)
    }

    /// The strategy `default`: any agent's name, and of that agent the oldest stream. The walk begins anywhere, here
    /// at the newest name.
    pub(super) fn pick(&self) -> Option<Backend> {
        let backends = lock(&self.backends);
        let mut oldest: Vec<&Backend> = Vec::new();
        for backend in backends.iter() {
            if oldest.iter().all(|other| other.agent != backend.agent) {
                oldest.push(backend);
            }
        }
        let ready = oldest.iter().rev().find(|backend| !backend.draining.load(Ordering::Relaxed));
        ready.or(oldest.last()).map(|backend| (*backend).clone())
    }

    async fn agent_said(&self, backend: &Backend, packet: pb::Packet) -> bool {
        self.seen.packet(&packet);
        match (PacketType::try_from(packet.r#type), packet.payload) {
            (Ok(PacketType::DialRsp), Some(Payload::DialResponse(response))) => {
                self.dialled(backend, response).await;
            }
            (Ok(PacketType::DialCls), Some(Payload::CloseDial(close))) => {
                let pending = lock(&self.pending).remove(&close.random);
                if let Some(tunnel) = pending {
                    tunnel.client.dial_closed(close.random).await;
                }
            }
            (Ok(PacketType::Data), Some(Payload::Data(data))) => self.data(backend, data).await,
            (Ok(PacketType::CloseRsp), Some(Payload::CloseResponse(close))) => {
                let gone = lock(&self.established).remove(&(backend.agent.clone(), close.connect_id));
                match gone {
                    Some(tunnel) => tunnel.client.closed(close.connect_id, close.error).await,
                    None => self.seen.note("CLOSE_RSP of an unknown connectID"),
                }
            }
            (Ok(PacketType::Drain), _) => backend.draining.store(true, Ordering::Relaxed),
            (Ok(PacketType::DialRsp | PacketType::DialCls | PacketType::Data | PacketType::CloseRsp), _) => {
                return false;
            }
            _ => self.seen.note("ignored"),
        }
        true
    }

    async fn dialled(&self, backend: &Backend, response: pb::DialResponse) {
        // By its dial id alone: any agent may answer any dial.
        let pending = lock(&self.pending).remove(&response.random);
        let Some(tunnel) = pending else {
            self.seen.note("DIAL_RSP of an unknown dial");
            if response.connect_id != 0 {
                close(backend, response.connect_id).await;
            }
            return;
        };
        if response.error.is_empty() {
            let key = (backend.agent.clone(), response.connect_id);
            lock(&self.established).insert(key, tunnel.clone());
        }
        tunnel.client.dialled(response).await;
    }

    /// Written to the client at once: whoever does not read holds up the agent.
    async fn data(&self, backend: &Backend, data: pb::Data) {
        if data.connect_id == 0 {
            return self.seen.note("DATA of connectID 0");
        }
        let found = lock(&self.established).get(&(backend.agent.clone(), data.connect_id)).cloned();
        match found {
            Some(tunnel) => tunnel.client.data(data).await,
            None => {
                self.seen.note("DATA of an unknown connectID");
                close(backend, data.connect_id).await;
            }
        }
    }

    /// Flows of the stream are told, and dials by CONNECT; dials by gRPC are not.
    async fn lose(&self, backend: &Backend) {
        backend.gone.cancel();
        lock(&self.backends).retain(|other| other.number != backend.number);
        let lost: Vec<_> =
            lock(&self.established).extract_if(|_, tunnel| tunnel.backend.number == backend.number).collect();
        for ((_, conn), tunnel) in lost {
            tunnel.client.closed(conn, String::new()).await;
        }
    }
}

pub(super) async fn close(backend: &Backend, conn: i64) {
    let close = Payload::CloseRequest(pb::CloseRequest { connect_id: conn });
    // A stream that is gone has closed everything.
    let _ = backend.to_agent.send(packet(PacketType::CloseReq, close)).await;
}

async fn accept_agents(shared: Arc<Shared>, life: Life, listener: TcpListener, tls: ServerEndpoint) {
    loop {
        let accepted: Accepted<TcpStream> = listener.accept().await;
        let (shared, tls, inner) = (shared.clone(), tls.clone(), life.clone());
        life.spawn(async move {
            match tls.accept(accepted, HANDSHAKE).await {
                Ok(accepted) => serve(shared, inner, accepted.stream, "/AgentService/Connect").await,
                Err(_) => shared.seen.note("no TLS"),
            }
        });
    }
}

async fn accept_clients(shared: Arc<Shared>, life: Life, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, inner) = (shared.clone(), life.clone());
        match shared.plan.frontend {
            Frontend::Grpc => life.spawn(serve(shared, inner, stream, "/ProxyService/Proxy")),
            Frontend::Connect => life.spawn(frontends::connect(shared, stream)),
        }
    }
}

/// One HTTP/2 connection, whose calls must be of this method.
async fn serve<S>(shared: Arc<Shared>, life: Life, stream: S, method: &'static str)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if request.uri().path() != method {
            let response = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "12")
                .header("grpc-message", format!("unknown service {}", request.uri().path()));
            if let Ok(response) = response.body(()) {
                // The caller may have left.
                let _ = respond.send_response(response, true);
            }
            continue;
        }
        match method {
            "/AgentService/Connect" => life.spawn(agent(shared.clone(), life.clone(), request, respond)),
            _ => life.spawn(frontends::proxy(shared.clone(), life.clone(), request, respond)),
        }
    }
}

async fn agent(
    shared: Arc<Shared>,
    life: Life,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let ids: Vec<_> = request.headers().get_all("agentid").iter().collect();
    let [id] = ids.as_slice() else {
        let refused = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "2")
            .header("grpc-message", format!("expected one agent ID in the context, got {}", ids.len()));
        if let Ok(refused) = refused.body(()) {
            // The caller may have left.
            let _ = respond.send_response(refused, true);
        }
        return;
    };
    let agent = String::from_utf8_lossy(id.as_bytes()).into_owned();
    let (to_agent, mut outgoing) = mpsc::channel(1);
    let backend =
        Backend { agent, number: shared.number(), draining: Arc::default(), to_agent, gone: <_>::default() };
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .header("serverid", &shared.plan.id)
        .header("servercount", shared.plan.count.to_string());
    let Ok(Ok(send)) = response.body(()).map(|response| respond.send_response(response, false)) else {
        return;
    };
    let mut outbound = Outbound(send);
    lock(&shared.backends).push(backend.clone());
    life.spawn(async move {
        while let Some(packet) = outgoing.recv().await {
            if outbound.send(&packet).await.is_err() {
                return;
            }
        }
        outbound.finish();
    });
    let mut inbound = Inbound::new(request.into_body());
    while let Some(packet) = inbound.next().await {
        if !shared.agent_said(&backend, packet).await {
            shared.seen.note(CRASH);
            life.end.cancel();
            return;
        }
    }
    shared.lose(&backend).await;
}
