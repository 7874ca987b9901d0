use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;

use super::super::lookup::Looking;
use super::*;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn no_proxy_means_what_go_makes_of_it() {
    let exempt = |host, port, rules| is_exempt(host, port, rules);
    for host in ["localhost", "127.0.0.1", "::1", "127.8.8.8"] {
        assert!(exempt(host, 1, ""), "{host}");
    }
    assert!(exempt("a.example", 1, "*"));
    assert!(exempt("example.com", 1, "other, example.com"));
    assert!(exempt("a.EXAMPLE.com", 1, "example.com"));
    assert!(exempt("a.example.com", 1, ".example.com"));
    assert!(exempt("a.example.com", 1, "*.example.com"));
    assert!(!exempt("example.com", 1, ".example.com"));
    assert!(!exempt("badexample.com", 1, "example.com"));
    assert!(exempt("10.1.2.3", 1, "10.0.0.0/8"));
    assert!(!exempt("11.1.2.3", 1, "10.0.0.0/8"));
    assert!(exempt("fd00::7", 1, "fd00::/8"));
    assert!(exempt("10.1.2.3", 443, "10.1.2.3:443"));
    assert!(!exempt("10.1.2.3", 80, "10.1.2.3:443"));
    assert!(exempt("fd00::7", 443, "[fd00::7]:443"));
    assert!(exempt("fd00::7", 443, "fd00::7"));
    assert!(!exempt("example.com", 1, ""));
}

#[test]
fn proxies_with_and_without_credentials_and_those_that_are_none() {
    let proxy = Proxy::parse("http://user:p%40ss@proxy.example:3128/").unwrap();
    assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 3128));
    assert_eq!(proxy.credentials.as_deref(), Some("dXNlcjpwQHNz"));
    assert!(!format!("{proxy:?}").contains("dXNl"));
    let proxy = Proxy::parse("[fd00::1]:8080").unwrap();
    assert_eq!((proxy.host.as_str(), proxy.port), ("fd00::1", 8080));
    assert_eq!(Proxy::parse("proxy").unwrap().port, 80);
    for bad in ["socks5://a:1", "http://", "http://a:port"] {
        assert!(Proxy::parse(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn the_way_leads_through_the_proxy_and_not_a_byte_is_lost_behind_its_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://user:secret@{}", listener.local_addr().unwrap());
    let connector = Connector::by("server.example", 8091, Some(&proxy)).unwrap();
    let serve = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 1024];
        let length = socket.read(&mut head).await.unwrap();
        socket.write_all(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nthe server").await.unwrap();
        (socket, String::from_utf8(head[..length].to_vec()).unwrap())
    };
    let (connected, (_socket, head)) = tokio::join!(connector.connect(SOON), serve);
    assert!(
        head.starts_with("CONNECT server.example:8091 HTTP/1.1\r\nHost: server.example:8091\r\n"),
        "{head}"
    );
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n"), "{head}");
    let mut first = [0; 10];
    connected.unwrap().read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"the server");
}

/// What is told of a proxy that answers so, and where that proxy is.
async fn told_of(answer: &str) -> (String, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connector = Connector::by("server.example", 8091, Some(&format!("http://{address}"))).unwrap();
    let serve = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _ = socket.read(&mut [0; 1024]).await;
        // Fails when the answer is not read to its end.
        let _ = socket.write_all(answer.as_bytes()).await;
        socket
    };
    let (connected, _socket) = tokio::join!(connector.connect(SOON), serve);
    (connected.unwrap_err().to_string(), address)
}

#[tokio::test]
async fn a_proxy_that_refuses_is_quoted() {
    let (error, _) = told_of("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    assert!(
        error.contains("407 Proxy Authentication Required") && error.contains("server.example:8091"),
        "{error}"
    );
}

#[tokio::test]
async fn an_answer_without_an_end_of_its_head_is_none() {
    let endless = "x".repeat(2 * MAX_HEAD);
    let (error, proxy) = told_of(&format!("HTTP/1.1 200 OK\r\nX-Why: {endless}")).await;
    assert!(error.contains(&proxy.to_string()), "{error}");
    assert!(error.contains("more than 8192 bytes of head"), "{error}");
}

#[tokio::test]
async fn this_machine_needs_no_proxy_and_a_closed_port_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connector = Connector::by("127.0.0.1", address.port(), Some("http://192.0.2.1:1")).unwrap();
    let socket = connector.connect(SOON).await.unwrap();
    assert!(socket.nodelay().unwrap());
    drop((listener, socket));
    let error = connector.connect(SOON).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("nothing listens there"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named_as_one() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let connector = Connector::by("server.example", 8091, Some(&format!("http://{gone}"))).unwrap();
    let error = connector.connect(SOON).await.unwrap_err();
    assert!(matches!(&error, ConnectError::NoProxy { proxy, .. } if *proxy == gone.to_string()), "{error}");
    let connector = Connector::by("server.example", 8091, Some("http://no-such-host.invalid:1")).unwrap();
    let error = Connector { lookup: nowhere, ..connector }.connect(SOON).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoProxy { .. }), "{error}");
}

fn nowhere(_: &str, _: u16) -> Looking<'_> {
    Box::pin(async { Err(io::ErrorKind::NotFound.into()) })
}

/// How often a name with three addresses was looked up.
static ASKED: AtomicUsize = AtomicUsize::new(0);

fn three(_: &str, port: u16) -> Looking<'_> {
    ASKED.fetch_add(1, Ordering::Relaxed);
    Box::pin(async move { Ok((1..=3).map(|last| SocketAddr::from(([127, 0, 0, last], port))).collect()) })
}

/// An agent that always came to the same server would never be connected to all of them.
#[tokio::test]
async fn every_server_behind_a_name_is_met_and_the_name_looked_up_each_time() {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let _others = [
        TcpListener::bind(("127.0.0.2", port)).await.unwrap(),
        TcpListener::bind(("127.0.0.3", port)).await.unwrap(),
    ];
    let connector = Connector { lookup: three, ..Connector::by("servers.example", port, None).unwrap() };
    let mut met = HashSet::new();
    for connected in 1.. {
        let socket = connector.connect(SOON).await.unwrap();
        assert_eq!(ASKED.load(Ordering::Relaxed), connected);
        met.insert(socket.peer_addr().unwrap().ip());
        if met.len() == 3 {
            return;
        }
        assert!(connected < 200, "only {met:?} after {connected} connections");
    }
}
