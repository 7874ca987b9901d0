//! `auto` changes the mover of a direction with its traffic, without losing a byte.

use std::io::{Read, Write};
use std::time::Duration;

use proxy_user::flow::{Direction, Engine};
use proxy_user::splice::{EngineChoice, Fallback};

use crate::bench::{Bench, Kind, mappable, wait};
use crate::pattern;

/// Small messages there and back, slowly, for longer than the policy waits before it believes them.
fn chat(client: &mut (impl Read + Write), target: &mut (impl Read + Write)) {
    for _ in 0..14 {
        let mut message = [7; 64];
        client.write_all(&message).unwrap();
        target.read_exact(&mut message).unwrap();
        target.write_all(&message).unwrap();
        client.read_exact(&mut message).unwrap();
        assert_eq!(message, [7; 64]);
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
    // A reader that keeps up stays in the map; this one does not, for a while.
    wait("an overflow", || bench.splicer.snapshot().fallbacks(Fallback::Overflow) > 0);
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
    assert!(spliced > 0, "{after:?}");
    assert_eq!((after.violations, after.mapped), (0, 0));
    assert_eq!(flow.meter.total(Direction::Down), bytes + 14 * 64);
}
