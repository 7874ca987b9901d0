//! Server and agent over real sockets, with a host that echoes; a channel plays the control stream.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

use crate::flow::{DialError, DialReason, Path};
use crate::lane::open::{BoxFuture, Host, LaneFlow, Route, RouteError};
use crate::lane::testing::Pki;
use crate::lane::*;
use crate::lane::{self, record::RecordExact};
use crate::net::cipher::TlsPolicy;
use crate::net::connect::Connector;
use crate::net::listener::TcpListener;
use crate::net::tls::{ClientEndpoint, ClientTls, ServerTls};
use crate::splice::{End, EndIo, FlowStream, Watched};

pub(super) const SOON: Duration = Duration::from_secs(30);

pub(super) struct Files {
    directory: tempfile::TempDir,
    pki: Pki,
}

impl Files {
    pub(super) fn new() -> Files {
        let files = Files { directory: tempfile::tempdir().unwrap(), pki: Pki::new() };
        for name in ["server", "agent", "other"] {
            files.pki.write(files.directory.path(), name);
        }
        files
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn client(&self, name: &str) -> ClientEndpoint {
        let identity = Some((self.path(&format!("{name}.crt")), self.path(&format!("{name}.key"))));
        let tls = ClientTls { ca: self.path("ca.crt"), identity, alpn: vec![ALPN_LANE.to_vec()] };
        tls.watch().unwrap()
    }
}

/// A server's listener for lanes.
pub(super) struct Server {
    pub(super) lanes: ServerLanes,
    pub(super) address: SocketAddr,
}

impl Server {
    pub(super) async fn start(files: &Files, config: ServerLaneConfig, alpn: &[&[u8]]) -> Server {
        let tls = ServerTls {
            cert: files.path("server.crt"),
            key: files.path("server.key"),
            client_ca: Some(files.path("ca.crt")),
            alpn: alpn.iter().map(|name| name.to_vec()).collect(),
            require_alpn: false,
            policy: TlsPolicy::default(),
        };
        let tls = tls.watch().unwrap();
        let listener = TcpListener::bind("127.0.0.1", 0).unwrap();
        let address = listener.local_addr();
        let lanes = ServerLanes::start(config).unwrap();
        let accepting = lanes.clone();
        tokio::spawn(async move {
            loop {
                let accepted = listener.accept().await;
                let (tls, lanes) = (tls.clone(), accepting.clone());
                tokio::spawn(async move {
                    if let Ok(accepted) = lane::handshake(&tls, Some(&lanes), accepted, SOON).await {
                        lanes.accept(accepted).await;
                    }
                });
            }
        });
        Server { lanes, address }
    }
}

pub(super) struct Direct {
    pub(super) address: Mutex<SocketAddr>,
    pub(super) tls: ClientEndpoint,
    pub(super) closed: AtomicBool,
}

impl Route for Direct {
    fn connect(&self) -> BoxFuture<'_, Result<TlsStream<RecordExact<TcpStream>>, RouteError>> {
        Box::pin(async {
            if self.closed.load(Ordering::Relaxed) {
                return Err(RouteError::Failed("closed".into()));
            }
            let address = *self.address.lock().unwrap();
            let way = LaneRoute::new(
                Connector::by("127.0.0.1", address.port(), None).unwrap(),
                "server.test",
                self.tls.clone(),
            );
            way.connect().await
        })
    }
}

/// Targets by name; what was carried echoes.
#[derive(Default)]
pub(super) struct Echo {
    pub(super) dials: AtomicU32,
    pub(super) renewals: AtomicU32,
}

impl Host for Echo {
    fn dial<'a>(&'a self, _: &'a str, address: &'a str) -> BoxFuture<'a, Result<End, DialError>> {
        Box::pin(async move {
            self.dials.fetch_add(1, Ordering::Relaxed);
            target(address).await
        })
    }

    fn carry(&self, flow: LaneFlow) {
        carry(flow.lane);
    }

    fn renew(&self) {
        self.renewals.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) async fn target(address: &str) -> Result<End, DialError> {
    match address {
        "refused:1" => return Err(DialError::new(DialReason::Refused, "connection refused")),
        "slow:1" => tokio::time::sleep(Duration::from_millis(1500)).await,
        "never:1" => std::future::pending().await,
        _ => {}
    }
    let (near, _far) = std::os::unix::net::UnixStream::pair().unwrap();
    Ok(End::unix(near))
}

