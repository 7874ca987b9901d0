//! Every lane of a server: what it allows, and the control streams they belong to.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::carrier::jitter;
use super::counters::{ServerCounters, ServerLaneStats};
use super::pool::Pool;
use super::ticket::{Book, StreamNumber};
use super::{Security, Ticket};
use crate::net::tls::Identity;

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
    /// Warm lanes of all streams.
    pub(super) idle: AtomicUsize,
    /// Dials of all streams that wait for a lane.
    pub(super) waiting: AtomicUsize,
    /// Sum over all streams of what their demand asks for; beyond `total` it is shared in proportion.
    pub(super) targets: AtomicUsize,
    next_dial: AtomicU64,
    pub(super) off: AtomicBool,
    pub(super) paced: AtomicBool,
}

/// The lanes of one control stream; dropping it ends them: the ticket opens nothing any more, warm lanes close,
/// pending dials fail, established flows go on.
pub struct StreamLanes {
    pub(super) pool: Arc<Pool>,
    number: StreamNumber,
    ticket: Ticket,
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
            paced: AtomicBool::new(false),
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
        let pool = Arc::new(Pool::new(self.shared.clone(), ask));
        let ticket = self.shared.book.issue(identity, pool.clone())?;
        Ok(StreamLanes { pool, number: ticket.stream, ticket })
    }

    /// Whether lanes from this address are heard, once their TLS handshake is done.
    pub fn admits(&self, from: IpAddr) -> bool {
        self.shared.book.admits(from, Instant::now())
    }

    /// Whether new dials may use lanes; established flows and warm lanes are left alone.
    pub fn allow(&self, allowed: bool) {
        self.shared.off.store(!allowed, Ordering::Relaxed);
    }

    /// Whether dials that find no warm lane, and come faster than lanes are worth opening, go to the mux at once.
    pub fn pace(&self, paced: bool) {
        self.shared.paced.store(paced, Ordering::Relaxed);
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
        self.pool.shared.book.end(self.number);
        self.pool.end();
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
    pub(super) fn share(&self, target: usize) -> usize {
        let all = self.targets.load(Ordering::Relaxed).max(1);
        let share = if all > self.config.total { (target * self.config.total).div_ceil(all) } else { target };
        share.min(self.config.per_stream)
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
