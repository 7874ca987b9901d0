//! A played end of a lane.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;

use proxy_user::net::sockopt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::{GLUED, Heard, Shape};
use crate::cell::LONG;

pub(super) struct Lane {
    /// `None` once reset.
    stream: Option<TlsStream<TcpStream>>,
    /// The other end's socket.
    pub(super) far: Socket,
    /// Its frames are over: what comes are the flow's bytes.
    left: bool,
}

/// One end of a TCP connection on this machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Socket {
    pub(super) local: SocketAddr,
    remote: SocketAddr,
}

impl Socket {
    /// Leaves those of these that a process still holds.
    pub(super) fn retain_held(sockets: &mut Vec<(String, Socket)>) {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        // A row without an inode belongs to no descriptor.
        let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let held: HashSet<_> =
            rows.filter(|row| row[9] != "0").map(|row| (row[1].to_owned(), row[2].to_owned())).collect();
        sockets.retain(|(_, socket)| held.contains(&(in_hex(socket.local), in_hex(socket.remote))));
    }
}

/// As the kernel's table has it.
fn in_hex(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => format!("{:08X}:{:04X}", u32::from(*v4.ip()).swap_bytes(), v4.port()),
        SocketAddr::V6(v6) => panic!("{v6}"),
    }
}

impl Lane {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Lane {
        let socket = stream.get_ref().0;
        let far = Socket { local: socket.peer_addr().unwrap(), remote: socket.local_addr().unwrap() };
        Lane { stream: Some(stream), far, left: false }
    }

    pub(super) async fn say(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        // Whoever has ended the lane takes none: that shows when it is read.
        let _ = stream.write_all(bytes).await;
        let _ = stream.flush().await;
    }

    pub(super) async fn say_as(&mut self, bytes: &[u8], shape: Shape) {
        self.say(&shaped(bytes, shape)).await;
        match (shape, &mut self.stream) {
            (Shape::HalfThenEnd, Some(stream)) => drop(stream.shutdown().await),
            (Shape::HalfThenReset, Some(stream)) => {
                sockopt::reset_on_close(stream.get_ref().0).unwrap();
                self.stream = None;
            }
            _ => {}
        }
    }

    /// The next word; `None` when the lane has ended.
    pub(super) async fn hear(&mut self) -> Option<Heard> {
        let stream = self.stream.as_mut()?;
        let read = async {
            let mut word = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut word).await?;
            std::io::Result::Ok(word)
        };
        let word = tokio::time::timeout(LONG, read).await.expect("the lane says nothing").ok()?;
        Some(Heard::parse(&word))
    }

    /// What the flow brings, until there are so many bytes or its direction has ended; whether that was by the
    /// frame for it.
    pub(super) async fn flow(&mut self, most: usize) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        let Some(stream) = &mut self.stream else { return (bytes, false) };
        let left = &mut self.left;
        let read = async {
            while bytes.len() < most {
                if *left {
                    match stream.read_u8().await {
                        Ok(byte) => bytes.push(byte),
                        Err(_) => return false,
                    }
                } else {
                    match stream.read_u16().await {
                        Ok(0) => return true,
                        Ok(u16::MAX) => *left = true,
                        Ok(length) => {
                            let mut frame = vec![0; length.into()];
                            if stream.read_exact(&mut frame).await.is_err() {
                                return false;
                            }
                            bytes.extend(frame);
                        }
                        Err(_) => return false,
                    }
                }
            }
            false
        };
        let ended = tokio::time::timeout(LONG, read).await.expect("the flow says nothing");
        (bytes, ended)
    }

    /// Until the other end has closed it; what it said before.
    pub(super) async fn ends(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(stream) = &mut self.stream {
            let read = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await;
            let _ = read.expect("the lane stays open");
        }
        bytes
    }
}

/// What goes out of a word said so.
pub(super) fn shaped(bytes: &[u8], shape: Shape) -> Vec<u8> {
    match shape {
        Shape::Whole => bytes.to_vec(),
        Shape::Glued => [bytes, GLUED].concat(),
        Shape::Half | Shape::HalfThenEnd | Shape::HalfThenReset => bytes[..bytes.len().div_ceil(2)].to_vec(),
    }
}
