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
mod nodes;
mod page;
mod process;
mod server;
mod snapshot;

pub use agent::AgentMetrics;
pub use guard::GaugeGuard;
pub use konduit::KonduitMetrics;
pub use nodes::NodeCounts;
pub use page::ScrapePage;
pub use server::{DialFailure, ServerMetrics, Service};

use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

const STREAM_PACKETS: &str =
    "Count of packets processed, by segment and packet type (example: from_client, DIAL_REQ)";
const STREAM_ERRORS: &str = "Count of gRPC stream errors, by segment, grpc Code, packet type. (example: from_agent, \
                             Code.Unavailable, DIAL_RSP)";

/// Bounds of buckets that Go writes in another form; a series' identity is its labels' text.
const AS_GO: [(&str, &str); 2] = [("le=\"0.000001\"", "le=\"1e-06\""), ("le=\"0.00001\"", "le=\"1e-05\"")];

/// Everything in Prometheus' text format, version 0.0.4.
pub fn encode(registry: &Registry) -> Result<Vec<u8>, prometheus::Error> {
    encode_families(&registry.gather())
}

fn encode_families(families: &[MetricFamily]) -> Result<Vec<u8>, prometheus::Error> {
    let text = TextEncoder::new().encode_to_string(families)?;
    Ok(AS_GO.iter().fold(text, |text, (ours, gos)| text.replace(ours, gos)).into_bytes())
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
#[cfg(test)]
mod upstream_tests;
