//! Counts the PINGs that come in on an HTTP/2 connection, below the library that answers them.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// RFC 9113, 4.1 and 6.7.
const HEAD: usize = 9;
const PING: u8 = 6;
const ACK: u8 = 1;

/// What a peer says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Frames at once.
    Server,
    /// The preface.
    Client,
}

/// When the peer's PINGs came; its answers to ours do not count.
#[derive(Debug, Clone, Default)]
pub struct Pings(Arc<Mutex<Vec<Instant>>>);

impl Pings {
    fn lock(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first so many.
    pub async fn first(&self, count: usize, within: Duration) -> anyhow::Result<Vec<Instant>> {
        let began = Instant::now();
        loop {
            let came = self.lock().clone();
            if came.len() >= count {
                return Ok(came[..count].to_vec());
            }
            if began.elapsed() > within {
                bail!("{} of {count} pings came within {within:?}", came.len());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A connection whose incoming frames are looked at.
pub struct Watched<S> {
    stream: S,
    pings: Pings,
    /// Bytes to come that are no frame's head.
    skip: usize,
    head: Vec<u8>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, peer: Peer) -> (Watched<S>, Pings) {
        let pings = Pings::default();
        let skip = if peer == Peer::Client { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len() } else { 0 };
        (Watched { stream, pings: pings.clone(), skip, head: Vec::new() }, pings)
    }

    fn look(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let more = (HEAD - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..more]);
            bytes = &bytes[more..];
            let [a, b, c, kind, flags, ..] = self.head[..] else { return };
            if self.head.len() < HEAD {
                return;
            }
            if kind == PING && flags & ACK == 0 {
                self.pings.lock().push(Instant::now());
            }
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            self.head.clear();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.look(&buf.filled()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
