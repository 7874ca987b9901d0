//! One direction on real sockets: `client -> source` and `destination -> target`, both over loopback TCP.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use proxy_user::splice::kernel::Sockmap;

/// The programs, loaded; or `None` after saying on standard error what is missing.
pub fn sockmap() -> Option<Sockmap> {
    match Sockmap::load(64) {
        Ok(sockmap) => Some(sockmap),
        Err(why) => {
            // Past libtest's capture: a skip must be seen.
            let _ = writeln!(io::stderr(), "\n!!! SKIPPED, nothing was tested: {why}\n");
            None
        }
    }
}

/// Sockets of one direction. Bytes written to `client` are to arrive at `target`.
pub struct Rig<S = TcpStream> {
    pub client: S,
    pub source: S,
    pub destination: TcpStream,
    pub target: TcpStream,
}

impl Rig<TcpStream> {
    pub fn tcp() -> io::Result<Rig<TcpStream>> {
        let (client, source) = pair()?;
        let (destination, target) = pair()?;
        source.set_nonblocking(true)?;
        destination.set_nonblocking(true)?;
        Ok(Rig { client, source, destination, target })
    }
}

impl Rig<UnixStream> {
    pub fn unix() -> io::Result<Rig<UnixStream>> {
        let (client, source) = UnixStream::pair()?;
        let (destination, target) = pair()?;
        source.set_nonblocking(true)?;
        destination.set_nonblocking(true)?;
        Ok(Rig { client, source, destination, target })
    }
}

/// A connected pair: the dialer's end, the accepted end.
pub fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let dialed = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for socket in [&dialed, &accepted] {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.set_write_timeout(Some(Duration::from_secs(10)))?;
    }
    Ok((dialed, accepted))
}

/// The byte at position `at` of every test stream: a shift, a loss or a repeat shows.
pub fn byte(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8
}

/// Writes `length` bytes of the pattern, from position `from` on.
pub fn write_pattern(to: &mut impl Write, from: u64, length: u64) -> io::Result<()> {
    let mut at = from;
    while at < from + length {
        let chunk: Vec<u8> = (at..(from + length).min(at + 64 * 1024)).map(byte).collect();
        to.write_all(&chunk)?;
        at += chunk.len() as u64;
    }
    Ok(())
}

/// Reads `length` bytes and compares them with the pattern from position `from` on.
pub fn read_pattern(input: &mut impl Read, from: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut at = from;
    while at < from + length {
        let want = ((from + length - at) as usize).min(buffer.len());
        let got = input.read(&mut buffer[..want]).map_err(|error| {
            io::Error::new(error.kind(), format!("at byte {} of {length}: {error}", at - from))
        })?;
        if got == 0 {
            return Err(io::Error::other(format!("ended after {} of {length} bytes", at - from)));
        }
        if let Some(bad) = (0..got).find(|index| buffer[*index] != byte(at + *index as u64)) {
            return Err(io::Error::other(format!("wrong byte at position {}", at + bad as u64)));
        }
        at += got as u64;
    }
    Ok(())
}

/// Writes all of it, as a mover in userspace does that finds its destination full at times; `each` hears of what it took.
pub fn put(to: &mut TcpStream, mut bytes: &[u8], mut each: impl FnMut(u64)) {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(written) => {
                each(written as u64);
                bytes = &bytes[written..];
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => panic!("forwarding: {error}"),
        }
    }
}

/// Waits until `done` says so, at most 10 s.
pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < until, "waited 10 s for: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}
