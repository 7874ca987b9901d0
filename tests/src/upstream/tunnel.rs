//! The flows of one server's stream at upstream's agent: dials, and bytes between packets and targets.

use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use proxy_user::wire::pb::{self, PacketType, packet::Payload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Life;
use super::agent::packet;
use super::seen::Seen;

/// The whole of a dial.
const DIAL: Duration = Duration::from_secs(5);
/// `--xfr-channel-size`, in packets.
const QUEUE: usize = 150;
/// What one read of a target gives at most.
const READ: usize = 4096;

pub(super) struct Tunnels {
    /// Every dial counts, failed ones too.
    last: i64,
    to_server: mpsc::Sender<pb::Packet>,
    conns: Arc<Mutex<HashMap<i64, Conn>>>,
    life: Life,
    /// Whoever names a flow names an unknown one.
    forgetful: Arc<AtomicBool>,
    seen: Seen,
}

#[derive(Clone)]
struct Conn {
    to_target: mpsc::Sender<Bytes>,
    close: CancellationToken,
    closed: CancellationToken,
}

impl Tunnels {
    pub(super) fn new(
        to_server: mpsc::Sender<pb::Packet>,
        life: Life,
        forgetful: Arc<AtomicBool>,
        seen: Seen,
    ) -> Tunnels {
        Tunnels { last: 0, to_server, conns: Arc::default(), life, forgetful, seen }
    }

    fn known(&self, id: i64) -> Option<Conn> {
        let conn = self.conns().get(&id).cloned();
        conn.filter(|_| !self.forgetful.load(Ordering::Relaxed))
    }

    fn conns(&self) -> MutexGuard<'_, HashMap<i64, Conn>> {
        self.conns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False for a packet whose payload is not its type's.
    pub(super) async fn handle(&mut self, packet: pb::Packet) -> bool {
        self.seen.packet(&packet);
        match (PacketType::try_from(packet.r#type), packet.payload) {
            (Ok(PacketType::DialReq), Some(Payload::DialRequest(request))) => self.dial(request),
            (Ok(PacketType::Data), Some(Payload::Data(data))) => self.data(data).await,
            (Ok(PacketType::CloseReq), Some(Payload::CloseRequest(close))) => {
                self.close(close.connect_id).await;
            }
            (Ok(PacketType::DialReq | PacketType::Data | PacketType::CloseReq), _) => return false,
            // DIAL_CLS and DRAIN too.
            _ => self.seen.note("ignored"),
        }
        true
    }

    fn dial(&mut self, request: pb::DialRequest) {
        self.last += 1;
        let (to_target, queue) = mpsc::channel(QUEUE);
        let conn = Conn { to_target, close: CancellationToken::new(), closed: CancellationToken::new() };
        self.conns().insert(self.last, conn.clone());
        let (id, conns, to_server) = (self.last, self.conns.clone(), self.to_server.clone());
        self.life.spawn(async move {
            let _closed = conn.closed.clone().drop_guard();
            match dial(&request.protocol, &request.address).await {
                Ok(target) => {
                    let answer =
                        pb::DialResponse { connect_id: id, random: request.random, ..<_>::default() };
                    if send(&to_server, PacketType::DialRsp, Payload::DialResponse(answer)).await {
                        carry(id, target, queue, conn.close, &to_server).await;
                    }
                }
                Err(error) => {
                    let answer = pb::DialResponse { error, random: request.random, ..<_>::default() };
                    send(&to_server, PacketType::DialRsp, Payload::DialResponse(answer)).await;
                }
            }
            conns.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
    }

    /// Waits while the target's queue is full, and with it everybody else of this server.
    async fn data(&self, data: pb::Data) {
        match self.known(data.connect_id) {
            _ if data.connect_id == 0 => self.seen.note("DATA of connectID 0"),
            // Discarded when the writer is gone.
            Some(conn) => drop(conn.to_target.send(data.data).await),
            None => self.unknown(data.connect_id, "DATA", "unrecognized connectID").await,
        }
    }

    /// In the receive loop: waits for the dial, and until what was read is on its way.
    async fn close(&self, id: i64) {
        match self.known(id) {
            Some(conn) => {
                conn.close.cancel();
                conn.closed.cancelled().await;
            }
            None => self.unknown(id, "CLOSE_REQ", "Unknown connectID").await,
        }
    }

    async fn unknown(&self, id: i64, kind: &str, error: &str) {
        self.seen.note(&format!("{kind} of an unknown connectID"));
        let answer = pb::CloseResponse { error: error.to_owned(), connect_id: id };
        send(&self.to_server, PacketType::CloseRsp, Payload::CloseResponse(answer)).await;
    }

    /// The stream is gone.
    pub(super) fn end(&self) {
        self.conns().values().for_each(|conn| conn.close.cancel());
    }
}

async fn send(to_server: &mpsc::Sender<pb::Packet>, kind: PacketType, payload: Payload) -> bool {
    to_server.send(packet(kind, payload)).await.is_ok()
}

/// Until the target ends or errs, or the server closes: there is no half-close, and what waits for the target then
/// is lost.
async fn carry(
    id: i64,
    target: TcpStream,
    queue: mpsc::Receiver<Bytes>,
    close: CancellationToken,
    to_server: &mpsc::Sender<pb::Packet>,
) {
    let (mut read, write) = target.into_split();
    let mut writer = JoinSet::new();
    writer.spawn(feed(write, queue));
    let mut buffer = [0; READ];
    loop {
        let read = tokio::select! {
            biased;
            () = close.cancelled() => break,
            read = read.read(&mut buffer) => read,
        };
        let Ok(read @ 1..) = read else { break };
        let data = Bytes::copy_from_slice(&buffer[..read]);
        let data = pb::Data { connect_id: id, error: String::new(), data };
        if !send(to_server, PacketType::Data, Payload::Data(data)).await {
            break;
        }
    }
    let answer = pb::CloseResponse { error: String::new(), connect_id: id };
    send(to_server, PacketType::CloseRsp, Payload::CloseResponse(answer)).await;
    // The socket is closed when both halves are dropped.
    writer.shutdown().await;
}

/// After an error the rest is swallowed without a word.
async fn feed(mut target: OwnedWriteHalf, mut queue: mpsc::Receiver<Bytes>) {
    let mut broken = false;
    while let Some(data) = queue.recv().await {
        broken = broken || target.write_all(&data).await.is_err();
    }
}

/// As Go's `net.Dial`, in its words. The network's name is not checked.
async fn dial(network: &str, address: &str) -> Result<TcpStream, String> {
    if !network.starts_with("tcp") {
        return Err(format!("dial {network}: unknown network {network}"));
    }
    if !address.contains(':') {
        return Err(format!("dial {network}: address {address}: missing port in address"));
    }
    let dialled = tokio::time::timeout(DIAL, TcpStream::connect(address)).await;
    let dialled = dialled.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()));
    let target = dialled.map_err(|error| format!("dial {network} {address}: {}", words(&error)))?;
    // A target that is gone again says so when read.
    let _ = target.set_nodelay(true);
    Ok(target)
}

fn words(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => format!("connect: {error}"),
    }
}
