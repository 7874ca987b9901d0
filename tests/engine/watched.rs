//! Sockets that tokio watches, as ends of a join.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use proxy_user::flow::{Direction, Engine, Finish};
use proxy_user::splice::EngineChoice;

use crate::bench::{Bench, Kind, wait};

#[test]
fn sockets_that_tokio_watches_join_as_others_do() {
    let bench = Bench::new(EngineChoice::Auto);
    for (left, right) in [(Kind::Unix, Kind::Tcp), (Kind::Unix, Kind::Stream), (Kind::Stream, Kind::Tcp)] {
        let (client, left_end) = bench.end(left);
        let (target, right_end) = bench.end(right);
        let mut flow = bench.join((client, left_end), (target, right_end));
        flow.client.write_all(b"question").unwrap();
        flow.client.finish();
        let mut question = String::new();
        flow.target.read_to_string(&mut question).unwrap();
        assert_eq!(question, "question", "{left:?} {right:?}");
        flow.target.send_pattern(3, 1_000_000);
        flow.target.finish();
        let (bytes, end) = flow.client.read_pattern(3);
        end.unwrap();
        let ending = bench.ending(flow.ending);
        assert!(ending.is_clean());
        assert_eq!((bytes, flow.meter.total(Direction::Down)), (1_000_000, 1_000_000));

        let (client, left_end) = bench.end(left);
        let (target, right_end) = bench.end(right);
        let mut flow = bench.join((client, left_end), (target, right_end));
        flow.cancel.cancel();
        let ending = bench.ending(flow.ending);
        assert_eq!((ending.up, ending.down), (Finish::Cancelled, Finish::Cancelled));
        assert!(flow.target.read(&mut [0]).is_err(), "a TCP side sees a reset: {left:?} {right:?}");
    }
}

#[test]
fn a_short_flow_needs_no_engine_thread_and_one_that_lasts_gets_one() {
    let bench = Bench::new(EngineChoice::Auto);
    let threads = || bench.splicer.snapshot().flows;
    // A busy machine may be done only when a flow is short no more.
    let young = || {
        let began = Instant::now();
        let mut flow = bench.flow(Kind::Tcp, Kind::Tcp);
        flow.exchange(4);
        let seen = threads();
        if began.elapsed() < Duration::from_millis(100) {
            assert_eq!(seen, 0);
            return Some(flow);
        }
        flow.cancel.cancel();
        bench.ending(flow.ending);
        wait("no flow", || threads() == 0);
        None
    };
    let mut flow = (0..20).find_map(|_| young()).expect("too busy a machine");
    // By its age, at its next byte.
    std::thread::sleep(Duration::from_millis(150));
    flow.exchange(4);
    wait("an engine thread", || threads() == 1);
    flow.client.finish();
    flow.target.finish();
    let ending = bench.ending(flow.ending);
    assert!(ending.is_clean());
    assert_eq!((ending.up_bytes, ending.down_bytes), (8, 8));
    assert_eq!(threads(), 0);

    // By its bytes, those included that its reader has not taken; and with one direction over already.
    for over in [false, true] {
        let mut flow = bench.flow(Kind::Tcp, Kind::Tcp);
        if over {
            flow.client.finish();
            assert_eq!(flow.target.read(&mut [0]).unwrap(), 0);
        }
        let bytes = 64 << 20;
        let sender = std::thread::spawn(move || {
            flow.target.send_pattern(9, bytes);
            flow.target.finish();
            flow.target
        });
        wait("an engine thread", || threads() == 1);
        std::thread::sleep(Duration::from_millis(50));
        let (read, end) = flow.client.read_pattern(9);
        end.unwrap();
        if !over {
            flow.client.finish();
        }
        drop(sender.join().unwrap());
        let ending = bench.ending(flow.ending);
        assert!(ending.is_clean(), "{ending:?}");
        assert_eq!((read, ending.down_bytes), (bytes, bytes));
        assert!(flow.meter.by(Direction::Down, Engine::Copy) < bytes, "bulk is spliced");
    }
}

#[test]
fn a_half_closed_flow_is_handed_on_by_a_timer_and_can_still_be_cancelled() {
    let bench = Bench::new(EngineChoice::Auto);
    let mut flow = bench.flow(Kind::Tcp, Kind::Tcp);
    flow.client.finish();
    assert_eq!(flow.target.read(&mut [0]).unwrap(), 0);
    wait("an engine thread", || bench.splicer.snapshot().flows == 1);
    flow.cancel.cancel();
    let ending = bench.ending(flow.ending);
    assert_eq!((ending.up, ending.down), (Finish::Clean, Finish::Cancelled));
    assert!(flow.client.read(&mut [0]).is_err());
    assert_eq!(bench.splicer.snapshot().flows, 0);
}
