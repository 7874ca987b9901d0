use super::nodes::Node;
use super::*;
use crate::flow::FlowTable;
use crate::lane::Fallback;
use crate::mux::brake::Limits;
use crate::mux::{Dialect, Link, LinkConfig, Role};
use crate::ops::metrics::ServerMetrics;
use crate::server::agents::registry::{Registered, Registry};
use crate::wire::identifiers::Identifiers;
use crate::wire::packet::Packet;
use crate::wire::range::Range;

struct World {
    strategies: Vec<Strategy>,
    registry: Arc<Registry>,
    metrics: ServerMetrics,
}

impl World {
    fn new(strategies: &[Strategy]) -> World {
        let metrics = ServerMetrics::new(&FlowTable::new()).unwrap();
        let registry = Registry::new(strategies.to_vec(), metrics.clone());
        World { strategies: strategies.to_vec(), registry, metrics }
    }

    fn agent(&self, name: &str, identifiers: &str) -> Registered {
        let config = LinkConfig::alone(Role::Dialer, Dialect::OURS, Limits::default());
        let identifiers = Identifiers::parse(identifiers).unwrap();
        let (number, link) = (self.registry.number(), Link::new(config).0);
        let metrics = self.metrics.clone();
        let handle =
            AgentHandle::new(name.into(), identifiers, number, link, metrics, Fallback::PeerWithoutLanes);
        self.registry.add(Arc::new(handle))
    }

    fn pick(&self, address: &str) -> Result<String, String> {
        let picked = pick(&self.strategies, &self.registry.streams(), &self.registry.known(), address);
        picked.map(|(_, agent)| agent.id.to_string()).map_err(|error| error.text)
    }

    fn again(&self, address: &str) -> Option<String> {
        let (streams, known) = (self.registry.streams(), self.registry.known());
        let (strategy, first) = pick(&self.strategies, &streams, &known, address).unwrap();
        let second = pick_again(strategy, &streams, &known, address, &[first.number])?;
        assert_ne!(first.number, second.number);
        Some(second.id.to_string())
    }
}

#[test]
fn node_local_serves_by_the_longest_range_and_refuses_before_others_are_asked() {
    let world = World::new(&[Strategy::NodeLocal, Strategy::Default]);
    let _wide = world.agent("wide", "cidr=10.0.0.0/8");
    let node = world.agent("node", "cidr=10.1.2.0/24&ipv4=192.0.2.7");
    for _ in 0..20 {
        assert_eq!(world.pick("10.1.2.3:80").as_deref(), Ok("node"));
        assert_eq!(world.pick("192.0.2.7:10250").as_deref(), Ok("node"));
        assert_eq!(world.pick("10.9.9.9:80").as_deref(), Ok("wide"));
    }
    drop(node);
    for address in ["10.1.2.3:80", "192.0.2.7:10250", "[::ffff:10.1.2.3]:80"] {
        let refusal = world.pick(address).unwrap_err();
        assert!(refusal.contains("which has no agent connected (nodeLocal)"), "{refusal}");
    }
    for address in ["198.51.100.1:443", "node:80", "[fd00::1]:80"] {
        assert_eq!(world.pick(address).as_deref(), Ok("wide"), "{address}");
    }
    let _back = world.agent("back", "cidr=10.1.2.0/24");
    assert_eq!(world.pick("10.1.2.3:80").as_deref(), Ok("back"));
}

/// `name address pods`
fn node(text: &str) -> Node {
    let [name, address, pods] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let pods = Range::parse(pods).into_iter().collect();
    Node { name: name.into(), names: vec![name.into()], addresses: vec![address.parse().unwrap()], pods }
}

#[test]
fn an_agent_is_of_the_node_whose_name_or_address_it_has() {
    for (id, identifiers, of_one) in [
        ("one", "", true),
        ("a", "ipv4=192.0.2.1", true),
        ("a", "ipv6=::ffff:192.0.2.1", true),
        ("a", "host=One", true),
        ("a", "host=192.0.2.1&ipv4=${HOST_IP}", true),
        ("One", "", false),
        ("a", "", false),
        ("a", "ipv4=192.0.2.2", false),
        // What an agent reaches is not where it is.
        ("a", "cidr=192.0.2.1/32", false),
        ("a", "cidr=10.1.1.0/24", false),
        ("a", "host=one.example&default-route=true", false),
    ] {
        let world = World::new(&[Strategy::NodeLocal, Strategy::Default]);
        world.registry.set_nodes(vec![node("one 192.0.2.1 10.1.1.0/24")]);
        let _agent = world.agent(id, identifiers);
        let stream = world.registry.streams()[0].clone();
        let found = world.registry.known().nodes().of(&stream).len();
        assert_eq!(found == 1, of_one, "{id} {identifiers}");
        assert_eq!(node("one 192.0.2.1 x").has(&stream), of_one, "{id} {identifiers}");
    }
}

