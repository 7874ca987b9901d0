//! A server's warm lanes: asked for by demand, held within bounds, given to dials.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::carrier::{Lane, jitter};
use super::counters::{ServerCounters, ServerLaneStats};
use super::demand::Demand;
use super::message::{TalkError, hear, pb, say};
use super::ticket::{Book, StreamNumber};
use super::{Refusal, Security, Ticket};
use crate::net::tls::Identity;

/// Lanes asked for that did not come within this long are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
const PONG_TIMEOUT: Duration = Duration::from_secs(5);

/// What a server allows its lanes.
#[derive(Debug, Clone)]
pub struct ServerLaneConfig {
    pub server_id: String,
    pub security: Security,
    /// Between two pings of an idle lane.
    pub ping: Duration,
    /// After which an idle lane is replaced; less up to a quarter, by chance.
    pub age: Duration,
    /// Within which an agent must acknowledge a dial.
    pub ack: Duration,
    /// Within which a dial must be answered.
    pub answer: Duration,
    /// Warm lanes per control stream.
    pub per_stream: usize,
    /// Warm lanes in all.
    pub total: usize,
    /// Dials per control stream that may wait for a lane.
    pub waiting_per_stream: usize,
    /// Dials in all that may wait for a lane.
    pub waiting_total: usize,
    /// Lanes in their hello at a time.
    pub hellos: usize,
}

impl ServerLaneConfig {
    /// Bounds that leave three quarters of `fds` descriptors to flows.
    pub fn new(server_id: impl Into<String>, security: Security, fds: usize) -> ServerLaneConfig {
        let total = (fds / 4).max(8);
        ServerLaneConfig {
            server_id: server_id.into(),
            security,
            ping: Duration::from_secs(20),
            age: Duration::from_secs(600),
            ack: Duration::from_secs(1),
            answer: Duration::from_secs(60),
            per_stream: total.min(256),
            total,
            waiting_per_stream: 256,
            waiting_total: total,
            hellos: total,
        }
    }
}

/// Asks the agent of a control stream for so many lanes more. Called often and under no lock of the caller's;
/// it must neither block nor wait.
pub type Ask = Box<dyn Fn(u32) + Send + Sync>;

/// Every lane of a server. Clones share them.
#[derive(Clone)]
pub struct ServerLanes {
    pub(super) shared: Arc<Shared>,
    _sweeper: Arc<DropGuard>,
}

pub(super) struct Shared {
    pub(super) config: ServerLaneConfig,
    pub(super) book: Book<Pool>,
    pub(super) counters: ServerCounters,
    pub(super) hellos: tokio::sync::Semaphore,
    idle: AtomicUsize,
    waiting: AtomicUsize,
    /// Sum over all streams of what their demand asks for; beyond `total` it is shared in proportion.
    targets: AtomicUsize,
    next_dial: AtomicU64,
    pub(super) off: AtomicBool,
}

/// The lanes of one control stream; dropping it ends them: the ticket opens nothing any more, warm lanes close,
/// pending dials fail, established flows go on.
pub struct StreamLanes {
    pub(super) pool: Arc<Pool>,
    number: StreamNumber,
    ticket: Ticket,
}

pub(super) struct Pool {
    pub(super) shared: Arc<Shared>,
    pub(super) ended: CancellationToken,
    ask: Ask,
    state: Mutex<State>,
}

struct State {
    idle: Vec<Lane>,
    /// Lanes out for a ping; they come back or are lost.
    pinging: usize,
    asked: usize,
    asked_at: Instant,
    demand: Demand,
    target: usize,
    waiting: HashMap<u64, oneshot::Sender<Lane>>,
}

