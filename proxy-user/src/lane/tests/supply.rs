//! Lanes that are refused, starved, idle or too many.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::world::{Packet, SOON, Server, World, echoes, patient, target, until};
use crate::lane::carrier::jitter;
use crate::lane::counters::{LANDED, MUX, REFUSED};
use crate::lane::demand::{FORGET, HALF_LIFE};
use crate::lane::*;

#[tokio::test]
async fn wrong_tickets_are_refused_with_their_reason_and_the_flow_takes_the_mux() {
    let world = World::new(Security::Raw, Security::Raw).await;
    // The control stream came under another certificate than the agent's lanes will.
    let stream = world.stream_of("server-a", "other");
    assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux", _))));
    let refused = |name: &str| {
        let stats = world.server.lanes.stats();
        stats.labelled.get(&(REFUSED, name.to_owned())).copied().unwrap_or(0)
    };
    until(|| refused("other_certificate") >= 1).await;
    drop(stream);

    // A ticket whose control stream ended.
    let ended = {
        let lanes = world.server.lanes.stream(Some(world.identity("agent")), Box::new(|_| {})).unwrap();
        lanes.ticket().clone()
    };
    let agent = world.agent.stream("server-a", ended, world.host.clone());
    agent.want(1);
    until(|| refused("ended_stream") == 1).await;
    until(|| world.agent.stats().idle == 0).await;
}

/// The only lane of its control stream: the agent hears why it is refused whether its target answers before or after, and
/// asks for a control stream under the certificate that it shows now, once.
#[tokio::test]
async fn a_lane_that_is_refused_while_it_waits_for_its_target_is_heeded() {
    for target_is in ["slow:1", "echo:1"] {
        let world = World::new(Security::Raw, Security::Raw).await;
        let lanes = world.server.lanes.stream(Some(world.identity("other")), Box::new(|_| {})).unwrap();
        let agent = world.agent.stream("server-a", lanes.ticket().clone(), world.host.clone());
        for dial in 1..=2 {
            assert!(matches!(agent.answer(dial, target(target_is)).await, Answered::Mux(_)), "{target_is}");
            let heard = (REFUSED, Refusal::OtherCertificate.name().to_owned());
            until(|| world.agent.stats().labelled.get(&heard) == Some(&dial)).await;
            assert_eq!(world.host.renewals.load(Ordering::Relaxed), 1, "{target_is}");
        }
    }
}

#[tokio::test]
async fn a_server_without_lanes_gets_every_dial_on_the_mux_and_no_further_lanes() {
    let world = World::impatient().await;
    let plain = ServerLaneConfig::new("server-b", Security::Raw, 4096);
    let upstream = Server::start(&world.files, plain, &[b"http/1.1"]).await;
    *world.route.address.lock().unwrap() = upstream.address;
    let stream = world.stream();
    for _ in 0..3 {
        assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux", _))));
        until(|| world.agent.stats().failed >= 1).await;
    }
    let stats = world.agent.stats();
    // The first dial and the lanes asked for beside it; nothing after the first refusal.
    assert!(stats.opened == 0 && (1..=3).contains(&stats.failed), "{stats:?}");
}

