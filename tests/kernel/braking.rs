//! A source with the brake keeps bytes out that its destination cannot take, and never passes: it can leave at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proxy_user::splice::kernel::{Limits, Mapped, Mode, Sockmap, sock};
use socket2::SockRef;

use crate::rig::{Rig, put, read_pattern, sockmap, wait, write_pattern};

const LIMIT: u32 = 512 << 10;
/// What closes the brake.
const CLOSES: u32 = 2 * LIMIT;
const CLOSED_AT: u64 = CLOSES as u64;
const BRAKED: Limits = Limits { limit: LIMIT, half: false, closes: CLOSES };
/// More than every queue of the rig together holds.
const LENGTH: u64 = 64 << 20;

/// A direction whose destination had so much waiting that the brake closed, and the thread that goes on writing to it,
/// `length` bytes and the end.
fn braked(sockmap: &Sockmap, length: u64) -> (Rig, Mapped, JoinHandle<io::Result<()>>) {
    let rig = Rig::tcp().unwrap();
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, BRAKED).unwrap();
    let mut client = rig.client.try_clone().unwrap();
    let writer = thread::spawn(move || {
        write_pattern(&mut client, 0, length)?;
        client.shutdown(Shutdown::Write)
    });
    wait("the brake", || mapped.counts().peak >= CLOSED_AT);
    keep_closed(&mapped);
    (rig, mapped, writer)
}

/// Whatever the target's window still takes without a reader.
fn keep_closed(mapped: &Mapped) {
    mapped.set_limit(LIMIT / 4, CLOSES / 4);
}

fn leave(sockmap: &Sockmap, mapped: &Mapped) {
    mapped.ask_to_leave();
    let_out(sockmap, mapped);
}

/// The kernel's own walk may miss a socket while others come and go.
fn let_out(sockmap: &Sockmap, mapped: &Mapped) {
    let walks = (0..10).find(|_| {
        sockmap.leave_until(Some(&mut || mapped.has_left())).unwrap();
        mapped.has_left()
    });
    assert!(walks.is_some(), "{mapped:?}");
}

/// What a mover in userspace does.
fn copy(from: &mut TcpStream, to: &mut TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return to.shutdown(Shutdown::Write).unwrap(),
            Ok(bytes) => put(to, &buffer[..bytes], |_| ()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => panic!("reading: {error}"),
        }
    }
}

#[test]
fn what_a_reader_does_not_take_is_kept_out_and_none_of_it_passes() {
    let Some(sockmap) = sockmap() else { return };
    let (rig, mapped, _writer) = braked(&sockmap, LENGTH);
    thread::sleep(Duration::from_millis(300));
    let before = mapped.counts();
    thread::sleep(Duration::from_millis(300));
    let counts = mapped.counts();
    assert_eq!((counts.redirected, counts.passed), (before.redirected, 0), "{counts:?}");
    assert_eq!((mapped.mode(), counts.overflows), (Mode::Redirect, before.overflows));
    let unsent = mapped.unsent(&rig.destination).unwrap();
    assert!((CLOSED_AT..4 * CLOSED_AT).contains(&unsent), "{unsent} bytes wait unsent");
    rig.client.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn a_braked_direction_leaves_at_once_and_its_stream_goes_on_soon() {
    const LENGTH: u64 = 8 << 20;
    let Some(sockmap) = sockmap() else { return };
    let (mut rig, mapped, writer) = braked(&sockmap, LENGTH);
    leave(&sockmap, &mapped);
    let opened = Instant::now();
    let mut target = rig.target.try_clone().unwrap();
    let reader = thread::spawn(move || read_pattern(&mut target, 0, LENGTH).unwrap());
    wait("the redirected bytes to leave", || mapped.is_drained(&rig.destination).unwrap());
    copy(&mut rig.source, &mut rig.destination);
    writer.join().unwrap().unwrap();
    reader.join().unwrap();
    assert_eq!(mapped.counts().gaps, 0);
    // A peer whose timer had to run out first asks after 200 ms, then 400, and so on.
    assert!(opened.elapsed() < Duration::from_secs(5), "{:?}", opened.elapsed());
}

/// The next piece of the pattern, in a segment of its own: everything before was acknowledged.
fn send_segment(client: &mut TcpStream, sent: &mut u64) {
    write_pattern(client, *sent, 16 << 10).unwrap();
    *sent += 16 << 10;
    wait("its acknowledgement", || sock::unacknowledged(&*client).unwrap() == 0);
}

/// A direction with a closed brake and a client of which everything was acknowledged: what it sends from now on is kept
/// out at its first try.
fn braked_quietly(sockmap: &Sockmap) -> (Rig, Mapped) {
    let mut rig = Rig::tcp().unwrap();
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, BRAKED).unwrap();
    let mut sent = 0;
    wait("the brake", || {
        send_segment(&mut rig.client, &mut sent);
        mapped.counts().peak >= CLOSED_AT
    });
    keep_closed(&mapped);
    assert_eq!(mapped.counts().redirected, sent, "{mapped:?}");
    (rig, mapped)
}

