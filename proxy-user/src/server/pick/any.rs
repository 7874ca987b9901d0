//! One of several equal streams: the least busy, from a random start; one that failed by itself a moment ago only when
//! the others did too, a draining one only when there is no other.

use std::sync::Arc;
use std::time::Instant;

use crate::server::agents::handle::AgentHandle;

pub(super) fn choose(fits: &[&Arc<AgentHandle>], tried: &[u64]) -> Option<Arc<AgentHandle>> {
    let fits: Vec<_> = fits.iter().filter(|stream| !tried.contains(&stream.number)).collect();
    let start = random(fits.len());
    let walk = || fits[start..].iter().chain(&fits[..start]);
    let now = Instant::now();
    let rank = |stream: &AgentHandle| (stream.is_draining(), stream.is_in_trouble(now), stream.load());
    // `min_by_key` takes the first of several least ones, which the random start spreads.
    walk().min_by_key(|stream| rank(stream)).map(|stream| Arc::clone(stream))
}

/// Less than `bound`; 0 when the kernel has no random bytes.
fn random(bound: usize) -> usize {
    let mut bytes = [0; 8];
    match bound {
        // Nothing to choose: no system call.
        0 | 1 => 0,
        _ if getrandom::fill(&mut bytes).is_err() => 0,
        _ => (u64::from_ne_bytes(bytes) % bound as u64) as usize,
    }
}
