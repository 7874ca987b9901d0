//! `nodeLocal` by Node objects: an address of a node or of its pods is served by an agent of that node or refused, and
//! an API server that is slow, failing or absent holds up nobody.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use proxy_tests::apiserver::{Caller, Mood};
use proxy_tests::child::Child;
use proxy_tests::field::{Field, SOON, says};
use proxy_tests::konduit::binaries;
use proxy_tests::{ports, scrape};

const STRATEGIES: &str = "--proxy-strategies=nodeLocal,default";

fn server(field: &Field, flags: &[&str]) -> anyhow::Result<Child> {
    field.server(&field.api.kubeconfig(Caller::Token)?, &[&[STRATEGIES], flags].concat())
}

/// Takes connections on every loopback address, and ends them; its port.
fn target() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    Ok(port)
}

fn nodes(field: &Field) -> f64 {
    scrape::Page::get(field.server_pages).map_or(f64::NAN, |page| page.sum("konduit_nodes", &[]))
}

fn knows(field: &Field, count: f64) -> anyhow::Result<()> {
    Ok(ports::wait(SOON, &format!("{count} nodes to be known"), || nodes(field) == count)?)
}

fn agents(field: &Field, count: f64) -> anyhow::Result<()> {
    let connected = || {
        scrape::Page::get(field.server_pages)
            .map_or(0.0, |page| page.sum("server_ready_backends", &[("proxy_strategy", "default")]))
    };
    Ok(ports::wait(SOON, "the agents", || connected() == count)?)
}

/// Dials that an agent has had.
fn dials(pages: SocketAddr) -> f64 {
    scrape::Page::get(pages).map_or(f64::NAN, |page| page.sum("agent_dial_duration_seconds_count", &[]))
}

fn is_served(field: &Field, target: &str) -> anyhow::Result<bool> {
    let head = field.dial(target)?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 500"), "{target}: {head}");
    Ok(head.starts_with("HTTP/1.1 200"))
}

#[test]
fn nodes_are_listed_followed_and_forgotten() -> anyhow::Result<()> {
    let field = Field::new()?;
    let port = target()?;
    for (number, name) in ["one", "two", "three", "four", "five"].iter().enumerate() {
        field.api.node(name, &format!("127.0.0.{}", number + 11), &[&format!("127.0.{}.0/24", number + 1)]);
    }
    let server = server(&field, &[])?;
    let (_one, one) = field.agent("one", &[])?;
    let (_uid, uid) = field.agent("uid", &["--agent-identifiers=ipv4=127.0.0.12"])?;
    says(&server, "Nodes are known by their Node objects")?;
    knows(&field, 5.0)?;
    agents(&field, 2.0)?;
    for address in ["127.0.1.1", "127.0.0.11"] {
        assert!(is_served(&field, &format!("{address}:{port}"))?, "{address}");
    }
    assert_eq!((dials(one), dials(uid)), (2.0, 0.0));
    for address in ["127.0.2.1", "127.0.2.9", "127.0.0.12"] {
        assert!(is_served(&field, &format!("{address}:{port}"))?, "{address}");
    }
    assert_eq!((dials(one), dials(uid)), (2.0, 3.0));
    for host in ["127.0.3.1", "127.0.0.13", "three", "127.0.5.1"] {
        assert!(!is_served(&field, &format!("{host}:{port}"))?, "{host} has no agent on its node");
    }
    let moved = |what: &str, served: bool, host: &str| {
        let target = format!("{host}:{port}");
        ports::wait(SOON, what, || is_served(&field, &target).is_ok_and(|now| now == served))
    };
    field.api.drop_node("three");
    moved("a node to be gone, with its ranges", true, "127.0.3.1")?;
    field.api.node("six", "127.0.0.16", &["127.0.6.0/24"]);
    moved("a node to be new", false, "127.0.6.1")?;
    field.api.node("five", "127.0.0.15", &["127.0.50.0/24"]);
    moved("a node's range to change", true, "127.0.5.1")?;
    assert!(!is_served(&field, &format!("127.0.50.1:{port}"))?);
    assert_eq!(field.api.asked("GET /api/v1/nodes?&limit="), 3, "five nodes in pages of two");
    field.api.forget_nodes();
    ports::wait(SOON, "all to be listed anew", || field.api.asked("GET /api/v1/nodes?&limit=") >= 6)?;
    field.api.node("seven", "127.0.0.17", &["127.0.7.0/24"]);
    moved("a node after that", false, "127.0.7.1")?;
    Ok(())
}