#[test]
fn only_the_next_bytes_are_kept_out_and_they_get_in_once_the_reader_reads() {
    const MORE: u64 = 256 << 10;
    let Some(sockmap) = sockmap() else { return };
    let (mut rig, mapped) = braked_quietly(&sockmap);
    let before = mapped.counts().redirected;
    for at in 0..MORE / (16 << 10) {
        write_pattern(&mut rig.client, before + at * (16 << 10), 16 << 10).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let mut behind = String::new();
    wait("the source to hold what lies behind them", || {
        behind = connection(&rig.client);
        behind.contains(" sacked:")
    });
    assert_eq!(mapped.counts().redirected, before, "{mapped:?}, {behind}");
    read_pattern(&mut rig.target, 0, before + MORE).unwrap();
    let counts = mapped.counts();
    assert_eq!((counts.redirected, counts.passed, counts.gaps), (before + MORE, 0, 0), "{counts:?}");
    assert!(!mapped.has_left());
}

/// What the kernel tells of the connection, in the words of `ss`.
fn connection(socket: &TcpStream) -> String {
    let from = socket.local_addr().unwrap().to_string();
    let told = Command::new("ss").args(["--tcp", "--no-header", "--info", "src", &from]).output().unwrap();
    String::from_utf8(told.stdout).unwrap()
}

#[test]
fn a_direction_that_enters_with_its_limit_waiting_passes_nothing() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let mut waiting = 0;
    while let Ok(bytes) = rig.destination.write(&[0; 64 << 10]) {
        waiting += bytes;
    }
    let limits = Limits { limit: 16 << 10, half: false, closes: 16 << 10 };
    assert!(waiting > 16 << 10, "{waiting} bytes");
    write_pattern(&mut rig.client, 0, 48 << 10).unwrap();
    wait("its bytes", || sock::readable(&rig.source).unwrap() == 48 << 10);
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, limits).unwrap();
    let counts = mapped.counts();
    assert_eq!((counts.redirected, counts.passed), (48 << 10, 0), "{counts:?}");
    assert!(sockmap.waits_to_leave(mapped.slot()));
}

#[test]
fn between_its_limit_and_a_closed_brake_a_direction_takes_everything_and_asks_to_leave() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let limits = Limits { closes: u32::MAX, ..BRAKED };
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, limits).unwrap();
    let mut sent = 0;
    while mapped.counts().peak < CLOSED_AT {
        assert_eq!(mapped.is_to_leave(), mapped.counts().peak >= u64::from(LIMIT), "{mapped:?}");
        send_segment(&mut rig.client, &mut sent);
    }
    let counts = mapped.counts();
    assert_eq!((counts.redirected, counts.passed, counts.overflows), (sent, 0, 1), "{counts:?}");
    assert!(sockmap.waits_to_leave(mapped.slot()));
}

#[test]
fn a_walk_ends_with_the_first_that_left_if_that_is_enough() {
    let Some(sockmap) = sockmap() else { return };
    let rigs = [Rig::tcp().unwrap(), Rig::tcp().unwrap(), Rig::tcp().unwrap()];
    let mapped = rigs.each_ref().map(|rig| sockmap.map_tcp(&rig.source, &rig.destination, LIMIT).unwrap());
    mapped.iter().for_each(Mapped::ask_to_leave);
    for out in 1..=mapped.len() {
        let left = sockmap.leave_until(Some(&mut || true)).unwrap();
        assert_eq!(mapped.iter().filter(|mapped| mapped.has_left()).count(), out);
        assert!(left.len() == 1 && mapped.iter().any(|mapped| mapped.slot() == left[0] && mapped.has_left()));
    }
}