impl ServerLanes {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The kernel has no random bytes.
    pub fn start(config: ServerLaneConfig) -> Result<ServerLanes, getrandom::Error> {
        let mut start = [0; 4];
        getrandom::fill(&mut start)?;
        let shared = Arc::new(Shared {
            hellos: tokio::sync::Semaphore::new(config.hellos),
            config,
            book: Book::new()?,
            counters: ServerCounters::default(),
            idle: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            targets: AtomicUsize::new(0),
            off: AtomicBool::new(false),
            next_dial: AtomicU64::new(1 + (u64::from(u32::from_le_bytes(start)) << 24)),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(sweep(Arc::downgrade(&shared))));
        Ok(ServerLanes { shared, _sweeper: Arc::new(stop.drop_guard()) })
    }

    /// The lanes of a new control stream that came under `identity`.
    ///
    /// # Errors
    /// The kernel has no random bytes.
    pub fn stream(&self, identity: Option<Identity>, ask: Ask) -> Result<StreamLanes, getrandom::Error> {
        let now = Instant::now();
        let pool = Arc::new(Pool {
            shared: self.shared.clone(),
            ended: CancellationToken::new(),
            ask,
            state: Mutex::new(State {
                idle: Vec::new(),
                pinging: 0,
                asked: 0,
                asked_at: now,
                demand: Demand::new(now),
                target: 0,
                waiting: HashMap::new(),
            }),
        });
        let ticket = self.shared.book.issue(identity, pool.clone())?;
        Ok(StreamLanes { pool, number: ticket.stream, ticket })
    }

    /// Whether connections from this address are worth a TLS handshake.
    pub fn admits(&self, from: IpAddr) -> bool {
        self.shared.book.admits(from, Instant::now())
    }

    /// Whether new dials may use lanes; established flows and warm lanes are left alone.
    pub fn allow(&self, allowed: bool) {
        self.shared.off.store(!allowed, Ordering::Relaxed);
    }

    pub fn stats(&self) -> ServerLaneStats {
        let mut stats = self.shared.counters.snapshot();
        stats.idle = self.shared.idle.load(Ordering::Relaxed) as u64;
        stats.waiting = self.shared.waiting.load(Ordering::Relaxed) as u64;
        stats
    }
}

impl StreamLanes {
    /// For the metadata that answers the agent's offer.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// The control stream has ended. As dropping it, for whoever holds it longer than that.
    pub fn end(&self) {
        if self.pool.ended.is_cancelled() {
            return;
        }
        self.pool.shared.book.end(self.number);
        self.pool.ended.cancel();
        let mut state = self.pool.state();
        self.pool.shared.idle.fetch_sub(state.idle.len(), Ordering::Relaxed);
        self.pool.shared.targets.fetch_sub(state.target, Ordering::Relaxed);
        state.target = 0;
        let (idle, waiting) = (std::mem::take(&mut state.idle), std::mem::take(&mut state.waiting));
        drop(state);
        drop((idle, waiting));
    }
}

impl Drop for StreamLanes {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    pub(super) fn number(&self) -> u64 {
        self.next_dial.fetch_add(1, Ordering::Relaxed)
    }

