//! The frontend against an h2 client that speaks packets, with real sockets behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::message::{Item, Parser, encode, encode_data};
use super::stream::Backend;
use super::{connection, send};
use crate::flow::{DialError, DialReason, FlowTable, Meter};
use crate::ops::drain::{self, DrainTrigger};
use crate::ops::metrics::ServerMetrics;
use crate::splice::{End, SpliceConfig, Splicer};
use crate::wire::ids::{ConnId, DialId};
use crate::wire::packet::{Answer, DialRequest, DialResponse, Packet};

const SOON: Duration = Duration::from_secs(10);

/// Dials addresses on this machine; `hang` never answers.
pub(super) struct Local {
    splicer: Splicer,
    hanging: AtomicUsize,
    given_up: AtomicUsize,
    joined: AtomicUsize,
    metrics: ServerMetrics,
}

struct GivenUp<'a>(&'a AtomicUsize);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Backend for Local {
    type Opened = TcpStream;

    async fn dial(&self, request: &DialRequest) -> Result<TcpStream, DialError> {
        if request.address == "hang" {
            self.hanging.fetch_add(1, Ordering::SeqCst);
            let _given_up = GivenUp(&self.given_up);
            std::future::pending::<()>().await;
        }
        let refused =
            |error| DialError::new(DialReason::Refused, format!("dial tcp {}: {error}", request.address));
        let address: SocketAddr =
            request.address.parse().map_err(|_| DialError::new(DialReason::NoAgent, "No agent available"))?;
        TcpStream::connect(address).await.map_err(refused)
    }

    async fn join(&self, client: End, opened: TcpStream) {
        let target = End::tcp(opened.into_std().unwrap());
        self.splicer.join(client, target, Arc::new(Meter::default())).await;
        self.joined.fetch_add(1, Ordering::SeqCst);
    }

    fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }
}

struct Server {
    backend: Arc<Local>,
    requests: SendRequest<Bytes>,
    drain: DrainTrigger,
}

pub(super) fn local() -> Arc<Local> {
    let splicer = Splicer::start(SpliceConfig { threads: 1, ..SpliceConfig::default() }).unwrap();
    Arc::new(Local {
        splicer,
        hanging: 0.into(),
        given_up: 0.into(),
        joined: 0.into(),
        metrics: ServerMetrics::new(&FlowTable::new()).unwrap(),
    })
}

async fn server() -> Server {
    let backend = local();
    let (near, far) = UnixStream::pair().unwrap();
    let (trigger, watch) = drain::channel();
    tokio::spawn(connection::serve(far, Duration::from_secs(3600), backend.clone(), watch));
    let (requests, driver) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake(near)
        .await
        .unwrap();
    tokio::spawn(driver);
    Server { backend, requests, drain: trigger }
}

/// One call, seen by its client.
struct Call {
    send: h2::SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    parser: Parser,
}

impl Server {
    async fn call(&self) -> Call {
        let request = http::Request::post("http://localhost/ProxyService/Proxy")
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, send) = requests.send_request(request, false).unwrap();
        Call { send, response: Some(response), body: None, parser: Parser::default() }
    }

    async fn dial(&self, address: &str) -> (Call, ConnId) {
        let mut call = self.call().await;
        call.say(dial(address, 7));
        let Packet::DialResponse(response) = call.hear().await else { panic!("no DIAL_RSP") };
        assert_eq!(response.dial, DialId(7));
        let Ok(Answer::Here(conn)) = response.outcome else { panic!("{:?}", response.outcome) };
        assert_ne!(conn, ConnId::NONE);
        (call, conn)
    }

    async fn joined(&self, count: usize) {
        self.reached(|backend| &backend.joined, count).await;
    }

    async fn reached(&self, counter: impl Fn(&Local) -> &AtomicUsize, count: usize) {
        let done = async {
            while counter(&self.backend).load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, done).await.expect("it never happened");
    }
}

fn dial(address: &str, random: i64) -> Packet {
    Packet::DialRequest(DialRequest {
        dial: DialId(random),
        protocol: "tcp".into(),
        address: address.into(),
        lane_dial: 0,
    })
}

impl Call {
    fn say(&mut self, packet: Packet) {
        self.send.send_data(encode(packet), false).unwrap();
    }

    async fn next(&mut self) -> Option<Item> {
        if let Some(response) = self.response.take() {
            self.body = Some(response.await.unwrap().into_body());
        }
        let body = self.body.as_mut().unwrap();
        loop {
            if let Some(item) = self.parser.next().unwrap() {
                return Some(item);
            }
            let chunk = tokio::time::timeout(SOON, body.data()).await.expect("nothing came")?.ok()?;
            body.flow_control().release_capacity(chunk.len()).unwrap();
            self.parser.push(chunk);
        }
    }

