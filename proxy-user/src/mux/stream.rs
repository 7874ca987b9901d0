//! The one reader of a control stream: hands each flow its bytes, pauses where the rule towards upstream allows it.

use std::error::Error;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tonic::{Code, Status};

use super::brake::{Brake, LONGEST_PAUSE};
use super::link::{Inner, Link};
use super::state::{Dialect, Event, Role};
use crate::net::pulse::Loss;
use crate::ops::log;
use crate::wire::ids::ConnId;
use crate::wire::packet::{Packet, PacketError};
use crate::wire::pb;

/// How often flows that nobody reads are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// Why a link ended.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkEnd {
    #[error("the peer ended the control stream")]
    Peer,
    #[error("we ended the control stream")]
    Us,
    #[error("the control stream failed: {}", log::status(.0))]
    Failed(Status),
    /// Its connection was lost; what Go's gRPC calls that at this end.
    #[error("{0}")]
    Lost(Loss, Code),
    #[error(transparent)]
    Malformed(#[from] PacketError),
}

impl LinkEnd {
    /// What a gRPC peer would call it; none for an end that is no error.
    pub fn code(&self) -> Option<Code> {
        match self {
            LinkEnd::Failed(status) => Some(status.code()),
            LinkEnd::Lost(_, code) => Some(*code),
            LinkEnd::Malformed(_) => Some(Code::Internal),
            LinkEnd::Peer | LinkEnd::Us => None,
        }
    }
}

/// A message beyond the limit: what upstream's gRPC library calls RESOURCE_EXHAUSTED ours calls OUT_OF_RANGE.
fn as_go_calls_it(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => Status::resource_exhausted(status.message()),
        _ => status,
    }
}

impl Link {
    /// Reads the stream to its end. Packets of known flows are handled here, all others by `handler`, in order;
    /// it must not block. All flows have ended when this returns.
    pub async fn run(
        &self,
        inbound: impl Stream<Item = Result<pb::Packet, Status>>,
        handler: impl FnMut(Packet),
    ) -> LinkEnd {
        let end = self.explained(self.read(inbound, handler).await);
        self.close(match &end {
            LinkEnd::Lost(loss, code) => Err(Status::new(*code, loss.to_string())),
            LinkEnd::Malformed(error) => Err(Status::invalid_argument(error.to_string())),
            LinkEnd::Failed(status) => Err(status.clone()),
            _ => Ok(()),
        });
        end
    }

    /// The gRPC library tells neither of a peer that was silent too long nor what a connection met.
    fn explained(&self, end: LinkEnd) -> LinkEnd {
        let loss = self.inner.config.pulse.loss();
        let code = match self.inner.config.role {
            Role::Dialer => Code::Cancelled,
            Role::Acceptor => Code::Unavailable,
        };
        match (end, loss) {
            (LinkEnd::Peer, Some(loss @ Loss::Silent(_))) => LinkEnd::Lost(loss, code),
            (LinkEnd::Peer | LinkEnd::Us, None | Some(Loss::Closed)) if self.inner.book().dismissed => {
                LinkEnd::Us
            }
            // The library may let go of our half before it tells of the peer's.
            (LinkEnd::Us, Some(Loss::Closed)) => LinkEnd::Peer,
            (LinkEnd::Us, Some(loss)) => LinkEnd::Lost(loss, code),
            // What the peer itself said has no source.
            (LinkEnd::Failed(status), Some(loss)) if status.source().is_some() => LinkEnd::Lost(loss, code),
            (end, _) => end,
        }
    }

    async fn read(
        &self,
        inbound: impl Stream<Item = Result<pb::Packet, Status>>,
        mut handler: impl FnMut(Packet),
    ) -> LinkEnd {
        let inner = &*self.inner;
        let mut inbound = pin!(inbound);
        let mut brake = Brake::new(Instant::now());
        let mut sweep = tokio::time::interval(SWEEP);
        let mut ended = pin!(inner.ended.notified());
        ended.as_mut().enable();
        if self.is_closed() {
            return LinkEnd::Us;
        }
        loop {
            let packet = tokio::select! {
                packet = inbound.next() => packet,
                _ = sweep.tick() => {
                    inner.sweep();
                    continue;
                }
                () = &mut ended => return LinkEnd::Us,
            };
            let packet = match packet {
                None => return LinkEnd::Peer,
                Some(Err(status)) => return LinkEnd::Failed(as_go_calls_it(status)),
                Some(Ok(packet)) => match Packet::try_from(packet) {
                    Ok(packet) => packet,
                    Err(error) => return LinkEnd::Malformed(error),
                },
            };
            inner.config.observer.received(packet.kind());
            match inner.deliver(packet) {
                Delivered::Done => {}
                Delivered::Full(conn) => inner.hold(conn, &mut brake).await,
                Delivered::Unclaimed(packet) => match inner.config.role {
                    _ if !packet.names_a_flow() => handler(packet),
                    Role::Dialer => self.unknown_to_dialer(&packet),
                    Role::Acceptor => self.unknown_to_acceptor(&packet),
                },
            }
        }
    }

    fn unknown_to_dialer(&self, packet: &Packet) {
        if let Packet::Data { conn, .. } = packet
            && *conn != ConnId::NONE
        {
            self.refuse(*conn);
        }
    }

