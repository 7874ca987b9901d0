//! A proxy-agent's life, from its options to its exit code.

use std::process::ExitCode;
use std::time::Duration;

use super::operate::operate;
use super::options::Options;
use super::{Agent, StartError};
use crate::ops::drain;
use crate::ops::flags::LanesMode;
use crate::ops::life::{Ended, end_agent};
use crate::ops::log::LogGuard;
use crate::ops::phase::{Phase, PhaseTeller};
use crate::ops::signal::Signals;
use crate::splice::proof;

/// How long control streams may take to end after the drain.
const LAST: Duration = Duration::from_secs(1);

/// Serves until a signal, and then until nobody needs this agent. Must be called inside a tokio runtime.
///
/// # Errors
/// What keeps the agent from starting.
pub async fn run(options: Options, log: &LogGuard) -> Result<ExitCode, StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let abilities = proof::prove_aside(options.splice.engine).await;
    let agent = Agent::new(options.clone(), &abilities)?;
    if let Some(kube) = agent.kube() {
        kube.check().await?;
    }
    let (metrics, flows) = (agent.metrics().clone(), agent.flows().clone());
    metrics.konduit.show_counter(log.lost())?;
    let servers = agent.servers().clone();
    let ready = move || servers.connected() > 0;
    let (mut listeners, live) = operate(&options, &metrics, &flows, agent.splicer(), abilities, ready);
    if let Some(lanes) = agent.lanes().cloned() {
        let counted = lanes.clone();
        metrics.konduit.show_agent_lanes(move || counted.stats())?;
        listeners.keep(live.each(move |now| lanes.allow(now.lanes != LanesMode::Off)));
    }
    let phase = PhaseTeller::default();
    let (mut trigger, watch) = drain::channel();
    let serving = tokio::spawn(agent.run(watch));
    phase.reach(Phase::Serving);
    let (quiet, limit) = (options.drain_quiet, options.drain_timeout);
    if end_agent(&mut signals, &phase, &mut trigger, &flows, quiet, limit).await == Ended::InOrder {
        // What is still running then ends with the runtime.
        let _ = tokio::time::timeout(LAST, serving).await;
    }
    Ok(ExitCode::SUCCESS)
}
