//! Bytes, half-closes, greetings, early bytes and cancelling.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proxy_user::flow::{Direction, Finish};
use proxy_user::splice::EngineChoice;

use crate::bench::{Bench, Kind};

pub const PAIRS: [(Kind, Kind); 5] = [
    (Kind::Tcp, Kind::Tcp),
    (Kind::Unix, Kind::Tcp),
    (Kind::Stream, Kind::Tcp),
    (Kind::Unix, Kind::Stream),
    (Kind::Stream, Kind::Stream),
];

#[test]
fn both_directions_carry_their_bytes_and_end_each_by_itself() {
    for engine in EngineChoice::ALL {
        let bench = Bench::new(engine);
        for (left, right) in PAIRS {
            let flow = bench.flow(left, right);
            let (up, down) = (7_000_003, 5_000_011);
            let (mut client, mut target) = (flow.client, flow.target);
            let (mut client_in, mut target_in) = (client.try_clone(), target.try_clone());
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    client.send_pattern(1, up);
                    client.finish();
                });
                scope.spawn(move || {
                    target.send_pattern(2, down);
                    target.finish();
                });
                let received = scope.spawn(move || target_in.read_pattern(1));
                let (bytes, end) = client_in.read_pattern(2);
                assert_eq!(bytes, down, "{engine} {left:?} {right:?}");
                end.unwrap();
                let (bytes, end) = received.join().unwrap();
                assert_eq!(bytes, up, "{engine} {left:?} {right:?}");
                end.unwrap();
            });
            let ending = bench.ending(flow.ending);
            assert!(ending.is_clean(), "{ending:?}");
            assert_eq!((ending.up_bytes, ending.down_bytes), (up, down));
            assert_eq!(flow.meter.total(Direction::Up), up);
        }
    }
}

#[test]
fn a_half_close_leaves_the_other_direction_open() {
    for engine in EngineChoice::ALL {
        let bench = Bench::new(engine);
        for (left, right) in PAIRS {
            let mut flow = bench.flow(left, right);
            flow.client.write_all(b"question").unwrap();
            flow.client.finish();
            let mut question = String::new();
            flow.target.read_to_string(&mut question).unwrap();
            assert_eq!(question, "question", "{engine} {left:?} {right:?}");
            flow.target.send_pattern(3, 1_000_000);
            flow.target.finish();
            let (bytes, end) = flow.client.read_pattern(3);
            assert_eq!(bytes, 1_000_000);
            end.unwrap();
            assert!(bench.ending(flow.ending).is_clean());
        }
    }
}

#[test]
fn greeting_comes_first_uncounted_and_early_bytes_follow() {
    for engine in EngineChoice::ALL {
        let bench = Bench::new(engine);
        for (left, right) in PAIRS {
            let (client, left) = bench.end(left);
            let (target, right) = bench.end(right);
            let left =
                left.with_greeting(Bytes::from_static(b"200 ")).with_early(Bytes::from_static(b"early "));
            let right = right.with_early(Bytes::from_static(b"banner "));
            let mut flow = bench.join((client, left), (target, right));
            flow.client.write_all(b"more").unwrap();
            flow.client.finish();
            flow.target.write_all(b"rest").unwrap();
            flow.target.finish();
            let (mut up, mut down) = (String::new(), String::new());
            flow.target.read_to_string(&mut up).unwrap();
            flow.client.read_to_string(&mut down).unwrap();
            assert_eq!((up.as_str(), down.as_str()), ("early more", "200 banner rest"));
            let ending = bench.ending(flow.ending);
            assert_eq!((ending.up_bytes, ending.down_bytes), (10, 11));
        }
    }
}

#[test]
fn the_greeting_was_read_before_bytes_follow_it_on_a_unix_socket() {
    let bench = Bench::new(EngineChoice::Auto);
    let kinds = [(Kind::Tcp, true), (Kind::Tcp, false), (Kind::Stream, true), (Kind::Stream, false)];
    // Again where a busy machine reads later than bytes wait for it.
    for (kind, early) in kinds {
        (0..20).find(|_| reads_its_greeting_by_itself(&bench, kind, early)).expect("too busy a machine");
    }
}

