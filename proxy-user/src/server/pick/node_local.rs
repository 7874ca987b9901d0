//! `nodeLocal`: an address of a known node or of its pods is served by an agent of that node, or not at all.

use std::net::IpAddr;
use std::sync::Arc;

use super::range::Range;
use crate::server::agents::handle::AgentHandle;

/// The agents that named `range`. None: the node's agents are away.
pub(super) fn fitting(streams: &[Arc<AgentHandle>], range: Range) -> Vec<&Arc<AgentHandle>> {
    streams.iter().filter(|stream| stream.ranges.contains(&range)).collect()
}

/// The dial's address, if it is one and no name.
pub(super) fn address(dial: &str) -> Option<IpAddr> {
    super::dest_host::host(dial).parse().ok()
}
