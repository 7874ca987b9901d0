//! One client socket, TCP or Unix, behind the few calls that the generators need.

use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::grpc::GrpcConn;
use super::pacing;

#[derive(Debug)]
pub enum Conn {
    Tcp(TcpStream),
    Unix(UnixStream),
    Grpc(GrpcConn),
}

impl Conn {
    pub fn try_clone(&self) -> Result<Conn> {
        Ok(match self {
            Conn::Tcp(socket) => Conn::Tcp(socket.try_clone()?),
            Conn::Unix(socket) => Conn::Unix(socket.try_clone()?),
            Conn::Grpc(conn) => Conn::Grpc(conn.clone()),
        })
    }

    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        match self {
            Conn::Tcp(socket) => socket.shutdown(how),
            Conn::Unix(socket) => socket.shutdown(how),
            Conn::Grpc(conn) => conn.shutdown(how),
        }
    }

    /// Bounds every later read and write; `None` waits for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        match self {
            Conn::Tcp(socket) => socket.set_read_timeout(timeout).and(socket.set_write_timeout(timeout)),
            Conn::Unix(socket) => socket.set_read_timeout(timeout).and(socket.set_write_timeout(timeout)),
            Conn::Grpc(conn) => conn.set_timeout(timeout),
        }
    }

    /// Caps what is sent, in bytes per second; only TCP can.
    pub fn pace(&self, bytes_per_second: u64) -> Result<()> {
        match self {
            Conn::Tcp(socket) => pacing::pace(socket, bytes_per_second),
            Conn::Unix(_) | Conn::Grpc(_) => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    /// Closes such that a TCP peer sees RST. A Unix peer sees what close gives.
    pub fn abort(self) {
        if let Conn::Tcp(socket) = &self {
            // A socket that is gone already needs no abort.
            let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }

    /// Bytes that arrived and were not read, as the kernel tells (FIONREAD).
    pub fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(self.as_fd()).unwrap_or(0)
    }

    pub fn is_unix(&self) -> bool {
        matches!(self, Conn::Unix(_))
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Conn::Tcp(socket) => socket.as_fd(),
            Conn::Unix(socket) => socket.as_fd(),
            Conn::Grpc(conn) => conn.as_fd(),
        }
    }
}

impl Read for Conn {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Conn::Tcp(socket) => socket.read(buffer),
            Conn::Unix(socket) => socket.read(buffer),
            Conn::Grpc(conn) => conn.read(buffer),
        }
    }
}

impl Write for Conn {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            Conn::Tcp(socket) => socket.write(bytes),
            Conn::Unix(socket) => socket.write(bytes),
            Conn::Grpc(conn) => conn.write(bytes),
        }
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
