//! Agents and servers that go and come back, and peers that talk nonsense.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proxy_tests::calls::Client;
use proxy_tests::dark::Dark;
use proxy_tests::runner::{Cell, Ground, RunningAgent, RunningServer, SOON, connect, until};
use proxy_tests::scrape::Page;
use proxy_tests::targets::Target;
use proxy_user::flow::Path;
use proxy_user::ops::flags::LanesMode;
use proxy_user::ops::metrics::encode;
use proxy_user::server::options::Mode;
use proxy_user::wire::ids::DialId;
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::paths::{cell, cell_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_on_packets_end_with_their_agent() {
    let cell = cell(Path::Mux).await.unwrap();
    let target = Target::echo().await.unwrap();
    let mut client = cell.server.open(&target.name()).await.unwrap();
    client.write_all(b"x").await.unwrap();
    client.read_u8().await.unwrap();
    let Cell { server, agent, ground: _ground } = cell;
    agent.end().await.unwrap();
    let ended = tokio::time::timeout(SOON, client.read(&mut [0; 1])).await.unwrap();
    assert!(!matches!(ended, Ok(1..)));
    server.has_agents(0).await.unwrap();
    until("the flow to end", || server.flows().is_empty()).await.unwrap();
    let (_, head) = server.connect(&target.name()).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 500"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_clients_are_told_that_their_agent_is_lost() {
    let cell = cell_with(Path::Mux, |options| options.mode = Mode::Grpc).await.unwrap();
    let target = Target::echo().await.unwrap();
    let client = Client::new(UnixStream::connect(cell.server.socket()).await.unwrap()).await;
    let mut calls = Vec::new();
    for number in 1..=5 {
        let mut call = client.call("/ProxyService/Proxy", &[]).await;
        let (dial, address) = (DialId(number), target.name());
        call.say(Packet::DialRequest(DialRequest { dial, protocol: "tcp".into(), address, lane_dial: 0 }));
        let answer = call.hear().await;
        let Some(Packet::DialResponse(DialResponse { outcome: Ok(Answer::Here(conn)), .. })) = answer else {
            panic!("{answer:?}")
        };
        calls.push((call, conn));
    }
    cell.agent.end().await.unwrap();
    for (mut call, conn) in calls {
        assert_eq!(call.hear().await, Some(Packet::CloseResponse { conn, error: String::new() }));
        assert_eq!(call.status().await.0, "0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_on_lanes_outlive_their_control_stream() {
    let cell = cell(Path::LaneRaw).await.unwrap();
    let target = Target::echo().await.unwrap();
    let mut client = cell.server.open(&target.name()).await.unwrap();
    cell.agent.servers.close();
    cell.server.has_agents(0).await.unwrap();
    client.write_all(b"still").await.unwrap();
    let mut answer = [0; 5];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"still");
    cell.server.has_agents(1).await.unwrap();
    cell.server.open(&target.name()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_finds_a_restarted_server() {
    let ground = Ground::new().unwrap();
    let first = RunningServer::start(ground.server_options("one")).unwrap();
    let port = first.agent_port();
    let agent = RunningAgent::start(ground.agent_options("agent", port)).unwrap();
    first.has_agents(1).await.unwrap();
    first.end().await.unwrap();
    until("the agent to notice", || agent.servers.connected() == 0).await.unwrap();
    let mut options = ground.server_options("two");
    options.agent_port = port;
    let second = RunningServer::start(options).unwrap();
    second.has_agents(1).await.unwrap();
    let target = Target::echo().await.unwrap();
    second.open(&target.name()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_whose_agent_is_lost_goes_to_another() {
    let ground = Ground::new().unwrap();
    let mut options = ground.server_options("server");
    options.lanes.mode = LanesMode::Off;
    let server = RunningServer::start(options).unwrap();
    let agents: Vec<_> = (0..2)
        .map(|number| {
            RunningAgent::start(ground.agent_options(&format!("agent-{number}"), server.agent_port()))
                .unwrap()
        })
        .collect();
    server.has_agents(2).await.unwrap();
    let target = Target::echo().await.unwrap();
    for agent in agents {
        server.open(&target.name()).await.unwrap();
        agent.end().await.unwrap();
    }
    server.has_agents(0).await.unwrap();
}

/// Not only a dial that comes after the loss: one that was under way, and only for the agent's sake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_under_way_is_asked_of_another_agent_but_never_after_the_target_refused() {
    let ground = Ground::new().unwrap();
    let mut options = ground.server_options("server");
    options.lanes.mode = LanesMode::Off;
    let server = RunningServer::start(options).unwrap();
    let start = |name: &str| RunningAgent::start(ground.agent_options(name, server.agent_port())).unwrap();
    let first = start("first");
    server.has_agents(1).await.unwrap();
    let target = Dark::new().unwrap();
    let name = target.address.to_string();
    let dialling = connect(server.socket(), &name);
    tokio::pin!(dialling);
    let taken = until("the dial", || server.registry().streams()[0].load() == 1);
    tokio::select! {
        taken = taken => taken.unwrap(),
        answered = &mut dialling => panic!("{:?}", answered.unwrap().1),
    }
    let second = start("second");
    server.has_agents(2).await.unwrap();
    first.end().await.unwrap();
    let lighting = tokio::task::spawn_blocking(move || target.light(Duration::from_secs(3)));
    let (_client, head) = dialling.await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(lighting.await.unwrap().unwrap() >= 1);

    let third = start("third");
    server.has_agents(2).await.unwrap();
    let (_, head) = connect(server.socket(), "127.0.0.1:1").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 50"), "{head}");
    let tries = |agent: &RunningAgent| {
        let text = String::from_utf8(encode(agent.metrics.registry()).unwrap()).unwrap();
        Page::parse(&text).sum("endpoint_dial_failure_total", &[])
    };
    assert_eq!(tries(&second) + tries(&third), 1.0, "a target that refused was asked again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_agent_serves_when_there_is_no_other() {
    let cell = Cell::start(|_, _| {}).await.unwrap();
    let target = Target::echo().await.unwrap();
    cell.agent.trigger.start();
    until("the server to know", || cell.server.registry().streams().iter().all(|agent| agent.is_draining()))
        .await
        .unwrap();
    cell.server.open(&target.name()).await.unwrap();
    assert!(cell.server.registry().is_ready());
}

/// Sends every connection on to the next of these ports, as a balancer does.
async fn balancer(ports: Vec<u16>) -> Target {
    let next = Arc::new(AtomicUsize::new(0));
    Target::start(move |mut client| {
        let port = ports[next.fetch_add(1, Ordering::Relaxed) % ports.len()];
        async move {
            let mut server = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            // Either side ends it as it likes.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_finds_every_server_behind_one_address() {
    let ground = Ground::new().unwrap();
    let servers: Vec<_> = (0..3)
        .map(|number| {
            let mut options = ground.server_options(&format!("server-{number}"));
            options.server_count = 3;
            RunningServer::start(options).unwrap()
        })
        .collect();
    let balancer = balancer(servers.iter().map(RunningServer::agent_port).collect()).await;
    let agent = RunningAgent::start(ground.agent_options("agent", balancer.address.port())).unwrap();
    let target = Target::echo().await.unwrap();
    for server in &servers {
        server.has_agents(1).await.unwrap();
        server.open(&target.name()).await.unwrap();
    }
    until("one stream to each", || agent.servers.connected() == 3).await.unwrap();
}
