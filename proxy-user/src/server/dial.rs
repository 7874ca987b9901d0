//! A dial, from any frontend: pick an agent, ask it, await the answer; then the flow, until it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::agents::handle::Busy;
use super::agents::registry::Registry;
use super::options::Strategy;
use super::pick::{pick, pick_again};
use crate::flow::{DialError, DialReason, Ending, FlowTable, OpenFlow, Path};
use crate::net::room::{Of, tell_no_room};
use crate::ops::log::short;
use crate::ops::metrics::{DialFailure, GaugeGuard, ServerMetrics};
use crate::splice::{End, Splicer};

/// Agents that are asked for one dial before its failure is told. Only one that was lost or did not answer is replaced,
/// by one that the same strategy calls equal.
const AGENTS: usize = 2;
/// A name has 253 characters at the most. What is longer is refused here: a dial has to fit into every message.
const LONGEST_TARGET: usize = 1024;
const LONGEST_PROTOCOL: usize = 64;

/// Which frontend asks; their failures are counted differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Grpc,
    Connect,
}

/// What a frontend asks for.
#[derive(Debug, Clone)]
pub struct Dial {
    pub via: Via,
    /// `tcp`, or what the client wrote; the agent refuses what it does not know.
    pub protocol: String,
    /// `host:port`
    pub target: String,
}

/// A flow whose target has answered; it waits to be joined.
pub struct Opened {
    pub end: End,
    pub path: Path,
    flow: OpenFlow,
    busy: Busy,
    established: GaugeGuard,
    metrics: ServerMetrics,
}

/// Dials for every frontend. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    pub registry: Arc<Registry>,
    pub strategies: Arc<[Strategy]>,
    /// `--backend-dial-timeout`
    pub timeout: Option<Duration>,
    pub splicer: Splicer,
    pub flows: FlowTable,
    /// Dials beyond this are refused, so that established flows never run out of descriptors.
    pub most_flows: u64,
    pub metrics: ServerMetrics,
}

impl Dialer {
    /// Dropping the future abandons the dial; the agent is told.
    ///
    /// # Errors
    /// Counted already.
    pub async fn dial(&self, dial: Dial) -> Result<Opened, DialError> {
        let asked = Instant::now();
        let mut waiting = Waiting { asked, target: &dial.target, metrics: &self.metrics, answered: false };
        let _under_way = self.flows.busy();
        let result = if self.flows.under_way() > self.most_flows {
            tell_no_room(Of::Flows, self.most_flows);
            Err(exhausted())
        } else if dial.target.len() > LONGEST_TARGET || dial.protocol.len() > LONGEST_PROTOCOL {
            let text = format!("dial: the address is longer than {LONGEST_TARGET} bytes");
            Err(DialError::new(DialReason::BadAddress, text))
        } else {
            self.try_agents(&dial).await
        };
        waiting.answered = true;
        match result {
            Ok((end, path, busy)) => {
                let took = asked.elapsed();
                self.metrics.dial_succeeded(took);
                self.metrics.konduit.dial(path, took);
                let flow = self.flows.open(&*dial.target, busy.agent().id.as_str(), path);
                let established = self.metrics.established();
                Ok(Opened { end, path, flow, busy, established, metrics: self.metrics.clone() })
            }
            Err(error) => {
                if let Some(failure) = failure(&error, dial.via) {
                    self.metrics.dial_failed(failure);
                }
                let (target, text) = (short(&dial.target), short(&error.text));
                tracing::debug!(
                    target_address = &*target,
                    reason = ?error.reason,
                    error = &*text,
                    "Dial failed"
                );
                Err(error)
            }
        }
    }

    /// What a client is told for which there is no room; counted.
    pub(super) fn exhausted(&self) -> DialError {
        self.metrics.dial_failed(DialFailure::ErrorResponse);
        exhausted()
    }

