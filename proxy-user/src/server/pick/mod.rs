//! Which agent serves a dial: the configured strategies in their order, the first that knows one wins.

mod any;
mod dest_host;
pub mod known;
mod node_local;
pub mod nodes;

use std::sync::Arc;

use self::known::Known;
use self::node_local::Refusal;
use crate::flow::{DialError, DialReason};
use crate::server::agents::handle::AgentHandle;
use crate::server::options::Strategy;

type Streams = [Arc<AgentHandle>];

/// Picks a stream for a dial to `address`, and says by which strategy.
///
/// # Errors
/// No strategy knows one, or one forbids all others.
pub fn pick(
    strategies: &[Strategy],
    streams: &Streams,
    known: &Known,
    address: &str,
) -> Result<(Strategy, Arc<AgentHandle>), DialError> {
    for strategy in strategies {
        let fits = fitting(*strategy, streams, known, address);
        if let Some(agent) = any::choose(&fits.agents, &[]) {
            return Ok((*strategy, agent));
        }
        if let Some(refusal) = fits.refusal {
            return Err(DialError::new(DialReason::NoAgent, refusal.to_string()));
        }
    }
    Err(DialError::new(DialReason::NoAgent, "No agent available"))
}

/// Another stream that `strategy` calls equal, none of `tried`.
pub fn pick_again(
    strategy: Strategy,
    streams: &Streams,
    known: &Known,
    address: &str,
    tried: &[u64],
) -> Option<Arc<AgentHandle>> {
    any::choose(&fitting(strategy, streams, known, address).agents, tried)
}

#[derive(Default)]
struct Fits<'a> {
    agents: Vec<&'a Arc<AgentHandle>>,
    /// Why no other strategy may be asked.
    refusal: Option<Refusal>,
}

fn fitting<'a>(strategy: Strategy, streams: &'a Streams, known: &Known, address: &str) -> Fits<'a> {
    let agents = match strategy {
        Strategy::Default => streams.iter().collect(),
        Strategy::DestHost => dest_host::fitting(streams, address),
        Strategy::DefaultRoute => streams.iter().filter(|stream| stream.identifiers.default_route).collect(),
        Strategy::NodeLocal => return node_local::fitting(streams, known, address),
    };
    Fits { agents, refusal: None }
}

#[cfg(test)]
mod tests;