    async fn hear(&mut self) -> Packet {
        match self.next().await {
            Some(Item::Packet(packet)) => packet,
            other => panic!("{other:?}"),
        }
    }

    async fn status(&mut self) -> (String, String) {
        assert_eq!(self.next().await, None);
        let trailers = self.body.as_mut().unwrap().trailers().await.unwrap().unwrap();
        let text =
            |name| trailers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        (text(send::GRPC_STATUS), text(send::GRPC_MESSAGE))
    }

    /// Reads DATA until this many bytes arrived.
    async fn bytes(&mut self, conn: ConnId, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            match self.next().await {
                Some(Item::Data { conn: of, part, .. }) if of == conn => bytes.extend_from_slice(&part),
                other => panic!("{other:?}"),
            }
        }
        bytes
    }
}

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8).collect()
}

#[tokio::test]
async fn a_flow_carries_bytes_both_ways_and_closes() {
    let server = server().await;
    let (mut call, conn) = server.dial(&echo().await.to_string()).await;
    let bytes = pattern(200_000);
    for chunk in bytes.chunks(50_000) {
        call.send.send_data(encode_data(conn, chunk), false).unwrap();
    }
    assert_eq!(call.bytes(conn, bytes.len()).await, bytes);
    call.say(Packet::CloseRequest { conn });
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: String::new() });
    assert_eq!(call.status().await, ("0".into(), String::new()));
    server.joined(1).await;
}

#[tokio::test]
async fn the_end_of_the_target_is_told_after_its_last_byte() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut call, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
    let (mut target, _) = listener.accept().await.unwrap();
    target.write_all(b"speaks first").await.unwrap();
    drop(target);
    assert_eq!(call.bytes(conn, 12).await, b"speaks first");
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: String::new() });
    call.send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(call.status().await.0, "0");
    server.joined(1).await;
}

/// As upstream: to a client it is an end like any other.
#[tokio::test]
async fn a_reset_of_the_target_is_told_without_an_error() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut call, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
    let (target, _) = listener.accept().await.unwrap();
    crate::net::sockopt::reset_on_close(&target).unwrap();
    drop(target);
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: String::new() });
    server.joined(1).await;
}

#[tokio::test]
async fn a_reset_reaches_the_target_after_the_bytes_before_it() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut call, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
    let (mut target, _) = listener.accept().await.unwrap();
    call.send.send_data(encode_data(conn, b"half a request"), false).unwrap();
    let mut seen = [0; 14];
    target.read_exact(&mut seen).await.unwrap();
    call.send.send_reset(h2::Reason::CANCEL);
    assert_eq!(target.read(&mut seen).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    server.joined(1).await;
}

#[tokio::test]
async fn failed_dials_are_told_and_leave_the_call_open() {
    let server = server().await;
    let mut call = server.call().await;
    for _ in 0..2 {
        call.say(dial("nowhere", 3));
        let Packet::DialResponse(DialResponse { dial, outcome }) = call.hear().await else { panic!() };
        assert_eq!((dial, outcome.unwrap_err().text), (DialId(3), "No agent available".into()));
    }
    call.send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(call.status().await.0, "0");
}

#[tokio::test]
async fn a_dial_that_hangs_is_given_up_by_packet_reset_or_end() {
    let server = server().await;
    let mut by_packet = server.call().await;
    by_packet.say(dial("hang", 1));
    by_packet.say(Packet::CloseDial { dial: DialId(1) });
    server.reached(|backend| &backend.given_up, 1).await;
    by_packet.say(dial("nowhere", 1));
    assert!(matches!(by_packet.hear().await, Packet::DialResponse(_)));

    let mut by_reset = server.call().await;
    by_reset.say(dial("hang", 2));
    server.reached(|backend| &backend.hanging, 2).await;
    by_reset.send.send_reset(h2::Reason::CANCEL);
    server.reached(|backend| &backend.given_up, 2).await;

    let mut by_end = server.call().await;
    by_end.say(dial("hang", 3));
    by_end.send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(by_end.status().await.0, "0");
    server.reached(|backend| &backend.given_up, 3).await;
}

