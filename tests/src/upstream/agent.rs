//! Upstream's proxy-agent: looks for servers until it has as many as they say there are, dials what they ask for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use proxy_user::net::tls::{ALPN_H2, ClientEndpoint, ClientTls};
use proxy_user::wire::pb::{self, PacketType};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::Life;
use super::seen::Seen;
use super::stream::{Inbound, Outbound};
use super::tunnel::Tunnels;

/// Time between two looks for servers.
const SYNC: Duration = Duration::from_millis(100);
/// TCP, TLS and the preface.
const CONNECT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub struct AgentPlan {
    pub id: String,
    /// The server's port on 127.0.0.1.
    pub port: u16,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A running agent; dropped, it is gone as a killed process is.
pub struct UpstreamAgent {
    shared: Arc<Shared>,
    life: Life,
}

struct Shared {
    plan: AgentPlan,
    tls: ClientEndpoint,
    /// Servers that are connected, by their id.
    servers: Mutex<HashMap<String, mpsc::Sender<pb::Packet>>>,
    draining: AtomicBool,
    forgetful: Arc<AtomicBool>,
    seen: Seen,
}

impl UpstreamAgent {
    pub fn start(plan: AgentPlan) -> anyhow::Result<UpstreamAgent> {
        let identity = Some((plan.cert.clone(), plan.key.clone()));
        let tls = ClientTls { ca: plan.ca.clone(), identity, alpn: vec![ALPN_H2.to_vec()] }.watch()?;
        let shared = Arc::new(Shared {
            plan,
            tls,
            servers: Mutex::default(),
            draining: AtomicBool::new(false),
            forgetful: Arc::default(),
            seen: Seen::default(),
        });
        let life = Life::default();
        life.spawn(look_for_servers(shared.clone(), life.clone()));
        Ok(UpstreamAgent { shared, life })
    }

    pub fn seen(&self) -> &Seen {
        &self.shared.seen
    }

    pub fn connected(&self) -> usize {
        self.shared.servers().len()
    }

    /// The first SIGTERM: says so on every stream, connects no more, and goes on serving.
    pub async fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
        let servers: Vec<_> = self.shared.servers().values().cloned().collect();
        for server in servers {
            // A server that is gone needs no word.
            let _ = server.send(packet(PacketType::Drain, pb::packet::Payload::Drain(pb::Drain {}))).await;
        }
    }

    /// From now on it knows none of its flows, of which it told nobody.
    pub fn forget(&self) {
        self.shared.forgetful.store(true, Ordering::Relaxed);
    }

    /// As SIGKILL.
    pub async fn kill(self) {
        self.life.end().await;
    }
}

impl Drop for UpstreamAgent {
    fn drop(&mut self) {
        self.life.end.cancel();
    }
}

impl Shared {
    fn servers(&self) -> MutexGuard<'_, HashMap<String, mpsc::Sender<pb::Packet>>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn packet(kind: PacketType, payload: pb::packet::Payload) -> pb::Packet {
    pb::Packet { r#type: kind as i32, payload: Some(payload) }
}

async fn look_for_servers(shared: Arc<Shared>, life: Life) {
    let mut count = 1;
    loop {
        if !shared.draining.load(Ordering::Relaxed) && shared.servers().len() < count {
            match connect(&shared, &life).await {
                Ok(told) => count = told.unwrap_or(count),
                Err(_) => shared.seen.note("no connection"),
            }
        }
        tokio::time::sleep(SYNC).await;
    }
}

/// One stream more, unless its server is known. Gives the number of servers there are, which only a new one is
/// believed.
async fn connect(shared: &Arc<Shared>, life: &Life) -> anyhow::Result<Option<usize>> {
    let socket = TcpStream::connect(("127.0.0.1", shared.plan.port)).await?;
    socket.set_nodelay(true)?;
    let stream = shared.tls.connect("127.0.0.1", socket, CONNECT).await?;
    let (requests, driver) = h2::client::handshake(stream).await?;
    // Ends with the last handle of the connection.
    life.spawn(async move {
        let _ = driver.await;
    });
    let request = http::Request::post(format!("https://127.0.0.1:{}/AgentService/Connect", shared.plan.port))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("agentid", &shared.plan.id)
        .header("agentidentifiers", "");
    let (response, send) = requests.ready().await?.send_request(request.body(())?, false)?;
    let response = response.await?;
    let only = |name: &str| -> anyhow::Result<String> {
        let mut values = response.headers().get_all(name).iter();
        let value = values.next().with_context(|| format!("expected one {name}, got none"))?;
        anyhow::ensure!(values.next().is_none(), "expected one {name}, got more");
        Ok(value.to_str()?.to_owned())
    };
    let (id, count) = (only("serverid")?, only("servercount")?.parse()?);
    if shared.servers().contains_key(&id) {
        shared.seen.note("duplicate server");
        return Ok(None);
    }
    let (to_server, outgoing) = mpsc::channel(1);
    shared.servers().insert(id.clone(), to_server.clone());
    life.spawn(write(Outbound(send), outgoing));
    life.spawn(serve(shared.clone(), life.clone(), id, Inbound::new(response.into_body()), to_server));
    Ok(Some(count))
}

async fn write(mut outbound: Outbound, mut outgoing: mpsc::Receiver<pb::Packet>) {
    while let Some(packet) = outgoing.recv().await {
        if outbound.send(&packet).await.is_err() {
            return;
        }
    }
}

async fn serve(
    shared: Arc<Shared>,
    life: Life,
    server: String,
    mut inbound: Inbound,
    to_server: mpsc::Sender<pb::Packet>,
) {
    let mut tunnels = Tunnels::new(to_server, life.clone(), shared.forgetful.clone(), shared.seen.clone());
    while let Some(packet) = inbound.next().await {
        if !tunnels.handle(packet).await {
            shared.seen.note(super::seen::CRASH);
            // A nil pointer takes the whole process along.
            life.end.cancel();
            return;
        }
    }
    tunnels.end();
    shared.servers().remove(&server);
}
