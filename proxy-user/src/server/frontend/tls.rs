//! A client that came over TLS, as the end of a flow.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::net::sockopt;
use crate::net::tls::as_abort;
use crate::splice::{FlowStream, Room, poll_room};

/// TLS as a flow's end: close_notify is the FIN, an end without it is an abort, RST passes an abort on.
pub(super) struct TlsEnd {
    /// `None` once aborted.
    stream: Option<TlsStream<TcpStream>>,
    peer_ended: bool,
    we_ended: bool,
}

impl TlsEnd {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> TlsEnd {
        TlsEnd { stream: Some(stream), peer_ended: false, we_ended: false }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TlsStream<TcpStream>>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for TlsEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(self.stream()?.poll_read(cx, buf)).map_err(as_abort);
        if read.is_ok() && buf.filled().len() == before && buf.remaining() > 0 {
            self.peer_ended = true;
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for TlsEnd {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf).map_err(as_abort)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx).map_err(as_abort)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.stream()?.poll_shutdown(cx)).map_err(as_abort)?;
        self.we_ended = true;
        Poll::Ready(Ok(()))
    }
}

impl FlowStream for TlsEnd {
    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        match &self.stream {
            Some(stream) if !sockopt::hung_up(stream.get_ref().0).broken => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    fn unacknowledged(&self) -> u64 {
        let socket = self.stream.as_ref().map(|stream| stream.get_ref().0);
        socket.and_then(|socket| sockopt::unsent(socket).ok()).map_or(0, u64::from)
    }

    fn bound(&mut self, room: Room) {
        if let Some(stream) = &self.stream {
            room.bound(stream.get_ref().0);
        }
    }

    /// What TLS holds goes first; what broke has room, since a write tells why.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match (ready!(Pin::new(&mut *self).poll_flush(cx)), &self.stream) {
            (Ok(()), Some(stream)) => poll_room(stream.get_ref().0, cx),
            _ => Poll::Ready(()),
        }
    }

    fn abort(&mut self) {
        if let Some(stream) = self.stream.take() {
            // It fails on a socket only that is gone already.
            let _ = sockopt::reset_on_close(stream.get_ref().0);
        }
    }
}

impl Drop for TlsEnd {
    fn drop(&mut self) {
        if !(self.peer_ended && self.we_ended) {
            self.abort();
        }
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
