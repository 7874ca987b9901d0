//! A kernel that counts wrongly is caught: the flow ends with an error, and no other is mapped from then on.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use proxy_user::flow::{Direction, Engine, Finish};
use proxy_user::splice::{EngineChoice, SpliceConfig};

use crate::bench::{Bench, Flow, Kind, mappable, wait};

/// Of a slot in the table that the verdicts write: its size, and where it counts redirected bytes.
const SLOT: usize = 128;
const REDIRECTED: usize = 8;

/// Small messages both ways until both directions are mapped; how many bytes went each way.
fn promote(bench: &Bench, flow: &mut Flow) -> u64 {
    let mut sent = 0;
    wait("both directions in the map", || {
        flow.exchange(64);
        sent += 64;
        std::thread::sleep(Duration::from_millis(20));
        bench.splicer.snapshot().mapped == 2
    });
    sent
}

/// As a kernel that delivered a segment twice: one byte more in the slot that has redirected just so many. The table is
/// memory of this process, and the kernel's.
fn count_one_more_than(redirected: u64) {
    let memory = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.contains("bpf-map") && line.contains("rw-s")) {
        let (from, rest) = line.split_once('-').unwrap();
        let (to, _) = rest.split_once(' ').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut table = vec![0; (to - from) as usize];
        // One that another test has unmapped since is none of ours.
        if memory.read_exact_at(&mut table, from).is_err() {
            continue;
        }
        let counts = |slot: &[u8]| u64::from_ne_bytes(slot[REDIRECTED..REDIRECTED + 8].try_into().unwrap());
        let slots = table.chunks_exact(SLOT).enumerate().filter(|(_, slot)| counts(slot) == redirected);
        found.extend(slots.map(|(number, _)| from + (number * SLOT + REDIRECTED) as u64));
    }
    let [place] = found[..] else { panic!("{} slots have counted {redirected}", found.len()) };
    memory.write_all_at(&(redirected + 1).to_ne_bytes(), place).unwrap();
}

#[test]
fn a_flow_that_counts_more_than_it_received_ends_and_no_other_is_mapped() {
    if !mappable() {
        return;
    }
    let bench =
        Bench::with(SpliceConfig { calm_after: Duration::from_millis(50), ..SpliceConfig::default() });
    let mut flow = bench.flow(Kind::Tcp, Kind::Tcp);
    let sent = promote(&bench, &mut flow) + 7919;
    // No other flow of this process has redirected as much.
    let mut unlike = vec![7; 7919];
    flow.client.write_all(&unlike).unwrap();
    flow.target.read_exact(&mut unlike).unwrap();
    wait("the last byte to be counted", || flow.meter.total(Direction::Up) == sent);
    assert_eq!(bench.splicer.snapshot().violations, 0);
    assert!(!bench.splicer.trust().is_lost());
    count_one_more_than(flow.meter.by(Direction::Up, Engine::Sockmap));

    let ending = bench.ending(flow.ending);
    assert_eq!((ending.up, ending.down), (Finish::Failed(libc::EIO), Finish::Failed(libc::EIO)));
    let after = bench.splicer.snapshot();
    assert_eq!((after.violations, after.mapped), (1, 0), "{after:?}");
    assert!(bench.splicer.trust().is_lost(), "the doctor and the metric tell");
    for mut gone in [flow.client, flow.target] {
        assert!(!matches!(gone.read(&mut [0; 1]), Ok(1..)), "both peers see the end");
    }

    for (engine, client) in [
        (EngineChoice::Auto, Kind::Tcp),
        (EngineChoice::Sockmap, Kind::Tcp),
        (EngineChoice::Sockmap, Kind::Unix),
    ] {
        bench.splicer.set_engine(engine);
        let mut next = bench.flow(client, Kind::Tcp);
        for _ in 0..20 {
            next.exchange(64);
            std::thread::sleep(Duration::from_millis(20));
        }
        next.client.finish();
        next.target.finish();
        assert!(bench.ending(next.ending).is_clean());
        assert_eq!(bench.splicer.snapshot().promotions, after.promotions, "{engine}, {client:?}");
        assert_eq!(next.meter.by(Direction::Up, Engine::Sockmap), 0, "{engine}, {client:?}");
    }
}
