//! The warm lanes of one control stream: asked for by demand, held within bounds, given to dials.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use super::carried::Home;
use super::carrier::Lane;
use super::demand::Demand;
use super::message::{TalkError, hear, pb, say};
use super::server::{Ask, Shared};
use crate::flow::Pace;

/// Lanes asked for that did not come within this long are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
const PONG_TIMEOUT: Duration = Duration::from_secs(5);
/// While warm lanes are left, the next ones are asked for this much later: their handshakes would take the CPU, at
/// both ends, from the dial that is under way.
const ASK_LATER: Duration = Duration::from_millis(2);
/// Lanes that may be opened while they are paced, for dials that wait and for the pool each: so many at once, then so
/// many in a second. By the rates of eight clients a lane's handshake costs both ends 0.6 ms of CPU, four times a whole
/// short flow on the mux or on a warm lane.
const PACED_BURST: u32 = 50;
const PACED_PER_SECOND: u32 = 25;

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
    /// When the oldest lane was asked for that has not come; none asked for since then has come either.
    due: Option<Instant>,
    demand: Demand,
    target: usize,
    /// Lanes to ask for later; they count as asked.
    later: usize,
    /// How often lanes are opened for the pool, and for dials that wait.
    pool_pace: Pace,
    dial_pace: Pace,
    waiting: HashMap<u64, oneshot::Sender<Lane>>,
}

impl Pool {
    pub(super) fn new(shared: Arc<Shared>, ask: Ask) -> Pool {
        let now = Instant::now();
        let state = State {
            idle: Vec::new(),
            pinging: 0,
            asked: 0,
            asked_at: now,
            due: None,
            demand: Demand::new(now),
            target: 0,
            later: 0,
            pool_pace: Pace::new(PACED_BURST, PACED_PER_SECOND, now),
            dial_pace: Pace::new(PACED_BURST, PACED_PER_SECOND, now),
            waiting: HashMap::new(),
        };
        Pool { shared, ended: CancellationToken::new(), ask, state: Mutex::new(state) }
    }

