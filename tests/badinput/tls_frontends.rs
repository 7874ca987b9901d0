//! Garbage at a frontend on TCP: in the clear, behind a good handshake, half a hello, half a head, and nothing at all.

use std::time::{Duration, Instant};

use proxy_tests::calls::{Call, Client};
use proxy_tests::konduit::Frontend;
use proxy_tests::targets::Target;
use proxy_user::net::tls::{ALPN_H2, ALPN_HTTP1};
use proxy_user::wire::ids::ConnId;
use proxy_user::wire::packet::Packet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::cell::{Cell, LONG, Plan};
use crate::{connect, control_stream, rest};

const BOTH: [Frontend; 2] = [Frontend::Connect, Frontend::Grpc];
const REFUSED: &str = "konduit_refused_connections_total";
/// A record that begins a ClientHello of 16 KiB.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x00\x04\x01\x00\x40\x00";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// More than a head may have and all buffers on the way hold.
const ENDLESS: usize = 64 << 20;

async fn start(frontend: Frontend) -> Cell {
    Cell::start(Plan { frontend, tls: true, ..Plan::default() }).await.unwrap()
}

async fn tcp(cell: &Cell) -> TcpStream {
    TcpStream::connect(cell.frontend()).await.unwrap()
}

/// A client that the server knows, behind its handshake.
async fn known(cell: &Cell, frontend: Frontend) -> TlsStream<TcpStream> {
    let alpn = if frontend == Frontend::Grpc { ALPN_H2 } else { ALPN_HTTP1 };
    let tls = cell.tls(Some(&cell.client()), alpn);
    tls.connect("127.0.0.1", tcp(cell).await, LONG).await.unwrap()
}

/// A flow over either frontend.
enum Flow {
    Connect(Box<TlsStream<TcpStream>>),
    Grpc(Call, ConnId),
}

impl Flow {
    async fn open(cell: &Cell, frontend: Frontend, target: &Target) -> Flow {
        let began = Instant::now();
        let mut stream = known(cell, frontend).await;
        let mut flow = if frontend == Frontend::Grpc {
            let (call, conn) = control_stream::dial(&Client::new(stream).await, &target.name()).await;
            Flow::Grpc(call, conn.unwrap())
        } else {
            let head = connect(&mut stream, &target.name()).await;
            assert_eq!(head, "HTTP/1.1 200 Connection Established\r\n\r\n");
            Flow::Connect(Box::new(stream))
        };
        flow.ping().await;
        assert!(began.elapsed() < Duration::from_secs(10), "{frontend:?}: {:?}", began.elapsed());
        flow
    }

