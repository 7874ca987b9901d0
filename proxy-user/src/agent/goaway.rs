//! What a server says of the connection that the gRPC library keeps to itself: that it wants it to end (HTTP/2's
//! GOAWAY), and why it did not take this agent (a TLS alert, which in TLS 1.3 comes after the client's handshake).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::phase::{Life, Phase};

/// RFC 9113, 6.8.
const GOAWAY: u8 = 7;
const HEADER: usize = 9;

/// A connection to an HTTP/2 server that says when it is leaving, which is when a GOAWAY passes by, and keeps an alert.
/// It changes nothing.
pub(super) struct Tap<S> {
    stream: S,
    frames: Frames,
    life: Life,
    alert: Arc<OnceLock<AlertDescription>>,
}

/// Where in a sequence of frames a reader is.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    /// Payload of the current frame that was not seen yet.
    rest: usize,
}

impl Frames {
    /// Reads on; true when a GOAWAY began.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let [a, b, c, kind, ..] = self.header[..]
                && self.header.len() == HEADER
            {
                self.rest = u32::from_be_bytes([0, a, b, c]) as usize;
                found |= kind == GOAWAY;
                self.header.clear();
            }
        }
        found
    }
}

impl<S> Tap<S> {
    pub(super) fn new(stream: S, life: Life, alert: Arc<OnceLock<AlertDescription>>) -> Tap<S> {
        Tap { stream, frames: Frames::default(), life, alert }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if self.frames.read(&buf.filled()[before..]) {
            self.life.reach(Phase::Leaving);
        }
        if let Poll::Ready(Err(error)) = &polled
            && let Some(rustls::Error::AlertReceived(alert)) = error.get_ref().and_then(|e| e.downcast_ref())
        {
            let _ = self.alert.set(*alert);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn a_goaway_is_seen_however_the_bytes_arrive() {
        // SETTINGS, DATA that looks like a GOAWAY inside, the GOAWAY, a PING.
        let quiet = [frame(4, &[]), frame(0, &frame(GOAWAY, &[0; 8])), frame(0, &[GOAWAY; 70_000])].concat();
        let leaving = frame(GOAWAY, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        let all = [quiet.clone(), leaving, frame(6, &[0; 8])].concat();
        for chunk in [1, 2, 3, 7, 8, 9, 10, 17, 16384, all.len()] {
            let mut frames = Frames::default();
            let mut at = 0;
            let mut seen = None;
            for piece in all.chunks(chunk) {
                at += piece.len();
                if frames.read(piece) {
                    assert_eq!(seen, None);
                    seen = Some(at);
                }
            }
            let seen = seen.unwrap();
            assert!(seen >= quiet.len() + HEADER && seen < quiet.len() + HEADER + chunk, "{chunk}: {seen}");
        }
        assert!(!Frames::default().read(&quiet));
    }
}
