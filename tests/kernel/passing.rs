//! A direction under load goes through userspace and back, and no byte is lost, repeated or out of place.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use proxy_user::splice::kernel::{Limits, Mapped, Mode};

use crate::rig::{Rig, put, read_pattern, sockmap, wait, write_pattern};

const TURNS: u32 = 100;

/// Forwards passed bytes until the direction redirects again (or until `stop`); what an engine does.
fn pass_back(rig: &mut Rig, mapped: &Mapped, stop: impl Fn() -> bool) {
    wait("the redirected bytes to leave", || mapped.is_drained(&rig.destination).unwrap());
    let mut buffer = vec![0; 64 * 1024];
    while !mapped.try_redirect() && !stop() {
        match rig.source.read(&mut buffer) {
            Ok(0) => panic!("the client did not end"),
            Ok(count) => put(&mut rig.destination, &buffer[..count], |written| mapped.add_forwarded(written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => panic!("reading: {error}"),
        }
    }
}

#[test]
fn back_and_forth_a_hundred_times_under_load() {
    const LENGTH: u64 = 48 << 20;
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20).unwrap();
    let mut client = rig.client.try_clone().unwrap();
    let mut target = rig.target.try_clone().unwrap();
    let writer = thread::spawn(move || write_pattern(&mut client, 0, LENGTH));
    let reader = thread::spawn(move || read_pattern(&mut target, 0, LENGTH));
    let until = Instant::now() + Duration::from_secs(30);
    let mut turns = 0;
    while mapped.counts().delivered() < LENGTH && Instant::now() < until {
        if turns < TURNS {
            mapped.pass();
        }
        if mapped.mode() == Mode::Pass {
            pass_back(&mut rig, &mapped, || mapped.counts().delivered() == LENGTH);
            turns += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    writer.join().unwrap().unwrap();
    reader.join().unwrap().unwrap();
    let counts = mapped.counts();
    assert_eq!((counts.delivered(), counts.gaps), (LENGTH, 0), "{counts:?} after {turns} turns");
    assert!(counts.passed > 0 && counts.redirected > 0, "both ways were used: {counts:?}");
}

#[test]
fn a_reader_that_never_reads_bounds_what_is_taken() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let limit = 512 << 10;
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, limit).unwrap();
    rig.client.set_nonblocking(true).unwrap();
    let (mut sent, mut quiet) = (0u64, 0);
    let chunk = vec![7; 256 * 1024];
    while quiet < 100 {
        match rig.client.write(&chunk) {
            Ok(count) => (sent, quiet) = (sent + count as u64, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                quiet += 1;
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 64 << 20, "a reader that never reads took {sent} bytes");
    }
    let counts = mapped.counts();
    assert_eq!(mapped.mode(), Mode::Pass);
    assert!(counts.overflows >= 1);
    let unsent = mapped.unsent(&rig.destination).unwrap();
    assert!(unsent < u64::from(limit) + (256 << 10), "{unsent} bytes wait unsent: {counts:?}");
}

#[test]
fn an_overflow_and_what_leads_to_it_are_told() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 64 << 10).unwrap();
    assert_eq!(sockmap.next_event(), None);
    rig.client.set_nonblocking(true).unwrap();
    let chunk = vec![7; 256 * 1024];
    wait("an overflow", || {
        let _ = rig.client.write(&chunk);
        mapped.mode() == Mode::Pass
    });
    let told: Vec<_> = std::iter::from_fn(|| sockmap.next_event()).collect();
    assert!(!told.is_empty() && told.iter().all(|slot| *slot == mapped.slot()), "{told:?}");
    assert!(mapped.counts().peak >= 32 << 10);
}

#[test]
fn a_destination_that_fills_is_told_of_before_it_overflows() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let limit = 8 << 20;
    let limits = Limits { limit, half: true, closes: 0 };
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, limits).unwrap();
    rig.client.set_nonblocking(true).unwrap();
    let chunk = vec![7; 64 * 1024];
    let told = |rig: &mut Rig| {
        let _ = rig.client.write(&chunk);
        sockmap.next_event() == Some(mapped.slot())
    };
    wait("word of a destination that fills", || told(&mut rig));
    assert_eq!((mapped.mode(), mapped.counts().overflows), (Mode::Redirect, 0));
    assert!(mapped.counts().peak >= u64::from(limit) / 2, "{:?}", mapped.counts());
}