    async fn ping(&mut self) {
        match self {
            Flow::Connect(stream) => {
                stream.write_all(b"ping").await.unwrap();
                let mut back = [0; 4];
                let read = tokio::time::timeout(LONG, stream.read_exact(&mut back)).await;
                read.expect("an old flow stands still").unwrap();
                assert_eq!(&back, b"ping");
            }
            Flow::Grpc(call, conn) => {
                let packet = Packet::Data { conn: *conn, data: "ping".into() };
                call.say(packet.clone());
                assert_eq!(call.hear().await, Some(packet));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tls_ends_its_own_connection() {
    let target = Target::echo().await.unwrap();
    for frontend in BOTH {
        let cell = start(frontend).await;
        let mut flow = Flow::open(&cell, frontend, &target).await;
        let garbage: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            PREFACE,
            b"SSH-2.0-OpenSSH_9.2\r\n",
            &[0xff; 20_000],
            b"\x63\x03\x03\x00\x05hello",
        ];
        for (before, garbage) in garbage.into_iter().enumerate() {
            let mut stream = tcp(&cell).await;
            // It may be refused before all of it was taken. We do not close: the server does.
            let _ = stream.write_all(garbage).await;
            let answer = rest(&mut stream).await;
            // An alert at most.
            assert!(!answer.contains("HTTP"), "{answer:?}");
            let refused = [("port", "frontend"), ("reason", "tls")];
            cell.server_counts(REFUSED, &refused, before as f64 + 1.0).await;
            flow.ping().await;
        }
        Flow::open(&cell, frontend, &target).await;
    }
}

/// And a ClientHello that its client never finishes is refused as soon as the client leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_keeps_nobody_out() {
    let target = Target::echo().await.unwrap();
    for frontend in BOTH {
        let cell = start(frontend).await;
        let mut flow = Flow::open(&cell, frontend, &target).await;
        let (mut silent, mut halves, mut behind) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..100 {
            silent.push(tcp(&cell).await);
            let mut half = tcp(&cell).await;
            half.write_all(HALF_A_HELLO).await.unwrap();
            halves.push(half);
        }
        for _ in 0..20 {
            behind.push(known(&cell, frontend).await);
        }
        flow.ping().await;
        Flow::open(&cell, frontend, &target).await;
        let refused = [("port", "frontend"), ("reason", "tls")];
        assert_eq!(cell.server_count(REFUSED, &refused), 0.0);
        drop((silent, halves));
        cell.server_counts(REFUSED, &refused, 200.0).await;
        flow.ping().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_connect_behind_tls_is_told_so() {
    let target = Target::echo().await.unwrap();
    let cell = start(Frontend::Connect).await;
    let mut flow = Flow::open(&cell, Frontend::Connect, &target).await;
    let endless = format!("CONNECT a:1 HTTP/1.1\r\nX: {}", "y".repeat((1 << 20) + 8192));
    let cases: [(&[u8], &str); 4] = [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 405 Method Not Allowed\r\n"),
        (b"\x00\x01\x02\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"),
        (HALF_A_HELLO, "HTTP/1.1 400 Bad Request\r\n"),
        (endless.as_bytes(), "HTTP/1.1 431 Request Header Fields Too Large\r\n"),
    ];
    for (before, (garbage, status)) in cases.into_iter().enumerate() {
        let mut stream = known(&cell, Frontend::Connect).await;
        let _ = stream.write_all(garbage).await;
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(status), "{:?}: {answer:?}", &garbage[..5]);
        let refused = [("port", "frontend"), ("reason", "head")];
        cell.server_counts(REFUSED, &refused, before as f64 + 1.0).await;
        flow.ping().await;
    }
}

/// Without a word, as upstream, and no sooner for the handshake before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_head_behind_tls_is_given_up_in_time_and_holds_up_nobody() {
    let target = Target::echo().await.unwrap();
    let plan = Plan { frontend: Frontend::Connect, tls: true, ..Plan::default() };
    let cell = Cell::with(plan, |options| options.head_timeout = Duration::from_secs(1)).await.unwrap();
    let mut flow = Flow::open(&cell, Frontend::Connect, &target).await;
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut stream = known(&cell, Frontend::Connect).await;
        stream.write_all(b"CONNECT 127.0.0.1:1 HT").await.unwrap();
        halves.push(stream);
    }
    flow.ping().await;
    Flow::open(&cell, Frontend::Connect, &target).await;
    for mut stream in halves {
        assert_eq!(rest(&mut stream).await, "");
    }
    cell.server_counts(REFUSED, &[("port", "frontend"), ("reason", "head")], 20.0).await;
    flow.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http2_behind_tls_ends_its_own_connection() {
    let target = Target::echo().await.unwrap();
    let cell = start(Frontend::Grpc).await;
    let mut flow = Flow::open(&cell, Frontend::Grpc, &target).await;
    let garbage: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\0\0\0\0\0\0\0\0\0\0\0\0", &[0xff; 20_000], HALF_A_HELLO];
    for (before, garbage) in garbage.into_iter().enumerate() {
        let mut stream = known(&cell, Frontend::Grpc).await;
        let _ = stream.write_all(garbage).await;
        rest(&mut stream).await;
        let refused = [("port", "frontend"), ("reason", "preface")];
        cell.server_counts(REFUSED, &refused, before as f64 + 1.0).await;
        flow.ping().await;
    }
}

/// HEADERS that go on in CONTINUATION for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_an_end_are_cut_off() {
    let target = Target::echo().await.unwrap();
    let cell = start(Frontend::Grpc).await;
    let mut flow = Flow::open(&cell, Frontend::Grpc, &target).await;
    let mut stream = known(&cell, Frontend::Grpc).await;
    let fields = b"\0\x01x\x01y".repeat(3000);
    let frame = |kind| {
        let length = (fields.len() as u32).to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], &fields].concat()
    };
    stream.write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &frame(1)].concat()).await.unwrap();
    let continuation = frame(9);
    let mut sent = 0;
    let sending = async {
        while sent < ENDLESS && stream.write_all(&continuation).await.is_ok() {
            sent += continuation.len();
        }
    };
    tokio::time::timeout(LONG, sending).await.expect("neither read nor closed");
    assert!(sent < ENDLESS, "the server took {sent} bytes");
    flow.ping().await;
}
