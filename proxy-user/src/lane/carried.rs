//! A flow on a lane: in frames inside TLS while it may be a short one, so that its lane serves the next flow; then, one
//! direction after the other, without frames: in clear on a raw lane, inside TLS on an encrypted one.
//!
//! A frame is its length in two bytes, big-endian, and so many bytes. [`END`] ends a direction, and a lane whose both
//! directions ended like this is free again. [`LEAVE`], in a record of its own, is the last frame of a direction: the
//! bytes behind it are the flow's until FIN (raw) or close_notify (encrypt), and the lane serves no other.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Security;
use super::carrier::{Lane, Wire};
use super::record;
use crate::net::sockopt;
use crate::net::tls::as_abort;
use crate::splice::{BRIEF_BYTES, BRIEF_TIME, FlowStream, Plain, Room, poll_room};

/// With its length it fills a TLS record.
const MAX_FRAME: usize = (1 << 14) - HEAD;
const HEAD: usize = 2;
const END: u16 = 0;
const LEAVE: u16 = u16::MAX;

/// Where a lane goes when its flow ended and the next one may have it.
pub(super) trait Home: Send + Sync {
    fn take_back(self: Arc<Self>, lane: Lane);
}

pub(super) struct Carried {
    /// `None` once aborted. Engaged, so that dropping it is an abort for the peer.
    lane: Option<Lane>,
    home: Arc<dyn Home>,
    input: Input,
    output: Output,
    /// A direction has left its frames: the lane serves no other flow.
    used_up: bool,
    /// For the socket, once the lane serves no other flow: the kernel never undoes all of it.
    bounds: Option<Room>,
    /// Leaving failed: the peer is gone, and an end that follows is none of its own.
    broken: bool,
    /// What may yet be sent in frames, and until when.
    room: usize,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// `have` bytes of a frame's length were read.
    Head {
        bytes: [u8; HEAD],
        have: usize,
    },
    Frame {
        left: usize,
    },
    Left,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    Framed,
    /// LEAVE was said and perhaps not written yet.
    Leaving,
    Left,
    /// END was said and perhaps not written yet.
    Ending,
    Over,
}

const NEXT: Input = Input::Head { bytes: [0; HEAD], have: 0 };

impl Carried {
    pub(super) fn new(lane: Lane, home: Arc<dyn Home>) -> Carried {
        Carried {
            lane: Some(lane),
            home,
            input: NEXT,
            output: Output::Framed,
            used_up: false,
            bounds: None,
            broken: false,
            room: BRIEF_BYTES as usize,
            until: Instant::now() + BRIEF_TIME,
        }
    }

    fn wire(&mut self) -> io::Result<Pin<&mut Wire>> {
        let wire = self.lane.as_mut().and_then(|lane| lane.wire().ok());
        wire.map(Pin::new).ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }

    /// What carries a direction that has left its frames: the socket below TLS, or TLS.
    fn unframed(&mut self) -> io::Result<Pin<&mut dyn Duplex>> {
        let raw = self.is_raw();
        let wire = self.wire()?.get_mut();
        Ok(if raw { Pin::new(wire.get_mut().0) } else { Pin::new(wire) })
    }

    fn tcp(&self) -> Option<&tokio::net::TcpStream> {
        Some(self.lane.as_ref()?.peek_wire()?.get_ref().0.get_ref())
    }

    fn use_up(&mut self) {
        if !std::mem::replace(&mut self.used_up, true)
            && let Some((socket, bounds)) = self.tcp().zip(self.bounds.as_ref())
        {
            bounds.bound(socket);
        }
    }

    fn is_raw(&self) -> bool {
        self.lane.as_ref().is_some_and(|lane| lane.security() == Security::Raw)
    }

    /// Says a frame without bytes. Nothing is held up inside TLS then, so it is taken whole.
    fn poll_say(&mut self, cx: &mut Context<'_>, frame: u16) -> Poll<io::Result<()>> {
        ready!(self.wire()?.poll_flush(cx))?;
        match ready!(self.wire()?.poll_write(cx, &frame.to_be_bytes()))? {
            HEAD => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        }
    }

