//! Bytes that are no protocol of ours, and peers that are not who they should be.

use proxy_tests::certs::Certs;
use proxy_tests::konduit::Frontend;
use proxy_tests::runner::until;
use proxy_user::lane::ALPN_LANE;
use proxy_user::net::tls::{ALPN_H2, ALPN_HTTP1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cell::{Cell, LONG, Plan};
use crate::{Witness, dials, rest};

const GARBAGE: [&[u8]; 6] = [
    b"\0",
    b"GET / HTTP/1.1\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    &[0xff; 20_000],
    // A TLS record of a type that does not exist, and a ClientHello that ends early.
    b"\x63\x03\x03\x00\x05hello",
    b"\x16\x03\x01\x00\x04\x01\x00\x40\x00",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_agents_port_ends_its_own_connection() {
    let cell = Cell::start(Plan::default()).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    for garbage in GARBAGE {
        let mut stream = TcpStream::connect(cell.server.bound.agents).await.unwrap();
        // It may be refused before all of it was taken.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        rest(&mut stream).await;
        witness.still_works().await;
    }
    cell.server_counts(REFUSED, &[("port", "agents"), ("reason", "tls")], GARBAGE.len() as f64).await;
    // Behind a good handshake too, on both kinds of connection.
    for alpn in [ALPN_H2, ALPN_LANE] {
        for garbage in GARBAGE {
            let stream = TcpStream::connect(cell.server.bound.agents).await.unwrap();
            let tls = cell.tls(Some(&cell.client()), alpn);
            let mut stream = tls.connect("127.0.0.1", stream, LONG).await.unwrap();
            let _ = stream.write_all(garbage).await;
            let _ = stream.shutdown().await;
            rest(&mut stream).await;
        }
    }
    witness.still_works().await;
    dials(&cell).await;
}

const REFUSED: &str = "konduit_refused_connections_total";

/// What is no HTTP/2 is refused before its client leaves, and so is a client that leaves before it said anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http2_behind_tls_on_the_agents_port_is_counted() {
    let cell = Cell::start(Plan::default()).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    let half = b"PRI * HTTP/2.0\r\n\r\nSM".as_slice();
    for (before, garbage) in GARBAGE.into_iter().chain([b"".as_slice(), half]).enumerate() {
        let stream = TcpStream::connect(cell.server.bound.agents).await.unwrap();
        let tls = cell.tls(Some(&cell.client()), ALPN_H2);
        let mut stream = tls.connect("127.0.0.1", stream, LONG).await.unwrap();
        let _ = stream.write_all(garbage).await;
        if garbage.is_empty() || garbage == half {
            stream.shutdown().await.unwrap();
        }
        rest(&mut stream).await;
        let refused = [("port", "agents"), ("reason", "preface")];
        cell.server_counts(REFUSED, &refused, before as f64 + 1.0).await;
        witness.still_works().await;
    }
    dials(&cell).await;
}

/// Whether somebody with this certificate gets past the handshake: in TLS 1.3 a client learns that by reading.
async fn admitted(address: std::net::SocketAddr, tls: &proxy_user::net::tls::ClientEndpoint) -> bool {
    let stream = TcpStream::connect(address).await.unwrap();
    let Ok(mut stream) = tls.connect("127.0.0.1", stream, LONG).await else { return false };
    // Neither HTTP/2 nor CONNECT: whoever serves this ends it in its own words, and a refusal is an alert.
    let _ = stream.write_all(b"BREW / HTTP/1.1\r\n\r\n").await;
    let read =
        tokio::time::timeout(LONG, stream.read(&mut [0; 100])).await.expect("neither served nor refused");
    read.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_further_than_the_handshake() {
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Certs::new(elsewhere.path(), "elsewhere").unwrap();
    let unknown = stranger.client("client", "system:konnectivity-agent", None).unwrap();

    let cell = Cell::start(Plan::default()).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    for identity in [None, Some(&unknown)] {
        assert!(!admitted(cell.server.bound.agents, &cell.tls(identity, ALPN_H2)).await);
        assert!(!admitted(cell.server.bound.agents, &cell.tls(identity, ALPN_LANE)).await);
    }
    // A server's certificate is no client's.
    let server = cell.ground.certs.server("other", &["localhost"]).unwrap();
    let wrong_use = cell.tls(Some(&server), ALPN_H2);
    assert!(!admitted(cell.server.bound.agents, &wrong_use).await);
    assert!(admitted(cell.server.bound.agents, &cell.tls(Some(&cell.client()), ALPN_H2)).await);
    cell.server_counts(REFUSED, &[("port", "agents"), ("reason", "tls")], 5.0).await;
    witness.still_works().await;
    dials(&cell).await;

    for frontend in [Frontend::Connect, Frontend::Grpc] {
        let cell = Cell::start(Plan { frontend, tls: true, ..Plan::default() }).await.unwrap();
        let alpn = if frontend == Frontend::Grpc { ALPN_H2 } else { ALPN_HTTP1 };
        for identity in [None, Some(&unknown)] {
            assert!(!admitted(cell.frontend(), &cell.tls(identity, alpn)).await, "{frontend:?}");
        }
        cell.server_counts(REFUSED, &[("port", "frontend"), ("reason", "tls")], 2.0).await;
        let known = cell.tls(Some(&cell.client()), alpn);
        assert!(admitted(cell.frontend(), &known).await, "{frontend:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_does_not_speak_to_a_server_it_cannot_verify() {
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Certs::new(elsewhere.path(), "elsewhere").unwrap();
    let plan = Plan::default();
    let mut cell = Cell::server(plan).unwrap();
    cell.start_agent(plan, |options| options.ca_cert = stranger.ca().display().to_string()).unwrap();
    // It tries again and again, and never gets further.
    until("three handshakes that the agent broke off", || {
        cell.server_count(REFUSED, &[("port", "agents"), ("reason", "tls")]) >= 3.0
    })
    .await
    .unwrap();
    assert_eq!(cell.server_count("ready_backends", &[]), 0.0);
    cell.start_agent(plan, |_| {}).unwrap();
    cell.server.has_agents(1).await.unwrap();
    dials(&cell).await;
}

/// Connections that say nothing hold neither a worker nor the way in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_nobody_out() {
    let plan = Plan::default();
    let mut cell = Cell::server(plan).unwrap();
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(TcpStream::connect(cell.server.bound.agents).await.unwrap());
    }
    let began = std::time::Instant::now();
    cell.start_agent(plan, |_| {}).unwrap();
    cell.server.has_agents(1).await.unwrap();
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    dials(&cell).await;
}
