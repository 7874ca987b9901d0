//! One control stream to every server: found one by one behind the same address, kept, and opened again when lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::control::{self, OpenError, Opening};
use super::flows::Flows;
use super::lease::LeaseCounter;
use super::options::{Options, ServerCountSource};
use super::packets::ServerPackets;
use super::phase::{Life, Phase};
use super::route::Route;
use crate::lane::AgentLanes;
use crate::mux::{Dialect, Link, LinkConfig, LinkEnd, Pool, Role};
use crate::ops::metrics::{GaugeGuard, Segment};
use crate::wire::code;
use crate::wire::identifiers::Identifiers;
use crate::wire::ids::ServerId;
use crate::wire::metadata::{AgentHello, MUX_VERSION, Secret};
use crate::wire::packet::Packet;

/// What an agent needs for its control streams.
pub struct Servers {
    pub(super) options: Options,
    pub(super) identifiers: Identifiers,
    pub(super) route: Route,
    pub(super) flows: Flows,
    pub(super) pool: Arc<Pool>,
    /// `None`: `--lanes=off`.
    pub(super) lanes: Option<AgentLanes>,
    /// `None`: leases do not count.
    pub(super) leases: Option<LeaseCounter>,
    pub(super) state: State,
}

#[derive(Default)]
pub(super) struct State {
    connected: Mutex<HashMap<ServerId, Connected>>,
    /// Of servers that want to end, by number: served to their end, but looked for anew.
    leaving: Mutex<HashMap<u64, Link>>,
    /// As the last server that was added said; 0 before.
    count: AtomicU32,
    next: AtomicU64,
}

struct Connected {
    /// Tells a connection from its replacement.
    number: u64,
    link: Link,
    life: Life,
    _gauge: GaugeGuard,
}

impl Connected {
    fn is_current(&self) -> bool {
        self.life.phase() == Phase::Current
    }
}

/// What became of one look for a server.
enum Found {
    /// One more.
    New,
    /// One that we know already, or there are none more to find.
    Nothing,
}

impl Servers {
    /// Servers with a control stream.
    pub fn connected(&self) -> usize {
        self.lock().len()
    }

    /// Tells every server that this agent is going; it goes on serving.
    pub fn drain(&self) {
        for connected in self.lock().values() {
            // A stream that ends meanwhile needs not be told.
            let _ = connected.link.send(Packet::Drain);
        }
        for link in self.leaving().values() {
            let _ = link.send(Packet::Drain);
        }
    }

    /// Ends every stream.
    pub fn close(&self) {
        for connected in self.lock().values() {
            connected.link.close(Ok(()));
        }
        self.leaving().values().for_each(|link| link.close(Ok(())));
    }