    async fn try_agents(&self, dial: &Dial) -> Result<(End, Path, Busy), DialError> {
        let (strategy, mut agent) =
            pick(&self.strategies, &self.registry.streams(), &self.registry.known(), &dial.target)?;
        let _pending = self.metrics.pending_dial();
        let mut tried = Vec::new();
        loop {
            tried.push(agent.number);
            let busy = agent.busy();
            let error = match agent.dial(&dial.protocol, &dial.target, self.timeout).await {
                Ok((end, path)) => return Ok((end, path, busy)),
                Err(error) => error,
            };
            if tried.len() >= AGENTS || !agent_failed(error.reason) {
                return Err(error);
            }
            let (streams, known) = (self.registry.streams(), self.registry.known());
            let Some(another) = pick_again(strategy, &streams, &known, &dial.target, &tried) else {
                return Err(error);
            };
            // Upstream's counter counts failures, not dials that failed.
            if let Some(failure) = failure(&error, dial.via) {
                self.metrics.dial_failed(failure);
            }
            tracing::info!(agent = %agent.id, another = %another.id, %error, "Asking another agent for a dial");
            agent = another;
        }
    }

    /// Joins the client with the target and stays until the flow has ended.
    pub async fn join(&self, client: End, opened: Opened) -> Ending {
        let Opened { end, flow, busy, established, metrics, .. } = opened;
        let ending = self.splicer.join(client, end, flow.meter()).await;
        metrics.connection_ended(flow.age());
        flow.finish(ending);
        drop((busy, established));
        ending
    }
}

/// A dial that was not answered yet; dropped like that, the client has gone.
struct Waiting<'a> {
    asked: Instant,
    target: &'a str,
    metrics: &'a ServerMetrics,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.metrics.dial_failed(DialFailure::FrontendClose);
            let after = self.asked.elapsed();
            tracing::debug!(
                target_address = &*short(self.target),
                ?after,
                "The dial was given up before it was answered"
            );
        }
    }
}

/// The agent, not the target, is why a dial failed.
fn agent_failed(reason: DialReason) -> bool {
    matches!(
        reason,
        DialReason::AgentLost | DialReason::SendFailed | DialReason::AgentTimeout | DialReason::SendTimeout
    )
}

fn exhausted() -> DialError {
    let text = "too many open files: this server holds as many flows as it can";
    DialError::new(DialReason::Exhausted, text)
}

/// Upstream's name for a failure; it does not count a CONNECT that finds no agent.
fn failure(error: &DialError, via: Via) -> Option<DialFailure> {
    match error.reason {
        DialReason::NoAgent if via == Via::Connect => None,
        DialReason::NoAgent => Some(DialFailure::NoAgent),
        DialReason::AgentLost | DialReason::SendFailed | DialReason::Withdrawn => {
            Some(DialFailure::BackendClose)
        }
        DialReason::AgentTimeout | DialReason::SendTimeout => Some(DialFailure::BackendDialTimeout),
        _ => Some(DialFailure::ErrorResponse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice::SpliceConfig;

    fn dialer(strategies: &[Strategy]) -> Dialer {
        let flows = FlowTable::new();
        let metrics = ServerMetrics::new(&flows).unwrap();
        let splicer = Splicer::start(SpliceConfig { threads: 1, ..SpliceConfig::default() }).unwrap();
        let registry = Registry::new(strategies.to_vec(), metrics.clone());
        Dialer {
            registry,
            strategies: strategies.into(),
            timeout: None,
            splicer,
            flows,
            most_flows: 10,
            metrics,
        }
    }

    /// Upstream's gauge is not there before the first dial that is sent to an agent.
    #[tokio::test]
    async fn a_dial_that_finds_no_agent_was_never_pending() {
        let dialer = dialer(&[Strategy::Default]);
        let shown = || {
            let all = dialer.metrics.registry().gather();
            all.iter().any(|family| family.name().ends_with("_pending_backend_dials"))
        };
        let dial = Dial { via: Via::Grpc, protocol: "tcp".into(), target: "10.0.0.1:80".into() };
        let error = dialer.dial(dial).await.err().unwrap();
        assert_eq!(error.reason, DialReason::NoAgent);
        assert!(!shown());
        drop(dialer.metrics.pending_dial());
        assert!(shown());
    }

    #[test]
    fn what_an_agent_could_not_be_sent_counts_against_the_agent() {
        for via in [Via::Grpc, Via::Connect] {
            for (reason, counted) in [
                (DialReason::SendFailed, DialFailure::BackendClose),
                (DialReason::SendTimeout, DialFailure::BackendDialTimeout),
            ] {
                assert!(failure(&DialError::new(reason, ""), via) == Some(counted), "{reason:?}");
                assert!(agent_failed(reason), "{reason:?}");
            }
        }
    }
}
