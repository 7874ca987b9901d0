//! Dials that fail, hang, are cancelled or come twice.

use bytes::Bytes;

use super::super::encode::encode;
use super::{SOON, dial, echo, server};
use crate::wire::ids::DialId;
use crate::wire::packet::{Answer, DialResponse, Packet};

#[tokio::test]
async fn failed_dials_are_told_and_leave_the_call_open() {
    let server = server().await;
    let mut call = server.call().await;
    for _ in 0..2 {
        call.say(dial("nowhere", 3));
        let Packet::DialResponse(DialResponse { dial, outcome }) = call.hear().await else { panic!() };
        assert_eq!((dial, outcome.unwrap_err().text), (DialId(3), "No agent available".into()));
    }
    call.send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(call.status().await.0, "0");
}

/// 1001 and above are ours, and an API server never said that it reads such.
#[tokio::test]
async fn a_failed_dial_is_told_in_upstreams_fields() {
    let server = server().await;
    let mut call = server.call().await;
    call.say(dial("nowhere", 3));
    let mut body = call.response.take().unwrap().await.unwrap().into_body();
    let message = tokio::time::timeout(SOON, body.data()).await.unwrap().unwrap().unwrap();
    let text = "No agent available";
    let mut wanted = vec![0x08, 1, 0x1a, 2 + text.len() as u8 + 2, 0x0a, text.len() as u8];
    wanted.extend(text.bytes().chain([0x18, 3]));
    assert_eq!(message[5..], wanted);
}

/// Upstream's `frontend_write_duration_seconds` counts what an agent said, and not what the server says by itself.
#[tokio::test]
async fn what_an_agent_said_counts_as_written_to_the_frontend() {
    let server = server().await;
    let written = || {
        let all = server.backend.metrics.registry().gather();
        let family = all.iter().find(|family| family.name().ends_with("frontend_write_duration_seconds"));
        family.map(|family| family.get_metric()[0].get_histogram().get_sample_count())
    };
    let mut call = server.call().await;
    call.say(dial("nowhere", 3));
    call.hear().await;
    assert_eq!(written(), None);
    let (_quiet, _) = server.dial(&echo().await.to_string()).await;
    assert_eq!(written(), Some(1), "DIAL_RSP");
    let (mut call, conn) = server.dial("words").await;
    call.bytes(conn, "bytes".len()).await;
    assert!(matches!(call.hear().await, Packet::CloseResponse { .. }));
    assert_eq!(written(), Some(4), "DATA and CLOSE_RSP, too");
}

#[tokio::test]
async fn a_dial_that_hangs_is_given_up_by_packet_reset_or_end() {
    let server = server().await;
    let mut by_packet = server.call().await;
    by_packet.say(dial("hang", 1));
    by_packet.say(Packet::CloseDial { dial: DialId(1) });
    server.reached(|backend| &backend.given_up, 1).await;
    by_packet.say(dial("nowhere", 1));
    assert!(matches!(by_packet.hear().await, Packet::DialResponse(_)));

    let mut by_reset = server.call().await;
    by_reset.say(dial("hang", 2));
    server.reached(|backend| &backend.hanging, 2).await;
    by_reset.send.send_reset(h2::Reason::CANCEL);
    server.reached(|backend| &backend.given_up, 2).await;

    let mut by_end = server.call().await;
    by_end.say(dial("hang", 3));
    by_end.send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(by_end.status().await.0, "0");
    server.reached(|backend| &backend.given_up, 3).await;
}

/// A call is one flow. Upstream would dial once more and mix two flows on one stream, which no client of its asks for;
/// silence would make a client wait for its own timeout.
#[tokio::test]
async fn a_second_dial_on_a_call_is_answered_and_harms_nothing() {
    let server = server().await;
    let target = echo().await.to_string();
    let refused = |packet| {
        let Packet::DialResponse(DialResponse { dial: DialId(8), outcome }) = packet else {
            panic!("{packet:?}")
        };
        assert_eq!(outcome.unwrap_err().text, "this stream carries another dial already");
    };
    let mut call = server.call().await;
    call.say(dial("hang", 7));
    call.say(dial(&target, 8));
    refused(call.hear().await);
    call.say(Packet::CloseDial { dial: DialId(7) });
    server.reached(|backend| &backend.given_up, 1).await;
    call.say(dial(&target, 9));
    let Packet::DialResponse(DialResponse { dial: DialId(9), outcome: Ok(Answer::Here(conn)) }) =
        call.hear().await
    else {
        panic!("no flow")
    };
    call.say(dial(&target, 8));
    refused(call.hear().await);
    call.say(Packet::Data { conn, data: "still here".into() });
    assert_eq!(call.bytes(conn, 10).await, b"still here");
    call.say(Packet::CloseRequest { conn });
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: String::new() });
    call.send.send_data(Bytes::new(), true).unwrap();
    server.joined(1).await;
}

/// Answers go past flow control: who asks for them without end loses its call.
#[tokio::test]
async fn dials_without_end_on_one_flow_end_it() {
    let server = server().await;
    let (mut call, _) = server.dial(&echo().await.to_string()).await;
    for _ in 0..5000 {
        // Fails once the server has ended the call.
        let _ = call.send.send_data(encode(dial("nowhere", 8)), false);
    }
    server.joined(1).await;
}

/// A client that cancels dials by the thousand on a reusable tunnel does not lose its flows with them, and may have
/// more of them at once than gRPC libraries have as their limit.
#[tokio::test]
async fn cancelled_dials_leave_other_flows_alone() {
    let server = server().await;
    let (mut good, conn) = server.dial(&echo().await.to_string()).await;
    for round in 1..=5 {
        let mut calls = Vec::new();
        for _ in 0..300 {
            let mut call = tokio::time::timeout(SOON, server.call()).await.expect("a limit of streams");
            call.say(dial("hang", 1));
            calls.push(call);
        }
        server.reached(|backend| &backend.hanging, round * 300).await;
        for mut call in calls {
            call.send.send_reset(h2::Reason::CANCEL);
        }
        server.reached(|backend| &backend.given_up, round * 300).await;
    }
    good.say(Packet::Data { conn, data: "still here".into() });
    assert_eq!(good.bytes(conn, 10).await, b"still here");
}
