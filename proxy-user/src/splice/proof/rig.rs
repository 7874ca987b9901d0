//! One direction between real sockets, driven from one thread: `client → source`, `destination → target`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use super::super::kernel::{Mapped, Mode, sock};
use super::{Doubt, STALL};

/// Bytes of one step: more than a segment, so that streams are cut in many ways.
const STEP: usize = 100_003;

/// Both kinds of source.
pub(super) trait Source: Read + Write + AsFd {
    fn end(&self) -> io::Result<()>;
}

impl Source for TcpStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Source for UnixStream {
    fn end(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

pub(super) struct Rig<S> {
    pub(super) client: S,
    pub(super) source: S,
    pub(super) destination: TcpStream,
    pub(super) target: TcpStream,
    /// Position up to which the client wrote.
    pub(super) sent: u64,
    /// Position up to which the target read.
    pub(super) received: u64,
    /// Read from the source, not yet written to the destination.
    pending: Vec<u8>,
    scratch: Vec<u8>,
}

impl Rig<TcpStream> {
    pub(super) fn tcp() -> Result<Rig<TcpStream>, Doubt> {
        let (client, source) = pair()?;
        Rig::between(client, source)
    }
}

impl Rig<UnixStream> {
    pub(super) fn unix() -> Result<Rig<UnixStream>, Doubt> {
        let (client, source) = UnixStream::pair().map_err(Doubt::io("making a Unix socket pair"))?;
        for socket in [&client, &source] {
            socket.set_nonblocking(true).map_err(Doubt::io("making a socket non-blocking"))?;
        }
        Rig::between(client, source)
    }
}

impl<S: Source> Rig<S> {
    fn between(client: S, source: S) -> Result<Rig<S>, Doubt> {
        let (destination, target) = pair()?;
        let (pending, scratch) = (Vec::new(), vec![0; STEP]);
        Ok(Rig { client, source, destination, target, sent: 0, received: 0, pending, scratch })
    }

    /// Makes the destination's send buffer small.
    pub(super) fn narrow(&self, bytes: usize) -> Result<(), Doubt> {
        SockRef::from(&self.destination)
            .set_send_buffer_size(bytes)
            .map_err(Doubt::io("setting a buffer size"))
    }

    /// Lets the client write until position `end` or its queue is full.
    pub(super) fn offer(&mut self, end: u64) -> Result<(), Doubt> {
        while self.sent < end {
            let chunk: Vec<u8> = (self.sent..end.min(self.sent + STEP as u64)).map(byte).collect();
            match self.client.write(&chunk) {
                Ok(count) => self.sent += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Doubt::io("writing as the client")(error)),
            }
        }
        Ok(())
    }

    /// Lets the target read what is there, and compares. `true` at the end of the stream.
    pub(super) fn take(&mut self) -> Result<bool, Doubt> {
        loop {
            match self.target.read(&mut self.scratch) {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    let from = self.received;
                    if let Some(bad) = (0..count).find(|at| self.scratch[*at] != byte(from + *at as u64)) {
                        return Err(Doubt::Wrong { at: from + bad as u64 });
                    }
                    self.received += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(Doubt::io("reading as the target")(error)),
            }
        }
    }

    /// What the engine does with a passing direction: waits for the redirected bytes, then forwards.
    /// `true` when the source's stream ended.
    pub(super) fn forward(&mut self, mapped: &Mapped) -> Result<bool, Doubt> {
        if !mapped.is_drained(&self.destination).map_err(Doubt::io("asking the destination"))? {
            return Ok(false);
        }
        loop {
            while !self.pending.is_empty() {
                match self.destination.write(&self.pending) {
                    Ok(count) => {
                        self.pending.drain(..count);
                        mapped.add_forwarded(count as u64);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                    Err(error) => return Err(Doubt::io("forwarding")(error)),
                }
            }
            match self.source.read(&mut self.scratch) {
                Ok(0) => return Ok(mapped.waiting() == 0),
                Ok(count) => self.pending.extend_from_slice(&self.scratch[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(Doubt::io("reading passed bytes")(error)),
            }
        }
    }

    /// Moves bytes until the target has `end` of them; forwards while the direction passes.
    pub(super) fn run(&mut self, mapped: &Mapped, end: u64, turn_back: bool) -> Result<(), Doubt> {
        let mut progress = (self.received, Instant::now());
        while self.received < end {
            self.offer(end)?;
            if mapped.mode() == Mode::Pass {
                self.forward(mapped)?;
                if turn_back && self.pending.is_empty() {
                    mapped.try_redirect();
                }
            }
            self.take()?;
            if self.received > progress.0 {
                progress = (self.received, Instant::now());
            } else if progress.1.elapsed() > STALL {
                return Err(Doubt::Stalled { at: self.received, of: end });
            }
            self.nap(mapped, end)?;
        }
        Ok(())
    }

    /// Waits until there is something to do, a millisecond at most: kernel workers say nothing.
    fn nap(&self, mapped: &Mapped, end: u64) -> Result<(), Doubt> {
        let client = if self.sent < end { PollFlags::OUT } else { PollFlags::empty() };
        let source = if mapped.mode() == Mode::Pass { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [
            PollFd::from_borrowed_fd(self.source.as_fd(), source),
            PollFd::from_borrowed_fd(self.target.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.client.as_fd(), client),
        ];
        let millisecond = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        match poll(&mut fds, Some(&millisecond)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(Doubt::io("polling")(error.into())),
        }
    }
}

/// Waits until `done`, or doubts.
pub(super) fn until(what: &str, mut done: impl FnMut() -> Result<bool, Doubt>) -> Result<(), Doubt> {
    let started = Instant::now();
    while !done()? {
        if started.elapsed() > STALL {
            return Err(Doubt::Saw(format!("waited in vain for {what}")));
        }
        let millisecond = Timespec { tv_sec: 0, tv_nsec: 200_000 };
        // Nothing to wait for but time: what is awaited happens in a kernel worker.
        let _ = poll(&mut [], Some(&millisecond));
    }
    Ok(())
}

/// Bytes that wait to be read.
pub(super) fn readable(socket: BorrowedFd<'_>) -> Result<u32, Doubt> {
    sock::readable(socket).map_err(Doubt::io("asking for readable bytes"))
}

/// A connected, non-blocking pair: the dialer's end, the accepted end.
pub(super) fn pair() -> Result<(TcpStream, TcpStream), Doubt> {
    connect().map_err(Doubt::io("connecting over loopback"))
}

fn connect() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).or_else(|_| TcpListener::bind(("::1", 0)))?;
    let dialed = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    for socket in [&dialed, &accepted] {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
    }
    Ok((dialed, accepted))
}

/// The byte at a position of every stream; a shift, a loss or a repeat shows.
pub(super) fn byte(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8
}
