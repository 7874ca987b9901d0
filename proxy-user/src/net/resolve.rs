//! Names to addresses, asked anew each time; failures in Go's words.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use rustix::net::netdevice::name_to_index;

use super::reload::{POLL, Reloading};

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

/// The system's resolver, by its files as they are now. Nothing is cached, as in Go: a name that has just got its
/// address is found. Cheap to clone.
#[derive(Clone)]
pub struct Names(Arc<Reloading<Resolver>>);

/// None without a usable resolv.conf: only addresses resolve.
type Resolver = Option<TokioResolver>;

const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

impl Names {
    /// Must be called inside a tokio runtime.
    pub fn from_system() -> Names {
        Names::watching(FILES.map(PathBuf::from).to_vec(), POLL)
    }

    fn watching(files: Vec<PathBuf>, poll: Duration) -> Names {
        let Ok(resolver) = Reloading::start("names", files, poll, || Ok::<_, Infallible>(build()), |_| ());
        Names(Arc::new(resolver))
    }

    /// Asks this server and no other.
    #[cfg(test)]
    pub(crate) fn asking(server: SocketAddr) -> Names {
        use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
        let build = move || {
            let mut udp = ConnectionConfig::udp();
            udp.port = server.port();
            let servers = vec![NameServerConfig::new(server.ip(), true, vec![udp])];
            let config = ResolverConfig::from_name_servers(servers);
            Ok::<_, Infallible>(TokioResolver::builder_with_config(config, Default::default()).build().ok())
        };
        let Ok(resolver) = Reloading::start("names", Vec::new(), POLL, build, |_| ());
        Names(Arc::new(resolver))
    }

    /// The addresses of `host`, which may be one itself, in the resolver's order; those without a route last.
    ///
    /// # Errors
    /// No address.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let named = || host.to_owned();
        if let Some((ip, zone)) = host.split_once('%')
            && let Ok(ip) = ip.parse::<Ipv6Addr>()
        {
            let link = match zone.parse() {
                Ok(number) => number,
                Err(_) => link(zone)
                    .map_err(|_| ResolveError::Misbehaving(named()))?
                    .ok_or_else(|| ResolveError::NoSuchHost(named()))?,
            };
            return Ok(vec![SocketAddrV6::new(ip, port, 0, link).into()]);
        }
        let resolver = self.0.current();
        let Some(resolver) = &*resolver else { return Err(ResolveError::Misbehaving(named())) };
        let found = resolver.lookup_ip(host).await.map_err(|error| match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::ServFail => {
                ResolveError::Misbehaving(named())
            }
            NetError::Dns(DnsError::NoRecordsFound(_)) => ResolveError::NoSuchHost(named()),
            NetError::Timeout => ResolveError::Timeout(named()),
            _ => ResolveError::Misbehaving(named()),
        })?;
        let mut addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if addresses.len() > 1 {
            addresses.sort_by_key(|address| !has_route(*address));
        }
        if addresses.is_empty() { Err(ResolveError::NoSuchHost(named())) } else { Ok(addresses) }
    }
}

/// The number of the interface that a zone of RFC 4007 names, which any socket can be asked for.
fn link(zone: &str) -> std::io::Result<Option<u32>> {
    let any =
        UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(name_to_index(&any, zone).ok())
}

fn build() -> Resolver {
    let built = TokioResolver::builder_tokio().and_then(|mut builder| {
        builder.options_mut().cache_size = 0;
        builder.build()
    });
    built.inspect_err(|error| tracing::warn!(%error, "Cannot resolve names")).ok()
}

/// Whether the kernel knows a way there (RFC 6724, rule 1). Nothing is sent.
fn has_route(address: SocketAddr) -> bool {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(address)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_can_reach_has_a_route() {
        assert!(has_route("127.0.0.1:1".parse().unwrap()));
        // Link-local without a link: no way leads there (RFC 4007, 6).
        assert!(!has_route("[fe80::1]:1".parse().unwrap()));
    }

    #[tokio::test]
    async fn files_that_changed_are_read_anew() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let watching = |poll| Names::watching(vec![file.path().to_owned()], poll);
        let (names, later) = (watching(Duration::from_millis(5)), watching(Duration::from_secs(3600)));
        let (first, first_later) = (names.0.current(), later.0.current());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(Arc::ptr_eq(&first, &names.0.current()), "nothing changed");
        std::fs::write(file.path(), "changed").unwrap();
        let changed = async {
            while Arc::ptr_eq(&first, &names.0.current()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), changed).await.expect("changed");
        assert!(Arc::ptr_eq(&first_later, &later.0.current()), "not looked at yet");
        let next = names.0.current();
        assert_eq!(next.as_ref().as_ref().map(|next| next.options().cache_size).unwrap_or_default(), 0);
    }

    #[tokio::test]
    async fn names_of_the_hosts_file_and_addresses_resolve() {
        let names = Names::from_system();
        assert_eq!(names.addresses("::1", 7).await.unwrap(), ["[::1]:7".parse().unwrap()]);
        let lo = link("lo").unwrap().unwrap();
        let number = lo.to_string();
        for zone in ["lo", &number] {
            let zoned = names.addresses(&format!("fe80::1%{zone}"), 7).await.unwrap();
            let wanted = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, lo);
            assert_eq!(zoned, [SocketAddr::from(wanted)]);
        }
        let nowhere = names.addresses("fe80::1%no-such-link", 7).await;
        assert_eq!(nowhere, Err(ResolveError::NoSuchHost("fe80::1%no-such-link".into())));
        let local = names.addresses("localhost", 7).await.unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{local:?}");
    }
}
