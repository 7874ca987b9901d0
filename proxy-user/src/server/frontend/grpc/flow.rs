//! A flow on the packets of one `Proxy` stream, as an end to be joined.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::message::Item;
use super::receive::{Ended, Receiver};
use super::send::Sender;
use crate::splice::FlowStream;
use crate::wire::ids::ConnId;
use crate::wire::packet::Packet;

/// How long a client that was told CLOSE_RSP may leave its side of the stream open. Go's client ends it at once.
const LINGER: Duration = Duration::from_secs(5);

/// The API server's side of a flow. Upstream's packets know no half-close: CLOSE_REQ from the client, or the end
/// of its stream, ends the flow when all it sent before was handed over; CLOSE_RSP to it says that the target
/// ended, and it sends no more.
pub(super) struct PacketFlow {
    conn: ConnId,
    receiver: Receiver,
    sender: Sender,
    /// Received, not read yet.
    part: Bytes,
    client: Client,
    ours: Ours,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Open,
    /// It sent CLOSE_REQ, and is waited for until it leaves.
    Leaving,
    /// It ended its side, or had the time to.
    Closed,
    /// It broke off, or broke the rules.
    Gone,
}

enum Ours {
    Open,
    /// CLOSE_RSP was sent.
    Closed {
        linger: Pin<Box<Sleep>>,
    },
    /// The call has its status.
    Finished,
}

impl PacketFlow {
    pub(super) fn new(conn: ConnId, receiver: Receiver, sender: Sender) -> PacketFlow {
        let (part, client, ours) = (Bytes::new(), Client::Open, Ours::Open);
        PacketFlow { conn, receiver, sender, part, client, ours }
    }

    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.part.is_empty() {
            match self.client {
                Client::Open => {}
                Client::Leaving | Client::Closed => return Poll::Ready(Ok(())),
                Client::Gone => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
            match self.receiver.poll_item(context) {
                Poll::Ready(Ok(Item::Data { conn, part, .. })) => self.data(conn, part),
                Poll::Ready(Ok(Item::Packet(Packet::Data { conn, data }))) => self.data(conn, data),
                Poll::Ready(Ok(Item::Packet(Packet::CloseRequest { conn }))) => {
                    self.close(conn, if conn == self.conn { "" } else { "Unknown connectID" });
                    self.client = Client::Leaving;
                }
                Poll::Ready(Ok(Item::Packet(Packet::DialRequest(another)))) => {
                    self.sender.refuse_dial(another.dial);
                    if !self.sender.bears_stray() {
                        self.abort();
                    }
                }
                Poll::Ready(Ok(Item::Packet(_))) => {}
                Poll::Ready(Err(Ended::Half)) => self.client = Client::Closed,
                // Whoever was told that the flow is over may leave as it likes.
                Poll::Ready(Err(Ended::Reset)) if !matches!(self.ours, Ours::Open) => {
                    self.client = Client::Closed;
                }
                Poll::Ready(Err(Ended::Reset)) => self.client = Client::Gone,
                Poll::Ready(Err(Ended::Broken(error))) => {
                    self.sender.fail(&error);
                    self.ours = Ours::Finished;
                    self.client = Client::Gone;
                }
                Poll::Pending => {
                    if let Ours::Closed { linger } = &mut self.ours {
                        ready!(linger.as_mut().poll(context));
                        self.client = Client::Closed;
                        continue;
                    }
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the client that was told CLOSE_RSP has left. Go's client takes a call that ends together with its
    /// CLOSE_RSP for a tunnel that was lost.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Ours::Closed { linger } = &mut self.ours else { return Poll::Ready(()) };
        if linger.as_mut().poll(context).is_ready() || self.sender.poll_reset(context).is_ready() {
            return Poll::Ready(());
        }
        while ready!(self.receiver.poll_item(context)).is_ok() {}
        Poll::Ready(())
    }

    fn data(&mut self, conn: ConnId, part: Bytes) {
        if conn == self.conn {
            self.part = part;
        } else if conn != ConnId::NONE {
            self.sender.close_response(self.conn, "mismatched connection IDs");
            self.close(conn, "mismatched connection IDs");
            self.client = Client::Gone;
        }
    }

    fn close(&mut self, conn: ConnId, error: &str) {
        if matches!(self.ours, Ours::Open) {
            self.sender.close_response(conn, error);
            self.ours = Ours::Closed { linger: Box::pin(tokio::time::sleep(LINGER)) };
        }
    }
}

impl AsyncRead for PacketFlow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_part(context))?;
        let step = self.part.len().min(buffer.remaining());
        buffer.put_slice(&self.part[..step]);
        self.part.advance(step);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PacketFlow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match (self.client, &self.ours) {
            (Client::Open, Ours::Open) => {
                let conn = self.conn;
                self.sender.poll_data(context, conn, bytes)
            }
            (Client::Gone, _) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            // A client that closed reads no more, which is no fault of the target's.
            (Client::Leaving | Client::Closed, _) => Poll::Ready(Ok(bytes.len())),
            (Client::Open, _) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// The connection's own task flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let conn = self.conn;
        self.close(conn, "");
        if self.client == Client::Leaving {
            ready!(self.poll_left(context));
        }
        Poll::Ready(Ok(()))
    }
}

impl FlowStream for PacketFlow {
    fn abort(&mut self) {
        // Upstream has no words for a target that reset, or an agent that is lost.
        self.abort_with("");
    }

    /// An agent's words go on as they are.
    fn abort_with(&mut self, words: &str) {
        if self.client == Client::Open {
            self.close(self.conn, words);
        }
        self.client = Client::Gone;
    }

    fn poll_broken(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.client {
            Client::Open => self.sender.poll_reset(context),
            Client::Leaving | Client::Closed => Poll::Pending,
            Client::Gone => Poll::Ready(()),
        }
    }

    fn poll_unwritable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.client {
            Client::Open if matches!(self.ours, Ours::Open) => self.sender.poll_reset(context),
            Client::Open => Poll::Pending,
            Client::Leaving => self.poll_left(context),
            Client::Closed | Client::Gone => Poll::Ready(()),
        }
    }
}

impl Drop for PacketFlow {
    fn drop(&mut self) {
        if self.client == Client::Open && matches!(self.ours, Ours::Open) {
            self.abort();
        }
        if !matches!(self.ours, Ours::Finished) {
            self.sender.finish();
        }
    }
}
