//! A transport that makes a lane with few system calls: it reads what there is, and keeps what is written until the
//! writer has to wait for an answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A flight of a resumed handshake is far below it.
const READ_AHEAD: usize = 4096;
/// More than this is not held back: a peer that wants so much to be said waits for it.
const MOST_HELD: usize = 16 << 10;

#[derive(Debug)]
pub(super) struct Batch<S> {
    pub(super) io: S,
    reads_ahead: bool,
    ahead: Vec<u8>,
    /// Bytes of `ahead` that were handed out.
    taken: usize,
    holds: bool,
    held: Vec<u8>,
}

impl<S> Batch<S> {
    /// Reads what it is asked for and writes at once.
    pub(super) fn plain(io: S) -> Batch<S> {
        Batch { io, reads_ahead: false, ahead: Vec::new(), taken: 0, holds: false, held: Vec::new() }
    }

    /// Whether reads take more from the transport than they are asked for.
    pub(super) fn read_ahead(&mut self, ahead: bool) {
        self.reads_ahead = ahead;
    }

    /// Whether written bytes wait until a read finds nothing. Flushing does nothing meanwhile. What is held when
    /// this ends goes out with the next bytes that are written, or by a flush.
    pub(super) fn hold(&mut self, holds: bool) {
        self.holds = holds;
    }

    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// Bytes that were read from the transport and not handed out.
    pub(super) fn waiting(&self) -> usize {
        self.ahead.len() - self.taken
    }

    /// The transport, and what was read from it and not handed out.
    pub(super) fn into_parts(mut self) -> (S, Bytes) {
        self.ahead.drain(..self.taken);
        (self.io, self.ahead.into())
    }

    pub(super) fn is_written(&self) -> bool {
        self.held.is_empty()
    }

    fn hand_out(&mut self, buf: &mut ReadBuf<'_>) {
        let most = self.waiting().min(buf.remaining());
        buf.put_slice(&self.ahead[self.taken..self.taken + most]);
        self.taken += most;
        if self.waiting() == 0 {
            // An idle lane keeps no buffer.
            (self.ahead, self.taken) = (Vec::new(), 0);
        }
    }
}

impl<S: AsyncWrite + Unpin> Batch<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..written);
        }
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Keeps `parts` and writes what may be written already.
    fn poll_keep(&mut self, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.held.len() >= MOST_HELD {
            ready!(self.poll_drain(cx))?;
        }
        let before = self.held.len();
        parts.iter().for_each(|part| self.held.extend_from_slice(part));
        let kept = self.held.len() - before;
        if !self.holds
            && let Poll::Ready(Err(error)) = self.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(kept))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batch<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.waiting() > 0 {
            this.hand_out(buf);
            return Poll::Ready(Ok(()));
        }
        let read = if this.reads_ahead && buf.remaining() < READ_AHEAD {
            let mut bytes = [0; READ_AHEAD];
            let mut more = ReadBuf::new(&mut bytes);
            let read = Pin::new(&mut this.io).poll_read(cx, &mut more);
            if matches!(read, Poll::Ready(Ok(()))) {
                this.ahead.extend_from_slice(more.filled());
                this.hand_out(buf);
            }
            read
        } else {
            Pin::new(&mut this.io).poll_read(cx, buf)
        };
        if read.is_pending() && this.holds {
            // The peer waits for this, perhaps. When the transport is full, it wakes this task and it is tried again.
            if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batch<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.holds || !self.is_written() {
            return self.poll_keep(cx, &[io::IoSlice::new(buf)]);
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.holds || !self.is_written() {
            return self.poll_keep(cx, bufs);
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.holds {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_held_goes_out_together_when_the_writer_waits() {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut near = Batch::plain(near);
        near.hold(true);
        near.write_all(b"one ").await.unwrap();
        near.flush().await.unwrap();
        near.write_all(b"two").await.unwrap();
        let mut seen = [0; 16];
        let quiet = std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut far).poll_read(cx, &mut ReadBuf::new(&mut seen)))
        });
        assert!(quiet.await.is_pending());
        let talk = async {
            let said = far.read(&mut seen).await.unwrap();
            far.write_all(b"!").await.unwrap();
            said
        };
        let (heard, said) = tokio::join!(near.read_u8(), talk);
        assert_eq!((heard.unwrap(), &seen[..said]), (b'!', b"one two".as_slice()));
    }

    #[tokio::test]
    async fn what_is_held_at_the_end_of_holding_goes_before_what_follows() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut near = Batch::plain(near);
        near.hold(true);
        near.write_all(b"first,").await.unwrap();
        near.hold(false);
        assert!(!near.is_written());
        let write = async {
            near.write_all(b"second").await.unwrap();
            near.flush().await.unwrap();
            near.is_written()
        };
        let mut seen = [0; 12];
        let (written, read) = tokio::join!(write, far.read_exact(&mut seen));
        read.unwrap();
        assert!(written);
        assert_eq!(&seen, b"first,second");
    }

    #[tokio::test]
    async fn no_byte_is_taken_once_reading_ahead_ends() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Batch::plain(near);
        near.read_ahead(true);
        far.write_all(b"abcd").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'a');
        assert_eq!(near.waiting(), 3);
        near.read_ahead(false);
        far.write_all(b"efgh").await.unwrap();
        let mut four = [0; 4];
        near.read_exact(&mut four).await.unwrap();
        assert_eq!((&four, near.waiting()), (b"bcde", 0));
        let mut rest = [0; 3];
        near.io.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"fgh");
    }
}