    /// What a stream may hold: what it wants, in proportion when all together want more than there is.
    fn share(&self, target: usize) -> usize {
        let all = self.targets.load(Ordering::Relaxed).max(1);
        let share = if all > self.config.total { (target * self.config.total).div_ceil(all) } else { target };
        share.min(self.config.per_stream)
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A warm lane for a dial, if there is one. Counts the dial as demand and asks for what is missing.
    pub(super) fn take(&self) -> Option<Lane> {
        let now = Instant::now();
        let mut state = self.state();
        state.demand.dialled(now);
        let mut dead = Vec::new();
        let taken = loop {
            let Some(mut lane) = state.idle.pop() else { break None };
            self.shared.idle.fetch_sub(1, Ordering::Relaxed);
            if lane.expires <= now {
                self.shared.counters.retired();
            } else if lane.is_quiet() {
                break Some(lane);
            } else {
                self.shared.counters.found_dead();
            }
            dead.push(lane);
        };
        let more = self.lacking(&mut state, now);
        drop(state);
        self.ask(more);
        taken
    }

    /// A lane after a dial on it failed, or after a ping.
    pub(super) fn give_back(&self, lane: Lane) {
        let mut state = self.state();
        if !self.ended.is_cancelled() && state.idle.len() < self.shared.config.per_stream {
            self.shared.idle.fetch_add(1, Ordering::Relaxed);
            state.idle.push(lane);
        }
    }

    /// A lane that has just shown this stream's ticket.
    pub(super) fn arrive(&self, lane: Lane, dial: Option<u64>) -> Result<(), (Lane, Refusal)> {
        let now = Instant::now();
        let mut state = self.state();
        if self.ended.is_cancelled() {
            return Err((lane, Refusal::EndedStream));
        }
        if let Some(number) = dial {
            let Some(waiting) = state.waiting.remove(&number) else {
                return Err((lane, Refusal::NoSuchDial));
            };
            return waiting.send(lane).map_err(|lane| (lane, Refusal::NoSuchDial));
        }
        let asked = state.asked > 0;
        state.asked = state.asked.saturating_sub(1);
        if state.idle.len() >= self.shared.config.per_stream
            || self.shared.idle.load(Ordering::Relaxed) >= self.shared.config.total
        {
            return Err((lane, Refusal::TooManyLanes));
        }
        if !asked && state.idle.len() >= state.demand.target(now) {
            return Err((lane, Refusal::NotWanted));
        }
        self.shared.idle.fetch_add(1, Ordering::Relaxed);
        state.idle.push(lane);
        Ok(())
    }

    /// Registers a dial that will be answered on a lane of its own; `None` when as many wait as may.
    pub(super) fn wait(self: &Arc<Self>, number: u64) -> Option<Waiting> {
        let mut state = self.state();
        let config = &self.shared.config;
        if self.ended.is_cancelled()
            || state.waiting.len() >= config.waiting_per_stream
            || self.shared.waiting.load(Ordering::Relaxed) >= config.waiting_total
        {
            return None;
        }
        let (sender, lane) = oneshot::channel();
        state.waiting.insert(number, sender);
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        Some(Waiting { pool: self.clone(), number, lane })
    }

    /// How many lanes to ask for now; they count as asked.
    fn lacking(&self, state: &mut State, now: Instant) -> usize {
        let target = state.demand.target(now);
        self.shared.targets.fetch_add(target, Ordering::Relaxed);
        self.shared.targets.fetch_sub(state.target, Ordering::Relaxed);
        state.target = target;
        let target = self.shared.share(target);
        if state.asked > 0 && now.duration_since(state.asked_at) > ASK_AGAIN {
            state.asked = 0;
        }
        let have = state.idle.len() + state.pinging + state.asked;
        let lack = target.saturating_sub(have);
        // In batches: a packet per missing lane would cost more than the lanes gain.
        if lack == 0 || (lack * 4 < target && !state.idle.is_empty()) {
            return 0;
        }
        state.asked += lack;
        state.asked_at = now;
        lack
    }

    fn ask(&self, lanes: usize) {
        if lanes > 0 && !self.ended.is_cancelled() {
            self.shared.counters.asked(lanes as u64);
            (self.ask)(u32::try_from(lanes).unwrap_or(u32::MAX));
        }
    }

    /// Closes what is dead, old or too much, and pings what was quiet for long.
    fn sweep(self: Arc<Self>, now: Instant) {
        let counters = &self.shared.counters;
        let mut state = self.state();
        let before = state.idle.len();
        let mut gone = Vec::new();
        let mut due = Vec::new();
        let keep = state.demand.target(now);
        // Newest last: what is too much is taken from the front.
        let surplus = if keep == 0 { before } else { before.saturating_sub(2 * keep) };
        for (position, mut lane) in std::mem::take(&mut state.idle).into_iter().enumerate() {
            if position < surplus {
                counters.surplus();
                gone.push(lane);
            } else if lane.expires <= now {
                counters.retired();
                gone.push(lane);
            } else if !lane.is_quiet() {
                counters.found_dead();
                gone.push(lane);
            } else if now.duration_since(lane.heard) >= self.shared.config.ping {
                due.push(lane);
            } else {
                state.idle.push(lane);
            }
        }
        state.pinging += due.len();
        self.shared.idle.fetch_sub(before - state.idle.len(), Ordering::Relaxed);
        let more = self.lacking(&mut state, now);
        drop(state);
        self.ask(more);
        for lane in due {
            let pool = self.clone();
            tokio::spawn(self.ended.clone().run_until_cancelled_owned(pool.ping(lane)));
        }
    }

    async fn ping(self: Arc<Self>, mut lane: Lane) {
        let answered = ping(&mut lane).await;
        self.state().pinging -= 1;
        match answered {
            Ok(()) => self.give_back(lane),
            Err(error) => {
                tracing::debug!(%error, "an idle lane did not answer a ping");
                self.shared.counters.found_dead();
            }
        }
    }
}

async fn ping(lane: &mut Lane) -> Result<(), TalkError> {
    let wire = lane.wire().map_err(|_| TalkError::Closed)?;
    say(wire, pb::Ping {}, PONG_TIMEOUT).await?;
    match hear(wire, PONG_TIMEOUT).await? {
        pb::lane_message::What::Pong(_) => {
            lane.heard = Instant::now();
            Ok(())
        }
        _ => Err(TalkError::Unexpected),
    }
}

async fn sweep(shared: Weak<Shared>) {
    loop {
        let Some(period) = shared.upgrade().map(|shared| shared.config.ping / 8) else { return };
        tokio::time::sleep(jitter(period)).await;
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        for pool in shared.book.streams() {
            pool.sweep(now);
        }
    }
}

/// A dial that waits for its lane; dropping it withdraws it.
pub(super) struct Waiting {
    pool: Arc<Pool>,
    number: u64,
    lane: oneshot::Receiver<Lane>,
}

impl Waiting {
    /// The lane that was opened for the dial; `None` when the control stream ended.
    pub(super) async fn lane(&mut self) -> Option<Lane> {
        (&mut self.lane).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.state().waiting.remove(&self.number);
        self.pool.shared.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
