//! Ends of flows, and of streams whose peer breaks the rules.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    ConnId, Dialect, Limits, Link, LinkConfig, LinkEnd, Packet, Role, SOON, flow, hold_nothing, links, pb,
};
use crate::mux::window::FIRST_WINDOW;
use crate::splice::FlowStream;

#[tokio::test]
async fn bytes_before_an_abort_arrive_and_then_the_abort() {
    let (dialer, acceptor) = links(Dialect::OURS, Limits::default());
    let (mut here, mut there) = flow(&dialer, &acceptor);
    there.write_all(&[7; 50_000]).await.unwrap();
    there.abort();
    let mut got = Vec::new();
    let error = here.read_to_end(&mut got).await.unwrap_err();
    assert_eq!((got.len(), error.kind()), (50_000, std::io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_finished_flow_leaves_nothing_behind() {
    for dialect in [Dialect::OURS, Dialect::Upstream] {
        let (dialer, acceptor) = links(dialect, Limits::default());
        let (mut here, mut there) = flow(&dialer, &acceptor);
        here.write_all(b"x").await.unwrap();
        there.read_u8().await.unwrap();
        here.shutdown().await.unwrap();
        assert_eq!(there.read(&mut [0; 1]).await.unwrap(), 0);
        there.shutdown().await.unwrap();
        assert_eq!(here.read(&mut [0; 1]).await.unwrap(), 0);
        drop((here, there));
        hold_nothing(&dialer, &acceptor).await;
    }
}

/// The peer resets a flow whose end waits here, behind bytes for which there is no credit and never will be.
#[tokio::test]
async fn a_reset_behind_our_own_end_leaves_nothing_behind() {
    for peer_ended_first in [false, true] {
        let (dialer, acceptor) = links(Dialect::OURS, Limits::default());
        let (mut here, mut there) = flow(&dialer, &acceptor);
        there.write_all(&vec![7; FIRST_WINDOW as usize + (64 << 10)]).await.unwrap();
        there.shutdown().await.unwrap();
        if peer_ended_first {
            here.shutdown().await.unwrap();
            assert_eq!(there.read(&mut [0; 1]).await.unwrap(), 0);
            drop(there);
            drop(here);
        } else {
            drop(here);
            assert!(there.read(&mut [0; 1]).await.is_err());
            drop(there);
        }
        hold_nothing(&dialer, &acceptor).await;
    }
}

#[tokio::test]
async fn an_upstream_close_tells_the_writer() {
    let (dialer, acceptor) = links(Dialect::Upstream, Limits::default());
    let (mut here, mut there) = flow(&dialer, &acceptor);
    there.shutdown().await.unwrap();
    assert_eq!(here.read(&mut [0; 1]).await.unwrap(), 0);
    tokio::time::timeout(SOON, std::future::poll_fn(|cx| here.poll_unwritable(cx))).await.unwrap();
    assert_eq!(here.write(&[1]).await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

/// Bytes were thrown away, so the end is an abort, although the peer had closed cleanly behind them.
#[tokio::test]
async fn a_flow_given_up_behind_a_clean_close_does_not_read_as_clean() {
    let (dialer, acceptor) = links(Dialect::Upstream, Limits::default());
    let (mut unread, mut there) = flow(&dialer, &acceptor);
    there.write_all(&[7; 65536]).await.unwrap();
    there.shutdown().await.unwrap();
    let closed = tokio::time::timeout(SOON, async {
        while dialer.inner.book().flows.values().any(|flow| flow.state.is_writing()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    closed.await.unwrap();
    dialer.inner.give_up(unread.conn());
    assert!(unread.read_to_end(&mut Vec::new()).await.is_err());
}

#[tokio::test]
async fn a_packet_without_payload_ends_its_stream_with_an_error() {
    let (link, mut outlet) = Link::new(LinkConfig::alone(Role::Dialer, Dialect::Upstream, Limits::default()));
    let mut flow = link.attach(ConnId(1)).unwrap();
    let end = link.run(futures_util::stream::iter([Ok(pb::Packet::default())]), |_| {}).await;
    assert!(matches!(end, LinkEnd::Malformed(_)));
    assert!(flow.read(&mut [0; 1]).await.is_err());
    let last = futures_util::StreamExt::next(&mut outlet).await.unwrap().unwrap_err();
    assert_eq!(last.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn a_peer_that_reads_no_answers_loses_its_stream() {
    let (link, _outlet) = Link::new(LinkConfig::alone(Role::Acceptor, Dialect::Upstream, Limits::default()));
    let flood = (1..).map(|conn| Ok(pb::Packet::from(Packet::CloseRequest { conn: ConnId(conn) })));
    let end = tokio::time::timeout(SOON, link.run(futures_util::stream::iter(flood), |_| {})).await.unwrap();
    assert!(matches!(end, LinkEnd::Us));
}

/// What the peer's last packet was, how reading ends, and the words that are left of it.
#[tokio::test]
async fn the_peers_last_words_are_kept_behind_its_bytes() {
    let conn = ConnId(1);
    let response = |error: &str| Packet::CloseResponse { conn, error: error.into() };
    let reset = |reason: &str| Packet::Reset { conn, reason: reason.into() };
    let long = "ä".repeat(3000);
    for (dialect, last, clean, words) in [
        (Dialect::Upstream, response("target said: 100 %\n"), false, "target said: 100 %\n"),
        (Dialect::Upstream, response(&long), false, &long[..4096]),
        (Dialect::Upstream, response(""), true, ""),
        (Dialect::OURS, response("Unknown connectID"), false, "Unknown connectID"),
        (Dialect::OURS, reset("unrecognized connectID"), false, "unrecognized connectID"),
        (Dialect::OURS, reset(""), false, ""),
    ] {
        let (link, _outlet) = Link::new(LinkConfig::alone(Role::Dialer, dialect, Limits::default()));
        let mut flow = link.attach(conn).unwrap();
        let packets = [Packet::Data { conn, data: "bytes".into() }, last, response("too late")];
        let end = link.run(futures_util::stream::iter(packets.map(pb::Packet::from).map(Ok)), |_| {}).await;
        assert!(matches!(end, LinkEnd::Peer));
        let mut got = Vec::new();
        let read = flow.read_to_end(&mut got).await;
        assert_eq!((&got[..], read.is_ok()), (&b"bytes"[..], clean), "{words}");
        assert_eq!(flow.last_words(), words);
    }
}

#[tokio::test]
async fn a_peer_that_goes_when_it_was_told_to_did_not_end_the_stream() {
    for dismissed in [false, true] {
        let (link, _outlet) = Link::new(LinkConfig::alone(Role::Dialer, Dialect::OURS, Limits::default()));
        if dismissed {
            link.dismiss();
        }
        let end = link.run(futures_util::stream::empty(), |_| {}).await;
        assert_eq!(matches!(end, LinkEnd::Us), dismissed, "{end}");
    }
}
