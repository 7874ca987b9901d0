//! One TLS record at a time, and leaving TLS at an exact byte.
//!
//! rustls reads as much as its buffer holds. A lane that goes on in clear must not let it: the bytes behind the
//! last record belong to the flow. [`RecordExact`] gives rustls one record and nothing more, so that whatever follows
//! is still in the socket, or was read ahead and is known, when the lane leaves TLS. Only in the handshake and hello,
//! where no flow's byte can follow, are whole flights given at once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::batch::Batch;

const HEADER: usize = 5;
/// The largest body of a record: 2^14 of plaintext and what TLS 1.2 may add (RFC 5246, 6.2.3).
const MAX_BODY: usize = 16_384 + 2_048;

/// A transport below TLS that takes no byte from the socket before its record is asked for, unless told to read
/// ahead.
#[derive(Debug)]
pub struct RecordExact<S> {
    io: Batch<S>,
    at: At,
    /// A read ends with its record.
    single: bool,
}

#[derive(Debug)]
enum At {
    Header {
        seen: [u8; HEADER],
        have: usize,
    },
    Body {
        left: usize,
    },
    /// Never leaves TLS again; reads are as large as the reader wants.
    Through,
}

const BOUNDARY: At = At::Header { seen: [0; HEADER], have: 0 };

impl<S> RecordExact<S> {
    pub fn new(io: S) -> RecordExact<S> {
        RecordExact { io: Batch::plain(io), at: BOUNDARY, single: false }
    }

    /// For the listener's end of a connection that may become a lane: reads ahead.
    pub fn reading_ahead(io: S) -> RecordExact<S> {
        let mut new = RecordExact::new(io);
        new.io.read_ahead(true);
        new
    }

    /// For a lane's end in its handshake: reads ahead, and writes only before it waits.
    pub fn in_flights(io: S) -> RecordExact<S> {
        let mut new = RecordExact::reading_ahead(io);
        new.hold();
        new
    }

    /// From here on no byte is taken from the transport before its record is asked for. What was read ahead
    /// already comes first.
    pub fn read_exactly(&mut self) {
        self.io.read_ahead(false);
    }

    /// From here on a read ends with its record at the latest, whatever was read ahead.
    pub fn read_records(&mut self) {
        self.single = true;
    }

    /// Writes wait until a read finds nothing, so that what is said in one breath is one segment.
    pub fn hold(&mut self) {
        self.io.hold(true);
    }

    pub fn holds(&self) -> bool {
        self.io.holds()
    }

    /// Ends [`RecordExact::hold`]: what waits goes out with the next write or flush.
    pub fn release(&mut self) {
        self.io.hold(false);
    }

    /// From here on reads may span records: for a connection that stays in TLS to its end.
    pub fn pass_through(&mut self) {
        self.io.read_ahead(false);
        self.at = At::Through;
    }

    /// Whether every byte handed out so far belongs to a complete record.
    pub fn at_boundary(&self) -> bool {
        matches!(self.at, At::Header { have: 0, .. })
    }

    pub fn get_ref(&self) -> &S {
        &self.io.io
    }

    fn wanted(&self) -> usize {
        match self.at {
            At::Header { have, .. } => HEADER - have,
            At::Body { left } => left,
            At::Through => usize::MAX,
        }
    }

    fn advance(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.at {
            At::Header { seen, have } => {
                seen[*have..*have + bytes.len()].copy_from_slice(bytes);
                *have += bytes.len();
                if *have == HEADER {
                    let left = body_length(*seen)?;
                    self.at = if left == 0 { BOUNDARY } else { At::Body { left } };
                }
            }
            At::Body { left } => {
                *left -= bytes.len();
                if *left == 0 {
                    self.at = BOUNDARY;
                }
            }
            At::Through => {}
        }
        Ok(())
    }
}

/// The length a record header announces. Only the content types of TLS pass (RFC 8446, 5.1), so that clear bytes
/// that reach a TLS reader are named as what they are.
fn body_length([kind, major, _, high, low]: [u8; HEADER]) -> io::Result<usize> {
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !(20..=23).contains(&kind) || major != 3 || length > MAX_BODY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer sent something that is no TLS record",
        ));
    }
    Ok(length)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for RecordExact<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.at, At::Through) {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        loop {
            let wanted = this.wanted().min(buf.remaining());
            let mut limited = ReadBuf::new(buf.initialize_unfilled_to(wanted));
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut limited))?;
            this.advance(limited.filled())?;
            let read = limited.filled().len();
            buf.advance(read);
            let ended = this.single && this.at_boundary();
            if ended || this.io.waiting() == 0 || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RecordExact<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Why a lane could not leave TLS; it is then dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeaveError {
    #[error("the lane cannot go on in clear: its last record was read only in part")]
    InsideRecord,
    #[error(
        "the lane cannot go on in clear: the peer sent more inside TLS than the protocol allows, or closed it"
    )]
    Unread,
    #[error("the lane cannot go on in clear: bytes of TLS were not written yet")]
    Unwritten,
}

/// Whether the next byte to read is the first that is not TLS.
///
/// At a record boundary rustls' deframer is empty: it was given whole records only and decrypts each one it has.
/// A handshake message split over records cannot wait there either, since the record of the last message would
/// not have been accepted behind it.
///
/// # Errors
/// Which of the conditions does not hold.
pub fn reading_ends<S>(stream: &TlsStream<RecordExact<S>>) -> Result<(), LeaveError> {
    let (record, session) = stream.get_ref();
    if !record.at_boundary() {
        return Err(LeaveError::InsideRecord);
    }
    if !session.wants_read() {
        return Err(LeaveError::Unread);
    }
    Ok(())
}

/// Whether the next byte that is written is the first that is not TLS.
///
/// # Errors
/// Bytes of TLS wait to be written.
pub fn writing_ends<S>(stream: &TlsStream<RecordExact<S>>) -> Result<(), LeaveError> {
    let (record, session) = stream.get_ref();
    if session.wants_write() || !record.io.is_written() {
        return Err(LeaveError::Unwritten);
    }
    Ok(())
}

/// Takes the transport out of TLS once both directions left it, with what was read ahead of its reader.
///
/// # Errors
/// As [`writing_ends`]; the connection is closed.
pub fn leave<S>(stream: TlsStream<RecordExact<S>>) -> Result<(S, Bytes), LeaveError> {
    writing_ends(&stream)?;
    Ok(match stream {
        TlsStream::Client(client) => client.into_inner().0.io.into_parts(),
        TlsStream::Server(server) => server.into_inner().0.io.into_parts(),
    })
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
