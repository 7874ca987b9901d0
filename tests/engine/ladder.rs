//! What was not proven is not used: the next lower mover takes its place, and no byte is lost by that.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use proxy_user::flow::{Direction, Engine, Meter};
use proxy_user::splice::{EngineChoice, Proven, SpliceConfig};

use crate::bench::{Bench, Kind, mappable};
use crate::pattern;

/// Enough to be bulk.
const BULK: u64 = 4 << 20;
/// One way, in small messages.
const CALM: u64 = 20 * 64;
/// What redirects before it turns to pass, at the least.
const LEAST_OF_BULK: u64 = 64 << 10;

/// Proven sockmap and splice, the engine asked for, who moves a calm flow and who a bulk flow.
type Row = (bool, bool, EngineChoice, Engine, Engine);

#[rustfmt::skip]
const ROWS: [Row; 16] = [
    (true,  true,  EngineChoice::Auto,    Engine::Sockmap, Engine::Splice),
    (true,  true,  EngineChoice::Sockmap, Engine::Sockmap, Engine::Sockmap),
    (true,  true,  EngineChoice::Splice,  Engine::Splice,  Engine::Splice),
    (true,  true,  EngineChoice::Copy,    Engine::Copy,    Engine::Copy),
    (false, true,  EngineChoice::Auto,    Engine::Copy,    Engine::Splice),
    (false, true,  EngineChoice::Sockmap, Engine::Copy,    Engine::Splice),
    (false, true,  EngineChoice::Splice,  Engine::Splice,  Engine::Splice),
    (false, true,  EngineChoice::Copy,    Engine::Copy,    Engine::Copy),
    // Without splice(2) the engine is copy, and sockmap is not used either.
    (true,  false, EngineChoice::Auto,    Engine::Copy,    Engine::Copy),
    (true,  false, EngineChoice::Sockmap, Engine::Copy,    Engine::Copy),
    (true,  false, EngineChoice::Splice,  Engine::Copy,    Engine::Copy),
    (true,  false, EngineChoice::Copy,    Engine::Copy,    Engine::Copy),
    (false, false, EngineChoice::Auto,    Engine::Copy,    Engine::Copy),
    (false, false, EngineChoice::Sockmap, Engine::Copy,    Engine::Copy),
    (false, false, EngineChoice::Splice,  Engine::Copy,    Engine::Copy),
    (false, false, EngineChoice::Copy,    Engine::Copy,    Engine::Copy),
];

/// Runs one flow to its end.
type Traffic = fn(&Bench) -> Arc<Meter>;

/// Small messages there and back.
fn calm_flow(bench: &Bench) -> Arc<Meter> {
    let mut flow = bench.flow(Kind::Tcp, Kind::Tcp);
    for at in (0..CALM).step_by(64) {
        let mut sent = [0; 64];
        pattern::fill(1, at, &mut sent);
        let mut came = [0; 64];
        flow.client.write_all(&sent).unwrap();
        flow.target.read_exact(&mut came).unwrap();
        assert_eq!(came, sent, "up, at {at}");
        flow.target.write_all(&sent).unwrap();
        flow.client.read_exact(&mut came).unwrap();
        assert_eq!(came, sent, "down, at {at}");
        std::thread::sleep(Duration::from_millis(20));
    }
    flow.client.finish();
    flow.target.finish();
    let ending = bench.ending(flow.ending);
    assert!(ending.is_clean(), "{ending:?}");
    assert_eq!((ending.up_bytes, ending.down_bytes), (CALM, CALM));
    flow.meter
}

/// As much as goes through at once, both ways.
fn bulk_flow(bench: &Bench) -> Arc<Meter> {
    let flow = bench.flow(Kind::Tcp, Kind::Tcp);
    let (mut client, mut target) = (flow.client, flow.target);
    let (mut client_in, mut target_in) = (client.try_clone(), target.try_clone());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            client.send_pattern(2, BULK);
            client.finish();
        });
        scope.spawn(move || {
            target.send_pattern(3, BULK);
            target.finish();
        });
        let up = scope.spawn(move || target_in.read_pattern(2));
        let (down, end) = client_in.read_pattern(3);
        end.unwrap();
        let (up, end) = up.join().unwrap();
        end.unwrap();
        assert_eq!((up, down), (BULK, BULK));
    });
    let ending = bench.ending(flow.ending);
    assert!(ending.is_clean(), "{ending:?}");
    flow.meter
}

