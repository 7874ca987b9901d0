//! A blocking client of `ProxyService.Proxy` over a Unix socket, with one flow: what kube-apiserver's gRPC mode
//! puts on the wire, the percent-encoded socket path as `:authority` included, at little cost of its own.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::SendFlags;

use super::packets::{self, Event, Parser, Windows};

/// What one write becomes at most: as much as kube-apiserver's copies hold.
const MOST: usize = 32 << 10;
/// One read of the socket.
const BUFFER: usize = 256 << 10;
/// What the server may send in advance; given back when half of it was read.
const ADVANCE: u32 = 64 << 20;

/// One tunnel and its flow. Clones share both.
#[derive(Debug, Clone)]
pub struct GrpcConn {
    socket: Arc<UnixStream>,
    inbound: Arc<Mutex<Inbound>>,
    outbound: Arc<(Mutex<Outbound>, Condvar)>,
    /// Held while something is written to the socket. Nobody who reads waits for it: the server may read no more
    /// until somebody here does.
    writing: Arc<Mutex<()>>,
    conn: u64,
}

#[derive(Debug)]
struct Inbound {
    buffer: Vec<u8>,
    filled: std::ops::Range<usize>,
    parser: Parser,
    /// Read from the socket for a reader that was not there.
    waiting: Vec<u8>,
    taken: u32,
    over: bool,
}

#[derive(Debug)]
struct Outbound {
    windows: Windows,
    /// Frames that go before any other: answers to the server's own.
    control: Vec<u8>,
    over: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GrpcConn {
    /// Opens a tunnel and dials `target` through it.
    pub fn dial(socket: &Path, target: &SocketAddr, longest: Duration) -> Result<GrpcConn> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(longest))?;
        (&stream).write_all(&packets::opening(socket, ADVANCE))?;
        let mut conn = GrpcConn {
            socket: Arc::new(stream),
            inbound: Arc::new(Mutex::new(Inbound {
                buffer: vec![0; BUFFER],
                filled: 0..0,
                parser: Parser::default(),
                waiting: Vec::new(),
                taken: 0,
                over: false,
            })),
            outbound: Arc::new((
                Mutex::new(Outbound { windows: Windows::default(), control: Vec::new(), over: false }),
                Condvar::new(),
            )),
            writing: Arc::default(),
            conn: 0,
        };
        (&*conn.socket).write_all(&packets::dial_request(&target.to_string(), 7))?;
        let inbound = conn.inbound.clone();
        let mut inbound = lock(&inbound);
        conn.conn = loop {
            match conn.event(&mut inbound)? {
                Event::Dialled(Ok(id)) => break id,
                Event::Dialled(Err(error)) => return Err(Error::new(ErrorKind::ConnectionRefused, error)),
                Event::Closed => return Err(ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        };
        conn.socket.set_read_timeout(None)?;
        Ok(conn)
    }

    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.socket.set_read_timeout(timeout).and(self.socket.set_write_timeout(timeout))
    }

    /// There is no half-close in packets: whatever is shut down, the flow is closed.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        if how != Shutdown::Both {
            return self.write_frames(&packets::close_request(self.conn));
        }
        self.socket.shutdown(Shutdown::Both)
    }

    /// The next event of the stream; DATA is copied to `waiting`.
    fn event(&self, inbound: &mut Inbound) -> Result<Event> {
        loop {
            let fresh = &inbound.buffer[inbound.filled.clone()];
            let (used, event) = inbound.parser.next(fresh, &mut inbound.waiting);
            inbound.filled.start += used;
            match event {
                Some(Event::Settings(initial)) => {
                    lock(&self.outbound.0).windows.initial(initial);
                    self.answer(&packets::SETTINGS_ACK)?;
                }
                Some(Event::Ping(payload)) => self.answer(&packets::pong(payload))?,
                Some(Event::Window { stream, more }) => {
                    lock(&self.outbound.0).windows.more(stream, more);
                }
                Some(event) => {
                    if matches!(event, Event::Closed) {
                        inbound.over = true;
                        lock(&self.outbound.0).over = true;
                        self.outbound.1.notify_all();
                    }
                    return Ok(event);
                }
                None => {
                    let read = (&*self.socket).read(&mut inbound.buffer)?;
                    inbound.filled = 0..read;
                    if read == 0 {
                        inbound.over = true;
                        lock(&self.outbound.0).over = true;
                        self.outbound.1.notify_all();
                        return Ok(Event::Closed);
                    }
                    continue;
                }
            }
            self.outbound.1.notify_all();
            // The writer may be the one who reads here: it looks at its window again.
            return Ok(Event::Other);
        }
    }

    fn give_back(&self, inbound: &mut Inbound, read: usize) -> Result<()> {
        inbound.taken += read as u32;
        if inbound.taken >= ADVANCE / 2 {
            self.answer(&packets::window_updates(inbound.taken))?;
            inbound.taken = 0;
        }
        Ok(())
    }

    /// Queues control frames and sends what the socket takes at once; whoever writes next sends the rest.
    fn answer(&self, frames: &[u8]) -> Result<()> {
        lock(&self.outbound.0).control.extend_from_slice(frames);
        let Ok(_writing) = self.writing.try_lock() else { return Ok(()) };
        let mut outbound = lock(&self.outbound.0);
        match rustix::net::send(&*self.socket, &outbound.control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => drop(outbound.control.drain(..sent)),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// Writes control frames that wait, then these.
    fn write_frames(&self, frames: &[u8]) -> Result<()> {
        let mut frames = frames;
        loop {
            let writing = lock(&self.writing);
            let control = std::mem::take(&mut lock(&self.outbound.0).control);
            (&*self.socket).write_all(&control)?;
            (&*self.socket).write_all(frames)?;
            drop(writing);
            frames = &[];
            // Queued while we wrote.
            if lock(&self.outbound.0).control.is_empty() {
                return Ok(());
            }
        }
    }
}

impl Read for GrpcConn {
    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let mut inbound = lock(&self.inbound);
        while inbound.waiting.is_empty() {
            if inbound.over {
                return Ok(0);
            }
            self.event(&mut inbound)?;
        }
        let read = inbound.waiting.len().min(into.len());
        into[..read].copy_from_slice(&inbound.waiting[..read]);
        inbound.waiting.drain(..read);
        self.give_back(&mut inbound, read)?;
        Ok(read)
    }
}

impl Write for GrpcConn {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let payload = &bytes[..bytes.len().min(MOST)];
        let frames = packets::data(self.conn, payload);
        loop {
            let mut outbound = lock(&self.outbound.0);
            if outbound.over {
                return Err(ErrorKind::BrokenPipe.into());
            }
            if outbound.windows.take(frames.counted) {
                drop(outbound);
                self.write_frames(&frames.bytes)?;
                return Ok(payload.len());
            }
            // Whoever can get at the socket reads; the other waits for what it finds.
            match self.inbound.try_lock() {
                Ok(mut inbound) => {
                    drop(outbound);
                    self.event(&mut inbound)?;
                }
                Err(_) => drop(self.outbound.1.wait_timeout(outbound, Duration::from_millis(50))),
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl AsFd for GrpcConn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
