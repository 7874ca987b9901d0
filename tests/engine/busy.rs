//! A thread whose next event is near polls awake for it; one whose is not sleeps.

use std::io::Write as _;
use std::time::Duration;

use proxy_user::splice::{EngineChoice, SpliceConfig};

use crate::bench::{Bench, Kind};

/// How often the engine polled awake while messages of 64 bytes went to and fro.
fn busy_polls(busy_poll: bool, messages: u32, pause: Duration) -> u64 {
    let engine = EngineChoice::Copy;
    let bench = Bench::with(SpliceConfig { engine, busy_poll, ..SpliceConfig::default() });
    let mut flow = bench.flow(Kind::Unix, Kind::Tcp);
    for _ in 0..messages {
        flow.exchange(64);
        std::thread::sleep(pause);
    }
    flow.client.finish();
    flow.target.finish();
    bench.ending(flow.ending);
    bench.splicer.snapshot().busy_polls
}

#[test]
fn messages_without_a_pause_are_waited_for_awake() {
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        // Past libtest's capture: a skip must be seen.
        let why = "this process may use one CPU only, where nobody polls awake";
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: {why}\n");
        return;
    }
    assert!(busy_polls(true, 5000, Duration::ZERO) > 0);
    assert_eq!(busy_polls(false, 5000, Duration::ZERO), 0, "--busy-poll=false");
}

#[test]
fn a_keystroke_costs_one_poll_and_a_silent_flow_none() {
    let keystrokes = 50;
    let polls = busy_polls(true, keystrokes, Duration::from_millis(20));
    // Two messages each; and the end.
    assert!(polls <= 2 * u64::from(keystrokes) + 4, "{polls} for {keystrokes}");
}
