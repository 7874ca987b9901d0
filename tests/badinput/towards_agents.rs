//! Servers that say to an agent what they should not: it goes on, or ends that stream and comes back; it never panics
//! (as upstream's would) and nothing of the stream's flows is left.

use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proxy_tests::calls::Call;
use proxy_tests::runner::until;
use proxy_tests::targets::Target;
use proxy_user::wire::ids::ConnId;
use proxy_user::wire::packet::{MAX_PACKET, Packet};
use proxy_user::wire::pb;
use tokio::io::AsyncWriteExt;

use crate::puppet::{Puppet, dial, hears, ping};
use crate::{panics, rest};

const NOBODY: ConnId = ConnId(777_777);

/// DATA for nobody that is this long in all.
fn data(length: usize) -> Vec<u8> {
    let packet = |bytes| {
        pb::Packet::from(Packet::Data { conn: NOBODY, data: Bytes::from(vec![7; bytes]) }).encode_to_vec()
    };
    let head = packet(length).len() - length;
    let packet = packet(length - head);
    assert_eq!(packet.len(), length);
    packet
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_packet_ends_its_stream_and_the_agent_comes_back() {
    panics::watch();
    let target = Target::echo().await.unwrap();
    for ours in [false, true] {
        let puppet = Puppet::start(ours);
        let mut call = puppet.stream().await;
        until("the agent to know its server", || puppet.agent.servers.connected() == 1).await.unwrap();
        let quiet = tasks();
        // Empty; of each of upstream's types without a payload; DATA with a dial's payload; two that are no protobuf;
        // one byte more than 4 MiB.
        let mut broken = vec![b"".to_vec(), b"\x08\x04\x12\x00".to_vec()];
        broken.extend((1..6).map(|kind| vec![8, kind]));
        broken.extend([b"\xff\xff\xff".to_vec(), vec![0x22, 0xff, 0x7f, 1], data(MAX_PACKET + 1)]);
        for (round, message) in broken.iter().enumerate() {
            let what = format!("{:?}, {} bytes", &message[..message.len().min(4)], message.len());
            let conn = dial(&mut call, &target.name()).await;
            ping(&mut call, conn).await;
            call.send_message(message);
            while call.hear().await.is_some() {}
            drop(call);
            puppet.agent_has_nothing_left(&what).await;
            assert_eq!(puppet.count("stream_errors_total", &[("segment", "to_agent")]), round as f64 + 1.0);
            call = puppet.stream().await;
        }
        let too_large = [("segment", "to_agent"), ("code", "ResourceExhausted")];
        assert_eq!(puppet.count("stream_errors_total", &too_large), 1.0);
        let conn = dial(&mut call, &target.name()).await;
        ping(&mut call, conn).await;
        call.say(Packet::CloseRequest { conn });
        puppet.agent_has_nothing_left("at the end").await;
        until("the tasks of broken streams to end", || tasks() <= quiet).await.unwrap();
    }
    assert_eq!(panics::seen(), [""; 0]);
}

/// What has a meaning by the contract has it beside a flow that lives, and what has none changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_of_nobody_and_of_later_versions_end_nothing() {
    panics::watch();
    let target = Target::echo().await.unwrap();
    for ours in [false, true] {
        let puppet = Puppet::start(ours);
        let mut call = puppet.stream().await;
        let conn = dial(&mut call, &target.name()).await;
        // Type 77: bare, with an unknown payload, with a known one; a known packet with fields of a later version.
        let unknown: [&[u8]; 4] = [
            b"\x08\x4d",
            b"\x08\x4d\xca\x04\x02hi",
            b"\x08\x4d\x22\x02\x08\x01",
            b"\x08\x06\x42\x02\x78\x01\x98\x06\x01",
        ];
        for message in unknown {
            call.send_message(message);
            ping(&mut call, conn).await;
        }
        let text = "unrecognized connectID".to_owned();
        for (message, answer) in [
            (data(100), unrecognized(ours, &text)),
            // The most that a packet may have.
            (data(MAX_PACKET), unrecognized(ours, &text)),
            (
                pb::Packet::from(Packet::CloseRequest { conn: NOBODY }).encode_to_vec(),
                Packet::CloseResponse { conn: NOBODY, error: "Unknown connectID".to_owned() },
            ),
        ] {
            call.send_message(&message);
            assert!(hears(&mut call, &answer).await, "the stream ended");
            ping(&mut call, conn).await;
        }
        // Dropped: without an answer the next thing heard is the ping's.
        call.say(Packet::Data { conn: ConnId::NONE, data: "?".into() });
        call.say(Packet::CloseResponse { conn: NOBODY, error: String::new() });
        call.say(Packet::Data { conn, data: "last".into() });
        assert_eq!(next(&mut call).await, Packet::Data { conn, data: "last".into() });
        assert_eq!(puppet.count("stream_errors_total", &[]), 0.0);
        assert_eq!(puppet.agent.servers.connected(), 1);
    }
    assert_eq!(panics::seen(), [""; 0]);
}

