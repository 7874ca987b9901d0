//! How a client reaches the target: straight, through a TCP relay, or by CONNECT over a Unix socket.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::grpc::GrpcConn;
use super::{Conn, Job};

/// No dial of a bench may take longer; a way that loses dials is an error and not a slow line.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
pub enum Way {
    /// TCP to the target itself or to a relay in front of it.
    Tcp(SocketAddr),
    /// HTTP CONNECT to `target` over the Unix socket at `socket`, as kube-apiserver speaks it.
    Connect { socket: PathBuf, target: SocketAddr },
    /// `ProxyService.Proxy` over the Unix socket at `socket`, a tunnel for each flow.
    Grpc { socket: PathBuf, target: SocketAddr },
}

impl Way {
    pub fn dial(&self) -> Result<Conn> {
        match self {
            Way::Tcp(address) => {
                let socket = TcpStream::connect_timeout(address, DIAL_TIMEOUT)?;
                socket.set_nodelay(true)?;
                Ok(Conn::Tcp(socket))
            }
            Way::Connect { socket, target } => {
                let mut conn = Conn::Unix(UnixStream::connect(socket)?);
                conn.set_timeout(Some(DIAL_TIMEOUT))?;
                connect(&mut conn, target)?;
                conn.set_timeout(None)?;
                Ok(conn)
            }
            Way::Grpc { socket, target } => GrpcConn::dial(socket, target, DIAL_TIMEOUT).map(Conn::Grpc),
        }
    }

    /// Dials and says what the flow is for.
    pub fn start(&self, job: Job) -> Result<Conn> {
        let mut conn = self.dial()?;
        conn.write_all(&[job as u8])?;
        Ok(conn)
    }

    /// As [`Way::start`] for the jobs that take a number.
    pub fn start_with(&self, job: Job, number: u64) -> Result<Conn> {
        let mut conn = self.dial()?;
        let mut head = [job as u8; 9];
        head[1..].copy_from_slice(&number.to_le_bytes());
        conn.write_all(&head)?;
        Ok(conn)
    }
}

/// Our targets never speak first, so all that arrives up to the empty line is the head of the answer.
fn connect(conn: &mut Conn, target: &SocketAddr) -> Result<()> {
    conn.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())?;
    let mut head = [0; 1024];
    let mut filled = 0;
    while !head[..filled].ends_with(b"\r\n\r\n") {
        match conn.read(&mut head[filled..])? {
            0 => return Err(refused(target, &head[..filled])),
            n => filled += n,
        }
    }
    match head.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(refused(target, &head[..filled])),
    }
}

fn refused(target: &SocketAddr, head: &[u8]) -> Error {
    let said = String::from_utf8_lossy(head);
    let first = said.lines().next().unwrap_or("nothing");
    Error::new(ErrorKind::ConnectionRefused, format!("CONNECT {target} was answered with: {first}"))
}
