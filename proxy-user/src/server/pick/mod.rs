//! Which agent serves a dial: the configured strategies in their order, the first that knows one wins.

mod any;
mod dest_host;

use std::sync::Arc;

use crate::server::agents::handle::AgentHandle;
use crate::server::options::Strategy;

type Streams = [Arc<AgentHandle>];

/// Picks a stream for a dial to `address`, none of `tried`. `None`: no strategy knows one.
pub fn pick(
    strategies: &[Strategy],
    streams: &Streams,
    address: &str,
    tried: &[u64],
) -> Option<Arc<AgentHandle>> {
    strategies.iter().find_map(|strategy| {
        let fits: Vec<&Arc<AgentHandle>> = match strategy {
            Strategy::Default => streams.iter().collect(),
            Strategy::DestHost => dest_host::fitting(streams, address),
            Strategy::DefaultRoute => {
                streams.iter().filter(|stream| stream.identifiers.default_route).collect()
            }
        };
        any::choose(&fits, tried)
    })
}
