//! What a client is told of a dial that failed, byte for byte as upstream says it, over both frontends; an agent of
//! upstream's dialect is played here.

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::time::Duration;

use prost::Message;
use proxy_tests::calls::{Call, Client};
use proxy_tests::runner::{Ground, RunningServer, SOON, until};
use proxy_tests::scrape::Page;
use proxy_user::net::tls::{ALPN_H2, ClientTls};
use proxy_user::ops::metrics::encode;
use proxy_user::server::options::Mode;
use proxy_user::wire::ids::DialId;
use proxy_user::wire::packet::{DialRequest, DialResponse, Packet};
use proxy_user::wire::pb::{self, packet::Payload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

const TARGET: &str = "10.0.0.1:80";
const TYPED: &str = "Content-Type: text/plain; charset=utf-8\r\n\r\n";
const MODES: [Mode; 2] = [Mode::HttpConnect, Mode::Grpc];

struct World {
    server: RunningServer,
    ground: Ground,
    mode: Mode,
}

impl World {
    fn new(mode: Mode, timeout: Option<Duration>) -> World {
        let ground = Ground::new().unwrap();
        let mut options = ground.server_options("server");
        (options.mode, options.backend_dial_timeout) = (mode, timeout);
        World { server: RunningServer::start(options).unwrap(), ground, mode }
    }

    /// An agent's control stream; `window`: what the server may send on it.
    async fn agent(&self, window: u32) -> (Client, Call) {
        let (client, call, _) = self.agent_on_wire(window).await;
        (client, call)
    }

    /// The same, and its socket.
    async fn agent_on_wire(&self, window: u32) -> (Client, Call, std::net::TcpStream) {
        let identity = Some((self.ground.path("client.crt"), self.ground.path("client.key")));
        let tls = ClientTls { ca: self.ground.certs.ca(), identity, alpn: vec![ALPN_H2.to_vec()] };
        let socket = TcpStream::connect(self.server.bound.agents).await.unwrap();
        let wire = std::net::TcpStream::from(socket.as_fd().try_clone_to_owned().unwrap());
        let stream = tls.watch().unwrap().connect("127.0.0.1", socket, SOON).await.unwrap();
        let client = Client::with_window(stream, window).await;
        let mut call = client.call("/AgentService/Connect", &[("agentid", "played")]).await;
        call.answered().await;
        self.server.has_agents(1).await.unwrap();
        (client, call, wire)
    }

    /// Dials and reads to the end: the whole answer to a CONNECT, or the error of the DIAL_RSP.
    fn ask(&self) -> JoinHandle<String> {
        let (socket, mode) = (self.server.socket().to_owned(), self.mode);
        tokio::spawn(async move {
            let mut stream = UnixStream::connect(socket).await.unwrap();
            if mode == Mode::HttpConnect {
                stream.write_all(format!("CONNECT {TARGET} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
                let mut answer = String::new();
                tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
                return answer;
            }
            let client = Client::new(stream).await;
            let mut call = client.call("/ProxyService/Proxy", &[]).await;
            call.say(Packet::DialRequest(DialRequest {
                dial: DialId(7),
                protocol: "tcp".into(),
                address: TARGET.into(),
                lane_dial: 0,
            }));
            match tokio::time::timeout(SOON, call.hear()).await.unwrap() {
                Some(Packet::DialResponse(DialResponse { dial: DialId(7), outcome: Err(error) })) => {
                    error.text
                }
                other => format!("{other:?}"),
            }
        })
    }

    fn failures(&self, reason: &str) -> f64 {
        self.count("dial_failure_count", &[("reason", reason)])
    }

    fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = String::from_utf8(encode(self.server.dialer.metrics.registry()).unwrap()).unwrap();
        Page::parse(&text).sum(name, labels)
    }

    /// The answer, and that nothing but this reason was counted, once.
    async fn is_told(&self, asked: JoinHandle<String>, connect: &str, grpc: &str, reason: Option<&str>) {
        let told = asked.await.unwrap();
        let expected = if self.mode == Mode::HttpConnect { connect } else { grpc };
        assert_eq!(told, expected, "{:?}", self.mode);
        let text = String::from_utf8(encode(self.server.dialer.metrics.registry()).unwrap()).unwrap();
        let counted = Page::parse(&text).by("dial_failure_count", "reason");
        let counted: Vec<_> = counted.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        assert_eq!(counted, reason.map(|reason| (reason, 1.0)).into_iter().collect::<Vec<_>>(), "{told}");
    }
}

const WIDE: u32 = 65_535;
const NEVER: Option<Duration> = None;
const SHORT: Option<Duration> = Some(Duration::from_millis(300));

async fn dial_of(call: &mut Call) -> DialId {
    match tokio::time::timeout(SOON, call.hear()).await.unwrap() {
        Some(Packet::DialRequest(request)) => {
            assert_eq!((request.protocol.as_str(), request.address.as_str()), ("tcp", TARGET));
            request.dial
        }
        other => panic!("no dial but {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_agents() {
    for mode in MODES {
        let world = World::new(mode, NEVER);
        let connect = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\n\
                       currently no tunnels available: No agent available";
        let reason = (mode == Mode::Grpc).then_some("no_agent");
        world.is_told(world.ask(), connect, "No agent available", reason).await;
    }
}

/// By substring, whatever their case; the first that matches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_says_of_the_target() {
    for mode in MODES {
        let world = World::new(mode, NEVER);
        let (_client, mut call) = world.agent(WIDE).await;
        let mut failures = 0.0;
        for (says, status) in [
            ("dial tcp 10.0.0.1:80: connect: connection refused", "502 Bad Gateway"),
            ("dial tcp 10.0.0.1:80: i/o timeout", "504 Gateway Timeout"),
            ("dial tcp 10.0.0.1:80: I/O TimeOut", "504 Gateway Timeout"),
            ("context deadline exceeded", "504 Gateway Timeout"),
            ("dial tcp: lookup slow.example: i/o timeout", "504 Gateway Timeout"),
            ("too many open files after a timeout", "504 Gateway Timeout"),
            ("dial tcp 10.0.0.1:80: socket: too many open files", "503 Service Unavailable"),
            ("dial tcp: lookup nowhere.example on 10.0.0.10:53: no such host", "502 Bad Gateway"),
            ("dial tcp: lookup nowhere.example on 10.0.0.10:53: server misbehaving", "502 Bad Gateway"),
            ("dial tcp 10.0.0.1:80: connect: no route to host", "502 Bad Gateway"),
            ("dial tcp 10.0.0.1:80: connect: network is unreachable", "502 Bad Gateway"),
            ("dial tcp 10.0.0.1:80: connect: connection timed out", "502 Bad Gateway"),
            ("dial tcp 10.0.0.1:80: connect: cannot assign requested address", "502 Bad Gateway"),
            ("dial tcp: address x: missing port in address", "502 Bad Gateway"),
            ("dial quic: unknown network quic", "502 Bad Gateway"),
            ("whatever else", "502 Bad Gateway"),
        ] {
            let asked = world.ask();
            let dial = dial_of(&mut call).await;
            // Without the number that our own agents give the reason.
            let response = pb::DialResponse { error: says.into(), random: dial.0, ..Default::default() };
            let (r#type, payload) = (pb::PacketType::DialRsp.into(), Some(Payload::DialResponse(response)));
            call.send_message(&pb::Packet { r#type, payload }.encode_to_vec());
            let expected = match mode {
                Mode::HttpConnect => format!("HTTP/1.1 {status}\r\nConnection: close\r\n{TYPED}{says}"),
                Mode::Grpc => says.to_owned(),
            };
            assert_eq!(asked.await.unwrap(), expected);
            failures += 1.0;
            assert_eq!(world.failures("error_response"), failures, "{says}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_never_answers_is_kept() {
    for mode in MODES {
        // Enough for the dial to leave a busy machine.
        let world = World::new(mode, Some(Duration::from_secs(2)));
        let (_client, mut call) = world.agent(WIDE).await;
        let asked = world.ask();
        dial_of(&mut call).await;
        let text = "timed out waiting for backend dial";
        let connect = format!("HTTP/1.1 504 Gateway Timeout\r\n{TYPED}Backend dial timeout: {text}\r\n");
        world.is_told(asked, &connect, text, Some("backend_dial_timeout")).await;
        assert_eq!(world.server.registry().streams().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_takes_no_dial_is_retired() {
    for mode in MODES {
        let world = World::new(mode, SHORT);
        let (_client, _call) = world.agent(0).await;
        // One dial waits in the gRPC library.
        world.ask().await.unwrap();
        assert_eq!(world.failures("backend_dial_timeout"), 1.0);
        let text = "timed out waiting for backend dial";
        let connect =
            format!("HTTP/1.1 504 Gateway Timeout\r\n{TYPED}Failed to tunnel dial request: {text}\r\n");
        let told = world.ask().await.unwrap();
        assert_eq!(told, if mode == Mode::HttpConnect { &*connect } else { text });
        assert_eq!(world.failures("backend_dial_timeout"), 2.0);
        world.server.has_agents(0).await.unwrap();
    }
}

/// Upstream leaves gRPC clients waiting for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_lost_meanwhile() {
    for mode in MODES {
        let world = World::new(mode, NEVER);
        let (client, mut call) = world.agent(WIDE).await;
        let asked = world.ask();
        dial_of(&mut call).await;
        drop((client, call));
        let text = "context canceled";
        let connect = format!("HTTP/1.1 502 Bad Gateway\r\n{TYPED}Backend context error: {text}\r\n");
        world.is_told(asked, &connect, text, Some("backend_close")).await;
    }
}

/// What never left for it is an error of sending to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_lost_before_it_took_the_dial() {
    let world = World::new(Mode::HttpConnect, NEVER);
    let (_client, _call, wire) = world.agent_on_wire(0).await;
    let load = || world.server.registry().streams()[0].load();
    // One dial waits in the gRPC library.
    let first = world.ask();
    let sent = || world.count("stream_packets_total", &[("segment", "to_agent")]);
    until("the first dial", || sent() == 1.0).await.unwrap();
    let second = world.ask();
    until("the second dial", || load() == 2).await.unwrap();
    wire.shutdown(Shutdown::Both).unwrap();
    let connect = format!("HTTP/1.1 502 Bad Gateway\r\n{TYPED}Backend context error: context canceled\r\n");
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (connect.clone(), connect));
    assert_eq!(world.failures("backend_close"), 2.0);
    let unsent = [("segment", "to_agent"), ("code", "Canceled"), ("packet_type", "DIAL_REQ")];
    until("the count", || world.count("stream_errors_total", &unsent) == 1.0).await.unwrap();
}

/// Over gRPC the agent's DIAL_CLS goes on, to a CONNECT it is an end without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_gives_the_dial_up() {
    for mode in MODES {
        let world = World::new(mode, NEVER);
        let (_client, mut call) = world.agent(WIDE).await;
        let asked = world.ask();
        let dial = dial_of(&mut call).await;
        call.say(Packet::CloseDial { dial });
        let close = format!("{:?}", Some(Packet::CloseDial { dial: DialId(7) }));
        world.is_told(asked, "", &close, Some("backend_close")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_meanwhile_is_counted_and_its_dial_taken_back() {
    for mode in MODES {
        let world = World::new(mode, NEVER);
        let (_client, mut call) = world.agent(WIDE).await;
        let asked = world.ask();
        let dial = dial_of(&mut call).await;
        asked.abort();
        assert_eq!(tokio::time::timeout(SOON, call.hear()).await.unwrap(), Some(Packet::CloseDial { dial }));
        until("the count", || world.failures("frontend_close") == 1.0).await.unwrap();
    }
}
