//! The handle that everybody else knows: starts the threads, joins ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::oneshot;

use super::brief::Begin;
use super::budget;
use super::busy::Wakefulness;
use super::control::Control;
use super::crew::{Share, Threads};
use super::half::Half;
use super::join::Join;
use super::kernel::Sockmap;
use super::pair::Pair;
use super::policy::{DIRECTIONS, STREAM_BUFFER_FIRST};
use super::sockmap::KernelMap;
use super::stats::{Fallback, Snapshot};
use super::stream::{self, StreamCancel};
use super::tokio_end::Unjoined;
use super::track::Track;
use super::trust::Trust;
use super::{End, EndIo, EngineChoice, Plain, SpliceConfig, SpliceError};
use crate::flow::{Direction, Meter};

/// Joins ends. Cheap to clone.
#[derive(Clone)]
pub struct Splicer {
    threads: Arc<Threads>,
    engine: Arc<AtomicU8>,
    /// splice(2) was proven.
    splice: bool,
    trust: Trust,
}

impl Splicer {
    /// Starts the engine threads.
    ///
    /// # Errors
    /// When the process may not have one more thread, epoll instance or eventfd.
    pub fn start(config: SpliceConfig) -> Result<Splicer, SpliceError> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if config.threads == 0 { cpus.div_ceil(2).min(8) } else { config.threads };
        let budget = config.buffer_budget.unwrap_or_else(budget::default_bytes);
        let (proven, trust) = (config.proven, Trust::default());
        let map = match config.engine {
            _ if !proven.sockmap_tcp && !proven.sockmap_unix => None,
            EngineChoice::Auto | EngineChoice::Sockmap => {
                load(|sockmap| KernelMap::new(sockmap, proven, trust.clone(), budget, config.flow_buffer_max))
            }
            EngineChoice::Splice | EngineChoice::Copy => None,
        };
        let wakefulness = Wakefulness::new(config.busy_poll, cpus);
        let times = [config.calm_after, config.orphan_after];
        let threads = Arc::new(Threads::start(count, budget, map, wakefulness, times)?);
        let splicer = Splicer { threads, engine: Arc::default(), splice: proven.splice, trust };
        splicer.set_engine(config.engine);
        Ok(splicer)
    }

    /// The engine that new flows obey.
    pub fn engine(&self) -> EngineChoice {
        if self.splice { self.asked() } else { EngineChoice::Copy }
    }

    fn asked(&self) -> EngineChoice {
        EngineChoice::from_number(self.engine.load(Ordering::Relaxed))
    }

    /// Chooses the engine for new flows; running flows go on as they are.
    pub fn set_engine(&self, engine: EngineChoice) {
        self.engine.store(engine as u8, Ordering::Relaxed);
    }

    /// Whether the kernel's map is still used for new flows, now and later.
    pub fn trust(&self) -> Trust {
        self.trust.clone()
    }

    /// The engine's counters as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let crew = self.threads.crew();
        let mut snapshot = crew.stats.snapshot();
        if let Some(map) = &crew.map {
            snapshot.mapped = u64::from(map.sockmap().mapped());
            snapshot.forgotten = map.sockmap().forgotten();
        }
        snapshot.pipes = crew.pipes.lent() as u64;
        snapshot
    }

    /// Joins the client's side `left` and the target's side `right`, and counts into `meter`.
    ///
    /// Two plain sockets go to an engine thread; those that tokio watches may stay there while the flow is a short
    /// one. With a [`FlowStream`](super::FlowStream) the returned future
    /// itself copies, so it must be polled on a tokio runtime.
    pub fn join(&self, left: End, right: End, meter: Arc<Meter>) -> Join {
        let begin = self.on_tokio_first(&left.io, &right.io);
        let ends = match (left.io, right.io) {
            (client, target) if begin.is_some() => [Unjoined::new(client), Unjoined::new(target)],
            (client @ EndIo::Stream(_), target) | (client, target @ EndIo::Stream(_)) => {
                [Unjoined::new(client), Unjoined::new(target)]
            }
            (client, target) => match (into_plain(client), into_plain(target)) {
                (Some(client), Some(target)) => {
                    let engine = self.engine();
                    let up = Track::new(Direction::Up, right.greeting, left.early, engine);
                    let down = Track::new(Direction::Down, left.greeting, right.early, engine);
                    return self.join_plain([client, target], [up, down], meter);
                }
                ends => <[_; 2]>::from(ends)
                    .map(|end| end.map_or_else(Unjoined::lost, |plain| Unjoined::new(EndIo::Plain(plain)))),
            },
        };
        let cancel = Arc::new(StreamCancel::default());
        let share = Share::take(&self.threads);
        let most = share.grant.in_hand().min(if begin.is_some() { STREAM_BUFFER_FIRST } else { usize::MAX });
        let scarce = share.grant.is_scarce();
        let up = Half::new(Direction::Up, right.greeting, left.early, most, scarce);
        let down = Half::new(Direction::Down, left.greeting, right.early, most, scarce);
        let lasting = begin.map(|begin| (self.clone(), begin));
        let copy = stream::join(ends, [up, down], share, meter.clone(), cancel.clone(), lasting);
        Join::on_tokio(Box::pin(copy) as Pin<Box<_>>, cancel, meter)
    }

    /// Two sockets that tokio watches stay there while their flow may be a short one: handing them to a thread costs
    /// more than moving what most flows have. Forced engines move every byte themselves, as soon as there are two clear
    /// sockets.
    fn on_tokio_first(&self, client: &EndIo, target: &EndIo) -> Option<Begin> {
        let auto = self.asked() == EngineChoice::Auto;
        match (client, target) {
            (EndIo::Watched(_), EndIo::Watched(_)) => auto.then(Begin::brief),
            (EndIo::Stream(stream), EndIo::Plain(_) | EndIo::Watched(_))
            | (EndIo::Plain(_) | EndIo::Watched(_), EndIo::Stream(stream))
                if stream.may_leave() =>
            {
                Some(if auto { Begin::brief() } else { Begin::forced() })
            }
            _ => None,
        }
    }

    /// A flow that began on tokio, from where its halves are.
    pub(super) fn go_on(&self, ends: [Plain; 2], halves: [Half; 2], meter: Arc<Meter>) -> Join {
        let engine = self.engine();
        self.join_plain(ends, halves.map(|half| half.into_track(engine)), meter)
    }

    fn join_plain(&self, ends: [Plain; 2], tracks: [Track; 2], meter: Arc<Meter>) -> Join {
        let (report, ending) = oneshot::channel();
        let control = Arc::new(Control::default());
        let crew = self.threads.crew();
        let grant = crew.grants.take();
        for end in &ends {
            // A socket whose peer is gone refuses these; reading it says so in order.
            let _ = end.prepare(grant);
        }
        let pair = Pair::new(ends, tracks, grant, meter.clone(), control.clone(), report);
        crew.stats.add(&crew.stats.flows, 1);
        if let Err(pair) = crew.hand(crew.next(), Box::new(pair)) {
            // Thousands of new flows wait for the thread: refuse this one rather than queue without bound.
            crew.stats.fell_back(Fallback::Refused);
            pair.close(&crew.pipes, &crew.stats);
            crew.left(grant);
        }
        Join::on_thread(ending, control, self.threads.clone(), meter)
    }
}

fn load(map: impl FnOnce(Sockmap) -> KernelMap) -> Option<Arc<KernelMap>> {
    match Sockmap::load(DIRECTIONS) {
        Ok(sockmap) => Some(Arc::new(map(sockmap))),
        Err(error) => {
            tracing::info!(%error, "flows are moved by splice(2) and copy");
            None
        }
    }
}

/// The socket of an end, out of tokio; none where it cannot leave.
fn into_plain(io: EndIo) -> Option<Plain> {
    match io {
        EndIo::Plain(plain) => Some(plain),
        EndIo::Watched(watched) => watched.into_plain().ok(),
        EndIo::Stream(_) => None,
    }
}
