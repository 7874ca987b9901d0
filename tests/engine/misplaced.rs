//! A mapped direction that stays over its limit is told of: it would have been better off spliced.

use std::io::Write;

use proxy_user::flow::{Direction, Engine};
use proxy_user::splice::EngineChoice;

use crate::bench::{Bench, Kind, Outer, mappable, wait};
use crate::pattern;

const BYTES: u64 = 32 << 20;

#[test]
fn what_stays_over_its_limit_for_a_second_is_counted_with_what_passes_then() {
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
    // Nobody reads: the direction fills up, and passes from then on.
    wait("a misplaced direction", || {
        pattern::fill(1, sent, &mut chunk);
        while sent < BYTES
            && let Ok(bytes) = flow.client.write(&chunk)
        {
            sent += bytes as u64;
            pattern::fill(1, sent, &mut chunk);
        }
        bench.splicer.snapshot().misplaced > 0
    });
    assert!(flow.meter.by(Direction::Up, Engine::Sockmap) > 0);

    flow.client.finish();
    let (came, end) = flow.target.read_pattern(1);
    end.unwrap();
    assert_eq!(came, sent);
    flow.target.finish();
    assert!(bench.ending(flow.ending).is_clean());
    let after = bench.splicer.snapshot();
    let copied = flow.meter.by(Direction::Up, Engine::Copy);
    assert_eq!(after.misplaced, 1, "{after:?}");
    assert!((1..=copied).contains(&after.misplaced_bytes), "{after:?}, {copied} copied");
}