#[tokio::test]
async fn packets_out_of_place_are_answered_as_upstream_does() {
    let server = server().await;
    let mut call = server.call().await;
    call.say(Packet::CloseRequest { conn: ConnId(4) });
    assert_eq!(
        call.hear().await,
        Packet::CloseResponse { conn: ConnId(4), error: "backend uninitialized".into() }
    );
    call.say(Packet::Data { conn: ConnId::NONE, data: "dropped".into() });
    call.say(Packet::Data { conn: ConnId(4), data: "x".into() });
    assert_eq!(
        call.hear().await,
        Packet::CloseResponse { conn: ConnId(4), error: "backend not initialized".into() }
    );
    assert_eq!(call.status().await.0, "0");

    let (mut call, conn) = server.dial(&echo().await.to_string()).await;
    let other = ConnId(conn.0 + 1000);
    call.say(Packet::Data { conn: other, data: "x".into() });
    for id in [conn, other] {
        let error = "mismatched connection IDs".into();
        assert_eq!(call.hear().await, Packet::CloseResponse { conn: id, error });
    }
    server.joined(1).await;
}

#[tokio::test]
async fn what_is_no_packet_ends_its_call_alone() {
    let server = server().await;
    let (mut good, conn) = server.dial(&echo().await.to_string()).await;
    for (message, status) in [
        (b"\0\0\0\0\0".as_slice(), "3"),
        (b"\0\0\0\0\x02\x08\x04", "3"),
        (b"\0\x7f\0\0\0", "8"),
        (b"\x01\0\0\0\0", "12"),
        (b"\0\0\0\0\x01\xff", "13"),
    ] {
        let mut call = server.call().await;
        call.send.send_data(Bytes::from_static(message), false).unwrap();
        let (code, text) = call.status().await;
        assert_eq!(code, status);
        assert!(!text.is_empty());
    }
    good.say(Packet::Data { conn, data: "still here".into() });
    assert_eq!(good.bytes(conn, 10).await, b"still here");
}

#[tokio::test]
async fn what_is_no_call_of_ours_is_refused() {
    let server = server().await;
    for (path, content_type, status, grpc) in [
        ("/AgentService/Connect", "application/grpc", 200, "unknown service AgentService"),
        ("/ProxyService/Other", "application/grpc", 200, "unknown method Other for service ProxyService"),
        ("/ProxyService/Proxy", "text/plain", 415, ""),
    ] {
        let request =
            http::Request::post(format!("http://localhost{path}")).header("content-type", content_type);
        let mut requests = server.requests.clone().ready().await.unwrap();
        let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), status);
        let message = response.headers().get(send::GRPC_MESSAGE).map(|value| value.to_str().unwrap());
        assert_eq!(message.unwrap_or_default(), grpc);
    }
}

/// A call is one flow. Upstream would dial once more and mix two flows on one stream, which no client of its asks for;
/// silence would make a client wait for its own timeout.
#[tokio::test]
async fn a_second_dial_on_a_call_is_answered_and_harms_nothing() {
    let server = server().await;
    let target = echo().await.to_string();
    let refused = |packet| {
        let Packet::DialResponse(DialResponse { dial: DialId(8), outcome }) = packet else {
            panic!("{packet:?}")
        };
        assert_eq!(outcome.unwrap_err().text, "this stream carries another dial already");
    };
    let mut call = server.call().await;
    call.say(dial("hang", 7));
    call.say(dial(&target, 8));
    refused(call.hear().await);
    call.say(Packet::CloseDial { dial: DialId(7) });
    server.reached(|backend| &backend.given_up, 1).await;
    call.say(dial(&target, 9));
    let Packet::DialResponse(DialResponse { dial: DialId(9), outcome: Ok(Answer::Here(conn)) }) =
        call.hear().await
    else {
        panic!("no flow")
    };
    call.say(dial(&target, 8));
    refused(call.hear().await);
    call.say(Packet::Data { conn, data: "still here".into() });
    assert_eq!(call.bytes(conn, 10).await, b"still here");
    call.say(Packet::CloseRequest { conn });
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: String::new() });
    call.send.send_data(Bytes::new(), true).unwrap();
    server.joined(1).await;
}

/// Answers go past flow control: who asks for them without end loses its call.
#[tokio::test]
async fn dials_without_end_on_one_flow_end_it() {
    let server = server().await;
    let (mut call, _) = server.dial(&echo().await.to_string()).await;
    for _ in 0..5000 {
        // Fails once the server has ended the call.
        let _ = call.send.send_data(encode(dial("nowhere", 8)), false);
    }
    server.joined(1).await;
}