/// Echoes, and says goodbye when the other side did.
pub(super) fn carry(lane: End) {
    tokio::spawn(async move {
        let mut lane = Io::of(lane);
        let mut buffer = vec![0; 65536];
        loop {
            match lane.read(&mut buffer).await {
                Ok(0) => return drop(lane.shutdown().await.map(|()| lane)),
                Ok(read) => lane.write_all(&buffer[..read]).await.unwrap(),
                Err(_) => return,
            }
            lane.flush().await.unwrap();
        }
    });
}

pub(super) enum Io {
    Plain(TcpStream),
    Stream(Box<dyn FlowStream>),
}

impl Io {
    pub(super) fn of(end: End) -> Io {
        match end.io {
            EndIo::Watched(Watched::Tcp(socket)) => Io::Plain(socket),
            EndIo::Stream(stream) => Io::Stream(stream),
            EndIo::Watched(Watched::Unix(_)) | EndIo::Plain(_) => panic!("a lane stays in tokio"),
        }
    }

    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Io::Plain(io) => io.read(buffer).await,
            Io::Stream(io) => io.read(buffer).await,
        }
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Io::Plain(io) => io.write_all(bytes).await,
            Io::Stream(io) => io.write_all(bytes).await,
        }
    }

    pub(super) async fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Io::Plain(io) => io.flush().await,
            Io::Stream(io) => io.flush().await,
        }
    }

    pub(super) async fn shutdown(&mut self) -> std::io::Result<()> {
        match self {
            Io::Plain(io) => io.shutdown().await,
            Io::Stream(io) => io.shutdown().await,
        }
    }
}

/// What the control stream between both would carry.
pub(super) enum Packet {
    Want(u32),
    Dial(u64, String, mpsc::Sender<Result<&'static str, DialError>>),
}

/// An agent that no lane comes too late for: a busy machine opens one in seconds.
pub(super) fn patient(security: Security) -> AgentLaneConfig {
    let mut config = AgentLaneConfig::new(security, 4096);
    config.wait = SOON;
    config
}

/// A server, an agent and their control stream.
pub(super) struct World {
    pub(super) files: Files,
    pub(super) server: Server,
    pub(super) route: Arc<Direct>,
    pub(super) agent: AgentLanes,
    pub(super) host: Arc<Echo>,
}

pub(super) struct Stream {
    pub(super) lanes: StreamLanes,
    pub(super) control: mpsc::Sender<Packet>,
    pub(super) agent: tokio::task::JoinHandle<()>,
}

impl World {
    pub(super) async fn new(server: Security, agent: Security) -> World {
        World::with(ServerLaneConfig::new("server-a", server, 4096), patient(agent)).await
    }

    /// Both raw, with an agent that takes the mux as soon as an agent does by default: for lanes that never come.
    pub(super) async fn impatient() -> World {
        let server = ServerLaneConfig::new("server-a", Security::Raw, 4096);
        World::with(server, AgentLaneConfig::new(Security::Raw, 4096)).await
    }

    pub(super) async fn with(server: ServerLaneConfig, agent: AgentLaneConfig) -> World {
        let files = Files::new();
        let server = Server::start(&files, server, &[ALPN_LANE, b"h2"]).await;
        let route = Arc::new(Direct {
            address: Mutex::new(server.address),
            tls: files.client("agent"),
            closed: AtomicBool::new(false),
        });
        let agent = AgentLanes::new(agent, route.clone());
        World { files, server, route, agent, host: Arc::default() }
    }

    /// The identity that the server will see on this agent's lanes.
    pub(super) fn identity(&self, name: &str) -> crate::net::tls::Identity {
        let pem = std::fs::read(self.files.path(&format!("{name}.crt"))).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let certificate = pem.parse_x509().unwrap();
        crate::net::tls::Identity {
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
        }
    }

