//! Flows and their ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::encode::encode_data;
use super::super::message::Item;
use super::{SOON, WORDS, echo, pattern, server};
use crate::net::sockopt;
use crate::wire::packet::Packet;

#[tokio::test]
async fn a_flow_carries_bytes_both_ways_and_closes() {
    let server = server().await;
    let (mut call, conn) = server.dial(&echo().await.to_string()).await;
    let bytes = pattern(200_000);
    for chunk in bytes.chunks(50_000) {
        call.send.send_data(encode_data(conn, chunk), false).unwrap();
    }
    assert_eq!(call.bytes(conn, bytes.len()).await, bytes);
    call.say(Packet::CloseRequest { conn });
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: String::new() });
    assert_eq!(call.status().await, ("0".into(), String::new()));
    server.joined(1).await;
}

#[tokio::test]
async fn the_end_of_the_target_is_told_after_its_last_byte() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut call, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
    let (mut target, _) = listener.accept().await.unwrap();
    target.write_all(b"speaks first").await.unwrap();
    drop(target);
    assert_eq!(call.bytes(conn, 12).await, b"speaks first");
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: String::new() });
    call.send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(call.status().await.0, "0");
    server.joined(1).await;
}

/// As upstream: to a client it is an end like any other.
#[tokio::test]
async fn a_reset_of_the_target_is_told_without_an_error() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut call, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
    let (target, _) = listener.accept().await.unwrap();
    sockopt::reset_on_close(&target).unwrap();
    drop(target);
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: String::new() });
    server.joined(1).await;
}

#[tokio::test]
async fn a_reset_reaches_the_target_after_the_bytes_before_it() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut call, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
    let (mut target, _) = listener.accept().await.unwrap();
    call.send.send_data(encode_data(conn, b"half a request"), false).unwrap();
    let mut seen = [0; 14];
    target.read_exact(&mut seen).await.unwrap();
    call.send.send_reset(h2::Reason::CANCEL);
    assert_eq!(target.read(&mut seen).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    server.joined(1).await;
}

/// CLOSE_REQ means that the client reads no more: CLOSE_RSP is the last packet it hears, and the target is not let
/// go on for the client's sake.
#[tokio::test]
async fn a_close_request_ends_a_target_that_goes_on_sending() {
    for stays in [false, true] {
        let server = server().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut call, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
        let (mut target, _) = listener.accept().await.unwrap();
        let sent = Arc::new(AtomicUsize::new(0));
        let counting = sent.clone();
        let sending = tokio::spawn(async move {
            let mut seen = [0; 4];
            target.read_exact(&mut seen).await.unwrap();
            while target.write_all(&[7; 10_000]).await.is_ok() {
                counting.fetch_add(10_000, Ordering::SeqCst);
            }
            seen
        });
        call.say(Packet::Data { conn, data: "last".into() });
        // It does not read: the window is full and the target stands.
        let stands = async {
            let mut before = 0;
            while before < 1 << 20 || sent.load(Ordering::SeqCst) != before {
                before = sent.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(SOON, stands).await.expect("the target never stands");
        call.say(Packet::CloseRequest { conn });
        let mut bytes = 0;
        loop {
            match call.next().await.expect("no CLOSE_RSP") {
                Item::Data { conn: of, part, .. } if of == conn => bytes += part.len(),
                Item::Packet(packet) => {
                    assert_eq!(packet, Packet::CloseResponse { conn, error: String::new() });
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(bytes >= 1 << 19, "{bytes}");
        if !stays {
            call.send.send_data(Bytes::new(), true).unwrap();
        }
        assert_eq!(call.status().await.0, "0");
        server.joined(1).await;
        let seen = tokio::time::timeout(SOON, sending).await.expect("the target goes on").unwrap();
        assert_eq!(&seen, b"last");
    }
}

/// A stalled stream holds one window; its neighbours on the connection go on.
#[tokio::test]
async fn a_stalled_flow_stalls_itself_alone() {
    let server = server().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut stalled, conn) = server.dial(&listener.local_addr().unwrap().to_string()).await;
    let (_target, _) = listener.accept().await.unwrap();
    let chunk = vec![7; 60_000];
    let mut sent = 0;
    loop {
        stalled.send.reserve_capacity(70_000);
        let room = std::future::poll_fn(|context| stalled.send.poll_capacity(context));
        match tokio::time::timeout(Duration::from_millis(300), room).await {
            Ok(Some(Ok(_))) if stalled.send.capacity() >= 70_000 => {
                stalled.send.send_data(encode_data(conn, &chunk), false).unwrap();
                sent += chunk.len();
            }
            Ok(_) => {}
            Err(_) => break,
        }
        assert!(sent < 64 << 20, "nothing stops the sender");
    }
    let (mut other, conn) = server.dial(&echo().await.to_string()).await;
    let bytes = pattern(3 << 20);
    for chunk in bytes.chunks(60_000) {
        other.send.send_data(encode_data(conn, chunk), false).unwrap();
    }
    assert_eq!(other.bytes(conn, bytes.len()).await, bytes);
}

#[tokio::test]
async fn an_agents_last_words_are_the_clients() {
    let server = server().await;
    let (mut call, conn) = server.dial("words").await;
    assert_eq!(call.bytes(conn, 5).await, b"bytes");
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: WORDS.into() });
    server.joined(1).await;
}

#[tokio::test]
async fn a_close_request_is_answered_with_the_agents_words() {
    let server = server().await;
    let (mut call, conn) = server.dial("answers close").await;
    assert_eq!(call.bytes(conn, 5).await, b"bytes");
    call.say(Packet::CloseRequest { conn });
    assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: WORDS.into() });
    server.joined(1).await;
}

/// Go's client waits for it, maybe with a lock held.
#[tokio::test]
async fn a_close_request_is_answered_though_the_agent_is_stuck() {
    for unread in [0, 150_000] {
        let server = server().await;
        let (mut call, conn) = server.dial("is stuck").await;
        assert_eq!(call.bytes(conn, 5).await, b"bytes");
        call.send.send_data(encode_data(conn, &pattern(unread)), false).unwrap();
        call.say(Packet::CloseRequest { conn });
        let answer = tokio::time::timeout(Duration::from_secs(4), call.hear()).await;
        let answer = answer.expect("it waits for the agent");
        assert_eq!(answer, Packet::CloseResponse { conn, error: String::new() });
        if unread == 0 {
            call.send.send_data(Bytes::new(), true).unwrap();
            assert_eq!(call.status().await.0, "0");
            server.joined(1).await;
        }
    }
}

/// Upstream leaves that to the client, however its flow ended: while it reads what came before CLOSE_RSP, its writes do
/// not fail.
#[tokio::test]
async fn a_call_whose_flow_was_aborted_ends_when_its_client_ends_it() {
    for leaves in [true, false] {
        let server = server().await;
        let (mut call, conn) = server.dial("words").await;
        assert_eq!(call.bytes(conn, 5).await, b"bytes");
        assert_eq!(call.hear().await, Packet::CloseResponse { conn, error: WORDS.into() });
        server.joined(1).await;
        let early = tokio::time::timeout(Duration::from_millis(500), call.next()).await;
        assert!(early.is_err(), "{early:?}");
        // What a client writes that has not heard of the end yet.
        call.say(Packet::Data { conn, data: "late".into() });
        if leaves {
            call.send.send_data(Bytes::new(), true).unwrap();
        }
        assert_eq!(call.status().await, ("0".into(), String::new()));
    }
}
