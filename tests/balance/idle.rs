//! Agents that nobody dials.

use std::time::Duration;

use proxy_tests::calls::Client;
use proxy_tests::runner::Ground;
use proxy_user::net::connect::Connector;
use proxy_user::net::tls::{ALPN_H2, ClientTls};

use crate::fleet::server;

const AGENTS: usize = 1000;
const LONG: Duration = Duration::from_secs(60);

/// A thousand agents that would open lanes are asked for none, and none is held for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_agents_cost_no_lane() {
    let ground = Ground::new().unwrap();
    let server = server(&ground, "server", 1).unwrap();
    let identity = Some((ground.path("client.crt"), ground.path("client.key")));
    let tls = ClientTls { ca: ground.path("ca.crt"), identity, alpn: vec![ALPN_H2.to_vec()] };
    let tls = tls.watch().unwrap();
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let connector = Connector::by("127.0.0.1", server.agent_port(), None).unwrap();
        let socket = connector.connect(LONG).await.unwrap();
        let client = Client::new(tls.connect("127.0.0.1", socket, LONG).await.unwrap()).await;
        let id = format!("idle-{number}");
        let metadata = [("agentid", id.as_str()), ("konduit-mux", "1"), ("konduit-lane", "1")];
        let mut call = client.call("/AgentService/Connect", &metadata).await;
        assert!(call.answered().await.contains_key("konduit-lane-ticket"), "lanes were agreed on");
        agents.push((client, call));
    }
    server.has_agents(AGENTS).await.unwrap();
    // The sweep of warm lanes comes by within this.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let lanes = server.lanes.as_ref().unwrap().stats();
    assert_eq!((lanes.asked, lanes.kept, lanes.idle), (0, 0, 0), "{lanes:?}");
    for (_, call) in &mut agents {
        let quiet = tokio::time::timeout(Duration::ZERO, call.hear()).await;
        assert!(quiet.is_err(), "an idle agent was told {quiet:?}");
    }
}
