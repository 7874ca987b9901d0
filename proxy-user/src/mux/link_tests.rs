use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::mux::brake::Limits;
use crate::mux::window::{FIRST_WINDOW, FIRST_WINDOW_OF_1, MAX_WINDOW};
use crate::mux::{LinkEnd, MuxStream};
use crate::net::pulse::Pulse;
use crate::splice::{FlowStream, Room};
use crate::wire::packet::MAX_DATA;

/// The largest wait that is no failure on a machine that is busy.
const SOON: Duration = Duration::from_secs(20);

fn config(role: Role, dialect: Dialect, limits: Limits) -> LinkConfig {
    LinkConfig { role, dialect, pool: Pool::new(limits), observer: Arc::new(()), pulse: Pulse::default() }
}

/// A dialer and an acceptor whose outlets are each other's inbound.
fn links(dialect: Dialect, limits: Limits) -> (Link, Link) {
    let (dialer, from_dialer) = Link::new(config(Role::Dialer, dialect, limits));
    let (acceptor, from_acceptor) = Link::new(config(Role::Acceptor, dialect, limits));
    let (a, b) = (dialer.clone(), acceptor.clone());
    tokio::spawn(async move { a.run(from_acceptor, |_| {}).await });
    tokio::spawn(async move { b.run(from_dialer, |_| {}).await });
    (dialer, acceptor)
}

/// One flow between both.
fn flow(dialer: &Link, acceptor: &Link) -> (MuxStream, MuxStream) {
    let there = acceptor.open().unwrap();
    (dialer.attach(there.conn()).unwrap(), there)
}