/// From the start on; then it is well.
fn serves_by_identifiers_until_nodes_are_known(mood: Mood, words: &str) -> anyhow::Result<()> {
    let field = Field::new()?;
    let port = target()?;
    field.api.node("one", "127.0.0.11", &["127.0.1.0/24"]);
    field.api.is(mood);
    // Before the server: they connect as soon as it lets them.
    let (_plain, _) = field.agent("plain", &[])?;
    let (_named, named) = field.agent("named", &["--agent-identifiers=cidr=127.0.2.0/24"])?;
    let server = server(&field, &[])?;
    let up = Instant::now();
    agents(&field, 2.0)?;
    // A request is given up after 15 s.
    assert!(up.elapsed() < Duration::from_secs(10), "agents wait for the API server: {:?}", up.elapsed());
    assert_eq!(scrape::http_get(field.server_pages, "/healthz")?, "ok");
    assert_eq!(scrape::http_get(field.server_pages, "/readyz")?, "ok");
    assert!(is_served(&field, &format!("127.0.2.1:{port}"))? && dials(named) == 1.0, "{mood:?}");
    assert!(is_served(&field, &format!("127.0.1.1:{port}"))?, "{mood:?}");
    assert_eq!(nodes(&field), 0.0);
    says(&server, words)?;
    field.api.is(Mood::Well);
    knows(&field, 1.0)?;
    assert!(!is_served(&field, &format!("127.0.1.1:{port}"))?, "{mood:?}");
    Ok(())
}

#[test]
fn an_api_server_that_refuses_at_the_start_leaves_agents_identifiers() -> anyhow::Result<()> {
    serves_by_identifiers_until_nodes_are_known(Mood::Refuses(403), "deploy/server/rbac.yaml")
}

#[test]
fn an_api_server_that_is_absent_at_the_start_leaves_agents_identifiers() -> anyhow::Result<()> {
    serves_by_identifiers_until_nodes_are_known(Mood::Absent, "the Kubernetes API server cannot be reached")
        .map(drop)
}

#[test]
fn an_api_server_that_hangs_at_the_start_leaves_agents_identifiers() -> anyhow::Result<()> {
    serves_by_identifiers_until_nodes_are_known(
        Mood::Hangs,
        "the Kubernetes API server did not answer within",
    )
}

#[test]
fn a_slow_api_server_is_waited_for_by_nobody_but_the_list_of_nodes() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.node("one", "127.0.0.11", &["127.0.1.0/24"]);
    field.api.is(Mood::Slow(Duration::from_secs(8)));
    let _server = server(&field, &[])?;
    let (_plain, _) = field.agent("plain", &[])?;
    agents(&field, 1.0)?;
    knows(&field, 1.0)?;
    assert_eq!(field.api.asked("GET /api/v1/nodes?&limit="), 1, "nobody gave up and asked again");
    Ok(())
}

#[test]
fn a_list_of_nodes_without_an_end_is_given_up_and_told() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.node("one", "127.0.0.11", &["127.0.1.0/24"]);
    field.api.node("two", "127.0.0.12", &["127.0.2.0/24"]);
    field.api.list_nodes_in_a_circle(true);
    let server = server(&field, &[])?;
    says(&server, "the list of Node objects goes round in a circle")?;
    field.api.list_nodes_in_a_circle(false);
    knows(&field, 2.0)
}

