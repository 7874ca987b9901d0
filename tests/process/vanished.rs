//! A cable is cut: neither end hears a FIN or a reset of the other, and both notice by themselves.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proxy_tests::child::Child;
use proxy_tests::link::{Link, NEAR, Nature};
use proxy_tests::netns;
use proxy_tests::ports::{self, wait};
use proxy_tests::scrape::Page;
use proxy_user::net::tls::{ALPN_H2, ALPN_HTTP1};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ground::{Place, SOON, echo};
use crate::reload::{PREFACE, client};

/// Both ends' patience, as upstream's: for a ping's answer, and for an acknowledgement (TCP_USER_TIMEOUT).
const SILENCE: Duration = Duration::from_secs(20);
/// The cut end is noticed by then, on a machine that is busy too.
pub(crate) const LATEST: Duration = Duration::from_secs(32);
const SENTENCE: &str = "nothing came from the peer for";

/// Sends four bytes ten times a second to whoever connects.
pub(crate) fn clock() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                while stream.write_all(b"tick").is_ok() {
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    Ok(address)
}

pub(crate) fn dial(place: &Place, target: &str) -> UnixStream {
    let mut stream = UnixStream::connect(place.socket()).unwrap();
    stream.set_read_timeout(Some(2 * LATEST)).unwrap();
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    stream
}

/// A copy of each of a process' TCP connections that has this port at either end.
pub(crate) fn connections(child: &Child, port: u16) -> Vec<OwnedFd> {
    let pid = Pid::from_raw(child.pid() as i32).unwrap();
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let fds = fs::read_dir(format!("/proc/{}/fd", child.pid())).unwrap().flatten();
    let numbers = fds.filter_map(|fd| fd.file_name().to_str()?.parse().ok());
    // One that was closed meanwhile is none.
    let copies = numbers.filter_map(|fd| pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).ok());
    let has_port = |socket: &OwnedFd| {
        let socket = SockRef::from(socket);
        let port_of =
            |address: std::io::Result<socket2::SockAddr>| address.ok()?.as_socket().map(|a| a.port());
        let peer = port_of(socket.peer_addr());
        peer.is_some() && (peer == Some(port) || port_of(socket.local_addr()) == Some(port))
    };
    copies.filter(has_port).collect()
}

pub(crate) fn page(link: &Link, port: u16, far: bool) -> anyhow::Result<Page> {
    let get = || Page::get(SocketAddr::from(([127, 0, 0, 1], port)));
    if far { link.far.run(get) } else { link.near.run(get) }
}

