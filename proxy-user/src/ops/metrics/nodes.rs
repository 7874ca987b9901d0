//! The nodes that `nodeLocal` knows by their Node objects.

use prometheus::{Error, Registry};

use super::snapshot::Snapshot;

/// What a server knows of nodes.
#[derive(Debug, Clone, Copy)]
pub struct NodeCounts {
    pub known: u64,
    /// Unix time in seconds; 0 = never.
    pub heard: u64,
}

pub(super) fn register(
    registry: &Registry,
    counts: impl Fn() -> NodeCounts + Clone + Send + Sync + 'static,
) -> Result<(), Error> {
    let again = counts.clone();
    registry.register(Box::new(Snapshot::gauge(
        "konduit_nodes",
        "Nodes that nodeLocal knows by their Node objects.",
        &[],
        move || vec![(Vec::new(), counts().known)],
    )?))?;
    registry.register(Box::new(Snapshot::gauge(
        "konduit_nodes_heard_timestamp_seconds",
        "When the Kubernetes API server was last heard of nodes, in Unix time; 0 means never.",
        &[],
        move || vec![(Vec::new(), again().heard)],
    )?))
}