#[test]
fn who_is_to_leave_at_half_of_the_limit_asks_by_itself() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let limits = Limits { half: true, ..BRAKED };
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, limits).unwrap();
    let mut sent = 0;
    wait("the event", || {
        send_segment(&mut rig.client, &mut sent);
        assert_eq!(sockmap.waits_to_leave(mapped.slot()), mapped.counts().peak >= u64::from(LIMIT / 2));
        sockmap.next_event().is_some()
    });
    assert_eq!(mapped.counts().overflows, 0, "before the limit: {mapped:?}");
    let_out(&sockmap, &mapped);
    assert!(!sockmap.waits_to_leave(mapped.slot()), "{mapped:?}");
}

#[test]
fn an_end_that_comes_with_bytes_is_kept_out_with_them() {
    let Some(sockmap) = sockmap() else { return };
    let (mut rig, mapped) = braked_quietly(&sockmap);
    let before = mapped.counts().redirected;
    // Both leave in one segment.
    SockRef::from(&rig.client).set_tcp_cork(true).unwrap();
    write_pattern(&mut rig.client, before, 1000).unwrap();
    rig.client.shutdown(Shutdown::Write).unwrap();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(mapped.counts().redirected, before, "{mapped:?}");
    let peeked = rig.source.peek(&mut [0]);
    assert!(peeked.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{peeked:?}");
    leave(&sockmap, &mapped);
    let mut target = rig.target.try_clone().unwrap();
    let reader = thread::spawn(move || {
        read_pattern(&mut target, 0, before + 1000).unwrap();
        assert_eq!(target.read(&mut [0]).unwrap(), 0, "the end comes after the last byte");
    });
    wait("the redirected bytes to leave", || mapped.is_drained(&rig.destination).unwrap());
    copy(&mut rig.source, &mut rig.destination);
    reader.join().unwrap();
}

#[test]
fn what_the_peer_acknowledges_counts_while_its_bytes_are_kept_out() {
    let Some(sockmap) = sockmap() else { return };
    let (mut rig, mapped) = braked_quietly(&sockmap);
    let before = mapped.counts().redirected;
    rig.source.write_all(b"a question").unwrap();
    let mut question = [0; 10];
    rig.client.read_exact(&mut question).unwrap();
    // Its answer takes the acknowledgement along; by itself that would come when the question was sent again, after
    // 200 ms.
    rig.client.write_all(b"an answer").unwrap();
    let answered = Instant::now();
    wait("the acknowledgement", || sock::unacknowledged(&rig.source).unwrap() == 0);
    assert!(answered.elapsed() < Duration::from_millis(100), "{:?}", answered.elapsed());
    assert_eq!(mapped.counts().redirected, before, "the answer itself is kept out");
}

#[test]
fn without_its_brake_a_full_direction_passes() {
    let Some(sockmap) = sockmap() else { return };
    let (rig, mapped, _writer) = braked(&sockmap, LENGTH);
    mapped.unbrake();
    // The client asks again, at the latest after 200 ms, then 400, and so on.
    wait("bytes that pass", || mapped.counts().passed > 0);
    assert_eq!(mapped.mode(), Mode::Pass);
    rig.client.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn what_is_for_a_destination_that_is_gone_is_kept_out() {
    let Some(sockmap) = sockmap() else { return };
    let mut rig = Rig::tcp().unwrap();
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, BRAKED).unwrap();
    // A socket that is closed is in no map any more.
    drop(rig.destination);
    rig.client.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        let _ = rig.client.write(&[7; 1000]);
        thread::sleep(Duration::from_millis(1));
    }
    let counts = mapped.counts();
    assert!(counts.strays > 0 && counts.passed > 0, "{counts:?}");
    assert!(counts.passed <= 10_000, "more than had been let in when a verdict found it gone: {counts:?}");
}
