//! A source with the brake keeps bytes out that its destination cannot take, and never passes: it can leave at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use proxy_user::splice::kernel::{Mapped, Mode, Sockmap};

use crate::rig::{Rig, read_pattern, sockmap, wait, write_pattern};

const LIMIT: u32 = 512 << 10;
/// More than every queue of the rig together holds.
const LENGTH: u64 = 64 << 20;

/// A direction whose destination had its limit waiting, and the thread that goes on writing to it, `length` bytes and
/// the end.
fn braked(sockmap: &Sockmap, length: u64) -> (Rig, Mapped, JoinHandle<io::Result<()>>) {
    let rig = Rig::tcp().unwrap();
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, LIMIT).unwrap();
    mapped.brake(&rig.source).unwrap();
    let mut client = rig.client.try_clone().unwrap();
    let writer = thread::spawn(move || {
        write_pattern(&mut client, 0, length)?;
        client.shutdown(Shutdown::Write)
    });
    wait("the brake", || mapped.counts().overflows > 0);
    (rig, mapped, writer)
}

/// What a mover in userspace does.
fn copy(from: &mut TcpStream, to: &mut TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return to.shutdown(Shutdown::Write).unwrap(),
            Ok(bytes) => {
                let mut rest = &buffer[..bytes];
                while !rest.is_empty() {
                    match to.write(rest) {
                        Ok(written) => rest = &rest[written..],
                        Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                        Err(error) => panic!("writing: {error}"),
                    }
                }
            }
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
    assert_eq!((mapped.mode(), counts.overflows), (Mode::Redirect, 1));
    let unsent = mapped.unsent(&rig.destination).unwrap();
    assert!(unsent >= u64::from(LIMIT) && unsent < 4 * u64::from(LIMIT), "{unsent} bytes wait unsent");
    rig.client.shutdown(Shutdown::Both).unwrap();
}

#[test]
fn a_braked_direction_leaves_at_the_first_walk_and_its_stream_goes_on_soon() {
    let Some(sockmap) = sockmap() else { return };
    let (mut rig, mapped, writer) = braked(&sockmap, LENGTH);
    mapped.ask_to_leave();
    sockmap.leave().unwrap();
    assert!(mapped.has_left(), "{mapped:?}");
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

#[test]
fn an_end_that_comes_with_bytes_is_kept_out_with_them() {
    /// The verdict takes 2 MiB of it at the most, the client's send queue the rest with the end.
    const SHORT: u64 = 3 << 20;
    let Some(sockmap) = sockmap() else { return };
    let (mut rig, mapped, writer) = braked(&sockmap, SHORT);
    writer.join().unwrap().unwrap();
    // The client asks for the last segment's acknowledgement again and again.
    thread::sleep(Duration::from_millis(500));
    assert!(mapped.counts().redirected < SHORT, "{mapped:?}");
    let peeked = rig.source.peek(&mut [0]);
    assert!(peeked.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{peeked:?}");
    mapped.ask_to_leave();
    sockmap.leave().unwrap();
    let mut target = rig.target.try_clone().unwrap();
    let reader = thread::spawn(move || {
        read_pattern(&mut target, 0, SHORT).unwrap();
        assert_eq!(target.read(&mut [0]).unwrap(), 0, "the end comes after the last byte");
    });
    wait("the redirected bytes to leave", || mapped.is_drained(&rig.destination).unwrap());
    copy(&mut rig.source, &mut rig.destination);
    reader.join().unwrap();
}

#[test]
fn what_the_peer_acknowledges_counts_while_its_bytes_are_kept_out() {
    let Some(sockmap) = sockmap() else { return };
    let (mut rig, _mapped, _writer) = braked(&sockmap, LENGTH);
    thread::sleep(Duration::from_millis(50));
    rig.source.set_nonblocking(false).unwrap();
    // More than one send buffer holds: it goes only if acknowledgements come through.
    const BACK: u64 = 16 << 20;
    let mut client = rig.client.try_clone().unwrap();
    let reader = thread::spawn(move || read_pattern(&mut client, 0, BACK).unwrap());
    write_pattern(&mut rig.source, 0, BACK).unwrap();
    reader.join().unwrap();
    rig.client.shutdown(Shutdown::Both).unwrap();
}
