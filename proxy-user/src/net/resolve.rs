//! Names to addresses, asked anew each time; failures in Go's words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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

/// The system's resolver, by its files as they are now. Nothing is cached, as in Go: a name that has just got its
/// address is found. Cheap to clone.
#[derive(Clone)]
pub struct Names(Arc<Mutex<System>>);

struct System {
    /// None without a usable resolv.conf: only addresses resolve.
    resolver: Option<Arc<TokioResolver>>,
    /// When its files were changed last.
    of: [Option<SystemTime>; FILES.len()],
    looked: Instant,
}

const FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// How often the files are looked at, as in Go.
const LOOK: Duration = Duration::from_secs(5);

impl System {
    fn read() -> System {
        // Before they are read: a change meanwhile is seen at the next look.
        let of = changed();
        let built = TokioResolver::builder_tokio().and_then(|mut builder| {
            builder.options_mut().cache_size = 0;
            builder.build()
        });
        let resolver = built.inspect_err(|error| tracing::warn!(%error, "Cannot resolve names"));
        System { resolver: resolver.ok().map(Arc::new), of, looked: Instant::now() }
    }
}

fn changed() -> [Option<SystemTime>; FILES.len()] {
    FILES.map(|file| std::fs::metadata(file).and_then(|meta| meta.modified()).ok())
}

impl Names {
    pub fn from_system() -> Names {
        Names(Arc::new(Mutex::new(System::read())))
    }

    fn resolver(&self) -> Option<Arc<TokioResolver>> {
        let mut system = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if system.looked.elapsed() >= LOOK {
            if system.of != changed() {
                *system = System::read();
            }
            system.looked = Instant::now();
        }
        system.resolver.clone()
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
        let Some(resolver) = self.resolver() else { return Err(ResolveError::Misbehaving(named())) };
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
        let names = Names::from_system();
        let first = names.resolver();
        let same = |one: &Option<Arc<TokioResolver>>, other: &Option<Arc<TokioResolver>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        let past = |names: &Names| {
            let mut system = names.0.lock().unwrap();
            system.looked = Instant::now() - LOOK;
        };
        past(&names);
        assert!(same(&first, &names.resolver()), "nothing changed");
        names.0.lock().unwrap().of = [Some(SystemTime::UNIX_EPOCH); 2];
        assert!(same(&first, &names.resolver()), "not looked at yet");
        past(&names);
        let next = names.resolver();
        assert!(first.is_none() || !same(&first, &next), "changed");
        assert_eq!(next.map(|next| next.options().cache_size).unwrap_or_default(), 0);
    }

    #[tokio::test]
    async fn names_of_the_hosts_file_and_addresses_resolve() {
        let names = Names::from_system();
        assert_eq!(names.addresses("::1", 7).await.unwrap(), ["[::1]:7".parse().unwrap()]);
        let local = names.addresses("localhost", 7).await.unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{local:?}");
    }
}
