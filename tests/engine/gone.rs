//! Peers that are gone, and others that never notice.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use proxy_user::flow::Finish;
use proxy_user::splice::{EngineChoice, Fallback, SpliceConfig};

use crate::bench::{Bench, Kind, Outer, mappable};

const ORPHAN_AFTER: Duration = Duration::from_millis(300);

fn bench(engine: EngineChoice) -> Bench {
    Bench::with(SpliceConfig { engine, orphan_after: ORPHAN_AFTER, ..SpliceConfig::default() })
}

/// Writes until nobody takes more; bytes written.
fn fill(outer: &mut Outer) -> usize {
    outer.set_timeout(Duration::from_millis(200));
    let chunk = [0; 64 << 10];
    std::iter::from_fn(|| outer.write(&chunk).ok().filter(|bytes| *bytes > 0)).sum()
}

#[test]
fn a_client_that_closed_a_unix_socket_is_not_waited_for_for_ever() {
    for engine in EngineChoice::ALL {
        let bench = bench(engine);
        for right in [Kind::Tcp, Kind::Stream] {
            for stalled in [false, true] {
                let mut flow = bench.flow(Kind::Unix, right);
                if stalled {
                    fill(&mut flow.client);
                }
                let since = Instant::now();
                drop(flow.client);
                if !stalled {
                    assert_eq!(flow.target.read(&mut [0]).unwrap(), 0, "its end is no abort");
                }
                let ending = bench.ending(flow.ending);
                assert_eq!(ending.down, Finish::Aborted, "{engine} {right:?} {stalled}");
                assert!(since.elapsed() >= ORPHAN_AFTER, "{engine} {right:?} {stalled}");
                if !stalled {
                    assert_eq!(ending.up, Finish::Clean);
                    assert!(flow.target.write(&[0]).and_then(|_| flow.target.read(&mut [0])).is_err());
                }
            }
        }
    }
}

#[test]
fn a_client_that_only_sends_no_more_is_waited_for() {
    for engine in EngineChoice::ALL {
        let bench = bench(engine);
        for right in [Kind::Tcp, Kind::Stream] {
            let mut flow = bench.flow(Kind::Unix, right);
            flow.client.finish();
            std::thread::sleep(ORPHAN_AFTER * 3);
            flow.target.send_pattern(1, 1000);
            flow.target.finish();
            assert_eq!(flow.client.read_pattern(1).0, 1000, "{engine} {right:?}");
            assert!(bench.ending(flow.ending).is_clean());
        }
    }
}

/// To the kernel a Unix peer that sends no more, after we did the same, looks like one that closed.
#[test]
fn the_last_bytes_of_a_client_reach_a_target_that_ended_first_and_pauses() {
    for engine in EngineChoice::ALL {
        let bench = bench(engine);
        for right in [Kind::Tcp, Kind::Stream] {
            let mut flow = bench.flow(Kind::Unix, right);
            flow.target.finish();
            assert_eq!(flow.client.read(&mut [0]).unwrap(), 0);
            let sent = fill(&mut flow.client);
            flow.client.finish();
            std::thread::sleep(ORPHAN_AFTER * 3);
            let mut taken = Vec::new();
            flow.target.read_to_end(&mut taken).unwrap();
            assert_eq!(taken.len(), sent, "{engine} {right:?}");
            assert!(bench.ending(flow.ending).is_clean(), "{engine} {right:?}");
        }
    }
}

/// The copy on tokio reads nothing from a source whose reader stalls, so nothing tells it that the source died.
#[test]
fn a_dead_source_behind_a_stalled_reader_ends_the_flow() {
    let bench = bench(EngineChoice::Auto);
    for (left, right) in [(Kind::Stream, Kind::Tcp), (Kind::Tcp, Kind::Stream), (Kind::Stream, Kind::Stream)]
    {
        let mut flow = bench.flow(left, right);
        fill(&mut flow.client);
        let since = Instant::now();
        flow.client.reset();
        let ending = bench.ending(flow.ending);
        assert_eq!(ending.up, Finish::Aborted, "{left:?} {right:?}");
        assert!(since.elapsed() < Duration::from_secs(10), "{left:?} {right:?}: {:?}", since.elapsed());
        drop(flow.target);
    }
}

/// Its shutdown takes our socket out of the kernel's map, and nobody is told.
/// Also where tokio copies, which hears of a reset only when it looks, and bytes moved until just before.
#[test]
fn a_client_that_resets_behind_its_own_stalled_upload_is_seen_soon() {
    let bench = Bench::new(EngineChoice::Auto);
    let mut flow = bench.flow(Kind::Tcp, Kind::Stream);
    assert!(fill(&mut flow.client) > 0);
    let since = Instant::now();
    flow.client.reset();
    let ending = bench.ending(flow.ending);
    assert_eq!(ending.up, Finish::Aborted);
    // A look within a second, and a second for what the target may yet take; 6 to 11 s were seen.
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
}

#[test]
fn what_a_client_sends_that_reads_no_more_arrives_all_the_same() {
    if !mappable() {
        return;
    }
    const BYTES: u64 = 3 << 20;
    let bench = Bench::new(EngineChoice::Sockmap);
    let mut flow = bench.flow(Kind::Unix, Kind::Tcp);
    let Outer::Unix(client) = &flow.client else { unreachable!("a Unix end") };
    client.shutdown(Shutdown::Read).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            flow.client.send_pattern(7, BYTES);
            flow.client.finish();
        });
        let (bytes, end) = flow.target.read_pattern(7);
        end.unwrap();
        assert_eq!(bytes, BYTES);
    });
    flow.target.finish();
    assert!(bench.ending(flow.ending).is_clean());
    assert_eq!(bench.splicer.snapshot().fallbacks(Fallback::Evicted), 1);
}