#[tokio::test]
async fn lanes_that_cannot_be_opened_leave_the_mux_and_come_back() {
    let world = World::impatient().await;
    world.route.closed.store(true, Ordering::Relaxed);
    let stream = world.stream();
    assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux", _))));
    assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux", _))));
    let mux: u64 =
        world.agent.stats().labelled.iter().filter(|((family, _), _)| *family == MUX).map(|(_, n)| n).sum();
    assert_eq!(mux, 2);
    world.route.closed.store(false, Ordering::Relaxed);
    tokio::time::timeout(SOON, async {
        while !matches!(stream.dial("echo:1").await, Ok(Dialled::Lane(..))) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn lanes_that_land_on_another_server_starve_this_one_and_say_so() {
    let world = World::impatient().await;
    // The agent believes that it talks to server-x; the address answers as server-a.
    let stream = world.stream_of("server-x", "agent");
    let landed = (LANDED, "server-x,server-a".to_owned());
    let missed = || world.agent.stats().labelled.get(&landed).copied().unwrap_or(0);
    for dial in 1..=6u64 {
        assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux", _))));
        until(|| missed() >= dial.min(4)).await;
    }
    assert!(missed() <= 6, "{:?}", world.agent.stats());
    assert_eq!(world.server.lanes.stats().kept, 0);
}

/// As behind a balancer, when one of its servers goes.
#[tokio::test]
async fn a_lane_lives_as_long_as_the_stream_it_belongs_to_and_not_as_the_one_it_was_opened_for() {
    let world = World::new(Security::Raw, Security::Raw).await;
    // It is asked for lanes and opens none: what comes was opened for the other.
    let here = world.stream_that_opens_none();
    let elsewhere = world.stream_of("server-x", "agent");
    let (mut io, _) = here.on_lane("echo:1").await;
    elsewhere.control.send(Packet::Want(1)).await.unwrap();
    until(|| world.server.lanes.stats().idle == 1).await;
    let landed = (LANDED, "server-x,server-a".to_owned());
    assert_eq!(world.agent.stats().labelled.get(&landed), Some(&1));
    elsewhere.agent.abort();
    drop(elsewhere);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.agent.stats().idle, 1, "{:?}", world.agent.stats());
    drop(here.on_lane("echo:1").await);
    assert_eq!(world.server.lanes.stats().on_warm, 1, "{:?}", world.server.lanes.stats());
    echoes(&mut io, 3).await;
}

#[tokio::test]
async fn an_agent_at_its_ceiling_answers_on_the_control_stream_at_once() {
    let mut agent = patient(Security::Raw);
    agent.ceiling = 0;
    let world = World::with(ServerLaneConfig::new("server-a", Security::Raw, 4096), agent).await;
    let stream = world.stream();
    let began = Instant::now();
    assert!(matches!(stream.dial("echo:1").await, Ok(Dialled::Mux("mux", _))));
    assert!(began.elapsed() < SOON / 2, "it waited for a lane that nobody opens");
    let why = (MUX, "lanes_at_ceiling".to_owned());
    assert_eq!(world.agent.stats().labelled.get(&why), Some(&1), "{:?}", world.agent.stats());
}

#[tokio::test]
async fn idle_lanes_are_pinged_and_dead_ones_found() {
    let mut config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    config.ping = Duration::from_millis(80);
    let world = World::with(config, patient(Security::Raw)).await;
    let stream = world.stream();
    drop(stream.on_lane("echo:1").await);
    until(|| world.server.lanes.stats().idle == 2).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let stats = world.server.lanes.stats();
    assert_eq!((stats.found_dead, stats.kept), (0, 3), "pings keep lanes: {stats:?}");
    // The agent's process dies: its sockets close, and the server notices without a dial.
    stream.agent.abort();
    until(|| world.server.lanes.stats().found_dead >= 2).await;
}

#[tokio::test]
async fn dials_that_come_faster_than_lanes_are_worth_go_to_the_mux_at_once() {
    let world = World::new(Security::Raw, Security::Raw).await;
    world.server.lanes.pace(true);
    let stream = Arc::new(world.stream());
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..160 {
        let stream = stream.clone();
        dials.spawn(async move {
            matches!(stream.dial("echo:1").await.unwrap(), Dialled::Mux(_, Fallback::ManyDials))
        });
    }
    let mut on_mux = 0;
    while let Some(dial) = dials.join_next().await {
        on_mux += u64::from(dial.unwrap());
    }
    let stats = world.server.lanes.stats();
    assert!((1..=110).contains(&on_mux), "fifty at once may use lanes: {stats:?}");
    assert_eq!(stats.on_new + stats.on_warm, 160 - on_mux, "{stats:?}");
    world.server.lanes.pace(false);
    for _ in 0..3 {
        drop(stream.on_lane("echo:1").await);
    }
}

#[tokio::test]
async fn bounds_hold() {
    let mut config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    config.waiting_per_stream = 3;
    config.per_stream = 2;
    let mut agent = AgentLaneConfig::new(Security::Raw, 4096);
    agent.ceiling = 8;
    let world = World::with(config, agent).await;
    let stream = Arc::new(world.stream());
    let mut dials = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let stream = stream.clone();
        dials.spawn(async move { stream.dial("slow:1").await });
    }
    let mut refused = 0;
    while let Some(done) = dials.join_next().await {
        let dialled = done.unwrap().unwrap();
        refused += usize::from(matches!(dialled, Dialled::Mux(_, Fallback::TooManyWaiting)));
        assert!(world.agent.stats().idle <= 9);
    }
    let stats = world.server.lanes.stats();
    assert!(refused >= 40, "{refused}: {stats:?}");
    assert!(stats.idle <= 2, "{stats:?}");
    assert_eq!(stats.waiting, 0);
}

/// Lanes are for dials: who has none for five minutes holds none, at either end, and none is asked for in their place.
#[tokio::test]
async fn lanes_are_given_up_five_minutes_after_the_last_dial() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let stream = world.stream();
    drop(stream.on_lane("echo:1").await);
    until(|| world.server.lanes.stats().idle == 2).await;
    let sweep = |later| stream.lanes.pool.clone().sweep(Instant::now() + later);
    sweep(FORGET - Duration::from_secs(10));
    // They were quiet for long and answer a ping first.
    until(|| world.server.lanes.stats().idle == 2).await;
    let before = world.server.lanes.stats();
    assert_eq!((before.surplus, before.retired), (0, 0), "{before:?}");
    sweep(FORGET);
    let after = world.server.lanes.stats();
    assert_eq!((after.idle, after.surplus, after.retired), (0, 2, 0), "{after:?}");
    assert_eq!(after.asked, before.asked);
    until(|| world.agent.stats().idle == 0).await;
}

