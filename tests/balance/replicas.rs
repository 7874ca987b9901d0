//! Three replicas behind one address.

use std::time::Duration;

use proxy_tests::balancer::Manner;
use proxy_tests::runner::{Ground, RunningServer, until};
use proxy_tests::targets::Target;
use proxy_user::flow::Path;

use crate::fleet::{Fleet, dial, dial_for, ended, server, upstreams};

/// Dials go on all this time, at about 60 a second.
const BUSY: Duration = Duration::from_secs(6);
/// No dial took longer, whatever became of its lane. A busy machine's own delays are in it.
const LONGEST: Duration = Duration::from_secs(5);
/// Lanes that may be tried in vain in the first half of that time, and in the second.
const VAIN: [u64; 2] = [60, 20];

/// Dials without end: none takes long, and lanes that carry no flow are few and become fewer.
async fn busy(fleet: &Fleet, sockets: &[&std::path::Path], target: &Target) {
    for vain in VAIN {
        let (tried, carried) = (fleet.balancer.lanes(), fleet.on_lanes());
        let longest = dial_for(BUSY / 2, sockets, target).await.unwrap();
        assert!(longest < LONGEST, "a dial took {longest:?}");
        let (tried, carried) = (fleet.balancer.lanes() - tried, fleet.on_lanes() - carried);
        assert!(tried <= carried + vain, "{tried} lanes were tried and {carried} carried flows");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_turn_with_one_killed_and_one_added() {
    let mut fleet = Fleet::start(Manner::RoundRobin, 3, &[]).await.unwrap();
    let target = Target::echo().await.unwrap();
    fleet.found(3).await.unwrap();
    let sockets: Vec<_> = fleet.servers.iter().map(RunningServer::socket).collect();
    busy(&fleet, &sockets, &target).await;
    let lost = fleet.servers.remove(0);
    fleet.balancer.remove(lost.agent_port());
    lost.end().await.unwrap();
    fleet.found(2).await.unwrap();
    for server in &fleet.servers {
        dial(server.socket(), &target).await.unwrap();
    }
    let added = server(&fleet.ground, "added", 3).unwrap();
    fleet.balancer.add(added.agent_port());
    fleet.found(3).await.unwrap();
    for server in fleet.servers.iter().chain([&added]) {
        dial(server.socket(), &target).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_source() {
    let fleet = Fleet::start(Manner::SourceHash, 3, &[]).await.unwrap();
    let target = Target::echo().await.unwrap();
    fleet.found(1).await.unwrap();
    let reached = fleet.servers.iter().find(|server| server.registry().streams().len() == 1).unwrap();
    busy(&fleet, &[reached.socket()], &target).await;
    until("the flows to end", || reached.flows().is_empty()).await.unwrap();
    let (lanes, packets) = (ended(reached, Path::LaneRaw), ended(reached, Path::Mux));
    assert!(lanes > 10 * packets, "{lanes} on lanes, {packets} as packets");
}

/// One replica is upstream's and refuses the lanes that land on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_turn_with_one_of_upstreams() {
    let ground = Ground::new().unwrap();
    let upstreams = upstreams(&ground, 3).unwrap();
    let fleet = Fleet::with(ground, Manner::RoundRobin, 2, &[upstreams.agents.port()]).await.unwrap();
    let target = Target::echo().await.unwrap();
    fleet.found(3).await.unwrap();
    let socket = fleet.ground.path("upstreams.sock");
    let mut sockets: Vec<_> = fleet.servers.iter().map(RunningServer::socket).collect();
    sockets.push(&socket);
    busy(&fleet, &sockets, &target).await;
    assert_eq!(upstreams.seen().count("foreign"), 0, "{:?}", upstreams.seen().all());
}

/// A balancer that knows one protocol: every flow travels as packets, and few lanes are tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_alpn() {
    let fleet = Fleet::start(Manner::OnlyH2, 3, &[]).await.unwrap();
    let target = Target::echo().await.unwrap();
    fleet.found(3).await.unwrap();
    let sockets: Vec<_> = fleet.servers.iter().map(RunningServer::socket).collect();
    busy(&fleet, &sockets, &target).await;
    for server in &fleet.servers {
        until("the flows to end", || server.flows().is_empty()).await.unwrap();
        assert!(ended(server, Path::Mux) > 10);
    }
}

/// A balancer that routes by a name which the operator gave the agent: lanes offer it as control streams do, and pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_an_alpn_name_of_the_operators() {
    let fleet = Fleet::start(Manner::Only("operators-own/1"), 3, &[]).await.unwrap();
    let target = Target::echo().await.unwrap();
    fleet.found(3).await.unwrap();
    let sockets: Vec<_> = fleet.servers.iter().map(RunningServer::socket).collect();
    busy(&fleet, &sockets, &target).await;
    for server in &fleet.servers {
        until("the flows to end", || server.flows().is_empty()).await.unwrap();
        let (lanes, packets) = (ended(server, Path::LaneRaw), ended(server, Path::Mux));
        assert!(lanes > packets, "{lanes} on lanes, {packets} as packets");
    }
}
