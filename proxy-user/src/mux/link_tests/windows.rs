//! What may wait for a reader, by its window.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Dialect, Limits, Link, LinkConfig, LinkEnd, MuxStream, Packet, Role, SOON, flow, links, pb};
use crate::mux::window::{FIRST_WINDOW, FIRST_WINDOW_OF_1, MAX_WINDOW};
use crate::splice::{FlowStream, Room};
use crate::wire::packet::MAX_DATA;

#[tokio::test]
async fn small_writes_keep_their_borders() {
    let (dialer, acceptor) = links(Dialect::OURS, Limits::default());
    let (mut here, mut there) = flow(&dialer, &acceptor);
    for size in [1, 25, 4096, MAX_DATA] {
        here.write_all(&vec![7; size]).await.unwrap();
    }
    let mut buffer = vec![0; 2 * MAX_DATA];
    for size in [1, 25, 4096, MAX_DATA] {
        assert_eq!(there.read(&mut buffer).await.unwrap(), size);
    }
}

#[tokio::test]
async fn a_stalled_flow_holds_its_window_and_nobody_else() {
    let (dialer, acceptor) = links(Dialect::OURS, Limits::default());
    let (mut stalled, _unread) = flow(&dialer, &acceptor);
    let flood = tokio::spawn(async move { while stalled.write_all(&[7; 65536]).await.is_ok() {} });
    let (mut here, mut there) = flow(&dialer, &acceptor);
    for _ in 0..100 {
        here.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        tokio::time::timeout(SOON, there.read_exact(&mut got)).await.unwrap().unwrap();
    }
    assert!(acceptor.inner.config.pool.queued() <= FIRST_WINDOW);
    flood.abort();
}

/// Each dialect, the budget of which a lone flow has its room, and what a reader that stalls from the begin holds.
#[tokio::test]
async fn what_a_stalled_flow_holds_follows_its_room() {
    let of_1 = Dialect::of_version(1);
    for (dialect, budget, held) in [
        (Dialect::OURS, None, FIRST_WINDOW),
        (Dialect::OURS, Some(0), FIRST_WINDOW),
        (Dialect::OURS, Some(8 << 20), 128 << 10),
        (Dialect::OURS, Some(1 << 30), 512 << 10),
        (of_1, None, FIRST_WINDOW_OF_1),
        (of_1, Some(0), FIRST_WINDOW_OF_1),
    ] {
        let (dialer, acceptor) = links(dialect, Limits::default());
        let (mut stalled, mut unread) = flow(&dialer, &acceptor);
        if let Some(budget) = budget {
            unread.bound(Room::alone(budget));
            stalled.bound(Room::alone(budget));
        }
        let flood = tokio::spawn(async move { while stalled.write_all(&[7; 16384]).await.is_ok() {} });
        let pool = acceptor.inner.config.pool.clone();
        let full = async {
            while pool.queued() < held {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, full).await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.queued(), held, "{dialect:?}, {budget:?}");
        flood.abort();
    }
}

/// How wide the window of a reader gets that keeps up with all that may be sent, by the budget.
#[tokio::test]
async fn a_window_grows_as_far_as_the_budget_has_room() {
    for (budget, width) in [(0, FIRST_WINDOW), (8 << 20, 2 << 20), (1 << 30, MAX_WINDOW)] {
        let (dialer, acceptor) = links(Dialect::OURS, Limits::default());
        let (mut here, mut there) = flow(&dialer, &acceptor);
        there.bound(Room::alone(budget));
        let flood = tokio::spawn(async move { while here.write_all(&[7; MAX_DATA]).await.is_ok() {} });
        let conn = there.conn();
        let size = || acceptor.inner.book().flows[&conn].window_size();
        let pool = acceptor.inner.config.pool.clone();
        let mut buffer = vec![0; MAX_WINDOW as usize];
        let mut settled = 0;
        for round in 0.. {
            // As over a link with delay: all that was granted has arrived before any of it is read.
            let full = async {
                while !acceptor.inner.book().flows[&conn].peer_waits() {
                    tokio::task::yield_now().await;
                }
            };
            let full = tokio::time::timeout(SOON, full).await;
            full.unwrap_or_else(|_| panic!("{budget}, {round}: {} of {}", pool.queued(), size()));
            // Three rounds more, in which it must not grow on.
            settled += usize::from(size() >= width);
            if settled > 3 || round == 40 {
                break;
            }
            let waiting = pool.queued() as usize;
            there.read_exact(&mut buffer[..waiting]).await.unwrap();
        }
        assert_eq!(size(), width, "{budget}");
        flood.abort();
    }
}

#[tokio::test]
async fn bytes_that_wait_for_the_peers_window_are_unacknowledged() {
    let (dialer, acceptor) = links(Dialect::OURS, Limits::default());
    let (mut here, mut there) = flow(&dialer, &acceptor);
    there.write_all(&vec![7; FIRST_WINDOW as usize + (64 << 10)]).await.unwrap();
    assert!(there.unacknowledged() >= 64 << 10);
    here.read_exact(&mut vec![0; FIRST_WINDOW as usize + (64 << 10)]).await.unwrap();
    let sent = async {
        while there.unacknowledged() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, sent).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_exceeds_its_window_loses_the_flow_only() {
    let (link, outlet) = Link::new(LinkConfig::alone(Role::Acceptor, Dialect::OURS, Limits::default()));
    let mut bad = link.open().unwrap();
    let mut good = link.open().unwrap();
    let data = |stream: &MuxStream, bytes: usize| {
        Ok(pb::Packet::from(Packet::Data { conn: stream.conn(), data: vec![7; bytes].into() }))
    };
    let packets = [data(&bad, FIRST_WINDOW as usize), data(&bad, 1), data(&good, 5)];
    let end = link.run(futures_util::stream::iter(packets), |_| {}).await;
    assert!(matches!(end, LinkEnd::Peer));
    drop(outlet);
    let mut got = Vec::new();
    assert!(bad.read_to_end(&mut got).await.is_err());
    assert_eq!(good.read(&mut [0; 9]).await.unwrap(), 5);
}