/// `mover` moved some, and nothing above it anything.
fn check(meter: &Meter, mover: Engine, least: u64, all: u64, what: &str) {
    for direction in [Direction::Up, Direction::Down] {
        let by = Engine::ALL.map(|engine| meter.by(direction, engine));
        let words = format!("{what}, {direction:?}: copy, splice, sockmap moved {by:?}");
        println!("{words}");
        assert_eq!(by.iter().sum::<u64>(), all, "{words}");
        assert!(meter.by(direction, mover) >= least, "{words}; {mover:?} should");
        let above = Engine::ALL.into_iter().skip_while(|engine| *engine != mover).skip(1);
        for engine in above {
            assert_eq!(meter.by(direction, engine), 0, "{words}; {mover:?} is the highest that may");
        }
    }
}

fn check_row((sockmap, splice, asked, calm, bulk): Row, at_start: bool) {
    let proven = Proven { sockmap_tcp: sockmap, sockmap_unix: sockmap, splice };
    let what = format!("{proven:?}, --engine={asked}, at the start: {at_start}");
    let config = SpliceConfig {
        engine: if at_start { asked } else { EngineChoice::Auto },
        proven,
        ..SpliceConfig::default()
    };
    // A bulk flow that has to wait for a processor is not to look calm.
    let soon_calm = SpliceConfig { calm_after: Duration::from_millis(50), ..config.clone() };
    let flows: [(_, Traffic, _, _, _, _); 2] = [
        (soon_calm, calm_flow, calm, 64, CALM, "calm"),
        (config, bulk_flow, bulk, LEAST_OF_BULK, BULK, "bulk"),
    ];
    for (config, flow, mover, least, all, name) in flows {
        let bench = Bench::with(config);
        bench.splicer.set_engine(asked);
        check(&flow(&bench), mover, least, all, &format!("{what}, {name}"));
        let snapshot = bench.splicer.snapshot();
        assert_eq!((snapshot.violations, snapshot.flows, snapshot.mapped), (0, 0, 0), "{what}: {snapshot:?}");
    }
}

/// Four rows at a time: they mostly wait.
fn check_rows(at_start: bool) {
    let mappable = mappable();
    let rows: Vec<_> = ROWS.into_iter().filter(|row| mappable || !row.0).collect();
    for some in rows.chunks(4) {
        std::thread::scope(|scope| {
            for row in some {
                scope.spawn(move || check_row(*row, at_start));
            }
        });
    }
}

#[test]
fn what_was_not_proven_is_replaced_by_the_next_lower_mover() {
    check_rows(true);
}

#[test]
fn an_engine_asked_for_while_running_climbs_no_higher_than_what_was_proven() {
    check_rows(false);
}

/// Each kind of redirect by itself: the client's socket, and whether what it sends is redirected.
#[test]
fn a_doubt_about_unix_sources_leaves_tcp_its_redirect_and_the_other_way_round() {
    if !mappable() {
        return;
    }
    for (sockmap_tcp, sockmap_unix) in [(true, true), (true, false), (false, true), (false, false)] {
        let proven = Proven { sockmap_tcp, sockmap_unix, splice: true };
        let bench =
            Bench::with(SpliceConfig { engine: EngineChoice::Sockmap, proven, ..SpliceConfig::default() });
        for (client, redirected) in [(Kind::Tcp, sockmap_tcp), (Kind::Unix, sockmap_unix)] {
            let mut flow = bench.flow(client, Kind::Tcp);
            for _ in 0..10 {
                let mut message = [7; 64];
                flow.client.write_all(&message).unwrap();
                flow.target.read_exact(&mut message).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            flow.client.finish();
            flow.target.finish();
            assert!(bench.ending(flow.ending).is_clean(), "{proven:?}, {client:?}");
            let by_sockmap = flow.meter.by(Direction::Up, Engine::Sockmap);
            assert_eq!(by_sockmap > 0, redirected, "{proven:?}, {client:?}: {by_sockmap} bytes");
        }
    }
}
