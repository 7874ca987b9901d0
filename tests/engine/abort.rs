//! Aborts pass through, behind the bytes that came before them.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use proxy_user::flow::Finish;
use proxy_user::splice::EngineChoice;

use crate::bench::{Bench, Kind, mappable};
use crate::copy::PAIRS;

#[test]
fn a_reset_arrives_after_the_bytes_before_it() {
    for engine in EngineChoice::ALL {
        let bench = Bench::new(engine);
        for (left, right) in PAIRS {
            let mut flow = bench.flow(left, right);
            let bytes = 200_000;
            flow.target.send_pattern(4, bytes);
            flow.target.wait_acknowledged();
            flow.target.reset();
            std::thread::sleep(Duration::from_millis(50));
            let (read, end) = flow.client.read_pattern(4);
            assert_eq!(read, bytes, "{engine} {left:?} {right:?}");
            if left != Kind::Unix {
                assert!(end.is_err(), "{engine} {left:?} {right:?}: the client sees a reset, not an end");
            }
            let ending = bench.ending(flow.ending);
            assert_eq!(ending.down, Finish::Aborted, "{engine} {left:?} {right:?}");
            assert_eq!(ending.down_bytes, bytes);
        }
    }
}

#[test]
fn a_client_that_aborts_resets_the_target() {
    for engine in EngineChoice::ALL {
        let bench = Bench::new(engine);
        for (left, right) in [(Kind::Tcp, Kind::Tcp), (Kind::Stream, Kind::Tcp), (Kind::Tcp, Kind::Stream)] {
            let mut flow = bench.flow(left, right);
            flow.client.write_all(b"x").unwrap();
            flow.target.read_exact(&mut [0]).unwrap();
            flow.client.reset();
            assert!(flow.target.read(&mut [0]).is_err(), "{engine} {left:?} {right:?}");
            let ending = bench.ending(flow.ending);
            assert_eq!((ending.up, ending.down), (Finish::Aborted, Finish::Aborted));
        }
    }
}

#[test]
fn an_abort_behind_a_stalled_reader_ends_the_flow_after_a_second() {
    let bench = Bench::new(EngineChoice::Auto);
    for (left, right) in [(Kind::Tcp, Kind::Tcp), (Kind::Unix, Kind::Tcp)] {
        let flow = bench.flow(left, right);
        let mut target = flow.target;
        target.set_timeout(Duration::from_secs(1));
        let chunk = [0; 64 << 10];
        while target.write(&chunk).is_ok_and(|bytes| bytes > 0) {}
        let since = Instant::now();
        target.reset();
        let ending = bench.ending(flow.ending);
        assert_eq!(ending.down, Finish::Aborted);
        assert!(since.elapsed() > Duration::from_millis(900), "{:?}", since.elapsed());
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        drop(flow.client);
    }
}

/// The kernel, sending redirected bytes to a target, may be the one that hears of its reset; the error is told once.
#[test]
fn a_reset_that_the_kernel_hears_first_is_no_clean_end() {
    let bench = Bench::new(EngineChoice::Sockmap);
    let (began, mut judged) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(6) {
        let mut flow = bench.flow(Kind::Tcp, Kind::Tcp);
        flow.client.write_all(b"x").unwrap();
        flow.target.read_exact(&mut [0]).unwrap();
        let target = flow.target;
        let resetting = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(100 + 10 * (judged % 20)));
            target.reset();
        });
        let sent = (0..200).try_for_each(|_| flow.client.write_all(&[0; 512]));
        resetting.join().unwrap();
        let end = flow.client.read(&mut [0]);
        // A client that was told of it by a write is told of nothing more.
        if sent.is_ok() {
            judged += 1;
            assert!(end.is_err(), "after {judged} flows: {end:?}");
        }
    }
    assert!(judged > 20, "{judged} flows");
    eprintln!("{judged} flows");
}

/// Whoever asks a socket that just entered the map for what it has is told of its reset, and that once.
#[test]
fn a_reset_while_a_direction_enters_the_map_is_no_clean_end() {
    if !mappable() {
        return;
    }
    let bench = Bench::new(EngineChoice::Sockmap);
    let began = Instant::now();
    for turn in 0.. {
        if began.elapsed() > Duration::from_secs(4) {
            eprintln!("{turn} flows reset while they entered the map");
            break;
        }
        let mut flow = bench.flow(Kind::Tcp, Kind::Tcp);
        flow.client.write_all(&[7; 243]).unwrap();
        let pause = Duration::from_micros(turn % 300);
        let since = Instant::now();
        while since.elapsed() < pause {
            std::hint::spin_loop();
        }
        flow.client.reset();
        let ending = bench.ending(flow.ending);
        assert_eq!(ending.up, Finish::Aborted, "{turn}, {pause:?} after the bytes: {ending:?}");
    }
}
