//! One lane before it carries a flow, as either side holds it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::Security;
use super::carried::{Carried, Home};
use super::message::TalkError;
use super::record::RecordExact;
use crate::flow::Path;
use crate::net::sockopt;
use crate::splice::End;

/// TLS over a socket that is read record by record.
pub type Wire = TlsStream<RecordExact<TcpStream>>;

/// Makes the close of this connection an abort for the peer.
fn reset(wire: &Wire) {
    // It fails on a socket only that is gone already.
    let _ = sockopt::reset_on_close(wire.get_ref().0.get_ref());
}

/// A lane that said its hello. Dropped while [`Lane::engage`]d it is an abort for the peer.
#[derive(Debug)]
pub(super) struct Lane {
    /// Boxed: rustls' state is over a kilobyte, and lanes are handed on often.
    wire: Option<Box<Wire>>,
    security: Security,
    engaged: bool,
    /// Not to be dialled on from here on; the server's business alone.
    expires: Option<Instant>,
    /// When the peer was last heard.
    pub(super) heard: Instant,
}

impl Lane {
    pub(super) fn new(mut wire: Wire, security: Security) -> Lane {
        let transport = wire.get_mut().0;
        match security {
            Security::Encrypt => transport.pass_through(),
            Security::Raw => transport.read_records(),
        }
        Lane { wire: Some(Box::new(wire)), security, engaged: false, expires: None, heard: Instant::now() }
    }

    /// To be replaced at this age; up to a quarter earlier, by chance.
    pub(super) fn expiring_in(mut self, age: Duration) -> Lane {
        self.expires = Some(Instant::now() + jitter(age));
        self
    }

    pub(super) fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// A dial is on it: whoever drops it now abandons that dial, and the peer must not take TLS' goodbye, or a
    /// bare FIN, for the flow's.
    pub(super) fn engage(&mut self) {
        self.engaged = true;
    }

    /// The dial failed, or its flow ended cleanly; the lane is free again.
    pub(super) fn disengage(&mut self) {
        self.engaged = false;
        self.heard = Instant::now();
    }

    pub(super) fn wire(&mut self) -> Result<&mut Wire, TalkError> {
        self.wire.as_deref_mut().ok_or(TalkError::Closed)
    }

    pub(super) fn peek_wire(&self) -> Option<&Wire> {
        self.wire.as_deref()
    }

    pub(super) fn security(&self) -> Security {
        self.security
    }

    /// For whoever sees to its end from here on.
    pub(super) fn into_wire(mut self) -> Option<Wire> {
        self.wire.take().map(|wire| *wire)
    }

    /// Whether nothing came from the peer, neither its end nor words out of turn. No system call for a lane
    /// that is quiet.
    pub(super) fn is_quiet(&mut self) -> bool {
        let Some(wire) = self.wire.as_deref_mut() else { return false };
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(wire).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// The lane as the flow's end; the last message was said and heard. It goes `home` when that flow was a short one.
    pub(super) fn into_end(self, home: Arc<dyn Home>) -> (End, Path) {
        let path = match self.security {
            Security::Encrypt => Path::LaneEncrypt,
            Security::Raw => Path::LaneRaw,
        };
        (End::stream(Carried::new(self, home)), path)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(wire) = self.wire.take_if(|_| self.engaged) {
            reset(&wire);
        }
    }
}

/// Resolves when anything comes from the peer of a lane that should be silent: an end, mostly.
pub(super) async fn disturbed(lane: &mut Lane) {
    std::future::poll_fn(|cx| {
        let Some(wire) = lane.wire.as_deref_mut() else { return Poll::Ready(()) };
        let mut byte = [0];
        Pin::new(wire).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(|_| ())
    })
    .await;
}

/// Up to a quarter less than `duration`, so that what began together does not end together.
pub(super) fn jitter(duration: Duration) -> Duration {
    // Its keys are others each time, without a system call.
    let random = RandomState::new().build_hasher().finish();
    let share = random as f64 / u64::MAX as f64;
    duration.mul_f64(1.0 - share / 4.0)
}
