//! Lanes as both sides use them together.

mod supply;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::flow::{DialReason, Path};
use crate::net::connect::Connector;
use crate::net::tls::ClientTls;
use open::Route as _;
use world::{Files, Server, World, echoes, patient, until};

#[tokio::test]
async fn the_first_flow_comes_on_a_new_lane_the_next_ones_on_warm_lanes() {
    for (allowed, path) in [(Security::Raw, Path::LaneRaw), (Security::Encrypt, Path::LaneEncrypt)] {
        let world = World::new(allowed, Security::Raw).await;
        let stream = world.stream();
        for round in 0..5 {
            let (mut io, on) = stream.on_lane("echo:1").await;
            assert_eq!(on, path);
            echoes(&mut io, round).await;
            until(|| world.server.lanes.stats().idle > 0).await;
        }
        let stats = world.server.lanes.stats();
        assert_eq!((stats.on_new, stats.on_warm, stats.lost_in_dial), (1, 4, 0), "{stats:?}");
        assert!(stats.resumed >= 1, "{stats:?}");
    }
}

#[tokio::test]
async fn the_stricter_end_wins() {
    for (server, agent) in [(Security::Raw, Security::Encrypt), (Security::Encrypt, Security::Raw)] {
        let world = World::new(server, agent).await;
        let stream = world.stream();
        let (mut io, path) = stream.on_lane("echo:1").await;
        assert_eq!(path, Path::LaneEncrypt);
        echoes(&mut io, 3).await;
    }
}

#[tokio::test]
async fn a_failed_dial_tells_why_and_gives_the_lane_back() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let stream = world.stream();
    for _ in 0..4 {
        let error = stream.dial("refused:1").await.err().unwrap();
        assert_eq!((error.reason, error.text.as_str()), (DialReason::Refused, "connection refused"));
        until(|| world.server.lanes.stats().idle >= 2).await;
    }
    // Three dials used warm lanes, and no lane was used up.
    assert_eq!(world.host.dials.load(Ordering::Relaxed), 3);
    assert!(world.server.lanes.stats().kept <= 4, "{:?}", world.server.lanes.stats());
    let (mut io, _) = stream.on_lane("echo:1").await;
    echoes(&mut io, 9).await;
}

#[tokio::test]
async fn a_slow_target_is_waited_for_and_the_lane_is_not_given_up() {
    let mut config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    config.ack = Duration::from_millis(1200);
    let world = World::with(config, patient(Security::Raw)).await;
    let stream = world.stream();
    for _ in 0..2 {
        let (mut io, _) = stream.on_lane("slow:1").await;
        echoes(&mut io, 1).await;
        until(|| world.server.lanes.stats().idle > 0).await;
    }
    let stats = world.server.lanes.stats();
    assert_eq!((stats.on_new, stats.on_warm, stats.lost_in_dial), (1, 1, 0), "{stats:?}");
}

#[tokio::test]
async fn an_abandoned_dial_reaches_the_agent_and_spares_the_target_every_byte() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let stream = world.stream();
    drop(stream.on_lane("echo:1").await);
    until(|| world.server.lanes.stats().idle > 0).await;
    let brief = Duration::from_millis(500);
    assert!(tokio::time::timeout(brief, stream.dial("never:1")).await.is_err());
    until(|| world.agent.stats().abandoned == 1).await;
}

#[tokio::test]
async fn a_hundred_dials_at_once_all_find_a_lane() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let stream = Arc::new(world.stream());
    for round in 0..3u8 {
        let mut dials = tokio::task::JoinSet::new();
        for n in 0..100u8 {
            let stream = stream.clone();
            dials.spawn(async move {
                let (mut io, path) = stream.on_lane("echo:1").await;
                assert_eq!(path, Path::LaneRaw);
                echoes(&mut io, n ^ round).await;
            });
        }
        while let Some(done) = dials.join_next().await {
            done.unwrap();
        }
    }
    let stats = world.server.lanes.stats();
    assert_eq!(stats.on_new + stats.on_warm, 300, "{stats:?}");
    assert_eq!(stats.lost_in_dial, 0, "{stats:?}");
    assert_eq!(stats.waiting, 0);
}

#[tokio::test]
async fn flows_survive_their_control_stream_and_idle_lanes_do_not() {
    for security in [Security::Raw, Security::Encrypt] {
        let world = World::new(security, security).await;
        let stream = world.stream();
        let (mut io, _) = stream.on_lane("echo:1").await;
        io.write_all(b"joined").await.unwrap();
        io.flush().await.unwrap();
        assert_eq!(io.read(&mut [0; 16]).await.unwrap(), 6);
        until(|| world.server.lanes.stats().idle > 0).await;
        stream.agent.abort();
        drop(stream);
        assert_eq!(world.server.lanes.stats().idle, 0);
        until(|| world.agent.stats().idle == 0).await;
        echoes(&mut io, 77).await;
    }
}

#[tokio::test]
async fn a_pending_dial_fails_at_once_when_the_control_stream_ends() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let stream = world.stream();
    drop(stream.on_lane("echo:1").await);
    until(|| world.server.lanes.stats().idle > 0).await;
    let ended = stream.lanes.pool.ended.clone();
    let (dialled, ()) = tokio::join!(stream.dial("never:1"), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ended.cancel();
    });
    assert_eq!(dialled.err().unwrap().reason, DialReason::AgentLost);
}

#[tokio::test]
async fn an_agent_whose_certificate_is_refused_hears_why() {
    let (files, foreign) = (Files::new(), Files::new());
    let config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    let server = Server::start(&files, config, &[ALPN_LANE]).await;
    let identity = Some((foreign.path("agent.crt"), foreign.path("agent.key")));
    let tls = ClientTls { ca: files.path("ca.crt"), identity, alpn: vec![ALPN_LANE.to_vec()] };
    let connector = Connector::by("127.0.0.1", server.address.port(), None).unwrap();
    let route = LaneRoute::new(connector, "server.test", tls.watch().unwrap());
    let mut lane = Wire::from(route.connect().await.unwrap());
    let error = hello::hear_server(&mut lane).await.unwrap_err();
    assert!(error.to_string().contains("fatal alert"), "{error}");
}
