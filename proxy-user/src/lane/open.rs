//! An agent's lanes, as the rest of the agent sees them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::client::TlsStream;

use super::counters::{AgentCounters, AgentLaneStats, OnMux};
use super::opener::Stream;
use super::record::RecordExact;
use super::{Security, Ticket};
use crate::flow::{DialError, Pace, Path};
use crate::splice::End;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Control streams made anew for a new certificate: so many at once. Certificates change in hours; a server that takes no
/// lane for another reason costs a stream a minute.
const RENEWALS: u32 = 16;
const RENEWALS_PER_SECOND: f64 = 1.0 / 60.0;

/// What an agent allows its lanes.
#[derive(Debug, Clone)]
pub struct AgentLaneConfig {
    pub security: Security,
    /// Lanes open or being opened that carry no flow, towards all servers.
    pub ceiling: usize,
    /// Lanes being opened at a time.
    pub opening: usize,
    /// How long an answered dial waits for its lane before it goes to the mux.
    pub wait: Duration,
    /// After which an idle lane that heard nothing, not even a ping, is taken for dead.
    pub silence: Duration,
}

impl AgentLaneConfig {
    /// A ceiling that leaves three quarters of `fds` descriptors to flows.
    pub fn new(security: Security, fds: usize) -> AgentLaneConfig {
        AgentLaneConfig {
            security,
            ceiling: (fds / 4).clamp(8, 1024),
            opening: 32,
            wait: Duration::from_millis(250),
            silence: Duration::from_secs(75),
        }
    }
}

/// How lanes reach a server: as the control stream does.
pub trait Route: Send + Sync + 'static {
    /// One connection with the lane's ALPN name offered, DNS asked anew, [`crate::net::sockopt::tune`]d.
    fn connect(&self) -> BoxFuture<'_, Result<TlsStream<RecordExact<TcpStream>>, RouteError>>;
}

/// Why no connection for a lane came about.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error("the server knows no lanes; its flows stay on the control stream")]
    NoLanes,
    #[error("could not open a lane: {0}")]
    Failed(String),
}

/// The agent's own dials and joins, as lanes use them.
pub trait Host: Send + Sync + 'static {
    fn dial<'a>(&'a self, protocol: &'a str, address: &'a str) -> BoxFuture<'a, Result<End, DialError>>;

    /// Takes a flow over: the dial was answered on the lane.
    fn carry(&self, flow: LaneFlow);

    /// The control stream came under a certificate that this agent shows no more: another is to take its place.
    fn renew(&self);
}

/// A flow that a lane carries from here on.
pub struct LaneFlow {
    pub lane: End,
    pub path: Path,
    pub target: End,
    pub protocol: String,
    pub address: String,
}

/// Every lane of an agent. Clones share them.
#[derive(Clone)]
pub struct AgentLanes {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: AgentLaneConfig,
    pub(super) counters: AgentCounters,
    pub(super) route: Arc<dyn Route>,
    streams: Mutex<HashMap<String, Arc<Stream>>>,
    idle: AtomicUsize,
    pub(super) opening: Semaphore,
    /// No lanes for now, by the operator's word.
    off: watch::Sender<bool>,
    /// The agent drains.
    draining: AtomicBool,
    renewals: Mutex<Pace>,
}

/// The lanes of one control stream; dropping it closes idle lanes and abandons dials, established flows go on.
pub struct AgentStream {
    pub(super) stream: Arc<Stream>,
}

/// Counts a lane towards the ceiling while it carries no flow.
pub(super) struct Idle(Arc<Shared>);

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.idle.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AgentLanes {
    pub fn new(config: AgentLaneConfig, route: Arc<dyn Route>) -> AgentLanes {
        AgentLanes {
            shared: Arc::new(Shared {
                opening: Semaphore::new(config.opening),
                config,
                counters: AgentCounters::default(),
                route,
                streams: Mutex::new(HashMap::new()),
                idle: AtomicUsize::new(0),
                off: watch::Sender::new(false),
                draining: AtomicBool::new(false),
                renewals: Mutex::new(Pace::new(RENEWALS, RENEWALS_PER_SECOND, Instant::now())),
            }),
        }
    }

    /// The lanes of a control stream whose server answered with a ticket. Must be called inside a tokio runtime.
    pub fn stream(&self, server_id: impl Into<String>, ticket: Ticket, host: Arc<dyn Host>) -> AgentStream {
        let server_id = server_id.into();
        let stream = Arc::new(Stream::new(self.shared.clone(), server_id.clone(), host, ticket));
        self.shared.streams().insert(server_id, stream.clone());
        AgentStream { stream }
    }

    /// Whether new flows may use lanes: without, idle ones close. Established flows are left alone.
    pub fn allow(&self, allowed: bool) {
        self.shared.off.send_replace(!allowed);
    }

    /// Opens no more lanes, whatever is allowed; idle ones still serve dials.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    pub fn stats(&self) -> AgentLaneStats {
        let mut stats = self.shared.counters.snapshot();
        stats.idle = self.shared.idle.load(Ordering::Relaxed) as u64;
        stats
    }
}

impl AgentStream {
    /// The server asked for so many lanes more.
    pub fn want(&self, lanes: u32) {
        // Nobody waits for one.
        let _ = self.stream.open(lanes as usize);
    }
}

impl Drop for AgentStream {
    fn drop(&mut self) {
        self.stream.end();
        let mut streams = self.stream.shared.streams();
        // A newer control stream with the same server may have taken the place already.
        if streams.get(&self.stream.server_id).is_some_and(|stream| Arc::ptr_eq(stream, &self.stream)) {
            streams.remove(&self.stream.server_id);
        }
    }
}

impl Shared {
    pub(super) fn streams(&self) -> MutexGuard<'_, HashMap<String, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no lane is opened by choice.
    pub(super) fn why_none(&self) -> Option<OnMux> {
        if *self.off.borrow() {
            return Some(OnMux::Off);
        }
        self.draining.load(Ordering::Relaxed).then_some(OnMux::Draining)
    }

    /// Resolves when lanes are switched off.
    pub(super) fn switched_off(&self) -> impl Future<Output = ()> + use<> {
        let mut off = self.off.subscribe();
        async move {
            let _ = off.wait_for(|off| *off).await;
        }
    }

    /// Whether one more control stream may be made anew.
    pub(super) fn may_renew(&self) -> bool {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    pub(super) fn slot(self: &Arc<Self>) -> Option<Idle> {
        let slot = Idle(self.clone());
        if self.idle.fetch_add(1, Ordering::Relaxed) < self.config.ceiling { Some(slot) } else { None }
    }
}
