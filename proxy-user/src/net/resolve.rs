//! Names to addresses, asked anew each time; failures in Go's words.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("lookup {0}: no such host")]
    NoSuchHost(String),
    #[error("lookup {0}: i/o timeout")]
    Timeout(String),
    #[error("lookup {0}: server misbehaving")]
    Misbehaving(String),
}

/// The system's resolver configuration and hosts file, as they were at the start. Cheap to clone.
#[derive(Clone)]
pub struct Names(Option<Arc<TokioResolver>>);

impl Names {
    /// Without a usable resolv.conf only addresses resolve.
    pub fn from_system() -> Names {
        let built = TokioResolver::builder_tokio().and_then(|builder| builder.build());
        Names(built.inspect_err(|error| tracing::warn!(%error, "Cannot resolve names")).ok().map(Arc::new))
    }

    /// The addresses of `host`, which may be one itself, in the resolver's order.
    ///
    /// # Errors
    /// No address.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let named = || host.to_owned();
        let Some(resolver) = &self.0 else { return Err(ResolveError::Misbehaving(named())) };
        let found = resolver.lookup_ip(host).await.map_err(|error| match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::ServFail => {
                ResolveError::Misbehaving(named())
            }
            NetError::Dns(DnsError::NoRecordsFound(_)) => ResolveError::NoSuchHost(named()),
            NetError::Timeout => ResolveError::Timeout(named()),
            _ => ResolveError::Misbehaving(named()),
        })?;
        let addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if addresses.is_empty() { Err(ResolveError::NoSuchHost(named())) } else { Ok(addresses) }
    }
}