#[test]
fn node_objects_say_whose_an_address_is_where_agents_do_not() {
    let world = World::new(&[Strategy::NodeLocal, Strategy::Default]);
    let one = world.agent("one", "");
    let _two = world.agent("uid", "ipv4=192.0.2.2");
    let _plain = world.agent("plain", "");
    world.registry.set_nodes(vec![
        node("one 192.0.2.1 10.1.1.0/24"),
        node("two 192.0.2.2 10.1.2.0/24"),
        node("three 192.0.2.3 10.1.3.0/24"),
    ]);
    for _ in 0..20 {
        for (address, agent) in [
            ("10.1.1.3:80", "one"),
            ("192.0.2.1:10250", "one"),
            ("one:10250", "one"),
            ("10.1.2.3:80", "uid"),
            ("two:10250", "uid"),
        ] {
            assert_eq!(world.pick(address).as_deref(), Ok(agent), "{address}");
        }
    }
    for address in ["10.1.3.3:80", "192.0.2.3:10250", "three:10250"] {
        let refusal = world.pick(address).unwrap_err();
        assert!(refusal.contains("belongs to node three, which has no agent connected"), "{refusal}");
    }
    drop(one);
    assert!(world.pick("10.1.1.3:80").is_err());
    world.registry.remove_node("one");
    for address in ["10.1.1.3:80", "192.0.2.1:10250", "one:80"] {
        assert!(world.pick(address).is_ok(), "of no node any more: {address}");
    }
    // Its address goes to another.
    world.registry.put_node(node("two 192.0.2.1 10.1.1.0/24"));
    assert_eq!(world.pick("10.1.2.3:80").map(|_| ()), Ok(()));
    assert!(world.pick("10.1.1.3:80").is_err(), "no agent has that address");
}

#[test]
fn an_agents_word_on_its_pods_counts_before_a_node_objects() {
    let world = World::new(&[Strategy::NodeLocal, Strategy::Default]);
    world.registry.set_nodes(vec![node("one 192.0.2.1 10.1.1.0/24"), node("two 192.0.2.2 10.1.2.0/24")]);
    // A network plugin of its own mind: node one has pods where the Node object of two says.
    let one = world.agent("one", "cidr=10.1.2.0/24&cidr=10.1.3.64/26");
    let _two = world.agent("two", "");
    for _ in 0..20 {
        assert_eq!(world.pick("10.1.2.3:80").as_deref(), Ok("one"));
        assert_eq!(world.pick("192.0.2.2:80").as_deref(), Ok("two"));
    }
    drop(one);
    assert_eq!(world.pick("10.1.2.3:80").as_deref(), Ok("two"), "who is left with that range");
    assert!(world.pick("10.1.3.70:80").is_err());
}

#[test]
fn several_agents_of_a_node_share_its_dials_and_the_idle_one_gets_more() {
    let world = World::new(&[Strategy::NodeLocal]);
    world.registry.set_nodes(vec![node("one 192.0.2.1 10.1.1.0/24")]);
    let (_first, _second) = (world.agent("one", ""), world.agent("other", "host=one"));
    assert!(world.again("10.1.1.3:80").is_some());
    let streams = world.registry.streams();
    let _busy = streams[0].busy();
    for _ in 0..20 {
        assert_eq!(world.pick("10.1.1.3:80").as_deref(), Ok("other"));
    }
}

#[test]
fn a_server_is_ready_when_an_agent_is_a_known_nodes() {
    let world = World::new(&[Strategy::NodeLocal]);
    let _one = world.agent("one", "");
    assert!(!world.registry.is_ready());
    world.registry.put_node(node("one 192.0.2.1 10.1.1.0/24"));
    assert!(world.registry.is_ready());
    world.registry.remove_node("one");
    assert!(!world.registry.is_ready());
}

#[test]
fn a_second_try_stays_with_what_the_strategy_calls_equal() {
    let world =
        World::new(&[Strategy::NodeLocal, Strategy::DestHost, Strategy::DefaultRoute, Strategy::Default]);
    let _node = world.agent("node", "cidr=10.1.2.0/24&host=name");
    let _route = world.agent("route", "default-route=true");
    for address in ["10.1.2.3:80", "name:80", "192.0.2.1:80"] {
        assert_eq!(world.again(address), None, "{address}");
    }
    let _twin = world.agent("node", "cidr=10.1.2.0/24&host=name");
    assert_eq!(world.again("10.1.2.3:80").as_deref(), Some("node"));
    assert_eq!(world.again("name:80").as_deref(), Some("node"));
}

