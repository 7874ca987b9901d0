//! What clients hear when work is cut off.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::wire::packet::DialResponse;

/// As of an agent that is lost: CLOSE_RSP, then the end of the call (upstream's hard stop of its agents' port).
#[tokio::test]
async fn a_cut_is_told_to_every_call() {
    for drains in [false, true] {
        let mut server = server().await;
        let target = echo().await.to_string();
        let mut flows = Vec::new();
        for _ in 0..20 {
            flows.push(server.dial(&target).await);
        }
        let mut silent = server.call().await;
        let mut failed = server.call().await;
        failed.say(dial("no address", 7));
        let Packet::DialResponse(DialResponse { outcome: Err(_), .. }) = failed.hear().await else {
            panic!()
        };
        let mut dialling = server.call().await;
        dialling.say(dial("hang", 8));
        server.reached(|backend| &backend.hanging, 1).await;
        if drains {
            server.drain.start();
        }
        server.drain.cut();
        for (call, conn) in &mut flows {
            assert_eq!(call.hear().await, Packet::CloseResponse { conn: *conn, error: String::new() });
            assert_eq!(call.status().await.0, "0", "drains: {drains}");
        }
        for call in [&mut silent, &mut failed, &mut dialling] {
            assert_eq!(call.status().await.0, "0", "drains: {drains}");
        }
        tokio::time::timeout(SOON, server.drain.drained()).await.expect("somebody still works");
    }
}

/// A client that reads nothing and answers no ping holds a cut up for a moment only.
#[tokio::test]
async fn a_frozen_client_does_not_hold_a_cut() {
    let (mut frozen, far) = UnixStream::pair().unwrap();
    let (mut trigger, watch) = drain::channel();
    tokio::spawn(connection::serve(far, Duration::from_secs(3600), local(), watch, || {}));
    // The preface and empty SETTINGS (RFC 9113, 3.4).
    frozen.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    frozen.read_exact(&mut [0; 9]).await.unwrap();
    trigger.cut();
    tokio::time::timeout(SOON, trigger.drained()).await.expect("it holds the server");
}