    fn unknown_to_acceptor(&self, packet: &Packet) {
        let response =
            |conn: &ConnId, error: &str| Packet::CloseResponse { conn: *conn, error: error.into() };
        let answer = match packet {
            Packet::Data { conn, .. } if *conn == ConnId::NONE => return,
            Packet::Data { conn, .. } if self.dialect() != Dialect::Upstream => {
                Packet::Reset { conn: *conn, reason: "unrecognized connectID".into() }
            }
            Packet::Data { conn, .. } => response(conn, "unrecognized connectID"),
            Packet::CloseRequest { conn } => response(conn, "Unknown connectID"),
            _ => return,
        };
        let _ = self.send(answer);
    }
}

enum Delivered {
    Done,
    /// The flow is at its bound.
    Full(ConnId),
    /// No flow of this link.
    Unclaimed(Packet),
}

impl Inner {
    fn deliver(&self, packet: Packet) -> Delivered {
        let (conn, event, words) = match packet {
            Packet::Data { conn, data } => return self.data(conn, data),
            Packet::Window { conn, bytes } => {
                let mut book = self.book();
                if let Some(flow) = book.flows.get_mut(&conn) {
                    flow.grant(bytes);
                    book.settle(conn);
                }
                return Delivered::Done;
            }
            Packet::Fin { conn } => (conn, Event::PeerFin, ""),
            Packet::Reset { conn, ref reason } => (conn, Event::PeerReset, reason.as_str()),
            Packet::CloseRequest { conn } => (conn, Event::PeerCloseRequest, ""),
            Packet::CloseResponse { conn, ref error } => {
                (conn, Event::PeerCloseResponse { failed: !error.is_empty() }, error.as_str())
            }
            other => return Delivered::Unclaimed(other),
        };
        let mut book = self.book();
        match book.flows.get_mut(&conn) {
            Some(flow) => {
                flow.told(event, words);
                book.settle(conn);
                Delivered::Done
            }
            None => Delivered::Unclaimed(packet),
        }
    }

    fn data(&self, conn: ConnId, data: Bytes) -> Delivered {
        let mut book = self.book();
        let Some(flow) = book.flows.get_mut(&conn) else {
            return Delivered::Unclaimed(Packet::Data { conn, data });
        };
        match flow.push(data) {
            Ok(bytes) => self.config.pool.add(self.config.dialect, bytes),
            Err(_) => flow.step(Event::Abort),
        }
        let full = self.config.dialect == Dialect::Upstream
            && flow.queued > 0
            && (flow.queued >= self.config.pool.limits.flow || flow.queued >= self.config.pool.last_bound());
        book.settle(conn);
        if full { Delivered::Full(conn) } else { Delivered::Done }
    }

    /// A flow is at its bound: waits until it has drained a little, as long as the brake allows. At its last bound
    /// the stream waits on, but only for a reader that keeps a pace.
    async fn hold(&self, conn: ConnId, brake: &mut Brake) {
        let _paused = self.config.observer.pauses(conn);
        let began = Instant::now();
        if let Some(allowance) = brake.allowance(began) {
            let enough = self.queued(conn).saturating_sub(self.config.pool.limits.step());
            if !self.wait(allowance, || self.queued(conn) <= enough).await {
                brake.charge(Instant::now(), began.elapsed());
            }
        }
        while self.is_at_last_bound(conn) {
            if !self.config.pool.give_up_slowest() {
                self.wait(LONGEST_PAUSE, || !self.is_at_last_bound(conn)).await;
            }
        }
    }

    /// Stays until enough has drained, at most for `longest`; false when it has not.
    async fn wait(&self, longest: Duration, enough: impl Fn() -> bool) -> bool {
        let drained = async {
            loop {
                let mut moved = pin!(self.config.pool.moved.notified());
                moved.as_mut().enable();
                if enough() {
                    return;
                }
                moved.await;
            }
        };
        tokio::time::timeout(longest, drained).await.is_ok()
    }

    fn is_at_last_bound(&self, conn: ConnId) -> bool {
        let queued = self.queued(conn);
        queued > 0 && queued >= self.config.pool.last_bound()
    }

    /// Bytes that wait for the flow's reader; none of a flow or a link that is gone.
    fn queued(&self, conn: ConnId) -> u64 {
        let book = self.book();
        if book.closed.is_some() { 0 } else { book.flows.get(&conn).map_or(0, |flow| flow.queued) }
    }

    /// Once a second: ends flows at their bound that nobody has read for long.
    fn sweep(&self) {
        if self.config.dialect != Dialect::Upstream {
            return;
        }
        let now = Instant::now();
        let stalled: Vec<ConnId> = {
            let book = self.book();
            let bound = self.config.pool.limits.flow - self.config.pool.limits.step();
            let at_bound = book.flows.iter().filter(|(_, flow)| flow.queued >= bound && flow.is_stalled(now));
            at_bound.map(|(conn, _)| *conn).collect()
        };
        for conn in stalled {
            self.give_up(conn);
        }
    }
}

impl Packet {
    fn names_a_flow(&self) -> bool {
        match self {
            Packet::Data { .. }
            | Packet::CloseRequest { .. }
            | Packet::CloseResponse { .. }
            | Packet::Window { .. }
            | Packet::Fin { .. }
            | Packet::Reset { .. } => true,
            Packet::DialRequest(_)
            | Packet::DialResponse(_)
            | Packet::CloseDial { .. }
            | Packet::Drain
            | Packet::WantLanes { .. }
            | Packet::Unknown(_) => false,
        }
    }
}
