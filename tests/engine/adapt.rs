//! `auto` changes the mover of a direction with its traffic, without losing a byte.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use proxy_user::flow::{Direction, Engine};
use proxy_user::splice::EngineChoice;

use crate::bench::{Bench, Kind, Outer, exchange, mappable, wait};
use crate::pattern;

/// Small messages there and back, slowly, for longer than the policy waits before it believes them.
fn chat(client: &mut (impl Read + Write), target: &mut (impl Read + Write)) {
    for _ in 0..14 {
        exchange(client, target, 64);
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_calm_flow_is_promoted_and_leaves_the_map_when_it_turns_bulky() {
    if !mappable() {
        return;
    }
    let bench = Bench::new(EngineChoice::Auto);
    let flow = bench.flow(Kind::Tcp, Kind::Tcp);
    let (mut client, mut target) = (flow.client, flow.target);
    chat(&mut client, &mut target);
    let before = bench.splicer.snapshot();
    assert_eq!((before.promotions, before.mapped), (2, 2), "{before:?}");

    let bytes: u64 = 256 << 20;
    let sender = std::thread::spawn(move || {
        target.send_pattern(11, bytes);
        target.finish();
    });
    // A reader that keeps up stays in the map; for this one more waits than for a calm flow, and it leaves.
    wait("half of what may wait", || flow.meter.by(Direction::Down, Engine::Sockmap) >= 1 << 20);
    let mut at = 0;
    let mut chunk = vec![0; 256 << 10];
    loop {
        let n = client.read(&mut chunk).unwrap();
        if n == 0 {
            break;
        }
        pattern::check(11, at, &chunk[..n]);
        at += n as u64;
    }
    assert_eq!(at, bytes);
    sender.join().unwrap();
    client.finish();
    let ending = bench.ending(flow.ending);
    assert!(ending.is_clean(), "{ending:?}");
    let after = bench.splicer.snapshot();
    let spliced = flow.meter.by(Direction::Down, Engine::Splice);
    println!("{after:?}, {} MiB spliced", spliced >> 20);
    assert!(after.demotions >= 1, "{after:?}");
    assert!(spliced > bytes / 2, "{} MiB spliced, {after:?}", spliced >> 20);
    assert_eq!((after.violations, after.mapped), (0, 0));
    assert_eq!(flow.meter.total(Direction::Down), bytes + 14 * 64);
}

#[test]
fn the_tail_of_a_steady_sender_does_not_wait_for_more() {
    let bench = Bench::new(EngineChoice::Auto);
    for kind in [Kind::Tcp, Kind::Unix] {
        let flow = bench.flow(kind, Kind::Tcp);
        let (mut client, mut target) = (flow.client, flow.target);
        client.set_timeout(Duration::from_secs(10));
        // 100 MB/s, so that bytes gather; then a few that no others follow, again and again.
        const STEADY: u64 = 50 << 20;
        const TAIL: u64 = 100;
        let sender = std::thread::spawn(move || {
            let mut answer = [0];
            let mut at = 0;
            for _ in 0..4 {
                let begun = Instant::now();
                for step in 1..=STEADY / (50 << 10) {
                    let mut chunk = vec![0; 50 << 10];
                    pattern::fill(5, at, &mut chunk);
                    target.write_all(&chunk).unwrap();
                    at += chunk.len() as u64;
                    let due = begun + Duration::from_micros(500) * step as u32;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
                let mut tail = [0; TAIL as usize];
                pattern::fill(5, at, &mut tail);
                target.write_all(&tail).unwrap();
                at += TAIL;
                target.read_exact(&mut answer).unwrap();
            }
            target.finish();
        });
        let (mut at, mut chunk) = (0, vec![0; 256 << 10]);
        for round in 1..=4 {
            while at < round * (STEADY + TAIL) {
                let n = client.read(&mut chunk).unwrap_or_else(|error| panic!("at {at}: {error}"));
                assert!(n > 0, "the end at {at}");
                pattern::check(5, at, &chunk[..n]);
                at += n as u64;
            }
            client.write_all(&[1]).unwrap();
        }
        sender.join().unwrap();
        assert!(flow.meter.by(Direction::Down, Engine::Splice) > STEADY);
        client.finish();
        assert!(bench.ending(flow.ending).is_clean());
    }
}

/// Sends so many bytes one way, then that way's end.
fn send_all(from: &mut Outer, to: &mut Outer, count: u64) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            from.send_pattern(3, count);
            from.finish();
        });
        let (bytes, end) = to.read_pattern(3);
        end.unwrap();
        assert_eq!(bytes, count);
    });
}

#[test]
fn what_comes_from_a_unix_socket_is_copied_and_mapped_only_on_request() {
    const BYTES: u64 = 64 << 20;
    let mappable = mappable();
    for (engine, up, down) in [
        (EngineChoice::Auto, Engine::Copy, Engine::Splice),
        (EngineChoice::Splice, Engine::Splice, Engine::Splice),
        (EngineChoice::Sockmap, Engine::Sockmap, Engine::Splice),
    ] {
        if engine == EngineChoice::Sockmap && !mappable {
            continue;
        }
        let bench = Bench::new(engine);
        let flow = bench.flow(Kind::Unix, Kind::Tcp);
        let (mut client, mut target) = (flow.client, flow.target);
        chat(&mut client, &mut target);
        send_all(&mut client, &mut target, BYTES);
        send_all(&mut target, &mut client, BYTES);
        let ending = bench.ending(flow.ending);
        assert!(ending.is_clean(), "{engine}: {ending:?}");
        let (upward, downward) = (flow.meter.by(Direction::Up, up), flow.meter.by(Direction::Down, down));
        assert!(
            upward >= BYTES && downward > BYTES / 2,
            "{engine}: {upward} by {up:?}, {downward} by {down:?}"
        );
        assert_eq!(
            bench.splicer.snapshot().promotions,
            u64::from(engine == EngineChoice::Sockmap),
            "{engine}"
        );
    }
}
