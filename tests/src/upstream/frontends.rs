//! Both frontends of upstream's server.

use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Response;
use proxy_user::wire::pb::{self, PacketType, packet::Payload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::Life;
use super::agent::packet;
use super::clients::{Client, Connected};
use super::seen::CRASH;
use super::server::{Backend, Shared, Tunnel, close, lock};
use super::stream::{Inbound, Outbound};

/// `--xfr-channel-size`, in packets.
const QUEUE: usize = 10;
/// What one read of a CONNECT's socket gives at most.
const READ: usize = 32 << 10;

/// One `ProxyService.Proxy` stream.
pub(super) async fn proxy(
    shared: Arc<Shared>,
    life: Life,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let response = Response::builder().header("content-type", "application/grpc");
    let Ok(Ok(send)) = response.body(()).map(|response| respond.send_response(response, false)) else {
        return;
    };
    let (to_client, mut outgoing) = mpsc::channel(QUEUE);
    let mut outbound = Outbound(send);
    life.spawn(async move {
        while let Some(packet) = outgoing.recv().await {
            if outbound.send(&packet).await.is_err() {
                return;
            }
        }
        outbound.finish();
    });
    let mut stream =
        Stream { shared, number: 0, to_client, backend: None, conn: 0, first: None, serving: true };
    stream.number = stream.shared.number();
    let mut inbound = Inbound::new(request.into_body());
    while let Some(packet) = inbound.next().await {
        if !stream.handle(packet).await {
            stream.shared.seen.note(CRASH);
            life.end.cancel();
            return;
        }
    }
    stream.tear_down().await;
}

struct Stream {
    shared: Arc<Shared>,
    number: u64,
    to_client: mpsc::Sender<pb::Packet>,
    backend: Option<Backend>,
    conn: i64,
    /// The connection id of its first DATA.
    first: Option<i64>,
    /// False: packets are read and discarded.
    serving: bool,
}

impl Stream {
    async fn handle(&mut self, packet: pb::Packet) -> bool {
        if !self.serving {
            return true;
        }
        match (PacketType::try_from(packet.r#type), packet.payload) {
            (Ok(PacketType::DialReq), Some(Payload::DialRequest(request))) => self.dial(request).await,
            (Ok(PacketType::DialCls), Some(Payload::CloseDial(cls))) => {
                // Forgotten here; the agent is not told.
                lock(&self.shared.pending).remove(&cls.random);
            }
            (Ok(PacketType::Data), Some(Payload::Data(data))) => self.data(data).await,
            (Ok(PacketType::CloseReq), Some(Payload::CloseRequest(request))) => match &self.backend {
                None => self.say_closed(request.connect_id, "backend uninitialized").await,
                Some(backend) => {
                    close(backend, request.connect_id).await;
                    self.serving = false;
                }
            },
            (Ok(PacketType::DialReq | PacketType::DialCls | PacketType::Data | PacketType::CloseReq), _) => {
                return false;
            }
            _ => self.shared.seen.note("ignored"),
        }
        true
    }

    async fn dial(&mut self, request: pb::DialRequest) {
        let random = request.random;
        let Some(backend) = self.shared.pick() else {
            let error = "No agent available".to_owned();
            let none = pb::DialResponse { error, random, ..<_>::default() };
            // Noticed by the reader when the client has left.
            let _ = self.to_client.send(packet(PacketType::DialRsp, Payload::DialResponse(none))).await;
            self.serving = false;
            return;
        };
        let client = Client::Grpc(self.to_client.clone());
        let tunnel = Tunnel { client, backend: backend.clone(), stream: self.number };
        lock(&self.shared.pending).insert(random, tunnel);
        // An agent that is gone: the dial waits for ever.
        let _ = backend.to_agent.send(packet(PacketType::DialReq, Payload::DialRequest(request))).await;
        self.backend = Some(backend);
    }

    async fn data(&mut self, data: pb::Data) {
        let Some(backend) = &self.backend else {
            self.say_closed(data.connect_id, "backend not initialized").await;
            self.serving = false;
            return;
        };
        if data.connect_id == 0 {
            return self.shared.seen.note("DATA of connectID 0");
        }
        let first = *self.first.get_or_insert(data.connect_id);
        if first == data.connect_id {
            self.conn = first;
            // Dropped when the agent is gone.
            let _ = backend.to_agent.send(packet(PacketType::Data, Payload::Data(data))).await;
            return;
        }
        for conn in [first, data.connect_id] {
            close(backend, conn).await;
        }
        for conn in [first, data.connect_id] {
            self.say_closed(conn, "mismatched connection IDs").await;
        }
        self.serving = false;
    }

    async fn say_closed(&self, conn: i64, error: &str) {
        let closed = pb::CloseResponse { error: error.to_owned(), connect_id: conn };
        // Noticed by the reader when the client has left.
        let _ = self.to_client.send(packet(PacketType::CloseRsp, Payload::CloseResponse(closed))).await;
    }

    /// The client half-closed, cancelled, or is gone: all the same.
    async fn tear_down(self) {
        let pending: Vec<_> =
            lock(&self.shared.pending).extract_if(|_, tunnel| tunnel.stream == self.number).collect();
        for (random, tunnel) in pending {
            let close = Payload::CloseDial(pb::CloseDial { random });
            // The agent ignores it anyway.
            let _ = tunnel.backend.to_agent.send(packet(PacketType::DialCls, close)).await;
        }
        let established: Vec<_> =
            lock(&self.shared.established).extract_if(|_, tunnel| tunnel.stream == self.number).collect();
        for ((_, conn), tunnel) in established {
            close(&tunnel.backend, conn).await;
        }
    }
}

/// One CONNECT. A client that leaves during its dial is not noticed.
pub(super) async fn connect(shared: Arc<Shared>, mut socket: UnixStream) {
    let Some((target, early)) = head(&mut socket).await else { return };
    let Some(backend) = shared.pick() else {
        let none = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\n\
                    currently no tunnels available: No agent available";
        // It may have left.
        let _ = socket.write_all(none.as_bytes()).await;
        return;
    };
    let (told, outcome) = oneshot::channel();
    let (bytes, mut incoming) = mpsc::channel::<Bytes>(1);
    let client = Arc::new(Connected { outcome: Some(told).into(), bytes: Some(bytes).into() });
    let random = (shared.number() + 1) as i64;
    let tunnel =
        Tunnel { client: Client::Connect(client), backend: backend.clone(), stream: shared.number() };
    lock(&shared.pending).insert(random, tunnel);
    let request = pb::DialRequest { protocol: "tcp".into(), address: target, random, ..<_>::default() };
    // An agent that is gone: the dial waits for ever.
    let _ = backend.to_agent.send(packet(PacketType::DialReq, Payload::DialRequest(request))).await;
    let outcome = tokio::select! {
        biased;
        outcome = outcome => outcome,
        () = backend.gone.cancelled() => {
            let lost = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
                        Backend context error: context canceled\r\n";
            // It may have left.
            let _ = socket.write_all(lost.as_bytes()).await;
            return;
        }
    };
    let conn = match outcome {
        Ok(Ok(conn)) => conn,
        Ok(Err(error)) => {
            let _ = socket.write_all(refused(&error).as_bytes()).await;
            return;
        }
        // DIAL_CLS
        Err(_) => return,
    };
    // A client that has left: upstream returns here without a CLOSE_REQ.
    if socket.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n").await.is_err() {
        return;
    }
    let (mut read, mut write) = socket.into_split();
    let to_agent = async {
        let mut buffer = early;
        loop {
            if !buffer.is_empty() {
                let data = std::mem::take(&mut buffer).into();
                let data = pb::Data { connect_id: conn, error: String::new(), data };
                // Dropped when the agent is gone.
                let _ = backend.to_agent.send(packet(PacketType::Data, Payload::Data(data))).await;
            }
            buffer.reserve(READ);
            let got = (&mut read).take(READ as u64).read_buf(&mut buffer).await;
            if !matches!(got, Ok(1..)) {
                return;
            }
        }
    };
    let to_client = async {
        while let Some(bytes) = incoming.recv().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = to_agent => {}
        () = to_client => {}
    }
    // Redundant when the agent closed first.
    close(&backend, conn).await;
}

/// The target of a CONNECT and what came behind its head.
async fn head(socket: &mut UnixStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let early = bytes.split_off(end + 4);
            let head = String::from_utf8(bytes).ok()?;
            let target = head.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
            return Some((target, early));
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn refused(error: &str) -> String {
    let lower = error.to_lowercase();
    let status = if lower.contains("timeout") || lower.contains("deadline exceeded") {
        "504 Gateway Timeout"
    } else if lower.contains("too many open files") {
        "503 Service Unavailable"
    } else {
        "502 Bad Gateway"
    };
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{error}"
    )
}
