//! proxy-agent: one control stream per server, dials to targets.

pub mod control;
pub mod dial;
pub mod doctor;
mod flows;
mod goaway;
mod lease;
pub mod operate;
pub mod options;
mod packets;
mod phase;
pub mod route;
pub mod run;
mod servers;

use std::sync::Arc;

use futures_util::future::OptionFuture;

use self::dial::Targets;
use self::flows::Flows;
use self::lease::LeaseCounter;
use self::options::Options;
use self::route::Route;
pub use self::servers::Servers;
use crate::flow::FlowTable;
use crate::kube::{Kube, KubeConfig, KubeError};
use crate::lane::{AgentLaneConfig, AgentLanes};
use crate::net::connect::ProxyError;
use crate::net::resolve::Names;
use crate::net::tls::TlsError;
use crate::ops::drain::DrainWatch;
use crate::ops::flags::LanesMode;
use crate::ops::metrics::AgentMetrics;
use crate::parts;
use crate::splice::proof::Abilities;
use crate::splice::{SpliceError, Splicer};
use crate::wire::identifiers::{Identifiers, IdentifiersError};

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Kube(#[from] KubeError),
    #[error("agent address is invalid: {0}")]
    Identifiers(#[from] IdentifiersError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Splice(#[from] SpliceError),
    #[error("signals cannot be heard: {0}")]
    Signals(std::io::Error),
    #[error("the metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// An agent that has all it needs and has not looked for a server yet.
pub struct Agent {
    servers: Arc<Servers>,
    flows: Flows,
    kube: Option<Kube>,
}

impl Agent {
    /// Reads every file, starts the engine. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The first thing that cannot be had.
    pub fn new(options: Options, abilities: &Abilities) -> Result<Agent, StartError> {
        let table = FlowTable::new();
        let metrics = AgentMetrics::new(&table)?;
        let names = Names::from_system();
        let splicer = parts::splicer(&options.splice, abilities)?;
        let route = Route::new(&options)?;
        let lanes = match options.lanes.mode {
            LanesMode::Always | LanesMode::Auto => Some(lanes(&options)?),
            LanesMode::Off => None,
        };
        let targets = Targets {
            names,
            metrics: metrics.clone(),
            table: table.clone(),
            most_flows: parts::most_flows(),
        };
        let kube = options.count_server_leases.then(|| {
            Kube::new(&KubeConfig { kubeconfig: options.kubeconfig.clone(), ..KubeConfig::default() })
        });
        let leases = kube.as_ref().map(|kube| LeaseCounter::new(&options, kube, &metrics));
        let pool = parts::pool(&options.mux, &metrics.konduit)?;
        let flows = Flows { targets, splicer, table, metrics };
        let servers = Servers {
            identifiers: Identifiers::parse(&options.agent_identifiers)?,
            pool,
            options,
            route,
            flows: flows.clone(),
            lanes,
            leases,
            state: Default::default(),
        };
        Ok(Agent { servers: Arc::new(servers), flows, kube })
    }

    pub fn servers(&self) -> &Arc<Servers> {
        &self.servers
    }

    pub fn splicer(&self) -> &Splicer {
        &self.flows.splicer
    }

    /// `None`: `--lanes=off`.
    pub fn lanes(&self) -> Option<&AgentLanes> {
        self.servers.lanes.as_ref()
    }

    /// `None`: nothing asks the Kubernetes API.
    pub fn kube(&self) -> Option<&Kube> {
        self.kube.as_ref()
    }

    pub fn flows(&self) -> &FlowTable {
        &self.flows.table
    }

    pub fn metrics(&self) -> &AgentMetrics {
        &self.flows.metrics
    }

    /// Serves until `drain` cuts. When it begins, servers are told and no new ones are looked for; those there are
    /// are served on, new dials included.
    pub async fn run(self, mut drain: DrainWatch) {
        tokio::select! {
            () = self.servers.clone().sync() => {}
            Some(()) = OptionFuture::from(self.servers.leases.as_ref().map(LeaseCounter::run)) => {}
            () = drain.draining() => {}
        }
        self.servers.drain();
        if let Some(lanes) = &self.servers.lanes {
            lanes.drain();
        }
        drain.cut().await;
        self.servers.close();
    }
}

fn lanes(options: &Options) -> Result<AgentLanes, StartError> {
    let fds = parts::lane_files(options.lanes.max);
    let mut config = AgentLaneConfig::new(parts::security(options.lanes.security), fds);
    config.wait = options.lanes.wait;
    Ok(AgentLanes::new(config, route::lanes(options)?))
}
