//! System calls on one plain socket.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::pipe::SpliceFlags;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Plain;
use super::budget::Grant;
use super::kernel::sock::unacknowledged;
use super::policy::UNIX_SEND_BUFFER;
use crate::flow::Finish;
use crate::net::sockopt;

impl AsFd for Plain {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Plain::Tcp(socket) => socket.as_fd(),
            Plain::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Plain {
    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Plain::Unix(_))
    }

    /// No delay on a TCP socket; its keepalive is the business of whoever made it. Never `TCP_USER_TIMEOUT`: it also ends a flow whose
    /// reader merely pauses.
    ///
    /// `grant` bounds the receive buffer only where it must, for that ends the kernel's autotuning.
    pub(super) fn prepare(&self, grant: Grant) -> io::Result<()> {
        self.set_nonblocking()?;
        match self {
            Plain::Tcp(socket) => prepare_tcp(socket, grant),
            // Cut to the system's ceiling: slower, not wrong.
            Plain::Unix(socket) if !grant.is_bounded() => {
                SockRef::from(socket).set_send_buffer_size(UNIX_SEND_BUFFER)
            }
            Plain::Unix(_) => Ok(()),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Plain::Tcp(socket) => socket.set_nonblocking(true),
            Plain::Unix(socket) => socket.set_nonblocking(true),
        }
    }

    pub(super) fn recv(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        loop {
            match rustix::net::recv(self, &mut *buffer, RecvFlags::DONTWAIT) {
                Err(Errno::INTR) => {}
                done => return done.map(|(_, bytes)| bytes),
            }
        }
    }

    /// How many of the next bytes can be seen, one at most. On a mapped socket this makes the kernel run the
    /// verdict over bytes that arrived before it was mapped.
    pub(super) fn peek(&self) -> rustix::io::Result<usize> {
        loop {
            match rustix::net::recv(self, &mut [0u8], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
                Err(Errno::INTR) => {}
                done => return done.map(|(_, bytes)| bytes),
            }
        }
    }

    pub(super) fn send(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        loop {
            match rustix::net::send(self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                done => return done,
            }
        }
    }

    /// [`Plain::send`] for a flow with this grant.
    pub(super) fn send_within(&self, grant: Grant, bytes: &[u8]) -> rustix::io::Result<usize> {
        if self.is_sated(grant) { Err(Errno::AGAIN) } else { self.send(bytes) }
    }

    /// As much waits here unsent as a scarce grant allows.
    pub(super) fn is_sated(&self, grant: Grant) -> bool {
        grant.is_scarce() && !self.is_unix() && is_sated(self)
    }

    /// Bytes that the peer has not acknowledged (TCP) or not read (Unix).
    pub(super) fn unacknowledged(&self) -> io::Result<u64> {
        unacknowledged(self).map(u64::from)
    }

    /// Ends our sending direction: FIN after the last byte.
    pub(super) fn end_writing(&self) -> io::Result<()> {
        match self {
            Plain::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Plain::Unix(socket) => socket.shutdown(Shutdown::Write),
        }
    }

    /// Makes the coming close an abort: RST on TCP. A Unix peer sees the end of the stream, it knows no reset.
    pub(super) fn abort_on_close(&self) {
        if let Plain::Tcp(socket) = self {
            // Fails on a dead socket only, which sends nothing anyway.
            let _ = sockopt::reset_on_close(socket);
        }
    }
}

/// As [`Plain::prepare`], for a socket that does not block already.
pub(super) fn prepare_tcp(socket: &impl AsFd, grant: Grant) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(grant.unsent())?;
    if let Some(bytes) = grant.receive_buffer() {
        // The kernel doubles it.
        socket.set_recv_buffer_size(bytes / 2)?;
    }
    Ok(())
}

/// As much waits here unsent as TCP_NOTSENT_LOWAT allows. Asking so makes the kernel tell, by an event, when that has
/// changed.
fn is_sated(socket: &impl AsFd) -> bool {
    let mut here = [PollFd::new(socket, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut here, Some(&now)) == Ok(0)
}

/// Ready unless the socket [`is_sated`]; a broken one is ready, since a write tells why.
pub(crate) fn poll_room(socket: &TcpStream, context: &mut Context<'_>) -> Poll<()> {
    let ask = || if is_sated(socket) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) };
    while ready!(socket.poll_write_ready(context)).is_ok() {
        match socket.try_io(Interest::WRITABLE, ask) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => break,
        }
    }
    Poll::Ready(())
}

/// Moves up to `most` bytes between a socket and a pipe.
pub(super) fn splice(from: impl AsFd, to: impl AsFd, most: usize) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        match rustix::pipe::splice(&from, None, &to, None, most, flags) {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// Moves one byte from a socket into an empty pipe by hand.
pub(super) fn carry_one(from: &Plain, to: impl AsFd) -> rustix::io::Result<usize> {
    let mut byte = [0];
    match from.recv(&mut byte)? {
        0 => Ok(0),
        _ => rustix::io::write(to, &byte),
    }
}

/// What an error of recv, send or splice says about the direction.
pub(super) fn finish_of(error: Errno) -> Finish {
    match error {
        Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN | Errno::CONNABORTED => Finish::Aborted,
        other => Finish::Failed(other.raw_os_error()),
    }
}