/// Waits until neither link has a flow.
async fn hold_nothing(dialer: &Link, acceptor: &Link) {
    let empty = async {
        while dialer.flows() + acceptor.flows() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, empty).await.unwrap();
}

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
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
            let before = size();
            // As over a link with delay: all that was granted has arrived before any of it is read.
            let full = async {
                while pool.queued() + (MAX_DATA as u64) <= before / 4 * 3 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let full = tokio::time::timeout(SOON, full).await;
            full.unwrap_or_else(|_| panic!("{budget}, {round}: {} of {before}, {}", pool.queued(), size()));
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
async fn an_upstream_close_tells_the_writer() {
    let (dialer, acceptor) = links(Dialect::Upstream, Limits::default());
    let (mut here, mut there) = flow(&dialer, &acceptor);
    there.shutdown().await.unwrap();
    assert_eq!(here.read(&mut [0; 1]).await.unwrap(), 0);
    tokio::time::timeout(SOON, std::future::poll_fn(|cx| here.poll_unwritable(cx))).await.unwrap();
    assert_eq!(here.write(&[1]).await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_peer_that_exceeds_its_window_loses_the_flow_only() {
    let (link, outlet) = Link::new(config(Role::Acceptor, Dialect::OURS, Limits::default()));
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

#[tokio::test]
async fn a_packet_without_payload_ends_its_stream_with_an_error() {
    let (link, mut outlet) = Link::new(config(Role::Dialer, Dialect::Upstream, Limits::default()));
    let mut flow = link.attach(ConnId(1)).unwrap();
    let end = link.run(futures_util::stream::iter([Ok(pb::Packet::default())]), |_| {}).await;
    assert!(matches!(end, LinkEnd::Malformed(_)));
    assert!(flow.read(&mut [0; 1]).await.is_err());
    let last = futures_util::StreamExt::next(&mut outlet).await.unwrap().unwrap_err();
    assert_eq!(last.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn a_peer_that_reads_no_answers_loses_its_stream() {
    let (link, _outlet) = Link::new(config(Role::Acceptor, Dialect::Upstream, Limits::default()));
    let flood = (1..).map(|conn| Ok(pb::Packet::from(Packet::CloseRequest { conn: ConnId(conn) })));
    let end = tokio::time::timeout(SOON, link.run(futures_util::stream::iter(flood), |_| {})).await.unwrap();
    assert!(matches!(end, LinkEnd::Us));
}

/// Takes all there is, 64 KiB at most at a time and then `rest`; each 4 MiB it takes nothing for `nap`.
async fn read_slowly(mut from: MuxStream, rest: Duration, nap: Duration) -> usize {
    let (mut got, mut buffer) = (0, vec![0; 64 << 10]);
    let mut awake = 4 << 20;
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return got,
            Ok(bytes) => got += bytes,
            Err(error) => panic!("after {got} bytes: {error}"),
        }
        let nods = got >= awake;
        awake += if nods { 4 << 20 } else { 0 };
        tokio::time::sleep(if nods { nap } else { rest }).await;
    }
}

/// Towards upstream: whoever reads steadily, reads with rests or reads slowly gets every byte of a sender that never
/// waits, although far more is sent than may wait; and a neighbour's round trip stays short.
async fn a_draining_reader_loses_nothing(limits: Limits, total: usize, rest: Duration, nap: Duration) {
    let (dialer, acceptor) = links(Dialect::Upstream, limits);
    let (slow, mut fast) = flow(&dialer, &acceptor);
    let sender = tokio::spawn(async move {
        fast.write_all(&vec![7; total]).await.unwrap();
        fast.shutdown().await.unwrap();
    });
    let reader = tokio::spawn(read_slowly(slow, rest, nap));
    let (mut here, mut there) = flow(&dialer, &acceptor);
    tokio::spawn(async move {
        let mut byte = [0; 64];
        while there.read_exact(&mut byte).await.is_ok() && there.write_all(&byte).await.is_ok() {}
    });
    let mut trips = Vec::new();
    while !reader.is_finished() {
        let began = Instant::now();
        here.write_all(&[7; 64]).await.unwrap();
        here.read_exact(&mut [0; 64]).await.unwrap();
        trips.push(began.elapsed());
        assert!(dialer.inner.config.pool.queued() <= limits.total);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(reader.await.unwrap(), total);
    sender.await.unwrap();
    trips.sort();
    assert!(trips[trips.len() / 2] < Duration::from_millis(250), "median {:?}", trips[trips.len() / 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_steady_reader_loses_nothing_and_its_neighbour_hardly_waits() {
    let limits = Limits { flow: 1 << 20, total: 8 << 20 };
    a_draining_reader_loses_nothing(limits, 24 << 20, Duration::from_millis(2), Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_rests_at_times_loses_nothing() {
    let limits = Limits { flow: 1 << 20, total: 8 << 20 };
    let (rest, nap) = (Duration::from_millis(2), Duration::from_millis(500));
    a_draining_reader_loses_nothing(limits, 24 << 20, rest, nap).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_that_fills_the_whole_buffer_loses_nothing() {
    let limits = Limits { flow: 512 << 10, total: 1 << 20 };
    a_draining_reader_loses_nothing(limits, 2 << 20, Duration::from_millis(80), Duration::ZERO).await;
}

/// Towards upstream: a flow that nobody reads is given up at the last bound; the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_that_nobody_reads_is_given_up() {
    let limits = Limits { flow: 256 << 10, total: 1 << 20 };
    let (dialer, acceptor) = links(Dialect::Upstream, limits);
    let (mut unread, mut flood) = flow(&dialer, &acceptor);
    let flood = tokio::spawn(async move { while flood.write_all(&[7; 65536]).await.is_ok() {} });
    let (mut here, mut there) = flow(&dialer, &acceptor);
    tokio::time::timeout(SOON, flood).await.unwrap().unwrap();
    there.write_all(b"ping").await.unwrap();
    tokio::time::timeout(SOON, here.read_exact(&mut [0; 4])).await.unwrap().unwrap();
    assert!(unread.read_to_end(&mut Vec::new()).await.is_err());
    assert!(dialer.inner.config.pool.queued() <= limits.total);
}

/// Towards upstream: a reader that trickles is never idle, and the whole buffer is bounded all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trickling_reader_does_not_lift_the_bound() {
    let limits = Limits { flow: 256 << 10, total: 1 << 20 };
    let (dialer, acceptor) = links(Dialect::Upstream, limits);
    let (mut trickle, mut flood) = flow(&dialer, &acceptor);
    let flood = tokio::spawn(async move { while flood.write_all(&[7; 32768]).await.is_ok() {} });
    let most = limits.total + MAX_DATA as u64;
    let ended = tokio::time::timeout(SOON, async {
        let mut buffer = vec![0; 1024];
        while trickle.read(&mut buffer).await.is_ok() {
            assert!(dialer.inner.config.pool.queued() <= most, "{}", dialer.inner.config.pool.queued());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    ended.await.unwrap();
    drop(trickle);
    tokio::time::timeout(SOON, flood).await.unwrap().unwrap();
}

/// Towards upstream: what waits for a stalled reader leaves the others their share, on this stream and on any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_on_one_stream_pauses_no_other_stream() {
    let pool = Pool::new(Limits { flow: 256 << 10, total: 1 << 20 });
    let link = |role| {
        let observer = Arc::new(());
        Link::new(LinkConfig {
            role,
            dialect: Dialect::Upstream,
            pool: pool.clone(),
            observer,
            pulse: Pulse::default(),
        })
    };
    let pair = || {
        let ((dialer, from_dialer), (acceptor, from_acceptor)) = (link(Role::Dialer), link(Role::Acceptor));
        let (a, b) = (dialer.clone(), acceptor.clone());
        tokio::spawn(async move { a.run(from_acceptor, |_| {}).await });
        tokio::spawn(async move { b.run(from_dialer, |_| {}).await });
        (dialer, acceptor)
    };
    let (one, two) = (pair(), pair());
    let (_unread, mut flood) = flow(&one.0, &one.1);
    let flood = tokio::spawn(async move { while flood.write_all(&[7; 65536]).await.is_ok() {} });
    let (mut here, mut there) = flow(&two.0, &two.1);
    let mut trips = Vec::new();
    while !flood.is_finished() {
        let began = Instant::now();
        there.write_all(&[7; 64]).await.unwrap();
        here.read_exact(&mut [0; 64]).await.unwrap();
        trips.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    flood.await.unwrap();
    trips.sort();
    assert!(trips[trips.len() * 9 / 10] < Duration::from_millis(250), "{:?}", trips[trips.len() * 9 / 10]);
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
async fn an_idle_outlet_lets_others_add_their_packets_before_it_sends() {
    let (link, outlet) = Link::new(config(Role::Dialer, Dialect::OURS, Limits::default()));
    let mut outlet = ByHand { outlet, wakes: Arc::default() };
    assert!(outlet.poll().is_none());
    link.send(Packet::Drain).unwrap();
    assert!(outlet.take_wakes() > 0);
    assert!(outlet.poll().is_none(), "others run first");
    assert!(outlet.take_wakes() > 0, "it asks to run again");
    link.send(Packet::WantLanes { lanes: 1 }).unwrap();
    assert!(outlet.poll().is_some() && outlet.poll().is_some());
    assert!(outlet.poll().is_none());
    assert_eq!(outlet.take_wakes(), 0, "nothing is left to wake up for");
}

/// An outlet that is polled by hand.
struct ByHand {
    outlet: Outlet,
    wakes: Arc<Wakes>,
}

#[derive(Default)]
struct Wakes(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

impl ByHand {
    /// A packet, if there is one now.
    fn poll(&mut self) -> Option<pb::Packet> {
        let waker = self.wakes.clone().into();
        match Pin::new(&mut self.outlet).poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(packet)) => Some(packet.unwrap()),
            Poll::Ready(None) => panic!("the stream has ended"),
            Poll::Pending => None,
        }
    }

    fn take_wakes(&self) -> usize {
        self.wakes.0.swap(0, std::sync::atomic::Ordering::SeqCst)
    }
}
