//! What a server is made of: each part from its flags, or the sentence why it cannot be.

use std::path::PathBuf;
use std::sync::Arc;

use super::agents::registry::Registry;
use super::auth::Authenticator;
use super::lease::LeaseController;
use super::nodes::NodeWatch;
use super::options::Options;
use crate::kube::{Kube, KubeConfig, KubeError};
use crate::lane::{ALPN_LANE, Security, ServerLaneConfig, ServerLanes};
use crate::mux::{Pool, brake::Limits};
use crate::net::cipher::{PolicyError, TlsPolicy};
use crate::net::listener::{ListenError, TcpListener};
use crate::net::tls::{ALPN_H2, ServerEndpoint, ServerTls, TlsError, alpn_enforced};
use crate::ops::flags::{EngineOptions, LaneSecurity, LanesMode, MuxOptions};
use crate::ops::metrics::ServerMetrics;
use crate::splice::proof::Abilities;
use crate::splice::{self, SpliceConfig, SpliceError, Splicer};

/// What all flows may queue as packets where memory is no matter.
const MUX_BUFFER: u64 = 64 << 20;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Kube(#[from] KubeError),
    #[error("failed to run the agent server: {0}")]
    Agents(ListenError),
    #[error("failed to run the frontend server: {0}")]
    Frontend(ListenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Cipher(#[from] PolicyError),
    #[error(transparent)]
    Splice(#[from] SpliceError),
    #[error("signals cannot be heard: {0}")]
    Signals(std::io::Error),
    #[error("the metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the kernel gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// The client is made only where something asks, as upstream's.
pub(super) fn kube(options: &Options) -> Option<Kube> {
    let asked = !options.agent_namespace.is_empty() || options.enable_lease_controller;
    asked.then(|| client(options))
}

fn client(options: &Options) -> Kube {
    Kube::new(&KubeConfig {
        kubeconfig: options.kubeconfig.clone(),
        qps: options.kubeconfig_qps,
        burst: options.kubeconfig_burst,
    })
}

/// With a client of its own: a thousand agents whose tokens wait for their turn must not let the lease expire.
pub(super) fn leases(options: &Options, metrics: &ServerMetrics) -> Option<LeaseController> {
    options.enable_lease_controller.then(|| LeaseController::new(options, &client(options), metrics))
}

/// With a client of its own too: a list of many nodes is many requests.
pub(super) fn nodes(options: &Options, registry: &Arc<Registry>) -> Option<NodeWatch> {
    registry.is_node_local().then(|| NodeWatch::new(client(options), registry.clone()))
}

pub(super) fn authenticator(options: &Options, kube: &Kube) -> Option<Authenticator> {
    (!options.agent_namespace.is_empty()).then(|| Authenticator::new(options, kube))
}

pub(crate) fn splicer(options: &EngineOptions, abilities: &Abilities) -> Result<Splicer, SpliceError> {
    Splicer::start(SpliceConfig {
        engine: options.engine,
        flow_buffer_max: options.flow_buffer_max.0,
        buffer_budget: options.buffer_budget.map(|budget| budget.0),
        proven: abilities.proven(),
        ..SpliceConfig::default()
    })
}

pub(crate) fn pool(options: &MuxOptions) -> Arc<Pool> {
    Pool::new(limits(options, splice::container_limit()))
}

/// What flows may queue as packets in a container of this limit; upstream's manifests give an agent 30 Mi, and one flow
/// may queue half of all.
fn limits(options: &MuxOptions, container: Option<u64>) -> Limits {
    let derived = || container.map_or(MUX_BUFFER, |limit| (limit / 4).min(MUX_BUFFER));
    let total = options.buffer.map_or_else(derived, |asked| asked.0);
    Limits { flow: options.flow_buffer.0.min(total / 2), total }
}

pub(crate) fn security(security: LaneSecurity) -> Security {
    match security {
        LaneSecurity::Encrypt => Security::Encrypt,
        LaneSecurity::Raw => Security::Raw,
    }
}

pub(super) fn agents_port(options: &Options) -> Result<(TcpListener, ServerEndpoint), StartError> {
    let alpn = match options.lanes.mode {
        LanesMode::Always | LanesMode::Auto => vec![ALPN_LANE.to_vec(), ALPN_H2.to_vec()],
        LanesMode::Off => vec![ALPN_H2.to_vec()],
    };
    let tls = ServerTls {
        cert: options.cluster_cert.clone().into(),
        key: options.cluster_key.clone().into(),
        client_ca: file(&options.cluster_ca_cert),
        alpn,
        require_alpn: alpn_enforced(),
        policy: policy(options)?,
    };
    let tls = tls.watch()?;
    let listener =
        TcpListener::bind(&options.agent_bind_address, options.agent_port).map_err(StartError::Agents)?;
    Ok((listener, tls))
}

pub(super) fn lanes(options: &Options) -> Result<Option<ServerLanes>, StartError> {
    if options.lanes.mode == LanesMode::Off {
        return Ok(None);
    }
    let fds = options.lanes.max.map_or_else(file_descriptors, |max| max as usize * 4);
    let mut config = ServerLaneConfig::new(options.server_id.as_str(), security(options.lanes.security), fds);
    config.ping = options.lanes.ping;
    let lanes = ServerLanes::start(config)?;
    lanes.pace(options.lanes.mode == LanesMode::Auto);
    Ok(Some(lanes))
}

/// Raises the soft limit to the hard one and says what it is.
pub(crate) fn file_descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only where the limit is as high as it may be.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let now = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(now).unwrap_or(1 << 20)
}

/// What the process holds whatever it serves: listeners, logs, epolls, eBPF objects, control streams.
const OWN_FILES: usize = 64;

/// Flows that this process can hold at a time: two descriptors each, of half of what there are. The rest is for idle
/// lanes (a quarter), pipes (an eighth) and handshakes (a sixteenth).
pub(crate) fn most_flows() -> u64 {
    let files = file_descriptors();
    (files.saturating_sub(OWN_FILES).max(files / 2) as u64 / 4).max(1)
}

/// Handshakes under way at a time on the agents' port.
pub(super) fn handshakes() -> usize {
    (file_descriptors() / 16).clamp(8, 4096)
}

/// Its notes are among the options' warnings.
pub(super) fn policy(options: &Options) -> Result<TlsPolicy, PolicyError> {
    TlsPolicy::parse(&options.tls_min_version, &options.cipher_suites)
}

pub(super) fn file(name: &str) -> Option<PathBuf> {
    (!name.is_empty()).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::flags::ByteSize;

    #[test]
    fn packets_queue_less_in_a_small_container_unless_somebody_says_otherwise() {
        let of = |asked: Option<u64>, container| {
            let options = MuxOptions { buffer: asked.map(ByteSize::mib), ..MuxOptions::default() };
            let limits = limits(&options, container);
            (limits.flow, limits.total)
        };
        const MIB: u64 = 1 << 20;
        assert_eq!(of(None, None), (4 * MIB, 64 * MIB));
        assert_eq!(of(None, Some(8 << 30)), (4 * MIB, 64 * MIB));
        assert_eq!(of(None, Some(32 * MIB)), (4 * MIB, 8 * MIB));
        assert_eq!(of(None, Some(24 * MIB)), (3 * MIB, 6 * MIB));
        assert_eq!(of(Some(64), Some(32 * MIB)), (4 * MIB, 64 * MIB));
    }
}
