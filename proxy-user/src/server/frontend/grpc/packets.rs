//! What both sides say of the flow on one `Proxy` stream, in packets.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::ReadBuf;
use tokio::time::Sleep;

use super::message::Item;
use super::receive::{Ended, Receiver};
use super::send::Sender;
use crate::wire::ids::ConnId;
use crate::wire::packet::Packet;

/// How long a client that was told CLOSE_RSP may leave its side of the stream open. Go's client ends it at once.
const LINGER: Duration = Duration::from_secs(5);
/// How long a CLOSE_REQ waits for the CLOSE_RSP of an agent that is asked for one. Go's client waits ten seconds for
/// the answer, its user perhaps with a lock held.
const ANSWER: Duration = Duration::from_secs(1);

/// The API server's side of a flow. Upstream's packets know no half-close: CLOSE_REQ from the client, or the end
/// of its stream, ends the flow when all it sent before was handed over; CLOSE_RSP to it says that the target
/// ended, and it sends no more.
pub(super) struct Packets {
    conn: ConnId,
    receiver: Receiver,
    sender: Sender,
    /// Received, not read yet.
    part: Bytes,
    client: Client,
    ours: Ours,
    /// The agent answers a CLOSE_REQ, perhaps with words.
    answers_close: bool,
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
    /// The client asked for CLOSE_RSP, which waits for the agent's.
    Asked {
        until: Pin<Box<Sleep>>,
    },
    /// CLOSE_RSP was sent.
    Closed {
        linger: Pin<Box<Sleep>>,
    },
    /// The call has its status.
    Finished,
}

impl Packets {
    /// `answers_close` as [`Backend::answers_close`](super::stream::Backend::answers_close).
    pub(super) fn new(conn: ConnId, receiver: Receiver, sender: Sender, answers_close: bool) -> Packets {
        let (part, client, ours) = (Bytes::new(), Client::Open, Ours::Open);
        Packets { conn, receiver, sender, part, client, ours, answers_close }
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
                    self.asked_to_close(conn);
                    self.client = Client::Leaving;
                }
                Poll::Ready(Ok(Item::Packet(Packet::DialRequest(another)))) => {
                    self.sender.refuse_dial(another.dial);
                    if !self.sender.bears_stray() {
                        self.abort("");
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

    /// Ready when the client that was told CLOSE_RSP has left, or had the time to; at once when it was not told.
    pub(super) fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_answer(context);
        let (Ours::Asked { until } | Ours::Closed { linger: until }) = &mut self.ours else {
            return Poll::Ready(());
        };
        if until.as_mut().poll(context).is_ready() || self.sender.poll_reset(context).is_ready() {
            return Poll::Ready(());
        }
        self.receiver.poll_over(context)
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

    fn asked_to_close(&mut self, conn: ConnId) {
        match &self.ours {
            Ours::Open if conn == self.conn && self.answers_close => {
                self.ours = Ours::Asked { until: Box::pin(tokio::time::sleep(ANSWER)) };
            }
            _ => self.close(conn, if conn == self.conn { "" } else { "Unknown connectID" }),
        }
    }

    fn close(&mut self, conn: ConnId, error: &str) {
        if matches!(self.ours, Ours::Open | Ours::Asked { .. }) {
            self.sender.relay(Packet::CloseResponse { conn, error: error.into() });
            self.ours = Ours::Closed { linger: Box::pin(tokio::time::sleep(LINGER)) };
        }
    }

    /// Says CLOSE_RSP to a client that asked for it, when the agent lets it wait too long.
    pub(super) fn poll_answer(&mut self, context: &mut Context<'_>) {
        if let Ours::Asked { until } = &mut self.ours
            && until.as_mut().poll(context).is_ready()
        {
            self.close(self.conn, "");
        }
    }

    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_part(context))?;
        let step = self.part.len().min(buffer.remaining());
        buffer.put_slice(&self.part[..step]);
        self.part.advance(step);
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match (self.client, &self.ours) {
            (Client::Open, Ours::Open) => self.sender.poll_data(context, self.conn, bytes),
            (Client::Gone, _) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            // A client that closed reads no more, which is no fault of the target's.
            (Client::Leaving | Client::Closed, _) => Poll::Ready(Ok(bytes.len())),
            (Client::Open, _) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    pub(super) fn shutdown(&mut self) {
        self.close(self.conn, "");
    }

    /// An agent's words go on as they are.
    pub(super) fn abort(&mut self, words: &str) {
        if self.client == Client::Open || matches!(self.ours, Ours::Asked { .. }) {
            self.close(self.conn, words);
        }
        self.client = Client::Gone;
    }

    /// Nobody carries the flow any more.
    pub(super) fn abandon(&mut self) {
        if matches!((self.client, &self.ours), (Client::Open, Ours::Open) | (_, Ours::Asked { .. })) {
            self.abort("");
        }
    }

    pub(super) fn poll_broken(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.client {
            Client::Open => self.sender.poll_reset(context),
            Client::Leaving | Client::Closed => Poll::Pending,
            Client::Gone => Poll::Ready(()),
        }
    }

    pub(super) fn poll_unwritable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.client {
            Client::Open if matches!(self.ours, Ours::Open) => self.sender.poll_reset(context),
            Client::Open => Poll::Pending,
            Client::Leaving => self.poll_left(context),
            Client::Closed | Client::Gone => Poll::Ready(()),
        }
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        if !matches!(self.ours, Ours::Finished) {
            self.sender.finish();
        }
    }
}
