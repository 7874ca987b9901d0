//! One agent's control stream, as dials see it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::trouble::Trouble;
use crate::flow::{DialError, DialReason, Path};
use crate::lane::{Dialled, Fallback, StreamLanes};
use crate::mux::{Link, MuxStream};
use crate::ops::metrics::{DialFailure, Segment, ServerMetrics};
use crate::splice::End;
use crate::wire::identifiers::Identifiers;
use crate::wire::ids::{AgentId, DialId};
use crate::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use crate::wire::range::Range;

/// One control stream. An agent may hold several; each is picked and lost by itself.
pub struct AgentHandle {
    pub id: AgentId,
    pub identifiers: Identifiers,
    /// Of its node and its pods, for `nodeLocal`.
    pub ranges: Vec<Range>,
    /// Those of its identifiers that name a host: of its node.
    pub addresses: Vec<IpAddr>,
    /// Where its connection comes from; `None` where that is no address.
    pub from: Option<IpAddr>,
    /// Unique in this process.
    pub number: u64,
    pub link: Link,
    metrics: ServerMetrics,
    draining: AtomicBool,
    /// Dials and flows of this stream, lanes included.
    load: AtomicUsize,
    trouble: Trouble,
    lanes: OnceLock<StreamLanes>,
    /// Why there are none, where there are none.
    without: Fallback,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    /// The stream has ended: nothing will be answered any more.
    lost: bool,
    dials: HashMap<DialId, oneshot::Sender<Result<MuxStream, DialError>>>,
}

/// Dial ids towards agents are ours, unlike those that clients choose.
static NEXT_DIAL: AtomicI64 = AtomicI64::new(1);

impl AgentHandle {
    pub fn new(
        id: AgentId,
        identifiers: Identifiers,
        number: u64,
        link: Link,
        metrics: ServerMetrics,
        without: Fallback,
    ) -> AgentHandle {
        AgentHandle {
            id,
            ranges: Range::all(&identifiers),
            addresses: identifiers.addresses().collect(),
            identifiers,
            from: None,
            number,
            link,
            metrics,
            draining: AtomicBool::new(false),
            load: AtomicUsize::new(0),
            trouble: Trouble::default(),
            lanes: OnceLock::new(),
            without,
            pending: Mutex::default(),
        }
    }

    pub fn came_from(self, from: Option<IpAddr>) -> AgentHandle {
        AgentHandle { from: from.map(|from| from.to_canonical()), ..self }
    }

    /// Lanes were negotiated on this stream.
    pub fn set_lanes(&self, lanes: StreamLanes) {
        // A stream negotiates once.
        let _ = self.lanes.set(lanes);
    }

    pub fn has_lanes(&self) -> bool {
        self.lanes.get().is_some()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Its last dials failed by its own fault, as far as one can tell.
    pub fn is_in_trouble(&self, now: Instant) -> bool {
        self.trouble.is_in(now)
    }

    /// One dial or flow more, until the guard drops.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.load.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Asks the agent for a connection to `address`: on a lane where that can be, else on the control stream.
    /// Dropping the future tells the agent that nobody waits any more.
    ///
    /// # Errors
    /// What the agent says of the target, or what became of the agent.
    pub async fn dial(
        &self,
        protocol: &str,
        address: &str,
        timeout: Option<Duration>,
    ) -> Result<(End, Path), DialError> {
        let dialled = self.try_dial(protocol, address, timeout).await;
        self.trouble.note(dialled.as_ref().err().map(|error| error.reason), Instant::now());
        dialled
    }

    /// A dial and its answer count as the packets that they would be, wherever they travel: otherwise agents would seem
    /// to answer none.
    async fn try_dial(
        &self,
        protocol: &str,
        address: &str,
        timeout: Option<Duration>,
    ) -> Result<(End, Path), DialError> {
        let asked = Asked { handle: self, dial: DialId(NEXT_DIAL.fetch_add(1, Ordering::Relaxed)) };
        let (asked_here, answered_here) = (OnceLock::new(), AtomicBool::new(false));
        let on_mux = |number| {
            asked_here.get_or_init(Instant::now);
            let answer = self.ask(asked.dial, protocol, address, number);
            async {
                let answer = answer.await;
                answered_here.store(true, Ordering::Relaxed);
                answer
            }
        };
        let dialled = async {
            match self.lanes.get() {
                Some(lanes) => lanes.dial(protocol, address, on_mux).await,
                None => on_mux(0).await.map(|answer| Dialled::Mux(answer, self.without)),
            }
        };
        let dialled = match timeout {
            None => dialled.await,
            Some(limit) => match tokio::time::timeout(limit, dialled).await {
                Ok(dialled) => dialled,
                Err(_) => {
                    let waited = asked_here.get().map(Instant::elapsed);
                    if waited.is_none() {
                        self.metrics.packet(Segment::ToAgent, "DIAL_REQ");
                    }
                    return Err(self.timed_out(asked.dial, waited.is_some_and(|waited| waited * 2 >= limit)));
                }
            },
        };
        let by_agent = dialled.as_ref().map_or_else(|error| !error.reason.is_of_server(), |_| true);
        if by_agent && asked_here.get().is_none() {
            self.metrics.packet(Segment::ToAgent, "DIAL_REQ");
        }
        if by_agent && !answered_here.into_inner() {
            self.metrics.packet(Segment::FromAgent, "DIAL_RSP");
        }
        // It was answered: whoever cancels it now would cancel a flow.
        std::mem::forget(asked);
        match dialled? {
            Dialled::Lane(end, path) => Ok((end, path)),
            Dialled::Mux(stream, why) => {
                self.metrics.fell_back(why);
                Ok((End::stream(stream), Path::Mux))
            }
        }
    }

    async fn ask(
        &self,
        dial: DialId,
        protocol: &str,
        address: &str,
        lane_dial: u64,
    ) -> Result<MuxStream, DialError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut pending = self.pending();
            if pending.lost {
                return Err(lost());
            }
            pending.dials.insert(dial, answer);
        }
        let _entry = Entry { handle: self, dial };
        let request = DialRequest { dial, protocol: protocol.into(), address: address.into(), lane_dial };
        self.link
            .send(Packet::DialRequest(request))
            .map_err(|closed| DialError::new(DialReason::SendFailed, closed.to_string()))?;
        answered.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Within the time neither sent nor answered. A stream that does not even take a dial is given up, unless it had little
    /// of the time to take it, as after a lane that was asked first in vain.
    fn timed_out(&self, dial: DialId, had_time: bool) -> DialError {
        let text = "timed out waiting for backend dial";
        if self.link.withdraw(dial) {
            if had_time {
                self.draining.store(true, Ordering::Relaxed);
                self.link.close(Ok(()));
            }
            return DialError::new(DialReason::SendTimeout, text);
        }
        DialError::new(DialReason::AgentTimeout, text)
    }

