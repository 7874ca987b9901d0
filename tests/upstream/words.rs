//! What an agent says when it ends a flow, as the API server hears it: its words, whoever the server is.

use std::io::Write;

use proxy_tests::konduit::Frontend;
use proxy_tests::targets::Target;
use proxy_user::wire::packet::Packet;

use crate::ends::AgentEnd;
use crate::flow::Flow;
use crate::pair::{Pair, Pairing, Side};

/// The words for a flow that the agent does not know, when bytes come for it or it is to be closed.
async fn unknown(server: Side) {
    for (closes, words) in [(false, "unrecognized connectID"), (true, "Unknown connectID")] {
        told(server, closes, words).await;
    }
}

async fn told(server: Side, closes: bool, words: &str) {
    let (agent, frontend) = (Side::Upstream, Frontend::Grpc);
    let pair = Pair::start(Pairing { server, agent, frontend, lanes: false, killed: false }).await.unwrap();
    let AgentEnd::Peer(agent) = &pair.agents[0] else {
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: only the played agent forgets its flows\n");
        return;
    };
    let target = Target::echo().await.unwrap();
    let mut flow = pair.dial(&target.name()).await.unwrap();
    flow.exchange(25, 1).await.unwrap();
    agent.forget();
    let Flow::Grpc(mut call, conn) = flow else { panic!("no flow by gRPC") };
    call.say(match closes {
        true => Packet::CloseRequest { conn },
        false => Packet::Data { conn, data: "lost".into() },
    });
    let said = Packet::CloseResponse { conn, error: words.to_owned() };
    assert_eq!(call.hear().await, Some(said));
    pair.kept_to_the_contract();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_upstreams_agent_by_our_server() {
    unknown(Side::Ours).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_upstreams_agent_by_upstreams_server() {
    unknown(Side::Upstream).await;
}
