//! proxy-server: frontends, agents, and the dial between them.

pub mod agents;
pub mod auth;
pub mod dial;
pub mod doctor;
pub mod frontend;
pub mod lease;
pub mod nodes;
pub mod operate;
pub mod options;
pub mod pick;
pub mod run;
pub(crate) mod start;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::OptionFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::agents::listen;
use self::agents::registry::Registry;
use self::agents::service::Service;
use self::dial::Dialer;
use self::lease::LeaseController;
use self::nodes::NodeWatch;
use self::options::Options;
pub use self::start::StartError;
use crate::flow::FlowTable;
use crate::kube::Kube;
use crate::lane::ServerLanes;
use crate::net::listener::TcpListener;
use crate::net::tls::ServerEndpoint;
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::ServerMetrics;
use crate::parts;
use crate::splice::proof::Abilities;

/// The addresses that were really bound.
#[derive(Debug, Clone)]
pub struct Bound {
    pub agents: SocketAddr,
    pub frontend: BoundFrontend,
}

#[derive(Debug, Clone)]
pub enum BoundFrontend {
    Uds(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for BoundFrontend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BoundFrontend::Uds(path) => write!(out, "{}", path.display()),
            BoundFrontend::Tcp(address) => address.fmt(out),
        }
    }
}

/// A server whose listeners are bound and that serves nobody yet.
pub struct Server {
    bound: Bound,
    options: Options,
    agents: (TcpListener, ServerEndpoint),
    frontend: frontend::Frontend,
    service: Service,
    dialer: Dialer,
    kube: Option<Kube>,
    leases: Option<LeaseController>,
    nodes: Option<NodeWatch>,
}

impl Server {
    /// Reads every file, binds every listener, starts the engine. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The first thing that cannot be had.
    pub fn bind(options: Options, abilities: &Abilities) -> Result<Server, StartError> {
        let flows = FlowTable::new();
        let metrics = ServerMetrics::new(&flows)?;
        let splicer = parts::splicer(&options.splice, abilities)?;
        let frontend = frontend::Frontend::bind(&options)?;
        let agents = start::agents_port(&options)?;
        let lanes = start::lanes(&options)?;
        let strategies = options.proxy_strategies.0.clone();
        let registry = Registry::new(strategies.clone(), metrics.clone());
        let bound = Bound { agents: agents.0.local_addr(), frontend: frontend.bound() };
        let kube = start::kube(&options);
        let authenticator = kube.as_ref().and_then(|kube| start::authenticator(&options, kube));
        let leases = start::leases(&options, &metrics);
        let nodes = start::nodes(&options, &registry);
        let pool = parts::pool(&options.mux, &metrics.konduit)?;
        let service = Service {
            server: options.server_id.as_str().into(),
            count: u32::try_from(options.server_count).unwrap_or(0),
            registry: registry.clone(),
            metrics: metrics.clone(),
            pool,
            lanes,
            authenticator,
            running: TaskTracker::new(),
        };
        let dialer = Dialer {
            registry,
            strategies: strategies.into(),
            timeout: options.backend_dial_timeout,
            splicer,
            flows,
            most_flows: parts::most_flows(),
            metrics,
        };
        Ok(Server { bound, options, agents, frontend, service, dialer, kube, leases, nodes })
    }

    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// `None`: `--lanes=off`.
    pub fn lanes(&self) -> Option<&ServerLanes> {
        self.service.lanes.as_ref()
    }

    /// `None`: nothing asks the Kubernetes API.
    pub fn kube(&self) -> Option<&Kube> {
        self.kube.as_ref()
    }

    /// `None`: no strategy asks for nodes.
    pub fn nodes(&self) -> Option<&NodeWatch> {
        self.nodes.as_ref()
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.dialer.registry
    }

    /// Serves until `stop`. Frontends accept until `drain` begins; their flows go on until it cuts them.
    pub async fn run(self, drain: DrainWatch, stop: CancellationToken) {
        let Server {
            options, agents: (listener, tls), frontend, service, dialer, bound, leases, nodes, ..
        } = self;
        tracing::info!(agents = %bound.agents, frontend = %bound.frontend, server = options.server_id, "Serving");
        let agents = listen::serve(listener, tls, service, options.keepalive_time, drain.clone(), stop);
        let leases = leases.map(|leases| leases.run(drain.clone()));
        let frontend = frontend.serve(dialer, options.frontend_keepalive_time, drain);
        let serving = async { tokio::join!(agents, frontend, OptionFuture::from(leases)) };
        tokio::select! {
            _ = serving => {}
            Some(never) = OptionFuture::from(nodes.map(NodeWatch::run)) => match never {},
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_frontend_is_bound_is_told_as_people_write_it() {
        for (bound, words) in [
            (BoundFrontend::Uds("/run/x.sock".into()), "/run/x.sock"),
            (BoundFrontend::Tcp(([127, 0, 0, 1], 8090).into()), "127.0.0.1:8090"),
        ] {
            assert_eq!(bound.to_string(), words);
        }
    }
}