    /// Ready once what is written next goes without frames.
    fn poll_output_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output == Output::Framed {
            ready!(self.poll_say(cx, LEAVE))?;
            self.output = Output::Leaving;
            self.use_up();
        }
        if self.output == Output::Leaving {
            ready!(self.wire()?.poll_flush(cx))?;
            self.output = Output::Left;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_frame(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.wire()?.poll_flush(cx))?;
        let bytes = &bytes[..bytes.len().min(MAX_FRAME).min(self.room)];
        let head = (bytes.len() as u16).to_be_bytes();
        let frame = [io::IoSlice::new(&head), io::IoSlice::new(bytes)];
        let written = ready!(self.wire()?.poll_write_vectored(cx, &frame))?;
        if written != HEAD + bytes.len() {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.room -= bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    /// The next bytes inside TLS; its end among frames is an abort.
    fn poll_tls(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        ready!(self.wire()?.poll_read(cx, &mut into))?;
        match into.filled().len() {
            0 => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            read => Poll::Ready(Ok(read)),
        }
    }

    /// What a whole head says.
    fn begin(&mut self, frame: u16) -> io::Result<()> {
        self.input = match frame {
            END => Input::Over,
            LEAVE => {
                let raw = self.is_raw();
                let wire = self.wire()?.get_mut();
                if raw {
                    record::reading_ends(wire).map_err(io::Error::other)?;
                    wire.get_mut().0.pass_through();
                }
                self.use_up();
                Input::Left
            }
            _ if usize::from(frame) <= MAX_FRAME => Input::Frame { left: usize::from(frame) },
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is longer than allowed")),
        };
        Ok(())
    }

    fn poll_read_left(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.unframed()?.poll_read(cx, buf))?;
        if buf.filled().len() == before && buf.remaining() > 0 {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            self.input = Input::Over;
        }
        Poll::Ready(Ok(()))
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for Carried {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match this.input {
                Input::Over => return Poll::Ready(Ok(())),
                Input::Left => return this.poll_read_left(cx, buf).map_err(as_abort),
                Input::Head { mut bytes, have } => {
                    let read = ready!(this.poll_tls(cx, &mut bytes[have..])).map_err(as_abort)?;
                    if have + read < HEAD {
                        this.input = Input::Head { bytes, have: have + read };
                        continue;
                    }
                    this.begin(u16::from_be_bytes(bytes))?;
                    if this.input == Input::Left {
                        // Whoever reads may take the socket from here.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Input::Frame { left } => {
                    let most = left.min(buf.remaining());
                    let read = ready!(this.poll_tls(cx, buf.initialize_unfilled_to(most)));
                    let read = read.map_err(as_abort)?;
                    buf.advance(read);
                    this.input = if read < left { Input::Frame { left: left - read } } else { NEXT };
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Carried {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if this.output == Output::Framed && this.room > 0 && !this.used_up && Instant::now() < this.until {
            return this.poll_write_frame(cx, buf).map_err(as_abort);
        }
        ready!(this.poll_output_left(cx)).map_err(as_abort)?;
        if this.output != Output::Left {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        this.unframed()?.poll_write(cx, buf).map_err(as_abort)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match self.output {
            Output::Left => self.unframed()?.poll_flush(cx),
            _ => self.wire()?.poll_flush(cx),
        };
        flushed.map_err(as_abort)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.output == Output::Framed {
            ready!(this.poll_say(cx, END)).map_err(as_abort)?;
            this.output = Output::Ending;
        }
        match this.output {
            Output::Leaving | Output::Left => {
                ready!(this.poll_output_left(cx)).map_err(as_abort)?;
                ready!(this.unframed()?.poll_shutdown(cx)).map_err(as_abort)?;
            }
            Output::Ending => ready!(this.wire()?.poll_flush(cx)).map_err(as_abort)?,
            Output::Framed | Output::Over => {}
        }
        this.output = Output::Over;
        Poll::Ready(Ok(()))
    }
}

impl FlowStream for Carried {
    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        match self.tcp() {
            Some(socket) if !self.broken && !sockopt::hung_up(socket).broken => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    fn unacknowledged(&self) -> u64 {
        self.tcp().and_then(|socket| sockopt::unsent(socket).ok()).map_or(0, u64::from)
    }

    fn abort(&mut self) {
        self.lane = None;
    }

    fn bound(&mut self, room: Room) {
        self.bounds = Some(room);
    }

    /// What TLS holds goes first; what broke has room, since a write tells why.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match (ready!(Pin::new(&mut *self).poll_flush(cx)), self.tcp()) {
            (Ok(()), Some(socket)) => poll_room(socket, cx),
            _ => Poll::Ready(()),
        }
    }

    fn may_leave(&self) -> bool {
        self.is_raw()
    }

    fn is_leaving(&self) -> bool {
        self.used_up && self.is_raw()
    }

    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_raw() {
            return Poll::Pending;
        }
        let left = match self.poll_output_left(cx) {
            Poll::Ready(Err(_)) => {
                // The kernel tells it once; whoever reads must not take what comes then for a clean end.
                if !std::mem::replace(&mut self.broken, true) {
                    cx.waker().wake_by_ref();
                }
                false
            }
            polled => polled.is_ready(),
        };
        let both = left
            && matches!(self.output, Output::Left | Output::Over)
            && matches!(self.input, Input::Left | Input::Over);
        if both { Poll::Ready(()) } else { Poll::Pending }
    }

    fn into_plain(mut self: Box<Self>) -> Option<(Plain, Bytes)> {
        // Before it is taken: a lane that cannot leave is reset by its drop.
        record::writing_ends(self.lane.as_ref()?.peek_wire()?).ok()?;
        let wire = self.lane.take()?.into_wire()?;
        let (socket, ahead) = record::leave(wire).ok()?;
        Some((Plain::Tcp(socket.into_std().ok()?), ahead))
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(mut lane) =
            self.lane.take_if(|_| (self.input, self.output) == (Input::Over, Output::Over))
        {
            lane.disengage();
            if !self.used_up {
                self.home.clone().take_back(lane);
            }
        }
    }
}

#[cfg(test)]
#[path = "carried_tests.rs"]
mod tests;
