//! Agents and API servers that are authenticated and say what they should not.

use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use proxy_tests::calls::{Call, Client};
use proxy_tests::konduit::{Frontend, Lanes};
use proxy_tests::targets::Target;
use proxy_user::net::tls::ALPN_H2;
use proxy_user::wire::ids::{ConnId, DialId};
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, MAX_PACKET, Packet};
use proxy_user::wire::pb;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UnixStream};

use crate::cell::{Cell, LONG, Plan};
use crate::{Witness, dials};

pub(crate) async fn agent(cell: &Cell) -> Client {
    let stream = TcpStream::connect(cell.server.bound.agents).await.unwrap();
    let tls = cell.tls(Some(&cell.client()), ALPN_H2);
    Client::new(tls.connect("127.0.0.1", stream, LONG).await.unwrap()).await
}

pub(crate) const CONNECT: &str = "/AgentService/Connect";
pub(crate) const PROXY: &str = "/ProxyService/Proxy";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_say_who_it_is_is_refused() {
    let cell = Cell::start(Plan::default()).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    let client = agent(&cell).await;
    for metadata in [
        &[][..],
        &[("agentid", "one"), ("agentid", "two")],
        &[("agentid", "one"), ("agentidentifiers", "ipv4=%zz")],
        &[("agentid", "one"), ("agentidentifiers", "a=b;c=d")],
    ] {
        let mut call = client.call(CONNECT, metadata).await;
        let (status, message) = call.status().await;
        assert_eq!(status, "2", "{metadata:?}");
        assert!(!message.is_empty(), "{metadata:?}");
    }
    for (path, words) in [
        (PROXY, "unknown service ProxyService"),
        ("/AgentService/Other", "unknown method Other for service AgentService"),
    ] {
        let (status, message) = client.call(path, &[]).await.status().await;
        assert_eq!((status.as_str(), message.replace("%20", " ").as_str()), ("12", words));
    }
    assert_eq!(cell.server_count("ready_backends", &[]), 1.0);
    let refused = [("port", "agents"), ("reason", "metadata")];
    cell.server_counts("konduit_refused_connections_total", &refused, 4.0).await;
    witness.still_works().await;
}

/// Packets that no agent sends end the stream they came on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_breaks_the_rules_loses_its_own_stream() {
    let cell = Cell::start(Plan::default()).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    let oversized = vec![0; (4 << 20) + 1];
    // Empty; DATA without payload; no protobuf; larger than 4 MiB.
    for (message, code) in
        [(b"".as_slice(), "3"), (b"\x08\x04", "3"), (b"\xff\xff\xff", "13"), (&oversized, "8")]
    {
        let client = agent(&cell).await;
        let mut call = client.call(CONNECT, &[("agentid", "broken")]).await;
        assert!(call.answered().await.contains_key("serverid"));
        call.send_message(message);
        let (status, text) = call.status().await;
        assert_eq!(status, code, "{} bytes: {text}", message.len());
        assert!(!text.is_empty());
        cell.server_counts("ready_backends", &[], 1.0).await;
        witness.still_works().await;
    }
    for (code, streams) in [("Internal", 3.0), ("ResourceExhausted", 1.0)] {
        let broken = [("segment", "from_agent"), ("code", code)];
        cell.server_counts("stream_errors_total", &broken, streams).await;
    }
    dials(&cell).await;
}

