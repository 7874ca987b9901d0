//! What peers should never send, sent: whoever did it gets a clear answer, it is counted, and nobody else notices.
#![allow(clippy::unwrap_used)] // A test fails by it.

mod api_server;
mod cell;
mod control_stream;
mod exhaustion;
mod frontends;
mod lanes;
mod late;
mod metadata;
mod panics;
mod ports;
mod puppet;
mod sequences;
mod targets;
mod tickets;
mod tls_frontends;
mod towards_agents;
mod unsent;

use std::path::Path;

use proxy_tests::targets::Target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use self::cell::{Cell, LONG};

/// A CONNECT, and the answer up to its empty line; nothing from a server that is gone.
async fn connect<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, target: &str) -> String {
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    let mut head = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_err() {
        return String::new();
    }
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
    };
    tokio::time::timeout(LONG, read).await.expect("no answer to CONNECT");
    String::from_utf8(head).unwrap()
}

/// All that still comes; an abort ends it too.
async fn rest<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await;
    let _ = read.expect("the connection stays open");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A flow that lives through a test.
struct Witness {
    _target: Target,
    stream: UnixStream,
    count: u8,
}

impl Witness {
    async fn new(cell: &Cell) -> Witness {
        let target = Target::echo().await.unwrap();
        let stream = open(&cell.socket(), &target).await;
        Witness { _target: target, stream, count: 0 }
    }

    async fn still_works(&mut self) {
        self.count = self.count.wrapping_add(1);
        self.stream.write_all(&[self.count; 1000]).await.unwrap();
        let mut back = [0; 1000];
        let read = tokio::time::timeout(LONG, self.stream.read_exact(&mut back)).await;
        read.expect("an old flow stands still").unwrap();
        assert_eq!(back, [self.count; 1000]);
    }
}

async fn open(socket: &Path, target: &Target) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let head = connect(&mut stream, &target.name()).await;
    assert_eq!(head, "HTTP/1.1 200 Connection Established\r\n\r\n");
    stream
}

/// A new flow over an http-connect frontend.
async fn dials(cell: &Cell) {
    let target = Target::echo().await.unwrap();
    let mut stream = open(&cell.socket(), &target).await;
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    tokio::time::timeout(LONG, stream.read_exact(&mut back)).await.expect("a new flow stands still").unwrap();
    assert_eq!(&back, b"hello");
}
