//! What is out of place, no packet, or no call of ours.

use bytes::Bytes;

use super::super::send;
use super::{echo, server};
use crate::wire::ids::ConnId;
use crate::wire::packet::Packet;

#[tokio::test]
async fn packets_out_of_place_are_answered_as_upstream_does() {
    let server = server().await;
    let mut call = server.call().await;
    call.say(Packet::CloseRequest { conn: ConnId(4) });
    assert_eq!(
        call.hear().await,
        Packet::CloseResponse { conn: ConnId(4), error: "backend uninitialized".into() }
    );
    call.say(Packet::Data { conn: ConnId::NONE, data: "dropped".into() });
    call.say(Packet::Data { conn: ConnId(4), data: "x".into() });
    assert_eq!(
        call.hear().await,
        Packet::CloseResponse { conn: ConnId(4), error: "backend not initialized".into() }
    );
    assert_eq!(call.status().await.0, "0");

    let (mut call, conn) = server.dial(&echo().await.to_string()).await;
    let other = ConnId(conn.0 + 1000);
    call.say(Packet::Data { conn: other, data: "x".into() });
    for id in [conn, other] {
        let error = "mismatched connection IDs".into();
        assert_eq!(call.hear().await, Packet::CloseResponse { conn: id, error });
    }
    server.joined(1).await;
}

#[tokio::test]
async fn what_is_no_packet_ends_its_call_alone() {
    let server = server().await;
    let (mut good, conn) = server.dial(&echo().await.to_string()).await;
    for (message, status) in [
        (b"\0\0\0\0\0".as_slice(), "3"),
        (b"\0\0\0\0\x02\x08\x04", "3"),
        (b"\0\x7f\0\0\0", "8"),
        (b"\x01\0\0\0\0", "12"),
        (b"\0\0\0\0\x01\xff", "13"),
    ] {
        let mut call = server.call().await;
        call.send.send_data(Bytes::from_static(message), false).unwrap();
        let (code, text) = call.status().await;
        assert_eq!(code, status);
        assert!(!text.is_empty());
    }
    good.say(Packet::Data { conn, data: "still here".into() });
    assert_eq!(good.bytes(conn, 10).await, b"still here");
}

#[tokio::test]
async fn what_is_no_call_of_ours_is_refused() {
    let server = server().await;
    for (path, content_type, status, grpc) in [
        ("/AgentService/Connect", "application/grpc", 200, "unknown service AgentService"),
        ("/ProxyService/Other", "application/grpc", 200, "unknown method Other for service ProxyService"),
        ("/ProxyService/Proxy", "text/plain", 415, ""),
    ] {
        let request =
            http::Request::post(format!("http://localhost{path}")).header("content-type", content_type);
        let mut requests = server.requests.clone().ready().await.unwrap();
        let (response, _) = requests.send_request(request.body(()).unwrap(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), status);
        let message = response.headers().get(send::GRPC_MESSAGE).map(|value| value.to_str().unwrap());
        assert_eq!(message.unwrap_or_default(), grpc);
    }
}