    pub(super) fn stream(&self) -> Stream {
        self.stream_of("server-a", "agent")
    }

    pub(super) fn stream_of(&self, server_id: &str, identity: &str) -> Stream {
        self.stream_with(server_id, identity, true)
    }

    /// Opens lanes for dials only.
    pub(super) fn stream_that_opens_none(&self) -> Stream {
        self.stream_with("server-a", "agent", false)
    }

    fn stream_with(&self, server_id: &str, identity: &str, opens: bool) -> Stream {
        let (control, mut packets) = mpsc::channel(256);
        let asking = control.clone();
        let ask: Ask = Box::new(move |lanes| drop(asking.try_send(Packet::Want(lanes))));
        let lanes = self.server.lanes.stream(Some(self.identity(identity)), ask).unwrap();
        let text = lanes.ticket().to_text();
        let agent = self.agent.stream(server_id, text.parse().unwrap(), self.host.clone());
        let agent = Arc::new(agent);
        let agent = tokio::spawn(async move {
            let mut dials = tokio::task::JoinSet::new();
            while let Some(packet) = packets.recv().await {
                match packet {
                    Packet::Want(lanes) if opens => agent.want(lanes),
                    Packet::Want(_) => {}
                    Packet::Dial(number, address, answer) => {
                        let agent = agent.clone();
                        dials.spawn(async move { on_control(&agent, number, &address, answer).await });
                    }
                }
            }
        });
        Stream { lanes, control, agent }
    }
}

pub(super) async fn on_control(
    agent: &AgentStream,
    number: u64,
    address: &str,
    answer: mpsc::Sender<Result<&'static str, DialError>>,
) {
    if number == 0 {
        let dialled = target(address).await.map(|_| "mux");
        return drop(answer.send(dialled).await);
    }
    match agent.answer(number, target(address)).await {
        Answered::Lane(lane, _, _) => carry(lane),
        Answered::Mux(_) => drop(answer.send(Ok("mux")).await),
        Answered::Failed(error) => drop(answer.send(Err(error)).await),
        Answered::Over => {}
    }
    // The control stream stays open.
    std::mem::forget(answer);
}

impl Stream {
    pub(super) async fn dial(&self, address: &str) -> Result<Dialled<&'static str>, DialError> {
        let dial = self.lanes.dial("tcp", address, |number| async move {
            let (sender, mut answer) = mpsc::channel(1);
            self.control.send(Packet::Dial(number, address.to_owned(), sender)).await.unwrap();
            answer.recv().await.unwrap()
        });
        tokio::time::timeout(SOON, dial).await.expect("the dial was answered in time")
    }

    pub(super) async fn on_lane(&self, address: &str) -> (Io, Path) {
        match self.dial(address).await.unwrap() {
            Dialled::Lane(end, path) => (Io::of(end), path),
            Dialled::Mux(..) => panic!("the flow went to the mux"),
        }
    }
}

pub(super) async fn until(mut met: impl FnMut() -> bool) {
    tokio::time::timeout(SOON, async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the condition was met in time");
}

pub(super) async fn echoes(io: &mut Io, salt: u8) {
    let sent: Vec<u8> = (0..100_000u32).map(|n| (n as u8).wrapping_mul(13).wrapping_add(salt)).collect();
    let mut seen = Vec::new();
    let mut buffer = [0; 16384];
    for chunk in sent.chunks(10_000) {
        io.write_all(chunk).await.unwrap();
        io.flush().await.unwrap();
        while seen.len() % 10_000 != 0 || seen.len() < chunk.len() {
            let read = io.read(&mut buffer).await.unwrap();
            assert!(read > 0, "an early end");
            seen.extend_from_slice(&buffer[..read]);
            if seen.len() % 10_000 == 0 {
                break;
            }
        }
    }
    while seen.len() < sent.len() {
        let read = io.read(&mut buffer).await.unwrap();
        assert!(read > 0, "an early end");
        seen.extend_from_slice(&buffer[..read]);
    }
    assert!(seen == sent);
    io.shutdown().await.unwrap();
    assert_eq!(io.read(&mut buffer).await.unwrap(), 0);
}
