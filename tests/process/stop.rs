//! How a server leaves.

use std::any::Any;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proxy_tests::calls::Client;
use proxy_tests::child::Child;
use proxy_tests::memory::open_fds;
use proxy_tests::ports;
use proxy_tests::scrape::http_get;
use proxy_user::wire::ids::DialId;
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use rustix::process::Signal;

use crate::ground::{Place, SOON, echo, open, ping};

#[test]
fn flows_go_on_until_the_graceful_timeout() {
    let place = Place::new().unwrap();
    let mut server = place.start_server("server", &["--graceful-shutdown-timeout=10s"]).unwrap();
    let _agent = place.start_agent().unwrap();
    let mut flow = open(&place.socket(), &echo().unwrap()).unwrap();
    let began = Instant::now();
    server.signal(Signal::TERM).unwrap();
    while began.elapsed() < Duration::from_secs(2) {
        ping(&mut flow).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(UnixStream::connect(place.socket()).is_err(), "a server that leaves takes no new clients");
    assert!(TcpStream::connect(("127.0.0.1", place.agent_port)).is_err(), "nor agents");
    assert!(http_get(place.pages(), "/readyz").is_err(), "and tells whoever probes it");
    assert_eq!(http_get(place.pages(), "/healthz").unwrap(), "ok");
    assert_eq!(server.wait(SOON).unwrap().code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(9900), "left after {:?}", began.elapsed());
    // An end or an abort.
    let _ = flow.read_to_end(&mut Vec::new());
}

/// Whether the cut comes at once or at the deadline, each call hears CLOSE_RSP and then its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_clients_are_told_of_the_end() {
    for timeout in ["0s", "1s"] {
        let place = Place::new().unwrap();
        let timeout = format!("--graceful-shutdown-timeout={timeout}");
        let mut server = place.start_server("server", &["--mode=grpc", &timeout]).unwrap();
        let _agent = place.start_agent().unwrap();
        let client = Client::new(tokio::net::UnixStream::connect(place.socket()).await.unwrap()).await;
        let mut call = client.call("/ProxyService/Proxy", &[]).await;
        let (dial, address) = (DialId(7), echo().unwrap());
        call.say(Packet::DialRequest(DialRequest { dial, protocol: "tcp".into(), address, lane_dial: 0 }));
        let answer = call.hear().await;
        let Some(Packet::DialResponse(DialResponse { outcome: Ok(Answer::Here(conn)), .. })) = answer else {
            panic!("{answer:?}")
        };
        let data = Packet::Data { conn, data: "there and back".into() };
        call.say(data.clone());
        assert_eq!(call.hear().await, Some(data));
        server.signal(Signal::TERM).unwrap();
        let closed = Packet::CloseResponse { conn, error: String::new() };
        assert_eq!(call.hear().await, Some(closed), "{timeout}");
        assert_eq!(call.status().await.0, "0", "{timeout}");
        assert_eq!(server.wait(SOON).unwrap().code(), Some(0));
    }
}

#[test]
fn a_server_without_flows_does_not_wait_for_the_timeout() {
    let place = Place::new().unwrap();
    let mut server = place.start_server("server", &["--graceful-shutdown-timeout=10m"]).unwrap();
    let agent = place.start_agent().unwrap();
    let mut flow = open(&place.socket(), &echo().unwrap()).unwrap();
    server.signal(Signal::TERM).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    ping(&mut flow).unwrap();
    server.check().unwrap();
    drop(flow);
    assert_eq!(server.wait(SOON).unwrap().code(), Some(0));
    // By GOAWAY: the agent looks for another server before its stream ends.
    let told = || agent.last_words().contains("looking for another");
    ports::wait(SOON, "the agent to be told", told).unwrap();
    let log = std::fs::read_to_string(&server.log).unwrap();
    let line = log.lines().find(|line| line.contains("Agent disconnected")).unwrap();
    assert!(line.ends_with("why=we ended the control stream"), "{line}");
}