#[test]
fn either_end_notices_that_the_other_is_gone_and_they_find_each_other_again() {
    if netns::are_denied() {
        return;
    }
    let link = Link::new(&Nature::clean(Duration::ZERO, 1_000_000_000)).unwrap();
    let place = Place::new().unwrap();
    place.ground.certs.server("server", &[&NEAR.to_string()]).unwrap();
    // Ten seconds are the least that a Go client pings after, and ours.
    let host = format!("--proxy-server-host={NEAR}");
    let pace = ["--sync-interval=200ms", "--sync-interval-cap=500ms", "--keepalive-time=10s"];
    let agent_flags = [&[host.as_str(), "--lanes=off"][..], &pace].concat();
    let mut server =
        link.near.run(|| place.start_server("server", &["--lanes=off", "--keepalive-time=1s"])).unwrap();
    let mut agent = link.far.run(|| place.spawn_agent(&agent_flags)).unwrap();
    let servers_page = || page(&link, place.server_health, false).unwrap();
    let agents_page = || page(&link, place.agent_health, true).unwrap();
    let ready = || servers_page().sum("ready_backend_connections", &[]);
    wait(SOON, "the agent at the server", || ready() == 1.0).unwrap();

    for (end, child) in [("server", &server), ("agent", &agent)] {
        let sockets = connections(child, place.agent_port);
        assert_eq!(sockets.len(), 1, "control streams of the {end}");
        let socket = SockRef::from(&sockets[0]);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE), "{end}");
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap(), "{end}");
        let keepalive = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
        assert_eq!(keepalive, (Duration::from_secs(15), Duration::from_secs(15)), "{end}");
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9, "{end}");
    }

    let target = link.far.run(clock).unwrap();
    let mut flow = dial(&place, &target);
    let mut head = [0; 39 + 4];
    flow.read_exact(&mut head).unwrap();
    assert!(head.ends_with(b"\r\n\r\ntick"), "{}", String::from_utf8_lossy(&head));

    link.cut();
    let cut = Instant::now();
    let mut pending = dial(&place, &target);
    let ended = std::thread::spawn(move || {
        let end = flow.read_to_end(&mut Vec::new());
        // A Unix socket knows no abort.
        assert!(!matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock), "the flow never ends");
        cut.elapsed()
    });
    let mut answer = String::new();
    pending.read_to_string(&mut answer).unwrap();
    let answered = cut.elapsed();
    assert!(
        answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n")
            && answer.ends_with("Backend context error: context canceled\r\n"),
        "{answer}"
    );
    for (what, took) in [("the dial", answered), ("the flow", ended.join().unwrap())] {
        assert!(took + Duration::from_secs(1) > SILENCE && took < LATEST, "{what} ended after {took:?}");
    }
    let gauges = [
        "ready_backend_connections",
        "ready_backends",
        "grpc_connections",
        "pending_backend_dials",
        "established_connections",
        "konduit_flows",
    ];
    let left = || {
        let page = servers_page();
        gauges.into_iter().filter(|gauge| page.sum(gauge, &[]) != 0.0).collect::<Vec<_>>()
    };
    wait(SOON, "every gauge back at zero", || left().is_empty()).unwrap();
    let lost = [("segment", "from_agent"), ("code", "Canceled"), ("packet_type", "Unknown")];
    assert_eq!(servers_page().sum("stream_errors_total", &lost), 1.0);
    assert_eq!(servers_page().sum("dial_failure_count", &[("reason", "backend_close")]), 1.0);

    wait(LATEST, "the agent to miss its server", || agents_page().sum("open_server_connections", &[]) == 0.0)
        .unwrap();
    let lost = [("segment", "to_agent"), ("code", "Unavailable"), ("packet_type", "Unknown")];
    assert_eq!(agents_page().sum("stream_errors_total", &lost), 1.0);
    assert_eq!(agents_page().sum("server_connection_failure_count", &[("direction", "from_server")]), 1.0);
    wait(SOON, "the agent's flows to end", || agents_page().sum("open_endpoint_connections", &[]) == 0.0)
        .unwrap();
    for child in [&server, &agent] {
        let log = fs::read_to_string(&child.log).unwrap();
        assert!(log.contains(SENTENCE), "{log}");
        assert!(!log.contains("ended the control stream"), "{log}");
    }

    link.mend();
    wait(SOON, "the agent at the server again", || ready() == 1.0).unwrap();
    let mut again = dial(&place, &target);
    again.read_exact(&mut head).unwrap();
    assert!(head.ends_with(b"\r\n\r\ntick"));
    server.check().unwrap();
    agent.check().unwrap();
}

/// As upstream, whose gRPC library sets it; a CONNECT client may pause for as long as it likes.
#[tokio::test]
async fn a_server_gives_up_silent_grpc_clients_and_no_connect_clients() {
    let place = Place::new().unwrap();
    let [port] = ports::free().unwrap();
    let target = echo().unwrap();
    let asks = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
    for (mode, alpn, words, patience) in
        [("grpc", ALPN_H2, PREFACE, Some(SILENCE)), ("http-connect", ALPN_HTTP1, asks.as_bytes(), None)]
    {
        let file = |name: &str| place.ground.path(name).display().to_string();
        let flags = [
            format!("--mode={mode}"),
            "--uds-name=".to_owned(),
            "--server-bind-address=127.0.0.1".to_owned(),
            format!("--server-port={port}"),
            format!("--server-cert={}", file("server.crt")),
            format!("--server-key={}", file("server.key")),
            format!("--server-ca-cert={}", file("ca.crt")),
        ];
        let mut server = place.start_server(mode, &flags.each_ref().map(String::as_str)).unwrap();
        let mut agent = place.start_agent().unwrap();
        let keys = place.ground.path("");
        let client = client(&keys, &keys, alpn).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut tls = client.connect("127.0.0.1", socket, SOON).await.unwrap();
        tls.write_all(words).await.unwrap();
        // Only behind the handshake does the server say anything.
        tokio::time::timeout(SOON, tls.read_u8()).await.unwrap().unwrap();
        let sockets = connections(&server, port);
        assert_eq!(sockets.len(), 1, "{mode}");
        assert_eq!(SockRef::from(&sockets[0]).tcp_user_timeout().unwrap(), patience, "{mode}");
        server.check().unwrap();
        agent.check().unwrap();
    }
}

/// Its kernel acknowledges what it is sent, and nobody answers.
#[test]
fn a_frozen_agent_is_told_to_be_silent() {
    let place = Place::new().unwrap();
    let server = place.start_server("server", &[]).unwrap();
    let agent = place.start_agent().unwrap();
    agent.signal(Signal::STOP).unwrap();
    let line = || {
        let log = fs::read_to_string(&server.log).unwrap();
        log.lines().find(|line| line.contains("Agent disconnected")).map(str::to_owned)
    };
    let told = wait(LATEST, "the server to give the agent up", || line().is_some());
    agent.signal(Signal::CONT).unwrap();
    told.unwrap();
    let line = line().unwrap();
    assert!(line.contains(SENTENCE), "{line}");
}
