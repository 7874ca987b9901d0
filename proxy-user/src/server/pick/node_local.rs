//! `nodeLocal`: an address of a known node or of its pods is served by an agent of that node, or not at all.

use std::sync::Arc;

use super::Fits;
use super::dest_host::host;
use super::known::{Known, Place};
use crate::server::agents::handle::AgentHandle;
use crate::wire::range::Range;

/// Why no agent of another node may serve a dial.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "{host} belongs to node {node}, which has no agent connected (nodeLocal): see to its agent, and that the \
         node's name is its --agent-id or that its --agent-identifiers have ipv4=, ipv6= or host= of the node"
    )]
    Node { host: String, node: String },
    #[error(
        "{host} belongs to the node of {range}, which has no agent connected (nodeLocal): see to the agent whose \
         --agent-identifiers have this range"
    )]
    Named { host: String, range: Range },
}

/// The agents of the address' node; none of them: they are away. Names and addresses of no known node are another
/// strategy's.
pub(super) fn fitting<'a>(streams: &'a [Arc<AgentHandle>], known: &Known, dial: &str) -> Fits<'a> {
    let host = host(dial);
    let Some(place) = known.place(host) else { return Fits::default() };
    let of = |fits: &dyn Fn(&AgentHandle) -> bool| {
        streams.iter().filter(|stream| fits(stream)).collect::<Vec<_>>()
    };
    let mut agents = place.named.map_or_else(Vec::new, |range| of(&|stream| stream.ranges.contains(&range)));
    if agents.is_empty() {
        agents = of(&|stream| place.nodes.iter().any(|node| node.has(stream)));
    }
    Fits { agents, refusal: refusal(host, &place) }
}

fn refusal(host: &str, place: &Place<'_>) -> Option<Refusal> {
    let host = host.to_owned();
    match (place.nodes.first(), place.named) {
        (Some(node), _) => Some(Refusal::Node { host, node: node.name.clone() }),
        (None, Some(range)) => Some(Refusal::Named { host, range }),
        (None, None) => None,
    }
}
