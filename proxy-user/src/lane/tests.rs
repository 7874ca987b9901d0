//! Server and agent over real sockets, with a host that echoes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

use super::counters::{LANDED, MUX, REFUSED};
use super::open::{BoxFuture, Host, LaneFlow, Route, RouteError};
use super::record::RecordExact;
use super::testing::Pki;
use super::*;
use crate::flow::{DialError, DialReason, Path};
use crate::net::cipher::TlsPolicy;
use crate::net::connect::Connector;
use crate::net::listener::TcpListener;
use crate::net::tls::{ClientEndpoint, ClientTls, ServerTls};
use crate::splice::{End, EndIo, FlowStream, Plain};

const SOON: Duration = Duration::from_secs(10);

struct Files {
    directory: tempfile::TempDir,
    pki: Pki,
}

impl Files {
    fn new() -> Files {
        let files = Files { directory: tempfile::tempdir().unwrap(), pki: Pki::new() };
        for name in ["server", "agent", "other"] {
            files.pki.write(files.directory.path(), name);
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn client(&self, name: &str) -> ClientEndpoint {
        let identity = Some((self.path(&format!("{name}.crt")), self.path(&format!("{name}.key"))));
        let tls =
            ClientTls { ca: self.path("ca.crt"), identity, alpn: vec![ALPN_LANE.to_vec(), b"h2".to_vec()] };
        tls.watch().unwrap()
    }
}

/// A server's listener for lanes.
struct Server {
    lanes: ServerLanes,
    address: SocketAddr,
}

impl Server {
    async fn start(files: &Files, config: ServerLaneConfig, alpn: &[&[u8]]) -> Server {
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
                let accepted = listener.accept().await.map(RecordExact::new);
                let (tls, lanes) = (tls.clone(), accepting.clone());
                tokio::spawn(async move {
                    if let Ok(accepted) = tls.accept(accepted, SOON).await {
                        lanes.accept(accepted).await;
                    }
                });
            }
        });
        Server { lanes, address }
    }
}

struct Direct {
    address: Mutex<SocketAddr>,
    tls: ClientEndpoint,
    closed: AtomicBool,
}

impl Route for Direct {
    fn connect(&self) -> BoxFuture<'_, Result<TlsStream<RecordExact<TcpStream>>, RouteError>> {
        Box::pin(async {
            if self.closed.load(Ordering::Relaxed) {
                return Err(RouteError::Failed("closed".into()));
            }
            let address = *self.address.lock().unwrap();
            let way = LaneRoute::new(
                Connector::by("127.0.0.1", address.port(), None, "").unwrap(),
                "server.test",
                self.tls.clone(),
            );
            way.connect().await
        })
    }
}

/// Targets by name; what was carried echoes.
struct Echo {
    dials: AtomicU32,
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
}

async fn target(address: &str) -> Result<End, DialError> {
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
fn carry(lane: End) {
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

enum Io {
    Plain(TcpStream),
    Stream(Box<dyn FlowStream>),
}

impl Io {
    fn of(end: End) -> Io {
        match end.io {
            EndIo::Plain(Plain::Tcp(socket)) => Io::Plain(TcpStream::from_std(socket).unwrap()),
            EndIo::Stream(stream) => Io::Stream(stream),
            EndIo::Plain(Plain::Unix(_)) => panic!("a lane is no Unix socket"),
        }
    }

    async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Io::Plain(io) => io.read(buffer).await,
            Io::Stream(io) => io.read(buffer).await,
        }
    }

    async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Io::Plain(io) => io.write_all(bytes).await,
            Io::Stream(io) => io.write_all(bytes).await,
        }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Io::Plain(io) => io.flush().await,
            Io::Stream(io) => io.flush().await,
        }
    }

    async fn shutdown(&mut self) -> std::io::Result<()> {
        match self {
            Io::Plain(io) => io.shutdown().await,
            Io::Stream(io) => io.shutdown().await,
        }
    }
}

