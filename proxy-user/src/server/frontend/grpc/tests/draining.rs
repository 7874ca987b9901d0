//! Flows and calls while the server drains.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::connection::{self, ConnectionError, SILENCE};
use super::{SOON, dial, echo, local, server};
use crate::ops::drain;
use crate::wire::packet::{DialResponse, Packet};

/// A drain lets flows go on and takes no new ones; a cut ends them.
#[tokio::test]
async fn a_drain_waits_for_flows_and_a_cut_does_not() {
    let mut server = server().await;
    let (mut call, conn) = server.dial(&echo().await.to_string()).await;
    server.drain.start();
    call.say(Packet::Data { conn, data: "still here".into() });
    assert_eq!(call.bytes(conn, 10).await, b"still here");
    let refused = async {
        while server.requests.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("new calls are still taken");
    server.drain.cut();
    tokio::time::timeout(SOON, server.drain.drained()).await.expect("somebody still works");
    drop(call);
}

/// Who has no flow and asks for none holds nobody up.
#[tokio::test]
async fn a_drain_waits_for_no_call_without_a_flow() {
    let mut server = server().await;
    let mut silent = server.call().await;
    let mut failed = server.call().await;
    failed.say(dial("no address", 7));
    let Packet::DialResponse(DialResponse { outcome: Err(_), .. }) = failed.hear().await else { panic!() };
    server.drain.start();
    tokio::time::timeout(SOON, server.drain.drained()).await.expect("a call without a flow holds the server");
    for call in [&mut silent, &mut failed] {
        assert_eq!(call.status().await.0, "0");
    }
}

/// Whose connection is made while the server leaves is asked for a sign of life at once, as all others.
#[tokio::test]
async fn a_frozen_client_that_comes_late_holds_nobody_up() {
    let (mut client, socket) = tokio::io::duplex(1 << 16);
    // The preface and empty SETTINGS (RFC 9113, 3.4).
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (trigger, watch) = drain::channel();
    trigger.start();
    let served = connection::serve(socket, Duration::from_secs(3600), local(), watch, || {});
    let end = tokio::time::timeout(SILENCE + SOON, served).await.expect("it goes on");
    assert!(matches!(end, Err(ConnectionError::Silent)), "{end:?}");
}