/// The largest message there may be, and the bytes in it.
fn largest(conn: ConnId) -> (Vec<u8>, Vec<u8>) {
    let message = |data: &[u8]| {
        pb::Packet::from(Packet::Data { conn, data: Bytes::copy_from_slice(data) }).encode_to_vec()
    };
    let mut data: Vec<u8> = (0..MAX_PACKET).map(|at| (at * 31 % 251) as u8).collect();
    data.truncate(2 * MAX_PACKET - message(&data).len());
    let message = message(&data);
    assert_eq!(message.len(), 4 << 20);
    (message, data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_message_of_an_agent_comes_through() {
    let cell = Cell::server(Plan::default()).unwrap();
    let client = agent(&cell).await;
    let mut call = client.call(CONNECT, &[("agentid", "large")]).await;
    call.answered().await;
    let conn = ConnId(7);
    let (message, data) = largest(conn);
    let mut stream = UnixStream::connect(cell.socket()).await.unwrap();
    let (head, ()) = tokio::join!(crate::connect(&mut stream, "10.0.0.1:80"), async {
        let Some(Packet::DialRequest(DialRequest { dial, .. })) = call.hear().await else {
            panic!("no dial")
        };
        call.say(Packet::DialResponse(DialResponse { dial, outcome: Ok(Answer::Here(conn)) }));
        call.send_message(&message);
    });
    assert_eq!(head, "HTTP/1.1 200 Connection Established\r\n\r\n");
    let mut back = vec![0; data.len()];
    tokio::time::timeout(LONG, stream.read_exact(&mut back)).await.expect("bytes are missing").unwrap();
    assert!(back == data, "other bytes came");
    call.say(Packet::CloseResponse { conn, error: String::new() });
    assert_eq!(crate::rest(&mut stream).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_message_of_an_api_server_comes_through() {
    let target = Target::echo().await.unwrap();
    for lanes in [Lanes::Mux, Lanes::Raw] {
        let cell = Cell::start(Plan { frontend: Frontend::Grpc, lanes, ..Plan::default() }).await.unwrap();
        let client = api_server(&cell).await;
        let (mut call, conn) = dial(&client, &target.name()).await;
        let conn = conn.unwrap();
        let (message, data) = largest(conn);
        call.send_message(&message);
        let mut back = Vec::new();
        while back.len() < data.len() {
            let Some(Packet::Data { data, .. }) = call.hear().await else { panic!("an early end") };
            back.extend_from_slice(&data);
        }
        assert!(back == data, "other bytes came back, {lanes:?}");
    }
}

/// Answers to dials that nobody made, bytes of flows that do not exist.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_cannot_reach_into_flows_of_others() {
    let cell = Cell::start(Plan { lanes: Lanes::Mux, ..Plan::default() }).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    witness.still_works().await;
    let client = agent(&cell).await;
    let mut call = client.call(CONNECT, &[("agentid", "cell")]).await;
    call.answered().await;
    for conn in 1..4 {
        let conn = ConnId(conn);
        call.say(Packet::Data { conn, data: "not yours".into() });
        assert_eq!(call.hear().await, Some(Packet::CloseRequest { conn }));
        call.say(Packet::CloseResponse { conn, error: String::new() });
        let dial = DialId(conn.0);
        call.say(Packet::DialResponse(DialResponse { dial, outcome: Ok(Answer::Here(conn)) }));
        assert_eq!(call.hear().await, Some(Packet::CloseRequest { conn }));
    }
    let unrecognized = cell.server_count("dial_failure_count", &[("reason", "unrecognized_response")]);
    assert_eq!(unrecognized, 3.0);
    witness.still_works().await;
}

async fn api_server(cell: &Cell) -> Client {
    Client::new(UnixStream::connect(cell.socket()).await.unwrap()).await
}

pub(crate) async fn dial(client: &Client, target: &str) -> (Call, Result<ConnId, String>) {
    let mut call = client.call(PROXY, &[]).await;
    call.say(Packet::DialRequest(DialRequest {
        dial: DialId(5),
        protocol: "tcp".into(),
        address: target.into(),
        lane_dial: 0,
    }));
    let Some(Packet::DialResponse(DialResponse { dial: DialId(5), outcome })) = call.hear().await else {
        panic!("no answer to a dial")
    };
    let conn = match outcome {
        Ok(Answer::Here(conn)) => Ok(conn),
        Ok(Answer::OnLane) => panic!("an API server knows no lanes"),
        Err(error) => Err(error.text),
    };
    (call, conn)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_breaks_the_rules_loses_its_own_call() {
    let cell = Cell::start(Plan { frontend: Frontend::Grpc, ..Plan::default() }).await.unwrap();
    let client = api_server(&cell).await;
    let target = Target::echo().await.unwrap();
    let (mut good, conn) = dial(&client, &target.name()).await;
    let conn = conn.unwrap();
    let oversized = vec![0; (4 << 20) + 1];
    for (message, status) in
        [(b"".as_slice(), "3"), (b"\x08\x04", "3"), (b"\xff\xff\xff", "13"), (&oversized, "8")]
    {
        let mut call = client.call(PROXY, &[]).await;
        call.send_message(message);
        let (got, text) = call.status().await;
        assert_eq!(got, status, "{text}");
        good.say(Packet::Data { conn, data: "still here".into() });
        assert_eq!(good.hear().await, Some(Packet::Data { conn, data: "still here".into() }));
    }
    let errors = cell.server_count("stream_errors_total", &[("segment", "from_client")]);
    assert!(errors >= 4.0, "{errors}");
    let (_, refused) = dial(&client, "127.0.0.1:1").await;
    assert_eq!(refused.unwrap_err(), "dial tcp 127.0.0.1:1: connect: connection refused");
    let (_, refused) = dial(&client, "no port").await;
    assert!(refused.unwrap_err().contains("missing port in address"));
    assert_eq!(cell.server_count("dial_failure_count", &[("reason", "error_response")]), 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_grpc_socket_ends_its_own_connection() {
    use tokio::io::AsyncWriteExt;
    let cell = Cell::start(Plan { frontend: Frontend::Grpc, ..Plan::default() }).await.unwrap();
    let client = api_server(&cell).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [preface.as_slice(), &[0xff; 100]].concat(),
        // HEADERS that name a table entry that does not exist; CONTINUATION of nothing.
        [preface.as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 4, 0, 0, 0, 1, 0xff]].concat(),
        [preface.as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 9, 4, 0, 0, 0, 1]].concat(),
    ] {
        let mut stream = UnixStream::connect(cell.socket()).await.unwrap();
        let _ = stream.write_all(&garbage).await;
        crate::rest(&mut stream).await;
    }
    // Only the first is not even HTTP/2.
    let refused = [("port", "frontend"), ("reason", "preface")];
    cell.server_counts("konduit_refused_connections_total", &refused, 1.0).await;
    let target = Target::echo().await.unwrap();
    let (mut call, conn) = dial(&client, &target.name()).await;
    let conn = conn.unwrap();
    call.say(Packet::Data { conn, data: "works".into() });
    assert_eq!(call.hear().await, Some(Packet::Data { conn, data: "works".into() }));
}

/// Who answers pings and calls nothing is no agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_never_registers_is_closed_though_it_answers_pings() {
    let cell = Cell::start(Plan::default()).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    let stream = TcpStream::connect(cell.server.bound.agents).await.unwrap();
    let stream = cell.tls(Some(&cell.client()), ALPN_H2).connect("127.0.0.1", stream, LONG).await.unwrap();
    let began = Instant::now();
    let (_calls, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::time::timeout(2 * LONG, connection).await;
    assert!(ended.is_ok(), "it stays open");
    assert!(began.elapsed() > LONG / 2, "closed after {:?}", began.elapsed());
    let refused = [("port", "agents"), ("reason", "preface")];
    cell.server_counts("konduit_refused_connections_total", &refused, 1.0).await;
    witness.still_works().await;
    dials(&cell).await;
}
