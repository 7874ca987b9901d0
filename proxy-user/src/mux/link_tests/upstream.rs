//! Towards upstream, whose packets know no windows: who reads gets all, who does not is given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Dialect, Limits, Link, LinkConfig, MuxStream, Pool, Role, SOON, flow, links};
use crate::net::pulse::Pulse;
use crate::wire::packet::MAX_DATA;

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
