//! Garbage at the doors that operators use: health, admin and operator socket of both programs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proxy_tests::konduit::{Frontend, Konduit, Lanes, Settings, binaries};
use proxy_tests::ports;
use proxy_tests::scrape::Page;

use crate::ground::{SOON, echo, open, ping};

/// More than a head may have and all buffers between two processes hold.
const ENDLESS: usize = 64 << 20;
/// Connections that say nothing, or half of something, at each door.
const SILENT: usize = 50;

const BAD: &str = "HTTP/1.1 400 Bad Request\r\n";

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

#[derive(Debug)]
enum Door {
    Port(SocketAddr),
    Socket(PathBuf),
}

impl Door {
    fn all(pair: &Konduit) -> [Door; 6] {
        [
            Door::Port(pair.server_pages),
            Door::Port(pair.agent_pages),
            Door::Port(pair.server_admin),
            Door::Port(pair.agent_admin),
            Door::Socket(pair.server_operator.clone()),
            Door::Socket(pair.agent_operator.clone()),
        ]
    }

    /// A read or a write that takes too long fails with `WouldBlock`.
    fn knock(&self) -> Box<dyn Stream> {
        match self {
            Door::Port(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                stream.set_write_timeout(Some(SOON)).unwrap();
                Box::new(stream)
            }
            Door::Socket(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(SOON)).unwrap();
                stream.set_write_timeout(Some(SOON)).unwrap();
                Box::new(stream)
            }
        }
    }

    /// Says this, and what came until the other side closed: nobody here closes first.
    fn say(&self, words: &[u8]) -> String {
        let mut stream = self.knock();
        // It may be refused before all of it was taken.
        let _ = stream.write_all(words);
        rest(&mut *stream)
    }

    /// Its name among the metrics.
    fn name(&self, pair: &Konduit) -> &'static str {
        match self {
            Door::Socket(_) => "operator",
            Door::Port(address) if [pair.server_admin, pair.agent_admin].contains(address) => "admin",
            Door::Port(_) => "health",
        }
    }

    fn answers(&self) {
        let began = Instant::now();
        let answer = self.say(b"GET /nothing HTTP/1.0\r\n\r\n");
        assert!(answer.contains(" 404 Not Found\r\n"), "{self:?}: {answer:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "{self:?} took {:?}", began.elapsed());
    }
}

/// An abort ends it too, which may take the answer along; time that runs out does not.
fn rest(stream: &mut dyn Stream) -> String {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the connection stays open");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..20_000).map(|_| next()).collect()
}

fn pair(directory: &tempfile::TempDir) -> Konduit {
    let settings = Settings {
        binaries: binaries().unwrap(),
        lanes: Lanes::Raw,
        frontend: Frontend::Connect,
        both: vec!["--lane-wait=30s".to_owned()],
        agent: Vec::new(),
    };
    Konduit::start(directory.path(), &settings, None).unwrap()
}

fn both_live(pair: &mut Konduit) {
    pair.check().unwrap();
    for program in [&pair.server, &pair.agent] {
        let log = std::fs::read_to_string(&program.log).unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }
}

#[test]
fn what_is_no_request_is_told_so_and_closed() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = pair(&directory);
    let mut flow = open(&pair.socket, &echo().unwrap()).unwrap();
    let noise = noise();
    for door in Door::all(&pair) {
        // The abort that follows bytes nobody read may take the answer along.
        for garbage in [noise.as_slice(), &[0xff; 20_000]] {
            let answer = door.say(garbage);
            assert!(answer.is_empty() || answer.contains(BAD), "{door:?}: {answer:?}");
        }
        // A ClientHello that ends early, a NUL, another protocol's greeting.
        for garbage in [b"\x16\x03\x01\x00\x04\x01\x00\x40\x00".as_slice(), b"\0", b"SSH-2.0-OpenSSH_9.2\r\n"]
        {
            let answer = door.say(garbage);
            assert!(answer.contains(BAD), "{door:?}: {garbage:?} was answered with {answer:?}");
        }
        // Whoever speaks HTTP/2 has no use for an answer in HTTP/1.
        assert_eq!(door.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "", "{door:?}");
        door.answers();
        ping(&mut flow).unwrap();
    }
    // Six things were said at each, and no door counts for another.
    for door in Door::all(&pair) {
        for (pages, program) in [(pair.server_pages, "server"), (pair.agent_pages, "agent")] {
            let refused = [("port", door.name(&pair)), ("reason", "request")];
            let counted = || {
                Page::get(pages)
                    .is_ok_and(|page| page.sum("konduit_refused_connections_total", &refused) == 6.0)
            };
            ports::wait(SOON, &format!("six at the {program}'s {refused:?}"), counted).unwrap();
        }
    }
    both_live(&mut pair);
}

#[test]
fn a_head_without_an_end_is_cut_off() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = pair(&directory);
    let mut flow = open(&pair.socket, &echo().unwrap()).unwrap();
    for door in Door::all(&pair) {
        for (begin, more) in [
            ("GET / HTTP/1.1\r\n", "X: y\r\n"),
            ("GET / HTTP/1.1\r\nX: ", "yyyy"),
            ("GET /", "yyyy"),
            ("", "YYYY"),
        ] {
            let mut stream = door.knock();
            let more = more.repeat(16 << 10);
            let mut sent = begin.len();
            stream.write_all(begin.as_bytes()).unwrap();
            while sent < ENDLESS {
                if let Err(error) = stream.write_all(more.as_bytes()) {
                    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{door:?} is not read");
                    break;
                }
                sent += more.len();
            }
            assert!(sent < ENDLESS, "{door:?} took {sent} bytes of {begin:?}");
        }
        door.answers();
        ping(&mut flow).unwrap();
    }
    both_live(&mut pair);
}

#[test]
fn who_says_nothing_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let mut pair = pair(&directory);
    let target = echo().unwrap();
    let mut flow = open(&pair.socket, &target).unwrap();
    let doors = Door::all(&pair);
    let mut silent = Vec::new();
    for door in &doors {
        for half in ["", "GET /metrics HTTP/1.1\r\nHo"].repeat(SILENT / 2) {
            let mut stream = door.knock();
            stream.write_all(half.as_bytes()).unwrap();
            silent.push(stream);
        }
    }
    doors.iter().for_each(Door::answers);
    ping(&mut flow).unwrap();
    open(&pair.socket, &target).unwrap();
    drop(silent);
    both_live(&mut pair);
}