#[test]
fn what_is_known_of_nodes_outlives_the_api_server_and_its_loss_is_told_once() -> anyhow::Result<()> {
    let field = Field::new()?;
    let port = target()?;
    field.api.node("one", "127.0.0.11", &["127.0.1.0/24"]);
    let server = server(&field, &[])?;
    let (_plain, _) = field.agent("plain", &[])?;
    knows(&field, 1.0)?;
    agents(&field, 1.0)?;
    let asked = field.api.asked("/api/v1/nodes");
    field.api.is(Mood::Refuses(500));
    says(&server, "Cannot follow the Node objects")?;
    ports::wait(SOON, "a few tries more", || field.api.asked("/api/v1/nodes") >= asked + 3)?;
    let log = std::fs::read_to_string(&server.log)?;
    assert_eq!(log.matches("Cannot follow the Node objects").count(), 1, "{log}");
    assert_eq!(nodes(&field), 1.0);
    assert!(!is_served(&field, &format!("127.0.1.1:{port}"))?);
    assert!(is_served(&field, &format!("127.0.2.1:{port}"))?);
    // Back, without that node.
    field.api.drop_node("one");
    field.api.is(Mood::Well);
    knows(&field, 0.0)?;
    assert!(is_served(&field, &format!("127.0.1.1:{port}"))?);
    Ok(())
}

#[test]
fn without_a_client_identifiers_serve_alone_and_the_log_says_so() -> anyhow::Result<()> {
    let field = Field::new()?;
    let server = server(&field, &["--kubeconfig="])?;
    says(&server, "nodeLocal knows nodes by agents' --agent-identifiers alone")?;
    let (_agent, _) = field.agent("agent", &["--agent-identifiers=ipv4=127.0.0.11"])?;
    ports::wait(SOON, "the agent", || field.ready())?;
    assert_eq!(field.api.asked("nodes"), 0);
    Ok(())
}

fn doctor(program: &str, socket: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(binaries()?.join(program));
    let output = command.arg("doctor").arg(format!("--operator-socket={}", socket.display())).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn the_doctors_say_which_nodes_are_known_and_whose_pods_are_elsewhere() -> anyhow::Result<()> {
    let field = Field::new()?;
    field.api.node("one", "192.0.2.1", &["10.1.1.0/24"]);
    field.api.node("two", "127.0.0.1", &["10.1.2.0/24"]);
    field.api.node("three", "192.0.2.3", &[]);
    field.api.node("four", "192.0.2.4", &["10.1.4.0/24"]);
    let socket = field.file("operator.sock");
    let _server = server(&field, &[&format!("--operator-socket={}", socket.display())])?;
    let agent_socket = field.file("agent.sock");
    let operator = format!("--operator-socket={}", agent_socket.display());
    let (_one, _) = field.agent("one", &[])?;
    let (_two, _) = field.agent("uid", &["--agent-identifiers=ipv4=127.0.0.1&cidr=10.9.0.0/26"])?;
    let (_three, _) = field.agent("three", &["--agent-identifiers=cidr=10.1.9.0/24", &operator])?;
    let (_nobodys, _) = field.agent("nobodys", &[])?;
    knows(&field, 4.0)?;
    agents(&field, 4.0)?;
    let said = doctor("proxy-server", &socket)?;
    for words in [
        "nodeLocal: 4 nodes are known by their Node objects, last heard of ",
        "one: 192.0.2.1/32, 10.1.1.0/24; by one",
        "two: 127.0.0.1/32, 10.1.2.0/24; by uid",
        "three: 192.0.2.3/32 (no podCIDR); by three",
        "four: 192.0.2.4/32, 10.1.4.0/24; NO AGENT, dials to it are refused",
        "uid: 10.9.0.0/26, 127.0.0.1/32",
        "Agents of no known node, which serve other strategies only: nobodys;",
        "Pods of one may be outside of its Node.spec.podCIDRs (10.1.1.0/24): its agent one comes from 127.0.0.1.",
        "Calico",
    ] {
        assert!(said.contains(words), "{words:?} in\n{said}");
    }
    for words in ["Pods of two", "Pods of three", "Pods of four"] {
        assert!(!said.contains(words), "{words:?} in\n{said}");
    }
    let said = doctor("proxy-agent", &agent_socket)?;
    assert!(said.contains("--agent-identifiers=\"cidr=10.1.9.0/24\""), "{said}");
    Ok(())
}
