//! `destHost`: agents that named the dial's host among their identifiers. No name resolution, no normal form.

use std::sync::Arc;

use crate::server::agents::handle::AgentHandle;

pub(super) fn fitting<'a>(streams: &'a [Arc<AgentHandle>], address: &str) -> Vec<&'a Arc<AgentHandle>> {
    let host = host(address);
    streams.iter().filter(|stream| stream.identifiers.hosts().any(|named| named == host)).collect()
}

/// The address without its port, in upstream's way: bare IPv6 is kept whole, brackets are taken off.
pub(super) fn host(address: &str) -> &str {
    match address.matches(':').count() {
        0 | 1 => address.split(':').next().unwrap_or(address),
        _ if !address.contains('[') => address,
        _ => {
            let cut = address.rfind(':').map_or(address, |colon| &address[..colon]);
            cut.trim_start_matches('[').trim_end_matches(']')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_cut_as_upstream_cuts_them() {
        assert_eq!(host("10.0.0.1:80"), "10.0.0.1");
        assert_eq!(host("node"), "node");
        assert_eq!(host("[fd00::1]:80"), "fd00::1");
        assert_eq!(host("fd00::1"), "fd00::1");
    }
}
