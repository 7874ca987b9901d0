//! Peers that send urgent data (MSG_OOB): whoever moves it, the byte stays where it was in the stream, what is behind
//! it is not held up, and the kernel is not taken for a liar.

use std::io::{Read, Write};
use std::time::Duration;

use proxy_user::flow::{Direction, Engine};
use proxy_user::splice::{EngineChoice, SpliceConfig};

use crate::bench::{Bench, Kind, Outer, mappable};
use crate::pattern;

/// Of each burst the middle one is urgent.
const BURST: u64 = 7;
const ROUNDS: u64 = 30;

/// A few bytes with an urgent one among them; nothing follows until they were read.
fn send_burst(from: &mut Outer, at: u64) {
    from.send_urgent(1, at, at + BURST / 2 + 1);
    let mut rest = [0; (BURST / 2) as usize];
    pattern::fill(1, at + BURST / 2 + 1, &mut rest);
    from.write_all(&rest).unwrap();
}

fn read_burst(to: &mut Outer, at: u64, what: &str) {
    let mut bytes = [0; BURST as usize];
    to.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{what}, burst at {at}: {error}"));
    pattern::check(1, at, &bytes);
}

#[test]
fn an_urgent_byte_keeps_its_place_and_holds_nothing_up() {
    for engine in EngineChoice::ALL {
        let bench = Bench::new(engine);
        for kind in [Kind::Tcp, Kind::Unix, Kind::Stream] {
            let what = format!("{engine} {kind:?}");
            let (client, left) = bench.end(kind);
            let (mut target, right) = bench.end(Kind::Tcp);
            client.set_timeout(Duration::from_secs(5));
            // The first one waits whole for whoever reads it; the others come as they come.
            send_burst(&mut target, 0);
            let flow = bench.join((client, left), (target, right));
            let (mut client, mut target) = (flow.client, flow.target);
            read_burst(&mut client, 0, &what);
            for round in 1..ROUNDS {
                std::thread::sleep(Duration::from_millis(10));
                send_burst(&mut target, round * BURST);
                read_burst(&mut client, round * BURST, &what);
            }
            client.finish();
            target.finish();
            let ending = bench.ending(flow.ending);
            assert!(ending.is_clean(), "{what}: {ending:?}");
            assert_eq!(ending.down_bytes, ROUNDS * BURST, "{what}");
        }
    }
}

#[test]
fn urgent_bytes_among_many_others_keep_their_places() {
    const CHUNK: u64 = 100_000;
    const CHUNKS: u64 = 100;
    /// Behind the last mark, with the end.
    const TAIL: u64 = 1000;
    for engine in EngineChoice::ALL {
        let bench = Bench::new(engine);
        for kind in [Kind::Tcp, Kind::Unix, Kind::Stream] {
            let flow = bench.flow(kind, Kind::Tcp);
            let (mut client, mut target) = (flow.client, flow.target);
            client.set_timeout(Duration::from_secs(5));
            let sender = std::thread::spawn(move || {
                for chunk in 0..CHUNKS {
                    target.send_urgent(1, chunk * CHUNK, (chunk + 1) * CHUNK);
                }
                let mut tail = [0; TAIL as usize];
                pattern::fill(1, CHUNKS * CHUNK, &mut tail);
                target.write_all(&tail).unwrap();
                target.finish();
                target
            });
            let (bytes, end) = client.read_pattern(1);
            end.unwrap_or_else(|error| panic!("{engine} {kind:?}, at {bytes}: {error}"));
            assert_eq!(bytes, CHUNKS * CHUNK + TAIL, "{engine} {kind:?}");
            client.finish();
            drop(sender.join().unwrap());
            let ending = bench.ending(flow.ending);
            assert!(ending.is_clean(), "{engine} {kind:?}: {ending:?}");
            if engine == EngineChoice::Splice && kind != Kind::Stream {
                assert!(flow.meter.by(Direction::Down, Engine::Splice) > 0);
            }
        }
    }
}

#[test]
fn urgent_bytes_do_not_make_the_kernel_a_liar() {
    if !mappable() {
        return;
    }
    for engine in [EngineChoice::Auto, EngineChoice::Sockmap] {
        let bench = Bench::with(SpliceConfig {
            engine,
            calm_after: Duration::from_millis(50),
            ..SpliceConfig::default()
        });
        let flow = bench.flow(Kind::Tcp, Kind::Tcp);
        let (mut client, mut target) = (flow.client, flow.target);
        client.set_timeout(Duration::from_secs(5));
        target.set_timeout(Duration::from_secs(5));
        // Before it is mapped, while it is, and for longer than the watchdog is away. Nobody reads meanwhile: a byte that
        // is not in the stream must not keep its account from being looked at.
        for round in 0..ROUNDS {
            send_burst(&mut target, round * BURST);
            send_burst(&mut client, round * BURST);
            std::thread::sleep(Duration::from_millis(80));
        }
        let mapped = bench.splicer.snapshot();
        assert_eq!((mapped.mapped, mapped.violations), (2, 0), "{engine}: {mapped:?}");
        for direction in [Direction::Up, Direction::Down] {
            assert!(flow.meter.by(direction, Engine::Sockmap) > 0, "{engine}");
        }
        client.finish();
        target.finish();
        for outer in [&mut client, &mut target] {
            let (bytes, end) = outer.read_pattern(1);
            end.unwrap();
            assert_eq!(bytes, ROUNDS * BURST, "{engine}");
        }
        let ending = bench.ending(flow.ending);
        assert!(ending.is_clean(), "{engine}: {ending:?}");
        assert_eq!((ending.up_bytes, ending.down_bytes), (ROUNDS * BURST, ROUNDS * BURST));
        assert_eq!(bench.splicer.snapshot().violations, 0);
        assert!(!bench.splicer.trust().is_lost(), "{engine}");
    }
}
