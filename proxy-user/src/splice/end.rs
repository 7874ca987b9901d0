//! The two kinds of end that can be joined, and the bytes that belong in front of them.

use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Room;

/// A clear, non-blocking socket that was taken out of tokio.
#[derive(Debug)]
pub enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A clear socket that tokio watches: a join that is copied on tokio leaves it there, any other takes it out.
#[derive(Debug)]
pub enum Watched {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Watched {
    pub(super) fn into_plain(self) -> io::Result<Plain> {
        match self {
            Watched::Tcp(socket) => socket.into_std().map(Plain::Tcp),
            Watched::Unix(socket) => socket.into_std().map(Plain::Unix),
        }
    }
}

/// An end that is no plain socket: a TLS stream, a mux flow, a gRPC frontend flow.
///
/// A clean end of the peer reads as EOF (0 bytes); an abort reads as `ErrorKind::ConnectionReset`.
/// `poll_shutdown` ends our direction cleanly (FIN, close_notify, mux FIN) and leaves the other one open
/// where the wire below can express that.
pub trait FlowStream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Ends both directions at once, such that the peer sees an abort and not a clean end.
    /// Bytes already accepted may be lost. Dropping without a shutdown does the same.
    fn abort(&mut self);

    /// As [`FlowStream::abort`]; `words` are the other end's [`FlowStream::last_words`], for a peer that takes any.
    fn abort_with(&mut self, _words: &str) {
        self.abort();
    }

    /// Why the peer aborted, as it said itself; empty if it said nothing.
    fn last_words(&self) -> String {
        String::new()
    }

    /// Whether the peer answers a clean end of our direction at once by ending its own, as upstream's agent does.
    fn answers_close(&self) -> bool {
        false
    }

    /// Ready once the peer takes no more bytes, whatever is written. An upstream peer's close ends both directions:
    /// when every byte read from this stream was handed over, the other direction is to be ended with it.
    fn poll_unwritable(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Ready once the connection below is broken, although what came before it was not read yet. Asked now and then
    /// while nobody reads, so it need not wake.
    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Bytes written to this end that its peer has not acknowledged yet (`SIOCOUTQ` of the socket below), 0 if
    /// that cannot be known. An abort of the other end is held back, 1 s at most, until this is 0.
    fn unacknowledged(&self) -> u64 {
        0
    }

    /// What this flow may hold back; told once, at the join. Of a socket below [`Room::bound`] sees to that.
    fn bound(&mut self, _room: Room) {}

    /// Ready unless as much waits to be sent as [`FlowStream::bound`] allows. Asked only where that is too little to hold
    /// more beside it.
    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Whether both peers can leave what lies above the clear socket below, as on a raw lane that begins inside TLS.
    fn may_leave(&self) -> bool {
        false
    }

    /// The peer, or we, began to leave.
    fn is_leaving(&self) -> bool {
        false
    }

    /// Leaves in our direction. Ready once the peer's has left as well, which reading this stream finds.
    fn poll_leave(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// The clear socket, once [`FlowStream::poll_leave`] was ready, and what was read from it already. Nothing when it
    /// cannot leave tokio; both directions are aborted then.
    fn into_plain(self: Box<Self>) -> Option<(Plain, Bytes)> {
        None
    }
}

/// One side of a join.
pub struct End {
    pub io: EndIo,
    /// Read from this end already, to be sent to the other end before anything else (bytes pipelined behind a
    /// CONNECT head).
    pub early: Bytes,
    /// Ours, to be written to this end before any byte of the other one (the `200` of a CONNECT). Not counted
    /// as bytes of the flow. A Unix socket has read it (SIOCOUTQ 0, at most 50 ms) before bytes follow it.
    pub greeting: Bytes,
}

/// What an [`End`] is made of.
pub enum EndIo {
    Plain(Plain),
    Watched(Watched),
    Stream(Box<dyn FlowStream>),
}

impl End {
    pub fn tcp(socket: TcpStream) -> End {
        End { io: EndIo::Plain(Plain::Tcp(socket)), early: Bytes::new(), greeting: Bytes::new() }
    }

    pub fn unix(socket: UnixStream) -> End {
        End { io: EndIo::Plain(Plain::Unix(socket)), early: Bytes::new(), greeting: Bytes::new() }
    }

    pub fn watched(socket: Watched) -> End {
        End { io: EndIo::Watched(socket), early: Bytes::new(), greeting: Bytes::new() }
    }

    pub fn stream(stream: impl FlowStream + 'static) -> End {
        End { io: EndIo::Stream(Box::new(stream)), early: Bytes::new(), greeting: Bytes::new() }
    }

    /// As [`FlowStream::answers_close`]; no socket does.
    pub fn answers_close(&self) -> bool {
        matches!(&self.io, EndIo::Stream(stream) if stream.answers_close())
    }

    pub fn with_early(self, early: Bytes) -> End {
        End { early, ..self }
    }

    pub fn with_greeting(self, greeting: Bytes) -> End {
        End { greeting, ..self }
    }
}
