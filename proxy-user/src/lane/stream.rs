//! TLS as the end of a flow: of a client that came over TCP.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Wire;
use crate::net::sockopt;
use crate::splice::FlowStream;

/// TLS as a flow's end: close_notify is the FIN, an end without it is an abort, RST passes an abort on.
pub struct LaneStream {
    /// `None` once aborted.
    wire: Option<Wire>,
    peer_ended: bool,
    we_ended: bool,
}

impl LaneStream {
    pub(crate) fn new(mut wire: Wire) -> LaneStream {
        wire.get_mut().0.pass_through();
        LaneStream { wire: Some(wire), peer_ended: false, we_ended: false }
    }

    fn wire(&mut self) -> io::Result<Pin<&mut Wire>> {
        self.wire.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for LaneStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(self.wire()?.poll_read(cx, buf)).map_err(as_abort);
        if read.is_ok() && buf.filled().len() == before && buf.remaining() > 0 {
            self.peer_ended = true;
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for LaneStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wire()?.poll_write(cx, buf).map_err(as_abort)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire()?.poll_flush(cx).map_err(as_abort)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.wire()?.poll_shutdown(cx)).map_err(as_abort)?;
        self.we_ended = true;
        Poll::Ready(Ok(()))
    }
}

/// An end without close_notify reads as an abort, like the RST that usually causes it.
pub(super) fn as_abort(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => {
            io::Error::new(io::ErrorKind::ConnectionReset, error)
        }
        _ => error,
    }
}

impl FlowStream for LaneStream {
    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        match &self.wire {
            Some(wire) if !sockopt::hung_up(wire.get_ref().0.get_ref()).broken => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    fn unacknowledged(&self) -> u64 {
        let socket = self.wire.as_ref().map(|wire| wire.get_ref().0.get_ref());
        socket.and_then(|socket| sockopt::unsent(socket).ok()).map_or(0, u64::from)
    }

    fn abort(&mut self) {
        if let Some(wire) = self.wire.take() {
            reset(&wire);
        }
    }
}

impl Drop for LaneStream {
    fn drop(&mut self) {
        if !(self.peer_ended && self.we_ended) {
            self.abort();
        }
    }
}

/// Makes the close of this connection an abort for the peer.
pub(super) fn reset(wire: &Wire) {
    // It fails on a socket only that is gone already.
    let _ = sockopt::reset_on_close(wire.get_ref().0.get_ref());
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
