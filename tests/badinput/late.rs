//! An answer that crosses with whoever asked, on their way out.

use std::time::Instant;

use h2::Reason;
use proxy_tests::calls::Client;
use proxy_tests::konduit::{Frontend, Lanes};
use proxy_user::wire::ids::{ConnId, DialId};
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use tokio::net::UnixStream;

use crate::cell::{Cell, LONG, Plan};
use crate::control_stream::{CONNECT, PROXY, agent};
use crate::puppet::hears;

/// On one thread, whatever is written before anybody else's turn is read together; how many turns an answer is on
/// its way more than a reset is tried out.
#[tokio::test]
async fn an_answer_that_finds_its_client_gone_is_counted_and_the_target_left() {
    let plan = Plan { frontend: Frontend::Grpc, lanes: Lanes::Mux, ..Plan::default() };
    let cell = Cell::server(plan).unwrap();
    let mut agent = agent(&cell).await.call(CONNECT, &[("agentid", "late")]).await;
    agent.answered().await;
    let lost = || cell.server_count("dial_failure_count", &[("reason", "send_rsp")]);
    let began = Instant::now();
    let mut turns = (0..12).cycle();
    for conn in (1..).map(ConnId) {
        assert!(began.elapsed() < LONG, "every client was met, or known to be gone");
        let client = Client::new(UnixStream::connect(cell.socket()).await.unwrap()).await;
        let mut call = client.call(PROXY, &[]).await;
        let (protocol, address) = ("tcp".to_owned(), "10.0.0.1:80".to_owned());
        call.say(Packet::DialRequest(DialRequest { dial: DialId(3), protocol, address, lane_dial: 0 }));
        let dial = loop {
            if let Packet::DialRequest(request) = agent.hear().await.expect("the agent's stream ended") {
                break request.dial;
            }
        };
        agent.say(Packet::DialResponse(DialResponse { dial, outcome: Ok(Answer::Here(conn)) }));
        for _ in 0..turns.next().unwrap() {
            tokio::task::yield_now().await;
        }
        call.send.send_reset(Reason::CANCEL);
        assert!(hears(&mut agent, &Packet::CloseRequest { conn }).await);
        if lost() > 0.0 {
            break;
        }
    }
    assert_eq!(lost(), 1.0);
    let unsent = [("segment", "to_client"), ("code", "Canceled"), ("packet_type", "DIAL_RSP")];
    assert_eq!(cell.server_count("stream_errors_total", &unsent), 1.0);
    cell.server_counts("established_connections", &[], 0.0).await;
}
