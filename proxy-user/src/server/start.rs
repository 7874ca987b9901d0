//! What a server is made of: each part from its flags, or the sentence why it cannot be.

use std::path::PathBuf;
use std::sync::Arc;

use super::agents::registry::Registry;
use super::auth::Authenticator;
use super::lease::LeaseController;
use super::nodes::NodeWatch;
use super::options::Options;
use crate::kube::{Kube, KubeConfig, KubeError};
use crate::lane::{ALPN_LANE, ServerLaneConfig, ServerLanes};
use crate::net::cipher::{PolicyError, TlsPolicy};
use crate::net::listener::{ListenError, TcpListener};
use crate::net::tls::{ALPN_H2, ServerEndpoint, ServerTls, TlsError, alpn_enforced};
use crate::ops::flags::LanesMode;
use crate::ops::metrics::ServerMetrics;
use crate::parts::{file_descriptors, lane_files, security};
use crate::splice::SpliceError;

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
        burst: options.kubeconfig_burst.clamp(i32::MIN.into(), i32::MAX.into()) as i32,
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
    let fds = lane_files(options.lanes.max);
    let mut config = ServerLaneConfig::new(options.server_id.as_str(), security(options.lanes.security), fds);
    config.ping = options.lanes.ping;
    let lanes = ServerLanes::start(config)?;
    lanes.pace(options.lanes.mode == LanesMode::Auto);
    Ok(Some(lanes))
}

/// Connections to the agents' port at a time that are no agent's and no lane yet.
pub(super) fn newcomers() -> usize {
    (file_descriptors() / 16).clamp(8, 4096)
}

/// Its notes are among the options' warnings.
pub(super) fn policy(options: &Options) -> Result<TlsPolicy, PolicyError> {
    TlsPolicy::parse(&options.tls_min_version, &options.cipher_suites)
}

pub(super) fn file(name: &str) -> Option<PathBuf> {
    (!name.is_empty()).then(|| name.into())
}
