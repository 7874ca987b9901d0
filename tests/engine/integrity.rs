//! Flows of random sizes, stalls, half-closes and aborts over every engine and its switches, checked by position.
//!
//! `INTEGRITY_SECONDS` makes the short form as long as wanted, `INTEGRITY_SEED` repeats a run.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proxy_user::flow::{Direction, Engine, Finish};
use proxy_user::splice::{EngineChoice, SpliceConfig};

use crate::bench::{Bench, Flow, Kind, Outer, mappable, open_descriptors};
use crate::pattern;

/// xorshift64*: small, seeded, good enough to vary a test.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Mostly small, sometimes large.
    fn size(&mut self) -> u64 {
        let bits = self.below(24);
        self.below(1 << bits)
    }

    fn fork(&mut self) -> Random {
        Random(self.next() | 1)
    }
}

#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    bytes: u64,
    abort: bool,
}

/// Sends as planned: odd pieces, pauses, then an end or an abort.
fn send(mut socket: Outer, plan: Plan, mut random: Random) {
    let mut chunk = vec![0; 256 << 10];
    let mut at = 0;
    while at < plan.bytes {
        let n = (1 + random.size()).min(chunk.len() as u64).min(plan.bytes - at) as usize;
        pattern::fill(plan.seed, at, &mut chunk[..n]);
        if let Err(error) = socket.write_all(&chunk[..n]) {
            assert!(plan.abort, "write at {at} of {}: {error}", plan.bytes);
            return;
        }
        at += n as u64;
        if random.one_in(40) {
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
        }
    }
    if !plan.abort {
        socket.finish();
    }
}

/// Reads to the end, with pauses; how many bytes came, and whether the end was clean.
fn receive(mut socket: Outer, plan: Plan, mut random: Random) -> (u64, bool) {
    let mut at = 0;
    let mut chunk = vec![0; 128 << 10];
    loop {
        let room = 1 + random.size().min(chunk.len() as u64 - 1) as usize;
        match std::io::Read::read(&mut socket, &mut chunk[..room]) {
            Ok(0) => return (at, true),
            Ok(n) => {
                pattern::check(plan.seed, at, &chunk[..n]);
                at += n as u64;
            }
            Err(error) => {
                assert!(plan.abort, "read at {at} of {}: {error}", plan.bytes);
                return (at, false);
            }
        }
        if random.one_in(60) {
            std::thread::sleep(Duration::from_micros(random.below(30_000)));
        }
    }
}

fn one_flow(bench: &Bench, flow: Flow, random: &mut Random) -> u64 {
    let abort = random.one_in(5);
    let up = Plan { seed: random.next(), bytes: random.size(), abort };
    let down = Plan { seed: random.next(), bytes: random.size(), abort };
    let Flow { client, target, meter, ending, .. } = flow;
    let (client_in, target_in) = (client.try_clone(), target.try_clone());
    // Only a TCP socket can be killed; the rest is cancelled.
    let kill = (abort && random.one_in(2))
        .then(|| if random.one_in(2) { client.try_clone() } else { target.try_clone() });
    let (r1, r2, r3, r4) = (random.fork(), random.fork(), random.fork(), random.fork());
    let pause = Duration::from_micros(random.below(30_000));
    let (arrived_up, arrived_down) = std::thread::scope(|scope| {
        scope.spawn(move || send(client, up, r1));
        scope.spawn(move || send(target, down, r2));
        let arrived_up = scope.spawn(move || receive(target_in, up, r3));
        let arrived_down = scope.spawn(move || receive(client_in, down, r4));
        if abort {
            std::thread::sleep(pause);
            match kill {
                Some(socket) => socket.kill(),
                None => flow.cancel.cancel(),
            }
        }
        (arrived_up.join().unwrap(), arrived_down.join().unwrap())
    });
    let ending = bench.ending(ending);
    if !abort {
        assert!(ending.is_clean(), "{ending:?}");
        assert_eq!((arrived_up, arrived_down), ((up.bytes, true), (down.bytes, true)));
        assert_eq!((ending.up_bytes, ending.down_bytes), (up.bytes, down.bytes));
    }
    let failed = |finish| matches!(finish, Finish::Failed(_));
    assert!(!failed(ending.up) && !failed(ending.down), "{ending:?}");
    meter.total(Direction::Up) + meter.total(Direction::Down)
}

