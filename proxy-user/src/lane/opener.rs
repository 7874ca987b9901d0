//! The agent's end of a new lane: when to open one, and what to make of where it landed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::HandshakeKind;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::carrier::{Lane, Wire, jitter};
use super::counters::OnMux;
use super::hello::{hear_server, show};
use super::message::TalkError;
use super::open::{Host, Idle, RouteError, Shared};
use super::seen::Seen;
use super::{ALPN_LANE, Refusal, Ticket};
use crate::net::seldom::Seldom;

/// Lanes that landed elsewhere in a row before lanes towards that server are given up for a while.
const MISSES: u32 = 4;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// The first pause of a server whose lanes land elsewhere: nothing here will change that soon.
const STARVED: Duration = Duration::from_secs(30);
const LAST_BACKOFF: Duration = Duration::from_secs(300);
/// Towards a peer that said that it knows no lanes.
const WITHOUT_LANES: Duration = Duration::from_secs(300);

pub(super) struct Stream {
    pub(super) shared: Arc<Shared>,
    pub(super) server_id: String,
    pub(super) host: Arc<dyn Host>,
    pub(super) ended: CancellationToken,
    ticket: Ticket,
    state: Mutex<State>,
    /// Told once in a while, though each lane that lands here between others makes `warned` begin anew.
    starved: Seldom,
}