/// What the control stream between both would carry.
enum Packet {
    Want(u32),
    Dial(u64, String, mpsc::Sender<Result<&'static str, DialError>>),
}

/// A server, an agent and their control stream.
struct World {
    files: Files,
    server: Server,
    route: Arc<Direct>,
    agent: AgentLanes,
    host: Arc<Echo>,
}

struct Stream {
    lanes: StreamLanes,
    control: mpsc::Sender<Packet>,
    agent: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new(server: Security, agent: Security) -> World {
        World::with(ServerLaneConfig::new("server-a", server, 4096), AgentLaneConfig::new(agent, 4096)).await
    }

    async fn with(server: ServerLaneConfig, agent: AgentLaneConfig) -> World {
        let files = Files::new();
        let server = Server::start(&files, server, &[ALPN_LANE, b"h2"]).await;
        let route = Arc::new(Direct {
            address: Mutex::new(server.address),
            tls: files.client("agent"),
            closed: AtomicBool::new(false),
        });
        let agent = AgentLanes::new(agent, route.clone());
        World { files, server, route, agent, host: Arc::new(Echo { dials: AtomicU32::new(0) }) }
    }

    /// The identity that the server will see on this agent's lanes.
    fn identity(&self, name: &str) -> crate::net::tls::Identity {
        let pem = std::fs::read(self.files.path(&format!("{name}.crt"))).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        let certificate = pem.parse_x509().unwrap();
        crate::net::tls::Identity {
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
        }
    }

    fn stream(&self) -> Stream {
        self.stream_of("server-a", "agent")
    }