    /// Closes warm lanes and fails pending dials; nothing is taken in any more.
    pub(super) fn end(&self) {
        self.ended.cancel();
        let mut state = self.state();
        self.shared.idle.fetch_sub(state.idle.len(), Ordering::Relaxed);
        self.shared.targets.fetch_sub(state.target, Ordering::Relaxed);
        state.target = 0;
        let gone = (std::mem::take(&mut state.idle), std::mem::take(&mut state.waiting));
        drop(state);
        drop(gone);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a dial that found no warm lane may have one opened for it.
    pub(super) fn affords(&self) -> bool {
        !self.shared.paced.load(Ordering::Relaxed) || self.state().dial_pace.take(Instant::now())
    }

    /// A warm lane for a dial, if there is one. Counts the dial as demand and asks for what is missing. Must be
    /// called inside a tokio runtime.
    pub(super) fn take(self: &Arc<Self>) -> Option<Lane> {
        let now = Instant::now();
        let mut state = self.state();
        state.demand.dialled(now);
        let mut dead = Vec::new();
        let taken = loop {
            let Some(mut lane) = state.idle.pop() else { break None };
            self.shared.idle.fetch_sub(1, Ordering::Relaxed);
            if lane.is_expired(now) {
                self.shared.counters.retired();
            } else if lane.is_quiet() {
                break Some(lane);
            } else {
                self.shared.counters.found_dead();
            }
            dead.push(lane);
        };
        let more = self.lacking(&mut state, now);
        if state.idle.is_empty() {
            drop(state);
            self.ask(more);
            return taken;
        }
        let under_way = state.later > 0;
        state.later += more;
        drop(state);
        if more > 0 && !under_way {
            tokio::spawn(self.ended.clone().run_until_cancelled_owned(self.clone().ask_later()));
        }
        taken
    }

    async fn ask_later(self: Arc<Self>) {
        tokio::time::sleep(ASK_LATER).await;
        let lanes = std::mem::take(&mut self.state().later);
        self.ask(lanes);
    }

    /// A lane after a dial on it failed, or after a ping.
    pub(super) fn give_back(&self, lane: Lane) {
        // Without room it closes.
        let _ = self.shelve(&mut self.state(), lane);
    }

    /// The lane comes back when there is no room for it.
    fn shelve(&self, state: &mut State, lane: Lane) -> Result<(), Lane> {
        let config = &self.shared.config;
        let room =
            state.idle.len() < config.per_stream && self.shared.idle.load(Ordering::Relaxed) < config.total;
        if !room || self.ended.is_cancelled() {
            return Err(lane);
        }
        self.shared.idle.fetch_add(1, Ordering::Relaxed);
        state.idle.push(lane);
        Ok(())
    }

    /// A lane that has just shown this stream's ticket.
    pub(super) fn arrive(&self, lane: Lane, dial: Option<u64>) -> Result<(), (Lane, Refusal)> {
        let now = Instant::now();
        let mut state = self.state();
        if self.ended.is_cancelled() {
            return Err((lane, Refusal::EndedStream));
        }
        if let Some(due) = state.due.take() {
            state.demand.arrived_after(now.duration_since(due));
        }
        if let Some(number) = dial {
            let Some(waiting) = state.waiting.remove(&number) else {
                return Err((lane, Refusal::NoSuchDial));
            };
            return waiting.send(lane).map_err(|lane| (lane, Refusal::NoSuchDial));
        }
        let asked = state.asked > 0;
        state.asked = state.asked.saturating_sub(1);
        if !asked && state.idle.len() >= state.demand.target(now) {
            return Err((lane, Refusal::NotWanted));
        }
        self.shelve(&mut state, lane).map_err(|lane| (lane, Refusal::TooManyLanes))
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
        if self.ended.is_cancelled() {
            return 0;
        }
        let target = state.demand.target(now);
        self.shared.targets.fetch_add(target, Ordering::Relaxed);
        self.shared.targets.fetch_sub(state.target, Ordering::Relaxed);
        state.target = target;
        let target = self.shared.share(target);
        if state.asked > 0 && now.duration_since(state.asked_at) > ASK_AGAIN {
            state.asked = 0;
            state.due = None;
        }
        let have = state.idle.len() + state.pinging + state.asked;
        let lack = target.saturating_sub(have);
        // In batches: a packet per missing lane would cost more than the lanes gain.
        if lack == 0 || (lack * 4 < target && !state.idle.is_empty()) {
            return 0;
        }
        let paced = self.shared.paced.load(Ordering::Relaxed);
        let lack = if paced { state.pool_pace.take_some(lack, now) } else { lack };
        if lack == 0 {
            return 0;
        }
        state.asked += lack;
        state.asked_at = now;
        state.due.get_or_insert(now);
        lack
    }

    fn ask(&self, lanes: usize) {
        if lanes > 0 {
            self.shared.counters.asked(lanes as u64);
            (self.ask)(u32::try_from(lanes).unwrap_or(u32::MAX));
        }
    }

    /// Closes what is dead, old or too much, and pings what was quiet for long.
    pub(super) fn sweep(self: Arc<Self>, now: Instant) {
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
            } else if lane.is_expired(now) {
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
        self.ping_each(due);
    }

    /// A lane that was heard last at `heard` died without a word, as behind a balancer that forgets what is idle. So
    /// may others have that were quiet as long: they answer a ping before they get a dial.
    pub(super) fn suspect(self: &Arc<Self>, heard: Instant) {
        let mut state = self.state();
        let (due, idle): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.idle).into_iter().partition(|lane| lane.heard <= heard);
        state.idle = idle;
        state.pinging += due.len();
        self.shared.idle.fetch_sub(due.len(), Ordering::Relaxed);
        drop(state);
        self.ping_each(due);
    }

    fn ping_each(self: &Arc<Self>, due: Vec<Lane>) {
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

impl Home for Pool {
    fn take_back(self: Arc<Self>, lane: Lane) {
        let mut state = self.state();
        state.demand.returned();
        if self.shelve(&mut state, lane).is_ok() {
            self.shared.counters.returned();
        }
    }
}

async fn ping(lane: &mut Lane) -> Result<(), TalkError> {
    let wire = lane.wire()?;
    say(wire, pb::Ping {}, PONG_TIMEOUT).await?;
    match hear(wire, PONG_TIMEOUT).await? {
        pb::lane_message::What::Pong(_) => {
            lane.heard = Instant::now();
            Ok(())
        }
        _ => Err(TalkError::Unexpected),
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
