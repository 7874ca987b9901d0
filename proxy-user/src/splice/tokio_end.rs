//! An end on tokio, plain or not, behind one face.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::crew::Share;
use super::kernel::sock::{receive_at_least, unacknowledged};
use super::sock::{poll_room, prepare_tcp};
use super::{EndIo, FlowStream, Plain, Watched};
use crate::net::sockopt;

pub(super) enum TokioEnd {
    Tcp(TcpStream),
    Unix(UnixStream),
    Stream(Box<dyn FlowStream>),
}

/// An end whose join has not begun; dropping it is an abort as well.
pub(super) struct Unjoined(Option<EndIo>);

impl Unjoined {
    pub(super) fn new(io: EndIo) -> Unjoined {
        Unjoined(Some(io))
    }

    /// An end that was lost already.
    pub(super) fn lost() -> Unjoined {
        Unjoined(None)
    }

    /// Gives a plain socket back to tokio.
    pub(super) fn begin(mut self, share: &Share) -> io::Result<TokioEnd> {
        match self.0.take() {
            Some(io) => TokioEnd::new(io, share),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Unjoined {
    fn drop(&mut self) {
        match &mut self.0 {
            Some(EndIo::Plain(plain)) => plain.abort_on_close(),
            // Fails on a dead socket only, which sends nothing anyway.
            Some(EndIo::Watched(Watched::Tcp(socket))) => drop(sockopt::reset_on_close(socket)),
            Some(EndIo::Watched(Watched::Unix(_))) => {}
            Some(EndIo::Stream(stream)) => stream.abort(),
            None => {}
        }
    }
}

/// The same call on whatever the end is.
macro_rules! on_end {
    ($end:expr, $io:ident => $call:expr) => {
        match $end {
            TokioEnd::Tcp($io) => $call,
            TokioEnd::Unix($io) => $call,
            TokioEnd::Stream($io) => $call,
        }
    };
}

impl TokioEnd {
    fn new(io: EndIo, share: &Share) -> io::Result<TokioEnd> {
        let grant = share.grant;
        match io {
            EndIo::Plain(plain) => {
                // A socket whose peer is gone refuses these; reading it says so in order.
                let _ = plain.prepare(grant);
                match plain {
                    Plain::Tcp(socket) => {
                        // Where tokio cannot watch it, it closes here, and that is an abort.
                        let _ = sockopt::reset_on_close(&socket);
                        let socket = TcpStream::from_std(socket)?;
                        sockopt::end_on_close(&socket)?;
                        Ok(TokioEnd::Tcp(socket))
                    }
                    Plain::Unix(socket) => UnixStream::from_std(socket).map(TokioEnd::Unix),
                }
            }
            EndIo::Watched(Watched::Tcp(socket)) => {
                let _ = prepare_tcp(&socket, grant);
                Ok(TokioEnd::Tcp(socket))
            }
            EndIo::Watched(Watched::Unix(socket)) => Ok(TokioEnd::Unix(socket)),
            EndIo::Stream(mut stream) => {
                stream.bound(share.room());
                Ok(TokioEnd::Stream(stream))
            }
        }
    }

    /// The clear socket, out of tokio, and what was read from it already; none where it cannot leave.
    pub(super) fn into_plain(self) -> Option<(Plain, Bytes)> {
        let plain = match self {
            TokioEnd::Tcp(socket) => socket.into_std().ok().map(Plain::Tcp),
            TokioEnd::Unix(socket) => socket.into_std().ok().map(Plain::Unix),
            TokioEnd::Stream(stream) => return stream.into_plain(),
        };
        plain.map(|plain| (plain, Bytes::new()))
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self, TokioEnd::Stream(stream) if stream.is_leaving())
    }

    /// Ready once nothing lies above a clear socket.
    pub(super) fn poll_leave(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            TokioEnd::Tcp(_) | TokioEnd::Unix(_) => Poll::Ready(()),
            TokioEnd::Stream(stream) => stream.poll_leave(context),
        }
    }

    /// Tokio takes a short read for an empty socket, but one also ends in front of an urgent byte: then the kernel is made
    /// to tell of what is behind it. For a source that is not to be read any more until that.
    pub(super) fn look_past_mark(&self) {
        if let TokioEnd::Tcp(socket) = self
            && sockopt::at_mark(socket)
        {
            // Raises an edge when there is as much to read. Fails on a dead socket only, which raises its own.
            let _ = receive_at_least(socket, 1);
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self, TokioEnd::Unix(_))
    }

    /// Bytes that the peer has not acknowledged (TCP, streams that know) or not read (Unix).
    pub(super) fn unacknowledged(&self) -> u64 {
        match self {
            TokioEnd::Tcp(socket) => unacknowledged(socket).map_or(0, u64::from),
            TokioEnd::Unix(socket) => unacknowledged(socket).map_or(0, u64::from),
            TokioEnd::Stream(stream) => stream.unacknowledged(),
        }
    }

    /// Sockets take no words.
    pub(super) fn abort_with(&mut self, words: &str) {
        match self {
            // Fails on a dead socket only, which sends nothing anyway.
            TokioEnd::Tcp(socket) => drop(sockopt::reset_on_close(&*socket)),
            TokioEnd::Unix(_) => {}
            TokioEnd::Stream(stream) => stream.abort_with(words),
        }
    }

    pub(super) fn last_words(&self) -> String {
        match self {
            TokioEnd::Tcp(_) | TokioEnd::Unix(_) => String::new(),
            TokioEnd::Stream(stream) => stream.last_words(),
        }
    }

    /// Ready unless as much waits here unsent as a scarce grant allows; a Unix socket has a fixed room of its own.
    pub(super) fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            TokioEnd::Tcp(socket) => poll_room(socket, context),
            TokioEnd::Unix(_) => Poll::Ready(()),
            TokioEnd::Stream(stream) => stream.poll_room(context),
        }
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = on_end!(self, io => Pin::new(io).poll_write(context, bytes));
        match written {
            Poll::Ready(Ok(0)) if !bytes.is_empty() => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            other => other,
        }
    }

    /// Ready once the peer takes no more bytes, whatever is written. Sockets tell by an error of the write.
    pub(super) fn poll_unwritable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            TokioEnd::Tcp(_) | TokioEnd::Unix(_) => Poll::Pending,
            TokioEnd::Stream(stream) => stream.poll_unwritable(context),
        }
    }

    /// Ready once the connection is broken, read or not.
    pub(super) fn poll_broken(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let broken = match self {
            TokioEnd::Tcp(socket) => sockopt::hung_up(socket).broken,
            TokioEnd::Unix(socket) => sockopt::hung_up(socket).broken,
            TokioEnd::Stream(stream) => return stream.poll_broken(context),
        };
        if broken { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The peer closed both directions of a Unix socket. TCP does not tell that from a half-close.
    pub(super) fn is_orphaned(&self) -> bool {
        matches!(self, TokioEnd::Unix(socket) if sockopt::hung_up(socket).closed)
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_end!(self, io => Pin::new(io).poll_flush(context))
    }

    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_end!(self, io => Pin::new(io).poll_shutdown(context))
    }
}

impl AsyncRead for TokioEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_end!(&mut *self, io => Pin::new(io).poll_read(context, buffer))
    }
}