fn unrecognized(ours: bool, text: &str) -> Packet {
    match ours {
        true => Packet::Reset { conn: NOBODY, reason: text.to_owned() },
        false => Packet::CloseResponse { conn: NOBODY, error: text.to_owned() },
    }
}

/// The next packet that is no credit.
async fn next(call: &mut Call) -> Packet {
    loop {
        match call.hear().await.expect("the stream ended") {
            Packet::Window { .. } => {}
            packet => return packet,
        }
    }
}

/// Garbage in place of HTTP/2, and answers that name no server: the agent says so in its log and tries on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_makes_no_sense_is_not_the_end_of_the_agent() {
    panics::watch();
    let puppet = Puppet::start(true);
    for garbage in
        [b"".as_slice(), b"HTTP/1.1 400 Bad Request\r\n\r\n", &[0xff; 20_000], b"\0\0\0\x04\0\0\0\0\x01"]
    {
        let mut stream = puppet.connection().await;
        // The agent may leave before it took all of it.
        let _ = stream.write_all(garbage).await;
        if garbage.is_empty() {
            let _ = stream.shutdown().await;
        }
        rest(&mut stream).await;
    }
    for metadata in [
        &[][..],
        &[("servercount", "1")],
        &[("serverid", "one"), ("serverid", "two"), ("servercount", "1")],
        &[("serverid", "one"), ("servercount", "many")],
    ] {
        let (request, respond) = puppet.call().await;
        let mut call = Call::answer(request, respond, metadata);
        while call.hear().await.is_some() {}
        assert_eq!(puppet.agent.servers.connected(), 0, "{metadata:?}");
    }
    let target = Target::echo().await.unwrap();
    let mut call = puppet.stream().await;
    let conn = dial(&mut call, &target.name()).await;
    ping(&mut call, conn).await;
    assert_eq!(panics::seen(), [""; 0]);
}

/// TLS and nothing behind it, or HTTP/2 and no answer to its call: upstream's agent waits for ever. There is a server
/// more to be found, and the flows of the one there is go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_is_given_up_for_the_next() {
    // As long as this test may be late with an answer that it does give.
    const PATIENCE: Duration = Duration::from_secs(2);
    let puppet = Puppet::with(true, |options| options.hello_timeout = PATIENCE);
    let target = Target::echo().await.unwrap();
    let mut first = puppet.answer(&[("serverid", "first"), ("servercount", "2")]).await;
    let conn = dial(&mut first, &target.name()).await;
    // Ahead of the handshake, behind which the agent's patience begins.
    let began = Instant::now();
    let mut silent = puppet.connection().await;
    rest(&mut silent).await;
    assert!(began.elapsed() >= PATIENCE, "it was left after {:?}", began.elapsed());
    ping(&mut first, conn).await;
    let (_request, _respond) = puppet.call().await;
    let _second = puppet.answer(&[("serverid", "second"), ("servercount", "2")]).await;
    until("both servers", || puppet.agent.servers.connected() == 2).await.unwrap();
    ping(&mut first, conn).await;
}