/// CLOSE_REQ means that the client reads no more: CLOSE_RSP is the last packet it hears, and the target is not let
/// go on for the client's sake.
#[tokio::test]
async fn a_close_request_ends_a_target_that_goes_on_sending() {
    for stays in [false, true] {
        let server = server().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut call, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
        let (mut target, _) = listener.accept().await.unwrap();
        let sent = Arc::new(AtomicUsize::new(0));
        let counting = sent.clone();
        let sending = tokio::spawn(async move {
            let mut seen = [0; 4];
            target.read_exact(&mut seen).await.unwrap();
            while target.write_all(&[7; 10_000]).await.is_ok() {
                counting.fetch_add(10_000, Ordering::SeqCst);
            }
            seen
        });
        call.say(Packet::Data { conn, data: "last".into() });
        // It does not read: the window is full and the target stands.
        let stands = async {
            let mut before = 0;
            while before < 1 << 20 || sent.load(Ordering::SeqCst) != before {
                before = sent.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(SOON, stands).await.expect("the target never stands");
        call.say(Packet::CloseRequest { conn });
        let mut bytes = 0;
        loop {
            match call.next().await.expect("no CLOSE_RSP") {
                Item::Data { conn: of, part, .. } if of == conn => bytes += part.len(),
                Item::Packet(packet) => {
                    assert_eq!(packet, Packet::CloseResponse { conn, error: String::new() });
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(bytes >= 1 << 19, "{bytes}");
        if !stays {
            call.send.send_data(Bytes::new(), true).unwrap();
        }
        assert_eq!(call.status().await.0, "0");
        server.joined(1).await;
        let seen = tokio::time::timeout(SOON, sending).await.expect("the target goes on").unwrap();
        assert_eq!(&seen, b"last");
    }
}

/// A stalled stream holds one window; its neighbours on the connection go on.
#[tokio::test]
async fn a_stalled_flow_stalls_itself_alone() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut stalled, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
    let (_target, _) = listener.accept().await.unwrap();
    let chunk = vec![7; 60_000];
    let mut sent = 0;
    loop {
        stalled.send.reserve_capacity(70_000);
        let room = std::future::poll_fn(|context| stalled.send.poll_capacity(context));
        match tokio::time::timeout(Duration::from_millis(300), room).await {
            Ok(Some(Ok(_))) if stalled.send.capacity() >= 70_000 => {
                stalled.send.send_data(encode_data(conn, &chunk), false).unwrap();
                sent += chunk.len();
            }
            Ok(_) => {}
            Err(_) => break,
        }
        assert!(sent < 64 << 20, "nothing stops the sender");
    }
    let (mut other, conn) = server.dial(&echo().await.to_string()).await;
    let bytes = pattern(3 << 20);
    for chunk in bytes.chunks(60_000) {
        other.send.send_data(encode_data(conn, chunk), false).unwrap();
    }
    assert_eq!(other.bytes(conn, bytes.len()).await, bytes);
}

/// A drain lets flows go on and takes no new ones; a cut ends them.
#[tokio::test]
async fn a_drain_waits_for_flows_and_a_cut_does_not() {
    let mut server = server().await;
    let (mut call, conn) = server.dial(&echo().await.to_string()).await;
    server.drain.start();
    call.say(Packet::Data { conn, data: "still here".into() });
    assert_eq!(call.bytes(conn, 10).await, b"still here");
    let refused = async {
        while server.requests.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("new calls are still taken");
    server.drain.cut();
    tokio::time::timeout(SOON, server.drain.drained()).await.expect("somebody still works");
    drop(call);
}

/// Who has no flow and asks for none holds nobody up.
#[tokio::test]
async fn a_drain_waits_for_no_call_without_a_flow() {
    let mut server = server().await;
    let mut silent = server.call().await;
    let mut failed = server.call().await;
    failed.say(dial("no address", 7));
    let Packet::DialResponse(DialResponse { outcome: Err(_), .. }) = failed.hear().await else { panic!() };
    server.drain.start();
    tokio::time::timeout(SOON, server.drain.drained()).await.expect("a call without a flow holds the server");
    for call in [&mut silent, &mut failed] {
        assert_eq!(call.status().await.0, "0");
    }
}

/// A client that cancels dials by the thousand on a reusable tunnel does not lose its flows with them, and may have
/// more of them at once than gRPC libraries have as their limit.
#[tokio::test]
async fn cancelled_dials_leave_other_flows_alone() {
    let server = server().await;
    let (mut good, conn) = server.dial(&echo().await.to_string()).await;
    for round in 1..=5 {
        let mut calls = Vec::new();
        for _ in 0..300 {
            let mut call = tokio::time::timeout(SOON, server.call()).await.expect("a limit of streams");
            call.say(dial("hang", 1));
            calls.push(call);
        }
        server.reached(|backend| &backend.hanging, round * 300).await;
        for mut call in calls {
            call.send.send_reset(h2::Reason::CANCEL);
        }
        server.reached(|backend| &backend.given_up, round * 300).await;
    }
    good.say(Packet::Data { conn, data: "still here".into() });
    assert_eq!(good.bytes(conn, 10).await, b"still here");
}
