//! The way to a server: control streams and lanes take the same.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::StartError;
use super::options::Options;
use crate::lane::{ALPN_LANE, LaneRoute};
use crate::net::connect::{ConnectError, Connector};
use crate::net::sockopt;
use crate::net::tls::{ALPN_H2, ClientEndpoint, ClientTls, HandshakeError, alpn_enforced, alpn_list};
use crate::ops::flags::Port;

/// For TCP and for TLS, as upstream.
const LIMIT: Duration = Duration::from_secs(20);

/// Unanswered pings and unacknowledged bytes end a control stream after this long, as upstream.
pub(super) const SILENCE: Duration = Duration::from_secs(20);

/// Where the servers are, and how to get there. Every connection may reach another of them.
pub struct Route {
    connector: Connector,
    host: String,
    port: Port,
    tls: ClientEndpoint,
    has_identity: bool,
    enforce_alpn: bool,
}

/// Why no connection to a server came about.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{error}{}", advice(.0), error = .0)]
    Tls(#[from] HandshakeError),
    #[error("{} is no port, 65535 is the last: set --proxy-server-port to the servers' port for agents", .0.0)]
    Port(Port),
}

fn advice(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Timeout(_) => {
            "; what listens there stands still or is no proxy-server: see --proxy-server-host and --proxy-server-port"
        }
        HandshakeError::Failed(_) | HandshakeError::NoAlpn => "",
    }
}

impl Route {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Certificates or a proxy that cannot be used.
    pub fn new(options: &Options) -> Result<Route, StartError> {
        let connector = connector(options)?;
        let tls = endpoint(options, ALPN_H2)?;
        let has_identity = !options.agent_cert.is_empty();
        let host = options.proxy_server_host.clone();
        let port = options.proxy_server_port;
        Ok(Route { connector, host, port, tls, has_identity, enforce_alpn: alpn_enforced() })
    }

    /// The `:authority` of the control stream, as upstream's agent has it.
    pub fn authority(&self) -> String {
        let address = self.connector.to_string();
        match address.rsplit_once(':') {
            Some((host, _)) if self.has_identity => host.to_owned(),
            _ => address,
        }
    }

    /// A connection for a control stream.
    ///
    /// # Errors
    /// What failed first.
    pub async fn connect(&self) -> Result<TlsStream<TcpStream>, RouteError> {
        if self.port.number().is_none() {
            return Err(RouteError::Port(self.port));
        }
        let socket = self.connector.connect(LIMIT).await?;
        // A socket that is gone already says so in the handshake.
        let _ = sockopt::set_user_timeout(&socket, SILENCE);
        let stream = self.tls.connect(&self.host, socket, LIMIT).await?;
        match stream.get_ref().1.alpn_protocol() {
            None if self.enforce_alpn => Err(HandshakeError::NoAlpn.into()),
            _ => Ok(stream),
        }
    }
}

/// The route of lanes.
///
/// # Errors
/// Certificates or a proxy that cannot be used.
pub fn lanes(options: &Options) -> Result<Arc<LaneRoute>, StartError> {
    let connector = connector(options)?;
    let tls = endpoint(options, ALPN_LANE)?;
    Ok(Arc::new(LaneRoute::new(connector, options.proxy_server_host.as_str(), tls)))
}

/// To a port that there is not, nothing is ever asked to connect.
fn connector(options: &Options) -> Result<Connector, StartError> {
    let port = options.proxy_server_port.number().unwrap_or_default();
    Ok(Connector::from_env(&options.proxy_server_host, port)?)
}

fn endpoint(options: &Options, ours: &[u8]) -> Result<ClientEndpoint, StartError> {
    let identity = match (options.agent_cert.as_str(), options.agent_key.as_str()) {
        ("", _) | (_, "") => None,
        (cert, key) => Some((cert.into(), key.into())),
    };
    let alpn = alpn_list(&options.alpn_proto, &[ours]);
    Ok(ClientTls { ca: options.ca_cert.clone().into(), identity, alpn }.watch()?)
}