    /// A packet of this stream that belongs to no flow.
    pub fn handle(&self, packet: Packet) {
        match packet {
            Packet::DialResponse(response) => self.answered(response),
            Packet::CloseDial { dial } => {
                self.metrics.pending_dials_looked_at();
                if let Some(waiting) = self.pending().dials.remove(&dial) {
                    let _ = waiting
                        .send(Err(DialError::new(DialReason::Withdrawn, "the agent gave the dial up")));
                }
            }
            Packet::Drain => {
                tracing::info!(agent = %self.id, stream = self.number, "Agent is draining");
                self.draining.store(true, Ordering::Relaxed);
            }
            other => tracing::debug!(agent = %self.id, packet = other.kind(), "Ignored a packet"),
        }
    }

    fn answered(&self, response: DialResponse) {
        if response.outcome == Ok(Answer::OnLane) {
            return; // the lane tells its own story
        }
        let waiting = self.pending().dials.remove(&response.dial);
        let Some(waiting) = waiting else {
            // Cancelled or timed out meanwhile, or carried by a lane.
            self.metrics.pending_dials_looked_at();
            self.metrics.dial_failed(DialFailure::UnrecognizedResponse);
            if let Ok(Answer::Here(conn)) = response.outcome {
                self.link.refuse(conn);
            }
            return;
        };
        let outcome = response.outcome.and_then(|answer| match answer {
            Answer::Here(conn) => self.link.attach(conn).map_err(|error| {
                tracing::warn!(agent = %self.id, %error, "The agent's answer to a dial makes no sense");
                DialError::new(DialReason::Other, error.to_string())
            }),
            Answer::OnLane => Err(lost()),
        });
        // Nobody waits any more: the flow ends as its stream drops.
        let _ = waiting.send(outcome);
    }

    /// The stream has ended: whoever waits for an answer learns it now.
    pub fn lose(&self) {
        if let Some(lanes) = self.lanes.get() {
            lanes.end();
        }
        let mut pending = self.pending();
        pending.lost = true;
        pending.dials.clear();
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost() -> DialError {
    DialError::new(DialReason::AgentLost, "context canceled")
}

/// A dial that waits for its answer on the control stream.
struct Entry<'a> {
    handle: &'a AgentHandle,
    dial: DialId,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.handle.pending().dials.remove(&self.dial);
    }
}

/// Dropped before the dial was answered, it tells the agent.
struct Asked<'a> {
    handle: &'a AgentHandle,
    dial: DialId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.handle.link.withdraw(self.dial) {
            let _ = self.handle.link.send(Packet::CloseDial { dial: self.dial });
        }
    }
}

/// Counts a dial or flow of an agent.
pub struct Busy(Arc<AgentHandle>);

impl Busy {
    pub fn agent(&self) -> &AgentHandle {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
