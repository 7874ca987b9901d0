//! Prometheus metrics: upstream's under upstream's names, ours beside them with the prefix `konduit_`.
//!
//! A gauge is moved by a guard, so that no path can forget to move it back.

mod agent;
mod engine;
mod flows;
mod guard;
mod konduit;
mod lanes;
mod make;
mod process;
mod server;
mod snapshot;

pub use agent::AgentMetrics;
pub use guard::GaugeGuard;
pub use konduit::KonduitMetrics;
pub use server::{DialFailure, ServerMetrics, Service};

use prometheus::{Encoder, Registry, TextEncoder};

/// What a scrape returns: Prometheus' text format, version 0.0.4.
pub fn encode(registry: &Registry) -> Result<Vec<u8>, prometheus::Error> {
    let mut text = Vec::with_capacity(16 << 10);
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}

/// One hop and direction of packets, as upstream's `segment` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Segment {
    FromClient,
    ToClient,
    FromAgent,
    ToAgent,
}

impl Segment {
    pub fn name(self) -> &'static str {
        match self {
            Segment::FromClient => "from_client",
            Segment::ToClient => "to_client",
            Segment::FromAgent => "from_agent",
            Segment::ToAgent => "to_agent",
        }
    }
}

#[cfg(test)]
mod tests;