#[test]
fn a_server_is_ready_when_its_first_strategy_has_something_to_pick_from() {
    let world = World::new(&[Strategy::DestHost, Strategy::Default]);
    let _plain = world.agent("plain", "");
    assert!(!world.registry.is_ready());
    let _named = world.agent("named", "host=name");
    assert!(world.registry.is_ready());
    // What is no known node's goes to the next strategy: agents are there for it.
    let world = World::new(&[Strategy::NodeLocal, Strategy::Default, Strategy::DestHost]);
    assert!(!world.registry.is_ready());
    let _plain = world.agent("plain", "ipv4=${HOST_IP}");
    assert!(world.registry.is_ready());
    assert_eq!(World::new(&[Strategy::Default]).pick("a:1"), Err("No agent available".into()));
}

#[test]
fn a_draining_agent_is_picked_only_when_there_is_no_other_however_busy_the_others_are() {
    let world = World::new(&[Strategy::Default]);
    let (_leaving, staying) = (world.agent("leaving", ""), world.agent("staying", ""));
    let stream = |name: &str| {
        let found = world.registry.streams().iter().find(|stream| stream.id.to_string() == name).cloned();
        found.unwrap()
    };
    stream("leaving").handle(Packet::Drain);
    let _flows: Vec<_> = (0..10).map(|_| stream("staying").busy()).collect();
    for _ in 0..20 {
        assert_eq!(world.pick("a:1").as_deref(), Ok("staying"));
    }
    drop(staying);
    assert_eq!(world.pick("a:1").as_deref(), Ok("leaving"));
}

/// The next strategy is for hosts that no agent named, not for agents that are about to go.
#[test]
fn a_host_whose_agents_all_drain_stays_with_them() {
    let world = World::new(&[Strategy::DestHost, Strategy::Default]);
    let (_node, _plain) = (world.agent("node", "host=node-1"), world.agent("plain", ""));
    world.registry.streams()[0].handle(Packet::Drain);
    for _ in 0..20 {
        assert_eq!(world.pick("node-1:80").as_deref(), Ok("node"));
        assert_eq!(world.pick("node-2:80").as_deref(), Ok("plain"));
    }
    let _twin = world.agent("twin", "host=node-1");
    for _ in 0..20 {
        assert_eq!(world.pick("node-1:80").as_deref(), Ok("twin"));
    }
}

#[test]
fn the_least_busy_of_equal_agents_is_picked() {
    for strategy in [Strategy::Default, Strategy::DestHost, Strategy::DefaultRoute] {
        let world = World::new(&[strategy]);
        let _agents = ["one", "two", "three"].map(|name| world.agent(name, "host=node&default-route=true"));
        let streams = world.registry.streams();
        for idle in 0..3 {
            let others = streams.iter().enumerate().filter(|(at, _)| *at != idle);
            let _busy: Vec<_> = others.map(|(_, stream)| stream.busy()).collect();
            for _ in 0..20 {
                let picked = world.pick("node:80");
                assert_eq!(picked.as_deref(), Ok(&*streams[idle].id.to_string()), "{strategy:?}");
            }
        }
    }
}

/// An agent that reconnects before its old stream has ended.
#[test]
fn a_draining_stream_is_not_picked_beside_a_newer_one_of_its_agent() {
    let world = World::new(&[Strategy::Default]);
    let (_older, newer) = (world.agent("same", ""), world.agent("same", ""));
    let streams = world.registry.streams();
    streams[0].handle(Packet::Drain);
    let _busy = streams[1].busy();
    let picked = || {
        let (streams, known) = (world.registry.streams(), world.registry.known());
        pick(&world.strategies, &streams, &known, "a:1").map(|(_, agent)| agent.number)
    };
    for _ in 0..20 {
        assert_eq!(picked().ok(), Some(streams[1].number));
    }
    drop(newer);
    assert_eq!(picked().ok(), Some(streams[0].number));
}

#[test]
fn hosts_are_matched_to_the_letter_and_no_match_is_the_next_strategys() {
    let world = World::new(&[Strategy::DestHost, Strategy::DefaultRoute]);
    let _node = world.agent("node", "host=node-1&ipv4=10.0.0.1");
    assert_eq!(world.pick("node-1:80").as_deref(), Ok("node"));
    assert_eq!(world.pick("10.0.0.1:80").as_deref(), Ok("node"));
    for address in ["Node-1:80", "node-2:80"] {
        assert_eq!(world.pick(address), Err("No agent available".into()), "{address}");
    }
    let _route = world.agent("route", "default-route=true");
    assert_eq!(world.pick("Node-1:80").as_deref(), Ok("route"));
    assert_eq!(world.pick("node-1:80").as_deref(), Ok("node"));
}
