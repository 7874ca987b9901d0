//! What is peculiar to lanes: who may open one, what both ends must agree on, how they keep up.

use proxy_tests::runner::{Cell, Ground, RunningServer, SOON, until};
use proxy_tests::scrape::Page;
use proxy_tests::targets::Target;
use proxy_user::flow::{Outcome, Path};
use proxy_user::lane::ALPN_LANE;
use proxy_user::net::connect::Connector;
use proxy_user::net::tls::ClientTls;
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use proxy_user::ops::metrics;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::paths::{all_took, cell};

async fn echo_once(server: &RunningServer, target: &str) -> anyhow::Result<()> {
    let mut client = server.open(target).await?;
    client.write_all(b"there and back").await?;
    client.shutdown().await?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await?;
    anyhow::ensure!(answer == b"there and back", "{answer:?}");
    Ok(())
}

async fn flows_take(cell: &Cell, path: Path) {
    let target = Target::echo().await.unwrap();
    for _ in 0..3 {
        echo_once(&cell.server, &target.name()).await.unwrap();
    }
    until("the flows to end", || cell.server.flows().is_empty()).await.unwrap();
    assert!(all_took(cell, path), "not all on {path:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_end_can_do_without_lanes() {
    for server_off in [true, false] {
        let cell = Cell::start(|server, agent| {
            let lanes = if server_off { &mut server.lanes } else { &mut agent.lanes };
            lanes.mode = LanesMode::Off;
        });
        let cell = cell.await.unwrap();
        flows_take(&cell, Path::Mux).await;
        let why = if server_off { "lanes_off" } else { "peer_without_lanes" };
        let text = metrics::encode(cell.server.dialer.metrics.registry()).unwrap();
        let counted = Page::parse(&String::from_utf8_lossy(&text)).by("mux_fallbacks_total", "reason");
        assert_eq!((counted[why], counted.values().sum()), (3.0, 3.0), "{counted:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clear_lanes_need_both_ends() {
    for server_raw in [true, false] {
        let cell = Cell::start(|server, agent| {
            server.lanes.wait = SOON;
            agent.lanes.wait = SOON;
            let raw = if server_raw { &mut server.lanes } else { &mut agent.lanes };
            raw.security = LaneSecurity::Raw;
        });
        flows_take(&cell.await.unwrap(), Path::LaneEncrypt).await;
    }
}

/// As nearly everybody runs both: with no flag of lanes or engines at either end, and so with a short wait for a lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_flows_one_after_another_ride_on_lanes() {
    let cell = Cell::start(|_, _| {}).await.unwrap();
    let target = Target::echo().await.unwrap();
    for _ in 0..11 {
        echo_once(&cell.server, &target.name()).await.unwrap();
        until("the flow to end", || cell.server.flows().is_empty()).await.unwrap();
        let ready = || cell.server.lanes.as_ref().unwrap().stats().idle > 0;
        until("a lane for the next one", ready).await.unwrap();
    }
    let totals = cell.server.flows().totals();
    let [encrypt, mux] = [Path::LaneEncrypt, Path::Mux]
        .map(|path| Outcome::ALL.map(|how| totals.ended(path, how)).iter().sum::<u64>());
    assert_eq!(encrypt + mux, 11);
    // A busy machine may be late with some.
    assert!(encrypt > 5, "of 11 flows {mux} were carried as packets");
}

/// The first dial finds no lane, and waits for one. A busy machine may be late with some, not with each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_a_dial_waits_until_its_lane_is_open() {
    let target = Target::echo().await.unwrap();
    for _ in 0..10 {
        let cell = Cell::start(|_, _| {}).await.unwrap();
        echo_once(&cell.server, &target.name()).await.unwrap();
        until("the flow to end", || cell.server.flows().is_empty()).await.unwrap();
        if cell.server.lanes.as_ref().unwrap().stats().on_new > 0 {
            return;
        }
    }
    panic!("ten first dials, and not one was carried by a lane");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_clients_that_come_and_go_find_a_lane_each_time() {
    for path in [Path::LaneRaw, Path::LaneEncrypt] {
        let cell = cell(path).await.unwrap();
        let target = Target::echo().await.unwrap();
        let cell = std::sync::Arc::new(cell);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (cell, target) = (cell.clone(), target.name());
            clients.spawn(async move {
                for _ in 0..15 {
                    echo_once(&cell.server, &target).await.unwrap();
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
        until("the flows to end", || cell.server.flows().is_empty()).await.unwrap();
        assert!(all_took(&cell, path));
        assert_eq!(cell.server.flows().totals().ended(path, Outcome::Clean), 120);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_flows_share_a_few_lanes_and_a_long_one_uses_its_own_up() {
    for path in [Path::LaneRaw, Path::LaneEncrypt] {
        let cell = cell(path).await.unwrap();
        let target = Target::echo().await.unwrap();
        let lanes = || cell.server.lanes.as_ref().unwrap().stats();
        for _ in 0..100 {
            echo_once(&cell.server, &target.name()).await.unwrap();
        }
        // On a busy machine a flow may take so long that it counts as one that lasts.
        until("the lanes to come back", || lanes().returned >= 80).await.unwrap();
        until("the flows to end", || cell.server.flows().is_empty()).await.unwrap();
        let before = lanes();
        assert!(before.kept <= 30, "a hundred short flows, and so many lanes: {before:?}");

        let mut client = cell.server.open(&target.name()).await.unwrap();
        let sent: Vec<u8> = (0..300_000u32).map(|n| (n * 7) as u8).collect();
        let mut answer = vec![0; sent.len()];
        let (mut from, mut to) = client.split();
        let (wrote, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut answer));
        wrote.unwrap();
        read.unwrap();
        assert!(answer == sent);
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        until("the flows to end", || cell.server.flows().is_empty()).await.unwrap();
        assert!(all_took(&cell, path));
        assert_eq!(lanes().returned, before.returned);
    }
}

/// A connection with the lane's ALPN name and a certificate of the right authority.
async fn stranger(ground: &Ground, port: u16) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    ground.certs.client("stranger", "somebody", None).unwrap();
    let identity = Some((ground.path("stranger.crt"), ground.path("stranger.key")));
    let tls = ClientTls { ca: ground.path("ca.crt"), identity, alpn: vec![ALPN_LANE.to_vec()] };
    let socket = Connector::by("127.0.0.1", port, None).unwrap().connect(SOON).await.unwrap();
    tls.watch().unwrap().connect("localhost", socket, SOON).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_on_a_lane_are_shown_out_and_harm_nobody() {
    let cell = cell(Path::LaneRaw).await.unwrap();
    let target = Target::echo().await.unwrap();
    let mut flow = cell.server.open(&target.name()).await.unwrap();
    let port = cell.server.agent_port();
    // A ticket of nobody (field 2, a stream number and a secret), a length beyond the cap, rubbish, an end.
    let ticket = [&[0, 54, 18, 52, 10, 16][..], &[7; 16], &[18, 32], &[9; 32]].concat();
    for words in [ticket.as_slice(), &[0xff, 0xff], b"GET / HTTP/1.1\r\n\r\n", b""] {
        let mut lane = stranger(&cell.ground, port).await;
        let length = lane.read_u16().await.unwrap();
        lane.read_exact(&mut vec![0; length.into()]).await.unwrap();
        lane.write_all(words).await.unwrap();
        lane.flush().await.unwrap();
        if words.is_empty() {
            lane.shutdown().await.unwrap();
        }
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(SOON, lane.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "the lane was ended");
    }
    flow.write_all(b"unharmed").await.unwrap();
    let mut answer = [0; 8];
    flow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"unharmed");
    echo_once(&cell.server, &target.name()).await.unwrap();
}
