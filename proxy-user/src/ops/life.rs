//! From the first signal to the end: what upstream's operators expect, and no hanging.

use std::time::Duration;

use super::drain::DrainTrigger;
use super::phase::{Phase, PhaseTeller};
use super::signal::Signals;
use crate::flow::FlowTable;

/// How an ending went; a second signal ends a server with exit code 1 and an agent with 0, as upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// In good order.
    InOrder,
    /// A second signal came, or work was cut at its deadline by the operator's own wish.
    AtOnce,
}

/// How long a cut may take before the process goes without waiting.
const CUT: Duration = Duration::from_secs(2);

/// A server's end, from the first signal on: no new dials, established flows go on for `grace`, then all is cut.
/// `grace` of zero cuts at once.
pub async fn end_server(
    signals: &mut Signals,
    phase: &PhaseTeller,
    trigger: &mut DrainTrigger,
    grace: Duration,
) -> Ended {
    let name = signals.next().await;
    tracing::info!(signal = name, ?grace, "Ending; a second signal ends at once");
    let orderly = async {
        phase.reach(Phase::Draining);
        if grace.is_zero() {
            trigger.cut();
        } else if !trigger.drain(grace).await {
            tracing::warn!(?grace, "Not everybody had left by the deadline; what is left is cut");
        }
        phase.reach(Phase::Stopping);
        let _ = tokio::time::timeout(CUT, trigger.drained()).await;
        phase.reach(Phase::Stopped);
    };
    tokio::select! {
        () = orderly => Ended::InOrder,
        name = signals.next() => {
            tracing::warn!(signal = name, "Ending at once");
            Ended::AtOnce
        }
    }
}

/// An agent's end, from the first signal on: it tells its servers (`trigger`'s watchers do) and goes on serving,
/// new dials included, until it was quiet for `quiet` or `limit` has passed.
pub async fn end_agent(
    signals: &mut Signals,
    phase: &PhaseTeller,
    trigger: &mut DrainTrigger,
    flows: &FlowTable,
    quiet: Duration,
    limit: Option<Duration>,
) -> Ended {
    let name = signals.next().await;
    let told = || limit.map(tracing::field::debug);
    tracing::info!(
        signal = name,
        ?quiet,
        limit = told(),
        "Draining: serving goes on; a second signal ends at once"
    );
    phase.reach(Phase::Draining);
    trigger.start();
    let deadline = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = flows.quiet_for(quiet) => tracing::info!(?quiet, "Nobody used this agent any more"),
        () = deadline => tracing::warn!(limit = told(), flows = flows.len(), "The drain's time is over"),
        name = signals.next() => {
            tracing::warn!(signal = name, "Ending at once");
            phase.reach(Phase::Stopped);
            return Ended::AtOnce;
        }
    }
    phase.reach(Phase::Stopping);
    trigger.cut();
    let _ = tokio::time::timeout(CUT, trigger.drained()).await;
    phase.reach(Phase::Stopped);
    Ended::InOrder
}
