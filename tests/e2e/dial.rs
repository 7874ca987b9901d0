//! Dials that succeed, fail, and are given up.

use proxy_tests::dark::Dark;
use proxy_tests::runner::{Cell, connect, until};
use proxy_tests::scrape::Page;
use proxy_tests::targets::Target;
use proxy_user::flow::{DialReason, Path};
use proxy_user::ops::metrics::encode;
use proxy_user::server::dial::{Dial, Dialer, Via};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::paths::{all_took, cell, on_every_path};

on_every_path!(echoes, refused_dials_say_so, a_target_speaks_first);

async fn echoes(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let target = Target::echo().await?;
    let mut client = cell.server.open(&target.name()).await?;
    client.write_all(b"hello").await?;
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"hello");
    client.shutdown().await?;
    assert_eq!(client.read(&mut answer).await?, 0);
    until("the flow to end", || cell.server.flows().is_empty() && cell.agent.flows.is_empty()).await?;
    assert!(all_took(&cell, path));
    Ok(())
}

async fn refused_dials_say_so(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    for _ in 0..3 {
        let (mut client, head) = cell.server.connect(&nobody.to_string()).await?;
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n"), "{head}");
        let mut body = String::new();
        client.read_to_string(&mut body).await?;
        assert_eq!(body, format!("dial tcp {nobody}: connect: connection refused"));
    }
    Ok(())
}

async fn a_target_speaks_first(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let target = Target::start(|mut stream| async move {
        stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        let _ = stream.read_u8().await;
    })
    .await?;
    let mut client = cell.server.open(&target.name()).await?;
    let mut banner = [0; 11];
    client.read_exact(&mut banner).await?;
    assert_eq!(&banner, b"SSH-2.0-x\r\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_behind_the_head_belong_to_the_flow() {
    let cell = Cell::start(|_, _| {}).await.unwrap();
    let target = Target::echo().await.unwrap();
    let mut client = tokio::net::UnixStream::connect(cell.server.socket()).await.unwrap();
    let head = format!("CONNECT {} HTTP/1.1\r\n\r\nearly", target.name());
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 44];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 Connection Established\r\n\r\nearly");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_agent_the_client_is_told() {
    let ground = proxy_tests::runner::Ground::new().unwrap();
    let server = proxy_tests::runner::RunningServer::start(ground.server_options("alone")).unwrap();
    let (mut client, head) = connect(server.socket(), "127.0.0.1:1").await.unwrap();
    assert_eq!(head, "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\n");
    let mut body = String::new();
    client.read_to_string(&mut body).await.unwrap();
    assert_eq!(body, "currently no tunnels available: No agent available");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_its_dial_with_it() {
    let cell = Cell::start(|_, _| {}).await.unwrap();
    let target = Dark::new().unwrap();
    let load = || cell.server.dialer.registry.streams()[0].load();
    let mut client = tokio::net::UnixStream::connect(cell.server.socket()).await.unwrap();
    client.write_all(format!("CONNECT {} HTTP/1.1\r\n\r\n", target.address).as_bytes()).await.unwrap();
    until("the dial", || load() == 1).await.unwrap();
    drop(client);
    until("the dial to be given up", || load() == 0).await.unwrap();
    ended_by_its_client(&cell).await;
}

/// The only dial that failed: by its client's leaving, and not by the agent's own limit.
pub(crate) async fn ended_by_its_client(cell: &Cell) {
    let count = |registry, name, labels: &[_]| {
        Page::parse(&String::from_utf8(encode(registry).unwrap()).unwrap()).sum(name, labels)
    };
    let left = [("reason", "frontend_close")];
    let server = || count(cell.server.dialer.metrics.registry(), "dial_failure_count", &left);
    until("the client's leaving to be counted", || server() == 1.0).await.unwrap();
    let limit = [("reason", "timeout")];
    assert_eq!(count(cell.agent.metrics.registry(), "endpoint_dial_failure_total", &limit), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_too_many_is_refused_and_counted() {
    let cell = Cell::start(|_, _| {}).await.unwrap();
    let target = Target::echo().await.unwrap();
    let full = Dialer { most_flows: 0, ..cell.server.dialer.clone() };
    let dial = Dial { via: Via::Connect, protocol: "tcp".into(), target: target.name() };
    let error = full.dial(dial.clone()).await.err().unwrap();
    assert_eq!(error.reason, DialReason::Exhausted);
    let reply = String::from_utf8(proxy_user::wire::connect::dial_failed(&error)).unwrap();
    assert!(reply.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{reply}");
    cell.server.dialer.dial(dial).await.unwrap();
}