#[tokio::test]
async fn what_a_burst_left_over_is_given_up_as_it_fades() {
    let world = World::new(Security::Raw, Security::Raw).await;
    let stream = world.stream();
    // At once: no lane comes meanwhile.
    (0..24).for_each(|_| drop(stream.lanes.pool.take()));
    until(|| world.server.lanes.stats().idle == 25).await;
    // Four halvings later it counts as two: twice three lanes are kept for it.
    stream.lanes.pool.clone().sweep(Instant::now() + 4 * HALF_LIFE);
    until(|| world.server.lanes.stats().idle == 6).await;
    let stats = world.server.lanes.stats();
    assert_eq!((stats.surplus, stats.found_dead, stats.asked), (19, 0, 25), "{stats:?}");
    until(|| world.agent.stats().idle == 6).await;
}

#[tokio::test]
async fn idle_lanes_are_replaced_at_their_age() {
    let mut config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    config.age = Duration::from_secs(200);
    let world = World::with(config.clone(), AgentLaneConfig::new(Security::Raw, 4096)).await;
    let stream = world.stream();
    drop(stream.on_lane("echo:1").await);
    until(|| world.server.lanes.stats().idle == 2).await;
    let sweep = |later| stream.lanes.pool.clone().sweep(Instant::now() + later);
    sweep(config.age / 2);
    // They were quiet for long and answer a ping first.
    until(|| world.server.lanes.stats().idle == 2).await;
    let before = world.server.lanes.stats();
    assert_eq!(before.retired, 0, "{before:?}");
    sweep(config.age);
    until(|| world.server.lanes.stats().idle == 2).await;
    let after = world.server.lanes.stats();
    assert_eq!((after.retired, after.surplus, after.found_dead), (2, 0, 0), "{after:?}");
    assert_eq!(after.asked, before.asked + 2, "{after:?}");
    // What came together does not go together.
    let ages: Vec<_> = (0..100).map(|_| jitter(config.age)).collect();
    assert!(ages.iter().all(|age| (config.age * 3 / 4..=config.age).contains(age)), "{ages:?}");
    let (Some(first), Some(last)) = (ages.iter().min(), ages.iter().max()) else { panic!() };
    assert!(*last - *first > config.age / 10, "{first:?} to {last:?}");
}

/// What all control streams together may hold is shared by their dials, and none waits for another's lanes to go.
#[tokio::test]
async fn lanes_in_all_are_shared_in_proportion_to_use() {
    let mut config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    config.total = 12;
    config.per_stream = 10;
    let lanes = ServerLanes::start(config).unwrap();
    let stream = |dials: usize| {
        let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let sum = asked.clone();
        let ask = move |lanes| {
            sum.fetch_add(lanes, Ordering::Relaxed);
        };
        let stream = lanes.stream(None, Box::new(ask)).unwrap();
        (0..dials).for_each(|_| drop(stream.pool.take()));
        (stream, asked)
    };
    let asked = |asked: &std::sync::atomic::AtomicU32| asked.load(Ordering::Relaxed);
    // Alone it may have what a stream may have, less than it would use.
    let (busy, busy_asked) = stream(35);
    assert_eq!(asked(&busy_asked), 10);
    // Of 36 and 12 wanted, a quarter of twelve.
    let (calm, calm_asked) = stream(11);
    assert_eq!(asked(&calm_asked), 3);
    assert_eq!(lanes.shared.share(36), 9);
    // Whoever ends leaves its share to the others.
    drop(busy);
    drop(calm.pool.take());
    assert!((9..=10).contains(&asked(&calm_asked)), "{}", asked(&calm_asked));
}

/// Neither one that was asked for nor one that comes back from its flow is kept beyond what there may be in all.
#[tokio::test]
async fn no_more_lanes_are_kept_than_there_may_be_in_all() {
    let mut config = ServerLaneConfig::new("server-a", Security::Raw, 4096);
    config.total = 1;
    let world = World::with(config, patient(Security::Raw)).await;
    let stream = world.stream();
    for round in 0..4 {
        let (mut io, _) = stream.on_lane("echo:1").await;
        until(|| world.server.lanes.stats().idle == 1).await;
        echoes(&mut io, round).await;
        drop(io);
        assert!(world.server.lanes.stats().idle <= 1);
        until(|| world.agent.stats().idle == 1).await;
    }
    assert_eq!(world.server.lanes.stats().idle, 1);
}