#[derive(Default)]
struct State {
    /// Dials from the control stream that wait for a lane, oldest first.
    pending: VecDeque<(u64, oneshot::Sender<Lane>)>,
    seen: Seen,
    failures: u32,
    misses: u32,
    retry: Option<Instant>,
    warned: bool,
    /// Another stream is to take this one's place, for the sake of its lanes.
    renewed: bool,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, server_id: String, host: Arc<dyn Host>, ticket: Ticket) -> Stream {
        let (ended, state, starved) = (CancellationToken::new(), Mutex::default(), Seldom::new(STARVED));
        Stream { shared, server_id, host, ended, ticket, state, starved }
    }

    /// Closes idle lanes and abandons dials.
    pub(super) fn end(&self) {
        self.ended.cancel();
        self.state().pending.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether lanes towards this server are given up for now.
    pub(super) fn is_failing(&self) -> bool {
        self.state().retry.is_some_and(|retry| Instant::now() < retry)
    }

    pub(super) fn admit(&self, number: u64, attempt: u32) -> bool {
        let admitted = self.state().seen.admit(number, attempt);
        if !admitted {
            self.shared.counters.repeated();
        }
        admitted
    }

    /// The next lane that gets as far as its hello is for this dial.
    pub(super) fn pend(&self, number: u64) -> oneshot::Receiver<Lane> {
        let (sender, lane) = oneshot::channel();
        self.state().pending.push_back((number, sender));
        lane
    }

    pub(super) fn unpend(&self, number: u64) {
        self.state().pending.retain(|(pending, _)| *pending != number);
    }

    fn claim(&self) -> Option<(u64, oneshot::Sender<Lane>)> {
        let mut state = self.state();
        loop {
            let (number, sender) = state.pending.pop_front()?;
            if !sender.is_closed() {
                return Some((number, sender));
            }
        }
    }

    /// Opens so many lanes, as far as the ceiling and earlier failures allow.
    ///
    /// # Errors
    /// Why it opens none.
    pub(super) fn open(self: &Arc<Self>, lanes: usize) -> Result<(), OnMux> {
        let none = self.shared.why_none();
        let none = none.or(self.is_failing().then_some(OnMux::Failing));
        let none = none.or(self.ended.is_cancelled().then_some(OnMux::Lost));
        none.map_or(Ok(()), Err)?;
        for opened in 0..lanes {
            let Some(slot) = self.shared.slot() else {
                self.shared.counters.over_ceiling();
                return if opened > 0 { Ok(()) } else { Err(OnMux::Ceiling) };
            };
            // On the heap at once: the state of a handshake is large, and a task is moved about before it runs.
            tokio::spawn(Box::pin(self.clone().run(slot)));
        }
        Ok(())
    }

    /// The life of one lane, until it carries a flow or ends. It lives as long as the stream that it belongs to, which
    /// behind a balancer may be another than the one it was opened for.
    async fn run(self: Arc<Self>, slot: Idle) {
        let opened = self.ended.run_until_cancelled(async {
            let _turn = self.shared.opening.acquire().await.ok()?;
            Some(self.connect().await)
        });
        match opened.await.flatten() {
            None | Some(Ok(None)) => {}
            Some(Ok(Some((lane, stream, claimed)))) => {
                self.shared.counters.opened();
                match claimed {
                    // Whoever waited has gone: the server is told by the end of the lane.
                    Some(sender) => drop(sender.send(lane)),
                    None => {
                        let ended = stream.ended.clone();
                        ended.run_until_cancelled(stream.serve(lane, slot)).await;
                    }
                }
            }
            Some(Err(error)) => self.failed(&error),
        }
    }

    /// A lane that has shown the ticket of the server it reached; `None` when that server is none of ours.
    async fn connect(&self) -> Result<Option<Shown>, OpenError> {
        let tls = self.shared.route.connect().await?;
        if tls.get_ref().1.alpn_protocol() != Some(ALPN_LANE) {
            return Err(OpenError::Route(RouteError::NoLanes));
        }
        let counters = &self.shared.counters;
        let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        counters.handshake(resumed);
        let mut wire = Wire::from(tls);
        let server = hear_server(&mut wire).await?;
        counters.landed(&self.server_id, &server.server_id);
        let stream = self.shared.streams().get(&server.server_id).cloned();
        self.landed(server.server_id == self.server_id);
        // The end of the handshake goes out with the ticket, or by itself.
        wire.get_mut().0.release();
        let Some(stream) = stream else {
            wire.flush().await.map_err(TalkError::Io)?;
            return Ok(None);
        };
        let claim = stream.claim();
        let security = self.shared.config.security;
        show(&mut wire, &stream.ticket, security, claim.as_ref().map(|(number, _)| *number)).await?;
        let lane = Lane::new(wire, security.with(server.security));
        Ok(Some((lane, stream, claim.map(|(_, sender)| sender))))
    }

    /// Keeps count of lanes that another replica got; a few in a row, and this one is starved.
    fn landed(&self, here: bool) {
        let mut state = self.state();
        if here {
            state.misses = 0;
            state.failures = 0;
            state.retry = None;
            state.warned = false;
            return;
        }
        state.misses += 1;
        if state.misses >= MISSES {
            state.misses = 0;
            state.back_off(STARVED);
            if !std::mem::replace(&mut state.warned, true) && self.starved.take(Instant::now()) {
                tracing::warn!(
                    server = self.server_id,
                    "lanes towards this server reach other servers behind the same address, so its flows use the \
                     control stream; does the load balancer keep a source on one server (source affinity)?"
                );
            }
        }
    }

    fn failed(&self, error: &OpenError) {
        self.shared.counters.failed();
        let mut state = self.state();
        if let OpenError::Route(RouteError::NoLanes) = error {
            state.retry = Some(Instant::now() + jitter(WITHOUT_LANES));
        } else {
            state.back_off(FIRST_BACKOFF);
        }
        let first = !std::mem::replace(&mut state.warned, true);
        drop(state);
        if first {
            tracing::info!(server = self.server_id, %error, "no lanes towards this server for now");
        } else {
            tracing::debug!(server = self.server_id, %error, "no lane towards this server");
        }
    }

    /// The server refused a lane that was shown to it.
    pub(super) fn refused(&self, refusal: Refusal) {
        self.shared.counters.refused(refusal);
        match refusal {
            Refusal::NotWanted | Refusal::NoSuchDial | Refusal::TooManyLanes => {}
            // Lanes that were under way meanwhile hear the same.
            Refusal::OtherCertificate if self.state().renewed => {}
            Refusal::OtherCertificate if self.shared.may_renew() => {
                self.state().renewed = true;
                self.host.renew();
            }
            _ => self.failed(&OpenError::Talk(TalkError::Refused(refusal))),
        }
    }
}

/// A lane, the stream it belongs to, and the dial that waits for it.
type Shown = (Lane, Arc<Stream>, Option<oneshot::Sender<Lane>>);

#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Talk(#[from] TalkError),
}

impl State {
    /// Failures while lanes are given up already are of one burst and count once.
    fn back_off(&mut self, first: Duration) {
        let now = Instant::now();
        if self.retry.is_some_and(|retry| now < retry) {
            return;
        }
        let pause = first.saturating_mul(2u32.saturating_pow(self.failures)).min(LAST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.retry = Some(now + jitter(pause));
    }
}