    fn stream_of(&self, server_id: &str, identity: &str) -> Stream {
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
                    Packet::Want(lanes) => agent.want(lanes),
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

async fn on_control(
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
    async fn dial(&self, address: &str) -> Result<Dialled<&'static str>, DialError> {
        let dial = self.lanes.dial("tcp", address, |number| async move {
            let (sender, mut answer) = mpsc::channel(1);
            self.control.send(Packet::Dial(number, address.to_owned(), sender)).await.unwrap();
            answer.recv().await.unwrap()
        });
        tokio::time::timeout(SOON, dial).await.expect("the dial was answered in time")
    }

    async fn on_lane(&self, address: &str) -> (Io, Path) {
        match self.dial(address).await.unwrap() {
            Dialled::Lane(end, path) => (Io::of(end), path),
            Dialled::Mux(_) => panic!("the flow went to the mux"),
        }
    }
}

async fn until(mut met: impl FnMut() -> bool) {
    tokio::time::timeout(SOON, async {
        while !met() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the condition was met in time");
}

async fn echoes(io: &mut Io, salt: u8) {
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

#[tokio::test]
async fn the_first_flow_comes_on_a_new_lane_the_next_ones_on_warm_lanes() {
    for (allowed, path) in [(Security::Raw, Path::LaneRaw), (Security::Encrypt, Path::LaneEncrypt)] {
        let world = World::new(allowed, Security::Raw).await;
        let stream = world.stream();
        for round in 0..5 {
            let (mut io, on) = stream.on_lane("echo:1").await;
            assert_eq!(on, path);
            echoes(&mut io, round).await;
            until(|| world.server.lanes.stats().idle > 0).await;
        }
        let stats = world.server.lanes.stats();
        assert_eq!((stats.on_new, stats.on_warm, stats.lost_in_dial), (1, 4, 0), "{stats:?}");
        assert!(stats.resumed >= 1, "{stats:?}");
    }
}

#[tokio::test]
async fn the_stricter_end_wins() {
    for (server, agent) in [(Security::Raw, Security::Encrypt), (Security::Encrypt, Security::Raw)] {
        let world = World::new(server, agent).await;
        let stream = world.stream();
        let (mut io, path) = stream.on_lane("echo:1").await;
        assert_eq!(path, Path::LaneEncrypt);
        echoes(&mut io, 3).await;
    }
}

#[tokio::test]
async fn a_failed_dial_tells_why_and_gives_the_lane_back() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let stream = world.stream();
    for _ in 0..4 {
        let error = stream.dial("refused:1").await.err().unwrap();
        assert_eq!((error.reason, error.text.as_str()), (DialReason::Refused, "connection refused"));
        until(|| world.server.lanes.stats().idle >= 2).await;
    }
    // Three dials used warm lanes, and no lane was used up.
    assert_eq!(world.host.dials.load(Ordering::Relaxed), 3);
    assert!(world.server.lanes.stats().kept <= 4, "{:?}", world.server.lanes.stats());
    let (mut io, _) = stream.on_lane("echo:1").await;
    echoes(&mut io, 9).await;
}

#[tokio::test]
async fn a_slow_target_is_waited_for_and_the_lane_is_not_given_up() {
    let mut config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    config.ack = Duration::from_millis(1200);
    let world = World::with(config, AgentLaneConfig::new(Security::Raw, 4096)).await;
    let stream = world.stream();
    for _ in 0..2 {
        let (mut io, _) = stream.on_lane("slow:1").await;
        echoes(&mut io, 1).await;
        until(|| world.server.lanes.stats().idle > 0).await;
    }
    let stats = world.server.lanes.stats();
    assert_eq!((stats.on_new, stats.on_warm, stats.lost_in_dial), (1, 1, 0), "{stats:?}");
}

#[tokio::test]
async fn an_abandoned_dial_reaches_the_agent_and_spares_the_target_every_byte() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let stream = world.stream();
    drop(stream.on_lane("echo:1").await);
    until(|| world.server.lanes.stats().idle > 0).await;
    let brief = Duration::from_millis(500);
    assert!(tokio::time::timeout(brief, stream.dial("never:1")).await.is_err());
    until(|| world.agent.stats().abandoned == 1).await;
}

#[tokio::test]
async fn a_hundred_dials_at_once_all_find_a_lane() {
    let mut patient = AgentLaneConfig::new(Security::Raw, 4096);
    patient.wait = SOON;
    let world = World::with(ServerLaneConfig::new("server-a", Security::Raw, 4096), patient).await;
    let stream = Arc::new(world.stream());
    for round in 0..3u8 {
        let mut dials = tokio::task::JoinSet::new();
        for n in 0..100u8 {
            let stream = stream.clone();
            dials.spawn(async move {
                let (mut io, path) = stream.on_lane("echo:1").await;
                assert_eq!(path, Path::LaneRaw);
                echoes(&mut io, n ^ round).await;
            });
        }
        while let Some(done) = dials.join_next().await {
            done.unwrap();
        }
    }
    let stats = world.server.lanes.stats();
    assert_eq!(stats.on_new + stats.on_warm, 300, "{stats:?}");
    assert_eq!(stats.lost_in_dial, 0, "{stats:?}");
    assert_eq!(stats.waiting, 0);
}

#[tokio::test]
async fn flows_survive_their_control_stream_and_idle_lanes_do_not() {
    for security in [Security::Raw, Security::Encrypt] {
        let world = World::new(security, security).await;
        let stream = world.stream();
        let (mut io, _) = stream.on_lane("echo:1").await;
        io.write_all(b"joined").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(io.read(&mut [0; 16]).await.unwrap(), 6);
        until(|| world.server.lanes.stats().idle > 0).await;
        stream.agent.abort();
        drop(stream);
        assert_eq!(world.server.lanes.stats().idle, 0);
        until(|| world.agent.stats().idle == 0).await;
        echoes(&mut io, 77).await;
    }
}

#[tokio::test]
async fn a_pending_dial_fails_at_once_when_the_control_stream_ends() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let stream = world.stream();
    drop(stream.on_lane("echo:1").await);
    until(|| world.server.lanes.stats().idle > 0).await;
    let ended = stream.lanes.pool.ended.clone();
    let (dialled, ()) = tokio::join!(stream.dial("never:1"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ended.cancel();
    });
    assert_eq!(dialled.err().unwrap().reason, DialReason::AgentLost);
}

#[tokio::test]
async fn wrong_tickets_are_refused_with_their_reason_and_the_flow_takes_the_mux() {
    let world = World::new(Security::Raw, Security::Raw).await;
    // The control stream came under another certificate than the agent's lanes will.
    let stream = world.stream_of("server-a", "other");
    assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux"))));
    let refused = |name: &str| {
        let stats = world.server.lanes.stats();
        stats.labelled.get(&(REFUSED, name.to_owned())).copied().unwrap_or(0)
    };
    until(|| refused("other_certificate") >= 1).await;
    drop(stream);

    // A ticket whose control stream ended.
    let ended = {
        let lanes = world.server.lanes.stream(Some(world.identity("agent")), Box::new(|_| {})).unwrap();
        lanes.ticket().clone()
    };
    let agent = world.agent.stream("server-a", ended, world.host.clone());
    agent.want(1);
    until(|| refused("ended_stream") == 1).await;
    until(|| world.agent.stats().idle == 0).await;
}

#[tokio::test]
async fn a_server_without_lanes_gets_every_dial_on_the_mux_and_no_further_lanes() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let plain = ServerLaneConfig::new("server-b", Security::Raw, 4096);
    let upstream = Server::start(&world.files, plain, &[b"http/1.1"]).await;
    *world.route.address.lock().unwrap() = upstream.address;
    let stream = world.stream();
    for _ in 0..3 {
        assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux"))));
    }
    let stats = world.agent.stats();
    // The first dial and the lanes asked for beside it; nothing after the first refusal.
    assert!(stats.opened == 0 && (1..=3).contains(&stats.failed), "{stats:?}");
}

#[tokio::test]
async fn lanes_that_cannot_be_opened_leave_the_mux_and_come_back() {
    let world = World::new(Security::Raw, Security::Raw).await;
    world.route.closed.store(true, Ordering::Relaxed);
    let stream = world.stream();
    assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux"))));
    assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux"))));
    let mux: u64 =
        world.agent.stats().labelled.iter().filter(|((family, _), _)| *family == MUX).map(|(_, n)| n).sum();
    assert_eq!(mux, 2);
    world.route.closed.store(false, Ordering::Relaxed);
    tokio::time::timeout(SOON, async {
        while !matches!(stream.dial("echo:1").await, Ok(Dialled::Lane(..))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn lanes_that_land_on_another_server_starve_this_one_and_say_so() {
    let world = World::new(Security::Raw, Security::Raw).await;
    // The agent believes that it talks to server-x; the address answers as server-a.
    let stream = world.stream_of("server-x", "agent");
    for _ in 0..6 {
        assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux"))));
    }
    let stats = world.agent.stats();
    let missed = stats.labelled[&(LANDED, "server-x,server-a".to_owned())];
    assert!((4..=6).contains(&missed), "{stats:?}");
    assert_eq!(world.server.lanes.stats().kept, 0);
}

#[tokio::test]
async fn idle_lanes_are_pinged_and_dead_ones_found() {
    let mut config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    config.ping = Duration::from_millis(80);
    let world = World::with(config, AgentLaneConfig::new(Security::Raw, 4096)).await;
    let stream = world.stream();
    drop(stream.on_lane("echo:1").await);
    until(|| world.server.lanes.stats().idle == 2).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let stats = world.server.lanes.stats();
    assert_eq!((stats.found_dead, stats.kept), (0, 3), "pings keep lanes: {stats:?}");
    // The agent's process dies: its sockets close, and the server notices without a dial.
    stream.agent.abort();
    until(|| world.server.lanes.stats().found_dead >= 2).await;
}

#[tokio::test]
async fn bounds_hold() {
    let mut config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    config.waiting_per_stream = 3;
    config.per_stream = 2;
    let mut agent = AgentLaneConfig::new(Security::Raw, 4096);
    agent.ceiling = 8;
    let world = World::with(config, agent).await;
    let stream = Arc::new(world.stream());
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let stream = stream.clone();
        dials.spawn(async move { stream.dial("slow:1").await.map(|_| ()) });
    }
    while let Some(done) = dials.join_next().await {
        done.unwrap().unwrap();
        assert!(world.agent.stats().idle <= 9);
    }
    let stats = world.server.lanes.stats();
    assert!(stats.mux_busy >= 40, "{stats:?}");
    assert!(stats.idle <= 2, "{stats:?}");
    assert_eq!(stats.waiting, 0);
}