fn seconds() -> Duration {
    let text = std::env::var("INTEGRITY_SECONDS").unwrap_or_default();
    Duration::from_secs(text.parse().unwrap_or(1))
}

/// One run at a time: they count descriptors, and another test what pipes hold.
pub(crate) static TURN: Mutex<()> = Mutex::new(());

fn run(engine: EngineChoice, left: Kind, right: Kind) {
    let must_map = engine == EngineChoice::Sockmap;
    run_with(SpliceConfig { engine, ..SpliceConfig::default() }, left, right, must_map);
}

/// `must_map`: bytes have to go through the kernel's map, where this machine lets them.
fn run_with(config: SpliceConfig, left: Kind, right: Kind, must_map: bool) {
    let _turn = TURN.lock().unwrap_or_else(|poison| poison.into_inner());
    let engine = config.engine;
    let seed = std::env::var("INTEGRITY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x5eed);
    let bench = Bench::with(config);
    let before = open_descriptors();
    let until = Instant::now() + seconds();
    let (flows, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let mapped = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (bench, flows, bytes, mapped) = (&bench, &flows, &bytes, &mapped);
            scope.spawn(move || {
                let mut random = Random((seed + thread) * 2 + 1);
                while Instant::now() < until {
                    let flow = bench.flow(left, right);
                    let meter = flow.meter.clone();
                    bytes.fetch_add(one_flow(bench, flow, &mut random), Ordering::Relaxed);
                    let by_map =
                        meter.by(Direction::Up, Engine::Sockmap) + meter.by(Direction::Down, Engine::Sockmap);
                    mapped.fetch_add(by_map, Ordering::Relaxed);
                    flows.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (snapshot, mapped) = (bench.splicer.snapshot(), mapped.into_inner());
    println!(
        "{engine} {left:?}-{right:?}: {flows:?} flows, {} MiB, {} MiB in the kernel, {snapshot:?}",
        bytes.into_inner() >> 20,
        mapped >> 20
    );
    if must_map && mappable() {
        assert!(mapped > 0 && snapshot.promotions > 0, "the kernel moved nothing: {snapshot:?}");
    }
    assert_eq!((snapshot.violations, snapshot.flows, snapshot.mapped), (0, 0, 0));
    // Free pipes stay in the pool, and other tests run beside this one.
    let slack = 2 * 32 + 100;
    let until = Instant::now() + Duration::from_secs(10);
    while open_descriptors() > before + slack && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let after = open_descriptors();
    assert!(after <= before + slack, "{before} descriptors before, {after} after");
}

/// So eager that directions enter and leave the map all the time.
#[test]
fn auto_that_changes_all_the_time() {
    let eager = SpliceConfig { calm_after: Duration::from_millis(2), ..SpliceConfig::default() };
    run_with(eager, Kind::Tcp, Kind::Tcp, true);
}

macro_rules! integrity {
    ($($name:ident: $engine:ident $left:ident $right:ident;)*) => {
        $(#[test]
        fn $name() {
            run(EngineChoice::$engine, Kind::$left, Kind::$right);
        })*
    };
}

integrity! {
    copy_tcp_to_tcp: Copy Tcp Tcp;
    copy_unix_to_tcp: Copy Unix Tcp;
    splice_tcp_to_tcp: Splice Tcp Tcp;
    splice_unix_to_tcp: Splice Unix Tcp;
    sockmap_tcp_to_tcp: Sockmap Tcp Tcp;
    sockmap_unix_to_tcp: Sockmap Unix Tcp;
    auto_tcp_to_tcp: Auto Tcp Tcp;
    auto_unix_to_tcp: Auto Unix Tcp;
    stream_to_tcp: Auto Stream Tcp;
}
