//! A mapped direction whose destination has its limit waiting leaves the map, with no byte passed, and goes on.

use std::io::Write;
use std::time::{Duration, Instant};

use proxy_user::flow::{Direction, Engine};
use proxy_user::splice::{EngineChoice, Fallback};

use crate::bench::{Bench, Kind, Outer, exchange, mappable, wait};
use crate::pattern;

const BYTES: u64 = 32 << 20;

#[test]
fn a_direction_whose_reader_stalls_leaves_the_map_and_goes_on_at_once_when_it_reads() {
    if !mappable() {
        return;
    }
    let bench = Bench::new(EngineChoice::Sockmap);
    let mut flow = bench.flow(Kind::Tcp, Kind::Tcp);
    wait("both directions in the map", || bench.splicer.snapshot().mapped == 2);
    let Outer::Tcp(client) = &flow.client else { panic!("the client is a TCP socket") };
    client.set_nonblocking(true).unwrap();
    let mut chunk = vec![0; 64 << 10];
    let mut sent = 0;
    // Nobody reads: the direction fills up.
    wait("the limit to wait", || {
        pattern::fill(1, sent, &mut chunk);
        while sent < BYTES
            && let Ok(bytes) = flow.client.write(&chunk)
        {
            sent += bytes as u64;
            pattern::fill(1, sent, &mut chunk);
        }
        bench.splicer.snapshot().fallbacks(Fallback::Overflow) == 1
    });
    assert!(flow.meter.by(Direction::Up, Engine::Sockmap) > 0);
    assert!(sent < BYTES, "{sent} bytes taken of a client whose target does not read");

    std::thread::sleep(Duration::from_secs(3));
    flow.client.finish();
    let begun = Instant::now();
    let (came, end) = flow.target.read_pattern(1);
    end.unwrap();
    assert_eq!(came, sent);
    // Out of the map TCP's own window stopped the client, not a loss that it would come back to after seconds.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(bench.splicer.snapshot().demotions >= 1);
    flow.target.finish();
    assert!(bench.ending(flow.ending).is_clean());
    let stats = bench.splicer.snapshot();
    assert!(flow.meter.total(Direction::Up) == sent);
    assert_eq!((stats.passed, stats.violations), (0, 0));
}

#[test]
fn a_forced_direction_that_left_returns_to_the_map() {
    if !mappable() {
        return;
    }
    let bench = Bench::new(EngineChoice::Sockmap);
    let flow = bench.flow(Kind::Tcp, Kind::Tcp);
    let (mut client, mut target) = (flow.client, flow.target);
    wait("both directions in the map", || bench.splicer.snapshot().mapped == 2);
    let sender = std::thread::spawn(move || {
        client.send_pattern(1, BYTES);
        client
    });
    wait("the direction to leave", || bench.splicer.snapshot().demotions == 1);
    let mut chunk = vec![0; 256 << 10];
    let mut at = 0;
    while at < BYTES {
        let bytes = std::io::Read::read(&mut target, &mut chunk).unwrap();
        pattern::check(1, at, &chunk[..bytes]);
        at += bytes as u64;
    }
    let mut client = sender.join().unwrap();
    wait("both directions in the map again", || {
        exchange(&mut client, &mut target, 64);
        bench.splicer.snapshot().mapped == 2
    });
    client.finish();
    target.finish();
    assert!(bench.ending(flow.ending).is_clean());
}