    /// Looks for servers until dropped.
    pub async fn sync(self: Arc<Self>) {
        let mut backoff = Backoff::new(self.options.sync_interval, self.options.sync_interval_cap);
        loop {
            let pause = match self.look().await {
                Ok(_) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(servers = self.route.authority(), %error, "Cannot connect to a server");
                    backoff.step()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn look(self: &Arc<Self>) -> Result<Found, OpenError> {
        let known = self.known();
        self.flows.metrics.known_servers(known);
        let current = self.lock().values().filter(|connected| connected.is_current()).count();
        if !self.options.sync_forever && current >= known {
            return Ok(Found::Nothing);
        }
        let opening = Opening::open(&self.route, &self.hello(), &self.options).await?;
        Ok(self.adopt(opening))
    }

    /// How many servers there are, as far as anybody says.
    fn known(&self) -> usize {
        let told = self.state.count.load(Ordering::Relaxed).max(1) as usize;
        match (&self.leases, self.options.server_count_source) {
            (None, _) => told,
            (Some(leases), ServerCountSource::Default) => leases.count(),
            (Some(leases), ServerCountSource::Max) => leases.count().max(told),
        }
    }

    fn hello(&self) -> AgentHello {
        let path = &self.options.service_account_token_path;
        let token = (!path.is_empty()).then(|| std::fs::read_to_string(path)).and_then(|read| {
            read.inspect_err(|error| tracing::warn!(path, %error, "Cannot read the service account token"))
                .ok()
        });
        AgentHello {
            agent: self.options.agent_id.as_str().into(),
            identifiers: self.identifiers.clone(),
            token: token.map(Secret),
            mux: MUX_VERSION,
            lanes: self.lanes.is_some(),
        }
    }

    /// Keeps the stream unless its server has one already.
    fn adopt(self: &Arc<Self>, opening: Opening) -> Found {
        let server = opening.hello.server.clone();
        let number = self.state.next.fetch_add(1, Ordering::Relaxed);
        let (link, outlet) = Link::new(LinkConfig {
            role: Role::Acceptor,
            dialect: Dialect::of_version(opening.hello.mux),
            pool: self.pool.clone(),
            observer: Arc::new(ServerPackets {
                metrics: self.flows.metrics.clone(),
                warns: self.options.warn_on_channel_limit,
            }),
            pulse: opening.pulse.clone(),
        });
        {
            let mut connected = self.lock();
            if connected.get(&server).is_some_and(Connected::is_current) {
                tracing::debug!(%server, "Reached a server that is known already");
                return Found::Nothing;
            }
            let new = Connected {
                number,
                link: link.clone(),
                life: opening.life.clone(),
                _gauge: self.flows.metrics.server(),
            };
            if let Some(before) = connected.insert(server.clone(), new) {
                // It serves the flows that it has, and is asked for no other.
                let _ = before.link.send(Packet::Drain);
                before.life.reach(Phase::Leaving);
            }
        }
        self.state.count.store(opening.hello.count, Ordering::Relaxed);
        let lanes = self.lanes.is_some() && opening.hello.lane_ticket.is_some();
        tracing::info!(%server, count = opening.hello.count, lanes, "Connected to a server");
        let servers = self.clone();
        tokio::spawn(async move {
            let (flows, lanes) = (servers.flows.clone(), servers.lanes.clone());
            let (life, probe) = (opening.life.clone(), servers.options.probe_interval);
            let kept = link.clone();
            let serving = control::serve(opening, link, outlet, flows, lanes, probe);
            tokio::pin!(serving);
            let end = tokio::select! {
                end = &mut serving => end,
                () = life.leaving() => {
                    servers.let_go(&server, number, kept);
                    serving.await
                }
            };
            servers.lost(&server, number, &end);
        });
        Found::New
    }

    /// Another connection is to take this one's place: it counts as gone from here on.
    fn let_go(&self, server: &ServerId, number: u64, link: Link) {
        let flows = link.flows();
        tracing::info!(%server, flows, "Leaving a connection when its flows are over; looking for another");
        self.leaving().insert(number, link);
        self.forget(server, number);
    }

    fn forget(&self, server: &ServerId, number: u64) {
        let mut connected = self.lock();
        if connected.get(server).is_some_and(|connected| connected.number == number) {
            connected.remove(server);
        }
    }

    fn lost(&self, server: &ServerId, number: u64, end: &LinkEnd) {
        self.forget(server, number);
        self.leaving().remove(&number);
        if let Some(code) = end.code() {
            self.flows.metrics.stream_error(Segment::ToAgent, code::name(code), "Unknown");
        }
        tracing::info!(%server, why = %end, "Disconnected from a server");
    }

    fn leaving(&self) -> MutexGuard<'_, HashMap<u64, Link>> {
        self.state.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServerId, Connected>> {
        self.state.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Upstream's pauses: the interval, half as much again after every failure, never more than the cap; each up to a
/// tenth longer, by chance.
struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    fn new(first: Duration, cap: Duration) -> Backoff {
        Backoff { first, cap, next: first }
    }

    fn reset(&mut self) -> Duration {
        self.next = self.first;
        jitter(self.first)
    }

    fn step(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.mul_f64(1.5).min(self.cap.max(self.first));
        jitter(pause)
    }
}

fn jitter(pause: Duration) -> Duration {
    let mut byte = [0; 1];
    // Without random bytes there is no jitter.
    let _ = getrandom::fill(&mut byte);
    pause.mul_f64(1.0 + f64::from(byte[0]) / 2550.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_half_to_the_cap_and_begin_anew() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 4 * second);
        for expected in [1.0, 1.5, 2.25, 3.375, 4.0, 4.0] {
            let pause = backoff.step().as_secs_f64();
            assert!((expected..=expected * 1.11).contains(&pause), "{pause} is not about {expected}");
        }
        assert!(backoff.reset() < 2 * second);
        assert!(backoff.step() < 2 * second);
    }
}
