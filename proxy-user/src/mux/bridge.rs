//! One flow on packets as a byte stream, so that it can be joined like any other end.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flow::Flow;
use super::link::{Book, Inner};
use super::state::{Event, ReadEnd};
use crate::splice::{FlowStream, Room};
use crate::wire::ids::ConnId;
use crate::wire::packet::MAX_DATA;

/// One flow of a [`Link`](super::Link). One write is one packet, and one read gives bytes of one packet, so small
/// messages keep their borders. Dropped before both directions have ended, it aborts the flow.
pub struct MuxStream {
    link: Arc<Inner>,
    conn: ConnId,
}

impl MuxStream {
    pub(super) fn new(link: Arc<Inner>, conn: ConnId) -> MuxStream {
        MuxStream { link, conn }
    }

    pub fn conn(&self) -> ConnId {
        self.conn
    }

    /// Runs `act` on the flow and lets the link see what came of it; `None` when the flow is gone.
    fn with<T>(&self, act: impl FnOnce(&mut Flow) -> T) -> Option<T> {
        let mut book = self.link.book();
        let result = book.flows.get_mut(&self.conn).map(act);
        Book::settle(&mut book, self.conn);
        result
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let room = buf.remaining();
        let popped = self.with(|flow| {
            let popped = flow.pop(room);
            if matches!(popped, Ok(None)) {
                flow.reader = Some(cx.waker().clone());
            } else if flow.is_unwritable() {
                super::flow::wake(&mut flow.unwritable);
            }
            popped
        });
        match popped {
            Some(Ok(Some(data))) => {
                self.link.left(data.len() as u64);
                buf.put_slice(&data);
                Poll::Ready(Ok(()))
            }
            Some(Ok(None)) => Poll::Pending,
            Some(Err(ReadEnd::Eof)) => Poll::Ready(Ok(())),
            Some(Err(ReadEnd::Reset)) | None => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
        }
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let taken = self.with(|flow| {
            if !flow.state.is_writing() {
                return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
            }
            if !flow.has_room() {
                flow.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let taken = buf.len().min(MAX_DATA);
            if taken > 0 {
                flow.queue(Bytes::copy_from_slice(&buf[..taken]));
            }
            Poll::Ready(Ok(taken))
        });
        taken.unwrap_or_else(|| Poll::Ready(Err(ErrorKind::BrokenPipe.into())))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|flow| flow.step(Event::Shutdown));
        Poll::Ready(Ok(()))
    }
}

impl FlowStream for MuxStream {
    fn abort(&mut self) {
        self.with(|flow| flow.step(Event::Abort));
    }

    fn last_words(&self) -> String {
        self.with(|flow| flow.last_words.to_string()).unwrap_or_default()
    }

    fn answers_close(&self) -> bool {
        self.with(|flow| flow.state.answers_close()).unwrap_or(false)
    }

    fn bound(&mut self, room: Room) {
        self.with(|flow| flow.bound(room));
    }

    /// A flow that is over has room: the write says so.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let room = self.with(|flow| {
            if !flow.state.is_writing() || flow.has_room() {
                return Poll::Ready(());
            }
            flow.writer = Some(cx.waker().clone());
            Poll::Pending
        });
        room.unwrap_or(Poll::Ready(()))
    }

    /// What no packet carries yet, for want of the peer's window or of the stream's.
    fn unacknowledged(&self) -> u64 {
        self.with(|flow| flow.outgoing()).unwrap_or(0)
    }

    fn poll_broken(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        match self.with(|flow| flow.is_reset()) {
            Some(false) => Poll::Pending,
            Some(true) | None => Poll::Ready(()),
        }
    }

    fn poll_unwritable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ready = self.with(|flow| {
            if flow.is_unwritable() {
                return Poll::Ready(());
            }
            flow.unwritable = Some(cx.waker().clone());
            Poll::Pending
        });
        ready.unwrap_or(Poll::Ready(()))
    }
}

impl Drop for MuxStream {
    fn drop(&mut self) {
        let discarded = self.with(|flow| {
            flow.held = false;
            flow.step(Event::Abort);
            flow.discard()
        });
        self.link.left(discarded.unwrap_or(0));
    }
}