/// Whether the greeting was read in time.
fn reads_its_greeting_by_itself(bench: &Bench, kind: Kind, early: bool) -> bool {
    let (client, left) = bench.end(Kind::Unix);
    let (mut target, right) = bench.end(kind);
    let left = left.with_greeting(Bytes::from_static(b"200"));
    let right = if early {
        right.with_early(Bytes::from_static(b"banner"))
    } else {
        target.write_all(b"banner").unwrap();
        right
    };
    let began = Instant::now();
    let mut flow = bench.join((client, left), (target, right));
    std::thread::sleep(Duration::from_millis(10));
    let mut first = [0; 64];
    let bytes = flow.client.read(&mut first).unwrap();
    if began.elapsed() > Duration::from_millis(40) {
        return false;
    }
    assert_eq!(&first[..bytes], b"200", "{kind:?} {early}");
    let bytes = flow.client.read(&mut first).unwrap();
    assert_eq!(&first[..bytes], b"banner", "{kind:?} {early}");
    true
}

#[test]
fn a_client_that_never_reads_its_greeting_holds_bytes_up_for_a_moment_only() {
    let bench = Bench::new(EngineChoice::Auto);
    let (client, left) = bench.end(Kind::Unix);
    let (mut target, right) = bench.end(Kind::Stream);
    target.write_all(b"banner").unwrap();
    let mut flow = bench.join((client, left.with_greeting(Bytes::from_static(b"200"))), (target, right));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while flow.meter.total(Direction::Down) < 6 {
        assert!(std::time::Instant::now() < until, "the banner never followed");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let mut all = [0; 9];
    flow.client.read_exact(&mut all).unwrap();
    assert_eq!(&all, b"200banner");
}

#[test]
fn cancelling_or_dropping_ends_both_sides() {
    let bench = Bench::new(EngineChoice::Auto);
    for (left, right) in PAIRS {
        let mut flow = bench.flow(left, right);
        flow.client.write_all(b"x").unwrap();
        flow.target.read_exact(&mut [0]).unwrap();
        flow.cancel.cancel();
        let ending = bench.ending(flow.ending);
        assert_eq!((ending.up, ending.down), (Finish::Cancelled, Finish::Cancelled));
        assert!(flow.target.read(&mut [0]).is_err(), "a TCP side sees a reset");

        let flow = bench.flow(left, right);
        flow.ending.abort();
        let mut target = flow.target;
        assert!(target.read(&mut [0]).is_err(), "a TCP side sees a reset");
    }
}

#[test]
fn bulk_is_spliced_where_the_engine_allows_it() {
    use proxy_user::flow::Engine;
    for (engine, spliced) in
        [(EngineChoice::Auto, true), (EngineChoice::Splice, true), (EngineChoice::Copy, false)]
    {
        let bench = Bench::new(engine);
        for (left, right) in [(Kind::Tcp, Kind::Tcp), (Kind::Unix, Kind::Tcp)] {
            let mut flow = bench.flow(left, right);
            let bytes = 64 << 20;
            let mut target = flow.target;
            let sender = std::thread::spawn(move || {
                target.send_pattern(9, bytes);
                target.finish();
            });
            assert_eq!(flow.client.read_pattern(9).0, bytes);
            sender.join().unwrap();
            flow.client.finish();
            assert!(bench.ending(flow.ending).is_clean());
            let by_splice = flow.meter.by(Direction::Down, Engine::Splice);
            assert_eq!(flow.meter.total(Direction::Down), bytes);
            assert_eq!(by_splice > bytes / 2, spliced, "{engine} {left:?}: {by_splice} of {bytes} spliced");
        }
    }
}

#[test]
fn a_peer_that_closed_both_directions_ends_the_flow_once_its_bytes_are_through() {
    let bench = Bench::new(EngineChoice::Auto);
    let (target, right) = bench.end(Kind::Closing);
    let (client, left) = bench.end(Kind::Unix);
    let flow = bench.join((client, left), (target, right));
    let (mut target, mut client) = (flow.target, flow.client);
    target.send_pattern(5, 100_000);
    target.finish();
    // The client keeps its own direction open for ever.
    assert_eq!(client.read_pattern(5).0, 100_000);
    assert!(bench.ending(flow.ending).is_clean());
}
