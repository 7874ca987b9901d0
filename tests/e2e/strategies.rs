//! Which agent a dial goes to, and which it may go to when the first fails.

use proxy_tests::field::{Field, SOON};
use proxy_tests::ports;
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, until};
use proxy_tests::targets::Target;
use proxy_user::ops::metrics::encode;
use proxy_user::server::options::Strategies;
use proxy_user::server::options::Strategy::{Default, DestHost, NodeLocal};
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_local_dials_go_to_the_nodes_agent_or_nowhere() {
    let ground = Ground::new().unwrap();
    let mut options = ground.server_options("server");
    options.proxy_strategies = Strategies(vec![NodeLocal, Default]);
    let server = RunningServer::start(options).unwrap();
    let start = |name: &str, identifiers: &str| {
        let mut options = ground.agent_options(name, server.agent_port());
        options.agent_identifiers = identifiers.into();
        RunningAgent::start(options).unwrap()
    };
    let (near, _far) = (start("near", "cidr=127.0.0.0/24"), start("far", "cidr=10.0.0.0/8"));
    server.has_agents(2).await.unwrap();
    let target = Target::echo().await.unwrap();
    let mut flows = Vec::new();
    for _ in 0..8 {
        flows.push(server.open(&target.name()).await.unwrap());
    }
    until("all eight at the near agent", || near.flows.len() == 8).await.unwrap();
    drop(flows);
    near.end().await.unwrap();
    server.has_agents(1).await.unwrap();
    let (_, head) = server.connect(&target.name()).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 500"), "{head}");
    server.open(&target.name().replace("127.0.0.1", "localhost")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_strategy_has_its_count_before_the_first_agent() {
    let ground = Ground::new().unwrap();
    let mut options = ground.server_options("server");
    options.proxy_strategies = Strategies(vec![DestHost, Default]);
    let server = RunningServer::start(options).unwrap();
    let text = String::from_utf8(encode(server.dialer.metrics.registry()).unwrap()).unwrap();
    let counts: Vec<_> = text.lines().filter(|line| line.contains("_ready_backends{")).collect();
    let line = |strategy| {
        format!("konnectivity_network_proxy_server_ready_backends{{proxy_strategy=\"{strategy}\"}} 0")
    };
    assert_eq!(counts, [line("default"), line("destHost")]);
}

#[test]
fn a_dial_that_an_agent_does_not_answer_goes_to_another() -> anyhow::Result<()> {
    let field = Field::new()?;
    let target = std::net::TcpListener::bind("127.0.0.1:0")?;
    let flags = ["--backend-dial-timeout=2s", "--lanes=off"];
    let _server = field.server(&field.kubeconfig_of_nobody()?, &flags)?;
    let (first, _) = field.agent("first", &[])?;
    let (_second, _) = field.agent("second", &[])?;
    ports::wait(SOON, "both agents", || field.metric("ready_backends") == 2.0)?;
    first.signal(Signal::STOP)?;
    let dialled =
        (0..6).map(|_| field.dial(&target.local_addr()?.to_string())).collect::<Result<Vec<_>, _>>();
    first.signal(Signal::CONT)?;
    for head in dialled? {
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
    Ok(())
}
