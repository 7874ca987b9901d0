//! One control stream as both sides use it: flows by id, and one queue out that no flow can hold up.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use tokio::sync::Notify;
use tonic::Status;

use super::bridge::MuxStream;
use super::flow::{Flow, Out, wake};
use super::pool::Pool;
use super::state::{Closing, Dialect, Role};
use crate::net::pulse::Pulse;
use crate::ops::metrics::GaugeGuard;
use crate::wire::ids::{ConnId, DialId};
use crate::wire::packet::Packet;
use crate::wire::pb;

/// Packets that belong to no flow's queue and wait to be sent. A peer that makes us answer more than this without
/// reading the answers loses its stream.
const MAX_CONTROL: usize = 4096;

/// Told of every packet; what counts them for the metrics.
pub trait Observer: Send + Sync + 'static {
    fn sent(&self, _kind: &'static str) {}
    fn received(&self, _kind: &'static str) {}
    /// It waited to be sent when the stream failed.
    fn unsent(&self, _kind: &'static str) {}
    /// The stream is not read for a while because this flow's queue is full; what comes back is held meanwhile.
    fn pauses(&self, _full: ConnId) -> Option<GaugeGuard> {
        None
    }
    /// A flow was ended because nobody read it.
    fn gave_up(&self, _conn: ConnId) {}
}

impl Observer for () {}

/// What a link is at its opening.
#[derive(Clone)]
pub struct LinkConfig {
    pub role: Role,
    pub dialect: Dialect,
    pub pool: Arc<Pool>,
    pub observer: Arc<dyn Observer>,
    /// Of the connection that carries the stream.
    pub pulse: Pulse,
}

#[cfg(test)]
impl LinkConfig {
    /// Of a link with a pool for itself that nobody watches.
    pub(crate) fn alone(role: Role, dialect: Dialect, limits: super::brake::Limits) -> LinkConfig {
        LinkConfig { role, dialect, pool: Pool::new(limits), observer: Arc::new(()), pulse: Pulse::default() }
    }
}

/// A handle to one control stream; clones are the same link.
#[derive(Clone)]
pub struct Link {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) config: LinkConfig,
    book: Mutex<Book>,
    pub(super) ended: Notify,
}

pub(super) struct Book {
    pub(super) flows: HashMap<ConnId, Flow>,
    next: i64,
    control: VecDeque<Packet>,
    /// Flows that have something to send; each is in here once.
    ready: VecDeque<ConnId>,
    outlet: Option<Waker>,
    pub(super) closed: Option<Result<(), Status>>,
    /// It was closed since it, or its connection, failed.
    failed: bool,
    /// What waited when the outlet was dropped, which may be the first sign of a failure.
    left: Vec<&'static str>,
    /// The peer was told to go.
    pub(super) dismissed: bool,
}

/// The link is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control stream has ended")]
pub struct Closed;

/// The peer answered with an id that is in use, or with none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer gave connection id {0}, which no new flow can have")]
pub struct BadConnId(pub ConnId);

impl Link {
    pub fn new(config: LinkConfig) -> (Link, Outlet) {
        let book = Book {
            flows: HashMap::new(),
            next: 0,
            control: VecDeque::new(),
            ready: VecDeque::new(),
            outlet: None,
            closed: None,
            failed: false,
            left: Vec::new(),
            dismissed: false,
        };
        let inner = Arc::new(Inner { config, book: Mutex::new(book), ended: Notify::new() });
        inner.config.pool.join(&inner);
        (Link { inner: inner.clone() }, Outlet { inner, idle: false })
    }

    pub fn dialect(&self) -> Dialect {
        self.inner.config.dialect
    }

    /// Queues a packet ahead of all flow bytes.
    ///
    /// # Errors
    /// The link is gone.
    pub fn send(&self, packet: Packet) -> Result<(), Closed> {
        let mut book = self.inner.book();
        if book.closed.is_some() {
            return Err(Closed);
        }
        if book.control.len() >= MAX_CONTROL {
            let text = "the peer does not read what it is answered";
            book.close(&self.inner, Err(Status::resource_exhausted(text)));
            return Err(Closed);
        }
        book.control.push_back(packet);
        wake(&mut book.outlet);
        Ok(())
    }

    /// Takes a dial back that was not sent yet; false when it was.
    pub fn withdraw(&self, dial: DialId) -> bool {
        let mut book = self.inner.book();
        let before = book.control.len();
        book.control.retain(|packet| !matches!(packet, Packet::DialRequest(request) if request.dial == dial));
        book.control.len() < before
    }

    /// Begins a flow under the next free id: what an acceptor answers a dial with.
    ///
    /// # Errors
    /// The link is gone.
    pub fn open(&self) -> Result<MuxStream, Closed> {
        let mut book = self.inner.book();
        if book.closed.is_some() {
            return Err(Closed);
        }
        book.next += 1;
        let conn = ConnId(book.next);
        book.flows.insert(conn, self.flow());
        Ok(MuxStream::new(self.inner.clone(), conn))
    }

    /// Begins the flow that the peer named in its answer. To be called before the next packet is handled.
    ///
    /// # Errors
    /// An id that no new flow can have.
    pub fn attach(&self, conn: ConnId) -> Result<MuxStream, BadConnId> {
        let mut book = self.inner.book();
        if conn == ConnId::NONE || book.flows.contains_key(&conn) {
            return Err(BadConnId(conn));
        }
        let mut flow = self.flow();
        if book.closed.is_some() {
            flow.lost();
        }
        book.flows.insert(conn, flow);
        Ok(MuxStream::new(self.inner.clone(), conn))
    }

    /// Ends a flow that was never attached.
    pub fn refuse(&self, conn: ConnId) {
        let packet = match self.dialect() {
            Dialect::Ours { .. } => Packet::Reset { conn, reason: "unknown connection id".into() },
            Dialect::Upstream => Packet::CloseRequest { conn },
        };
        let _ = self.send(packet);
    }

    /// Ends the stream and every flow on it. `Err` is told to the peer where we are the server.
    pub fn close(&self, end: Result<(), Status>) {
        self.inner.book().close(&self.inner, end);
    }

    /// The peer is about to be told to go: when it ends the stream from now on, that is our doing.
    pub fn dismiss(&self) {
        self.inner.book().dismissed = true;
    }

    pub fn is_closed(&self) -> bool {
        self.inner.book().closed.is_some()
    }

    /// Flows that have not ended.
    pub fn flows(&self) -> usize {
        self.inner.book().flows.len()
    }

    fn flow(&self) -> Flow {
        Flow::new(self.inner.config.role, self.inner.config.dialect)
    }
}

impl Inner {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a flow were read or forgotten.
    pub(super) fn left(&self, bytes: u64) {
        self.config.pool.sub(self.config.dialect, bytes);
    }
}

impl Book {
    /// Puts a flow in the queue out if it has something to send, and forgets one that is done.
    pub(super) fn settle(&mut self, conn: ConnId) {
        let Some(flow) = self.flows.get_mut(&conn) else { return };
        if !flow.scheduled && flow.is_sendable() {
            flow.scheduled = true;
            self.ready.push_back(conn);
            wake(&mut self.outlet);
        }
        if flow.is_done() && !flow.scheduled {
            self.flows.remove(&conn);
        }
    }

    pub(super) fn close(&mut self, inner: &Inner, end: Result<(), Status>) {
        if self.closed.is_some() {
            if end.is_err() {
                self.left.drain(..).for_each(|kind| inner.config.observer.unsent(kind));
            }
            return;
        }
        self.failed = end.is_err() || inner.config.pulse.loss().is_some();
        self.closed = Some(end);
        self.ready.clear();
        for flow in self.flows.values_mut() {
            if self.failed && flow.has_unsent_data() {
                inner.config.observer.unsent("DATA");
            }
            flow.scheduled = false;
            flow.lost();
        }
        self.flows.retain(|_, flow| !flow.is_done());
        wake(&mut self.outlet);
        inner.config.pool.moved.notify_waiters();
        inner.ended.notify_waiters();
    }

    /// The next packet to send: control first, then one packet of each flow in turn.
    fn next(&mut self) -> Option<Packet> {
        if let Some(packet) = self.control.pop_front() {
            return Some(packet);
        }
        while let Some(conn) = self.ready.pop_front() {
            let Some(flow) = self.flows.get_mut(&conn) else { continue };
            flow.scheduled = false;
            let packet = match flow.take_grant() {
                Some(bytes) => Some(Packet::Window { conn, bytes }),
                None => flow.take_out().map(|out| out.packet(conn)),
            };
            self.settle(conn);
            if packet.is_some() {
                return packet;
            }
        }
        None
    }
}

impl Out {
    fn packet(self, conn: ConnId) -> Packet {
        match self {
            Out::Data(data) => Packet::Data { conn, data },
            Out::Close(Closing::Fin) => Packet::Fin { conn },
            Out::Close(Closing::Reset) => Packet::Reset { conn, reason: String::new() },
            Out::Close(Closing::CloseRequest) => Packet::CloseRequest { conn },
            Out::Close(Closing::CloseResponse) => Packet::CloseResponse { conn, error: String::new() },
        }
    }
}

/// The stream of packets that goes out, for the gRPC library to pull. Dropping it closes the link.
pub struct Outlet {
    inner: Arc<Inner>,
    /// Nothing was left to be sent when it was asked last.
    idle: bool,
}

impl Stream for Outlet {
    type Item = Result<pb::Packet, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Woken by the first packet, it lets all tasks run that are ready before it: what they send goes out in the
        // same TLS record and the same system call.
        if std::mem::take(&mut self.idle) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let inner = self.inner.clone();
        let mut book = inner.book();
        if let Some(packet) = book.next() {
            drop(book);
            self.inner.config.observer.sent(packet.kind());
            let packet = match self.inner.config.dialect {
                Dialect::Ours { .. } => packet.into(),
                Dialect::Upstream => packet.for_upstream(),
            };
            return Poll::Ready(Some(Ok(packet)));
        }
        match &mut book.closed {
            Some(end) => Poll::Ready(std::mem::replace(end, Ok(())).err().map(Err)),
            None => {
                book.outlet = Some(cx.waker().clone());
                self.idle = true;
                Poll::Pending
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let mut book = self.inner.book();
        let mut left = Vec::new();
        if book.closed.is_none() {
            left.extend(book.flows.values().filter(|flow| flow.has_unsent_data()).map(|_| "DATA"));
            book.close(&self.inner, Ok(()));
        }
        let control = std::mem::take(&mut book.control);
        if book.failed {
            control.iter().for_each(|packet| self.inner.config.observer.unsent(packet.kind()));
        } else {
            left.extend(control.iter().map(Packet::kind));
            book.left = left;
        }
    }
}

#[cfg(test)]
#[path = "link_tests/mod.rs"]
mod tests;
#[cfg(test)]
#[path = "unsent_tests.rs"]
mod unsent_tests;