#[test]
fn a_client_that_never_speaks_does_not_hold_a_server() {
    let place = Place::new().unwrap();
    let [port] = ports::free().unwrap();
    let path = |name| place.ground.path(name).display().to_string();
    let tls = [
        "--uds-name=".to_owned(),
        format!("--server-port={port}"),
        format!("--server-cert={}", path("server.crt")),
        format!("--server-key={}", path("server.key")),
        format!("--server-ca-cert={}", path("ca.crt")),
    ];
    for (mode, tls) in ["http-connect", "grpc"].into_iter().flat_map(|mode| [(mode, &[][..]), (mode, &tls)]) {
        let mode = format!("--mode={mode}");
        let mut flags = vec!["--graceful-shutdown-timeout=10m", "--lanes=off", &mode];
        flags.extend(tls.iter().map(String::as_str));
        let mut server = place.start_server("server", &flags).unwrap();
        let held = open_fds(server.pid());
        let silent: Vec<Box<dyn Any>> = (0..20)
            .map(|number| -> Box<dyn Any> {
                match (number % 2, tls) {
                    (0, []) => Box::new(UnixStream::connect(place.socket()).unwrap()),
                    (0, _) => Box::new(TcpStream::connect(("127.0.0.1", port)).unwrap()),
                    _ => Box::new(TcpStream::connect(("127.0.0.1", place.agent_port)).unwrap()),
                }
            })
            .collect();
        // But for what the look at its health had open.
        let accepted = || open_fds(server.pid()) >= held + silent.len() - 4;
        ports::wait(SOON, "the silent ones to be accepted", accepted).unwrap();
        server.signal(Signal::TERM).unwrap();
        assert_eq!(server.wait(SOON).unwrap().code(), Some(0), "{flags:?}");
        assert!(!server.last_words().contains("is cut"), "{}", server.last_words());
    }
}

/// Frozen, or gone without a word: it does not answer the ping that comes with a GOAWAY.
#[test]
fn a_grpc_client_that_answers_no_ping_does_not_hold_a_server() {
    let place = Place::new().unwrap();
    let flags = ["--mode=grpc", "--graceful-shutdown-timeout=10m", "--lanes=off"];
    let mut server = place.start_server("server", &flags).unwrap();
    let mut frozen = UnixStream::connect(place.socket()).unwrap();
    // The preface and empty SETTINGS (RFC 9113, 3.4).
    frozen.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    frozen.read_exact(&mut [0; 9]).unwrap();
    server.signal(Signal::TERM).unwrap();
    assert_eq!(server.wait(3 * SOON).unwrap().code(), Some(0));
}

#[test]
fn a_second_signal_ends_a_server_at_once() {
    let place = Place::new().unwrap();
    let mut server = place.start_server("server", &["--graceful-shutdown-timeout=10m"]).unwrap();
    let _agent = place.start_agent().unwrap();
    let _flow = open(&place.socket(), &echo().unwrap()).unwrap();
    server.signal(Signal::TERM).unwrap();
    ports::wait(SOON, "the drain", || UnixStream::connect(place.socket()).is_err()).unwrap();
    server.check().unwrap();
    server.signal(Signal::TERM).unwrap();
    assert_eq!(server.wait(SOON).unwrap().code(), Some(1));
}

/// The next server binds the socket's name before the last one has gone, which must not take it along.
#[test]
fn the_socket_is_its_successors() {
    let place = Place::new().unwrap();
    let mut first = place.start_server("first", &[]).unwrap();
    let successor = Place { ground: place.ground, ..Place::new().unwrap() };
    let mut second = successor.start_server("second", &[]).unwrap();
    let told = |child: &Child| {
        let log = std::fs::read_to_string(&child.log).unwrap();
        log.lines().filter(|line| line.starts_with('W') && line.contains("still listens there")).count()
    };
    assert_eq!((told(&first), told(&second)), (0, 1), "{}", second.last_words());
    first.signal(Signal::TERM).unwrap();
    assert_eq!(first.wait(SOON).unwrap().code(), Some(0));
    assert!(!first.last_words().contains("finds this server"), "{}", first.last_words());
    let mut client = UnixStream::connect(successor.socket()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client.write_all(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("No agent available"), "{answer}");
    second.check().unwrap();
}

/// What a static pod costs its API server when it is replaced: deploy/README.md tells the figure.
#[test]
fn a_successor_serves_the_agents_of_before() {
    let place = Place::new().unwrap();
    let mut first = place.start_server("first", &[]).unwrap();
    let _agent = place.start_agent().unwrap();
    let target = echo().unwrap();
    drop(open(&place.socket(), &target).unwrap());
    let began = Instant::now();
    first.signal(Signal::TERM).unwrap();
    assert_eq!(first.wait(SOON).unwrap().code(), Some(0));
    let gone = began.elapsed();
    let _second = place.start_server("second", &[]).unwrap();
    let ready = began.elapsed();
    ports::wait(SOON, "a flow through the successor", || open(&place.socket(), &target).is_ok()).unwrap();
    eprintln!(
        "gone after {gone:.1?}, its successor healthy after {ready:.1?}, a flow after {:.1?}",
        began.elapsed()
    );
}
