//! The way of a lane: that of the control stream, with the lane's ALPN name in the list.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::open::{BoxFuture, Route, RouteError};
use super::record::RecordExact;
use crate::net::connect::Connector;
use crate::net::tls::ClientEndpoint;

/// For TCP, a proxy and TLS, each.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Lanes towards one address.
pub struct LaneRoute {
    connector: Connector,
    name: String,
    tls: ClientEndpoint,
}

impl LaneRoute {
    /// `name` is what the server's certificate must carry; `tls` offers [`super::ALPN_LANE`].
    pub fn new(connector: Connector, name: impl Into<String>, tls: ClientEndpoint) -> LaneRoute {
        LaneRoute { connector, name: name.into(), tls }
    }
}

impl Route for LaneRoute {
    fn connect(&self) -> BoxFuture<'_, Result<TlsStream<RecordExact<TcpStream>>, RouteError>> {
        Box::pin(async {
            let socket = self.connector.connect(STEP_TIMEOUT).await;
            let socket = socket.map_err(|error| RouteError::Failed(error.to_string()))?;
            let shaken = self.tls.connect(&self.name, RecordExact::in_flights(socket), STEP_TIMEOUT).await;
            shaken.map_err(|error| {
                if error.is_no_application_protocol() {
                    RouteError::NoLanes
                } else {
                    RouteError::Failed(error.to_string())
                }
            })
        })
    }
}
