//! A frontend with few places.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::super::connection;
use super::super::stream::Backend;
use super::super::{serve_tls, serve_unix};
use super::{SOON, call, dial, local};
use crate::lane::testing::Pki;
use crate::net::cipher::TlsPolicy;
use crate::net::listener::TcpListener;
use crate::net::tls::{ALPN_H2, ClientTls, ServerTls};
use crate::net::uds::UdsListener;
use crate::ops::drain;
use crate::server::frontend::places::Places;
use crate::server::frontend::stranger::MEANT;
use crate::server::options::Mode;
use crate::wire::packet::Packet;

/// Whoever leaves a handshake unfinished keeps nobody out; whoever finished one keeps its place.
#[tokio::test]
async fn the_oldest_unfinished_handshake_makes_room() {
    let (directory, pki) = (tempfile::tempdir().unwrap(), Pki::new());
    let path = |name: &str| directory.path().join(name);
    ["server", "client"].into_iter().for_each(|name| pki.write(directory.path(), name));
    let tls = ServerTls {
        cert: path("server.crt"),
        key: path("server.key"),
        client_ca: Some(path("ca.crt")),
        alpn: vec![ALPN_H2.to_vec()],
        require_alpn: true,
        policy: TlsPolicy::default(),
    };
    let identity = Some((path("client.crt"), path("client.key")));
    let client = ClientTls { ca: path("ca.crt"), identity, alpn: vec![ALPN_H2.to_vec()] }.watch().unwrap();
    let listener = TcpListener::bind("127.0.0.1", 0).unwrap();
    let address = listener.local_addr();
    let (_trigger, watch) = drain::channel();
    let keepalive = Duration::from_secs(3600);
    let backend = local();
    let places = Places::new(3, Mode::Grpc, backend.metrics().clone());
    tokio::spawn(serve_tls(listener, tls.watch().unwrap(), keepalive, backend, places, watch));

    let mut known = Vec::new();
    for _ in 0..3 {
        let mut strangers = Vec::new();
        for _ in 0..4 {
            let mut stranger = TcpStream::connect(address).await.unwrap();
            // Half a ClientHello.
            stranger.write_all(b"\x16\x03\x01\x00\x04\x01\x00\x40\x00").await.unwrap();
            strangers.push(stranger);
        }
        tokio::time::sleep(MEANT).await;
        let socket = TcpStream::connect(address).await.unwrap();
        let stream = client.connect("server.test", socket, SOON).await.unwrap();
        let handshake = h2::client::handshake(stream);
        let (requests, mut driver) = tokio::time::timeout(SOON, handshake).await.unwrap().unwrap();
        let ping = driver.ping_pong().unwrap();
        tokio::spawn(driver);
        known.push((requests, ping));
        for (_, ping) in &mut known {
            let pong = tokio::time::timeout(SOON, ping.ping(h2::Ping::opaque())).await;
            pong.expect("no answer").expect("an old connection was given up");
        }
        let end = tokio::time::timeout(SOON, strangers[0].read(&mut [0; 100])).await;
        assert!(matches!(end.expect("the oldest stranger is still there"), Ok(0) | Err(_)));
    }
}

/// Whoever comes to a Unix socket and calls nothing keeps nobody out; whoever has called keeps its place.
#[tokio::test]
async fn the_oldest_client_without_a_call_makes_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let listener = UdsListener::bind(&path, true).unwrap();
    let (_trigger, watch) = drain::channel();
    let keepalive = Duration::from_secs(3600);
    let backend = local();
    let places = Places::new(3, Mode::Grpc, backend.metrics().clone());
    tokio::spawn(serve_unix(listener, keepalive, backend, places, watch));

    let mut known = Vec::new();
    // Nothing, or the preface and empty SETTINGS (RFC 9113, 3.4).
    for words in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b""] {
        let mut strangers = Vec::new();
        for _ in 0..4 {
            let mut stranger = UnixStream::connect(&path).await.unwrap();
            // Fails for one that came too soon behind the others.
            let _ = stranger.write_all(words).await;
            strangers.push(stranger);
        }
        tokio::time::sleep(MEANT).await;
        let socket = UnixStream::connect(&path).await.unwrap();
        let handshake = tokio::time::timeout(SOON, h2::client::handshake(socket)).await;
        let (requests, driver) = handshake.unwrap().unwrap();
        tokio::spawn(driver);
        known.push((call(&requests).await, requests));
        for (call, _) in &mut known {
            call.say(dial("nowhere", 3));
            assert!(matches!(call.hear().await, Packet::DialResponse(_)));
        }
        let end = tokio::time::timeout(SOON, strangers[0].read_to_end(&mut Vec::new())).await;
        let _ = end.expect("the oldest stranger is still there");
    }
}

/// A dial that was given up at once is no attack; what is no HTTP/2 may be one.
#[tokio::test]
async fn who_leaves_before_it_was_answered_was_not_refused() {
    const SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for (said, leaves, refused) in [(SETTINGS, true, 0.0), (b"GET / HTTP/1.1\r\n\r\n", false, 1.0)] {
        let backend = local();
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(said).await.unwrap();
        let far = (!leaves).then_some(far);
        let (_trigger, watch) = drain::channel();
        let serving = connection::serve(near, Duration::from_secs(3600), backend.clone(), watch, || {});
        let error = tokio::time::timeout(SOON, serving).await.unwrap().unwrap_err();
        assert_eq!(error.is_peer_gone(), leaves, "{error}");
        drop(far);
        let families = backend.metrics().registry().gather();
        let family = families.iter().find(|family| family.name() == "konduit_refused_connections_total");
        let all = family.map_or(0.0, |family| {
            family.get_metric().iter().map(|series| series.get_counter().get_value()).sum()
        });
        assert_eq!(all, refused, "{error}");
    }
}
