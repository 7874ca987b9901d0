//! Names to addresses, asked anew each time; failures in Go's words.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::Name;
use rustix::net::netdevice::name_to_index;

use super::hosts::Hosts;
use super::order;
use super::reload::{POLL, Reloading};
use super::resolv_conf::ResolvConf;

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

/// Names of the hosts file are asked of nobody.
struct Resolver {
    hosts: Hosts,
    /// One to each server: asked in turn, as Go does, and the first that knows whether there is such a name has the last
    /// word. A pool of them would ask two at once and take what is wrong sooner.
    servers: Vec<TokioResolver>,
    rounds: usize,
}

/// Where the system says what names mean.
struct Files {
    hosts: PathBuf,
    resolv_conf: PathBuf,
}

impl Names {
    /// Must be called inside a tokio runtime.
    pub fn from_system() -> Names {
        let files = Files { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into() };
        Names::watching(files, POLL)
    }

    fn watching(files: Files, poll: Duration) -> Names {
        let watched = vec![files.hosts.clone(), files.resolv_conf.clone()];
        let load = move || Ok::<_, Infallible>(Resolver::load(&files));
        let Ok(resolver) = Reloading::start("names", watched, poll, load, |_| ());
        Names(Arc::new(resolver))
    }

    /// Asks this server and no other.
    #[cfg(test)]
    pub(crate) fn asking(server: SocketAddr) -> Names {
        Names::asking_in_turn(&[server])
    }

    #[cfg(test)]
    fn asking_in_turn(servers: &[SocketAddr]) -> Names {
        use hickory_resolver::config::ConnectionConfig;
        let at = |server: &SocketAddr| {
            let mut udp = ConnectionConfig::udp();
            udp.port = server.port();
            NameServerConfig::new(server.ip(), true, vec![udp])
        };
        let servers: Vec<_> = servers.iter().map(at).collect();
        let conf = ResolvConf::parse(b"nameserver 127.0.0.1\nsearch .");
        let build = move || Ok::<_, Infallible>(Resolver::of(Hosts::default(), &conf, servers.clone()));
        let Ok(resolver) = Reloading::start("names", Vec::new(), POLL, build, |_| ());
        Names(Arc::new(resolver))
    }

    /// The addresses of `host`, which may be one itself, in the order in which to dial them.
    ///
    /// # Errors
    /// No address.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        if let Some(address) = literal(host, port) {
            return Ok(vec![address?]);
        }
        let resolver = self.0.current();
        let mut addresses = match resolver.hosts.addresses(host) {
            Some(listed) => listed.iter().filter_map(|ip| literal(ip, port)?.ok()).collect(),
            None => resolver.ask(host, port).await?,
        };
        order::sort(&mut addresses);
        if addresses.is_empty() { Err(ResolveError::NoSuchHost(host.to_owned())) } else { Ok(addresses) }
    }
}

impl Resolver {
    fn load(files: &Files) -> Resolver {
        let hosts = Hosts::parse(&read(&files.hosts));
        let conf = ResolvConf::parse(&read(&files.resolv_conf));
        let at = if conf.tcp { NameServerConfig::tcp } else { NameServerConfig::udp_and_tcp };
        let servers = conf.servers.iter().copied().map(at).collect();
        Resolver::of(hosts, &conf, servers)
    }

    fn of(hosts: Hosts, conf: &ResolvConf, servers: Vec<NameServerConfig>) -> Resolver {
        let asks = |server| {
            let config = ResolverConfig::from_parts(None, conf.search.clone(), vec![server]);
            let mut builder = TokioResolver::builder_with_config(config, Default::default());
            let options = builder.options_mut();
            options.ndots = conf.dots;
            options.timeout = conf.timeout;
            // Of the same server once more; Go asks the next one first.
            options.attempts = 0;
            options.cache_size = 0;
            options.use_hosts_file = ResolveHosts::Never;
            builder.build().inspect_err(|error| tracing::warn!(%error, "Cannot ask for names")).ok()
        };
        Resolver { hosts, servers: servers.into_iter().filter_map(asks).collect(), rounds: conf.attempts }
    }

    async fn ask(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let named = || host.to_owned();
        // Underscores are no fault of a name here, as in Go.
        let name = Name::from_str_relaxed(host).map_err(|_| ResolveError::NoSuchHost(named()))?;
        let mut last = ResolveError::Misbehaving(named());
        for server in (0..self.rounds).flat_map(|_| &self.servers) {
            last = match server.lookup_ip(name.clone()).await {
                Ok(found) => return Ok(found.iter().map(|ip| SocketAddr::new(ip, port)).collect()),
                Err(NetError::Dns(DnsError::NoRecordsFound(_))) => {
                    return Err(ResolveError::NoSuchHost(named()));
                }
                Err(NetError::Timeout) => ResolveError::Timeout(named()),
                Err(_) => ResolveError::Misbehaving(named()),
            };
        }
        Err(last)
    }
}

/// A missing file says nothing, as an empty one.
fn read(file: &PathBuf) -> Vec<u8> {
    fs::read(file).unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(?file, %error, "Cannot read what names mean; taken as empty");
        }
        Vec::new()
    })
}

/// Of a host that is an address, perhaps with a zone.
fn literal(host: &str, port: u16) -> Option<Result<SocketAddr, ResolveError>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Some(Ok(SocketAddr::new(ip, port)));
    }
    let (ip, zone) = host.split_once('%')?;
    let ip = ip.parse::<Ipv6Addr>().ok()?;
    let link = match zone.parse() {
        Ok(number) => Ok(number),
        Err(_) => match link(zone) {
            Ok(Some(number)) => Ok(number),
            Ok(None) => Err(ResolveError::NoSuchHost(host.to_owned())),
            Err(_) => Err(ResolveError::Misbehaving(host.to_owned())),
        },
    };
    Some(link.map(|link| SocketAddrV6::new(ip, port, 0, link).into()))
}

/// The number of the interface that a zone of RFC 4007 names, which any socket can be asked for.
fn link(zone: &str) -> std::io::Result<Option<u32>> {
    let any =
        UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).or_else(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))?;
    Ok(name_to_index(&any, zone).ok())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Files with these texts; none where there is no text.
    fn files(dir: &tempfile::TempDir, texts: [Option<&str>; 2]) -> Files {
        let at = |name: &str| dir.path().join(name);
        for (name, text) in ["hosts", "resolv.conf"].iter().zip(texts) {
            text.iter().for_each(|text| fs::write(at(name), text).unwrap());
        }
        Files { hosts: at("hosts"), resolv_conf: at("resolv.conf") }
    }

    async fn resolved(texts: [Option<&str>; 2], host: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::watching(files(&dir, texts), POLL);
        let found = names.addresses(host, 7).await.unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn names_of_the_hosts_file_resolve_whatever_resolv_conf_says() {
        let hosts = Some("127.0.0.5 here.example\n");
        for conf in [None, Some(""), Some("nameserver x"), Some("nameserver 127.0.0.1\nsearch a..b")] {
            assert_eq!(resolved([hosts, conf], "here.example").await, "127.0.0.5:7", "{conf:?}");
        }
    }

    #[tokio::test]
    async fn a_name_has_what_the_hosts_file_says_and_no_more() {
        let conf = Some("nameserver 127.0.0.1");
        let hosts = Some("127.0.0.1 localhost\n127.0.0.9 LocalHost\nfe80::1%lo link\n");
        assert_eq!(resolved([hosts, conf], "localhost").await, "127.0.0.1:7 127.0.0.9:7");
        let lo = link("lo").unwrap().unwrap();
        assert_eq!(resolved([hosts, conf], "link").await, format!("[fe80::1%{lo}]:7"));
        // Where it says nothing of it (RFC 6761, 6.3).
        let local = resolved([None, conf], "localhost").await;
        assert!(local.contains("127.0.0.1:7"), "{local}");
    }

    /// Answers every question with this code, and with an address when it is 0; tells how many it was asked.
    async fn name_server(code: u8) -> (SocketAddr, Arc<AtomicUsize>) {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                count.fetch_add(1, Ordering::Relaxed);
                // Header and question (RFC 1035, 4.1); what else was said, as OPT, is left out.
                let name = buffer[12..len].iter().position(|byte| *byte == 0).unwrap();
                let question = 12 + name + 5;
                let is_a = buffer[question - 3] == 1;
                let mut answer = buffer[..question].to_vec();
                answer[2] |= 0x80;
                answer[3] = 0x80 | code;
                answer[6..12].copy_from_slice(&[0, u8::from(code == 0 && is_a), 0, 0, 0, 0]);
                if code == 0 && is_a {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        (address, asked)
    }

    #[tokio::test]
    async fn servers_are_asked_in_turn_until_one_knows() {
        // RFC 1035, 4.1.1.
        let [no_error, servfail, nxdomain, refused] = [0, 2, 3, 5];
        let no_such_host = || Err(ResolveError::NoSuchHost("a_b.example".into()));
        let found = || Ok(vec![SocketAddr::from(([192, 0, 2, 1], 7))]);
        for (codes, second_is_asked, expected) in [
            ([no_error, nxdomain], false, found()),
            ([nxdomain, no_error], false, no_such_host()),
            ([refused, no_error], true, found()),
            ([servfail, no_error], true, found()),
            ([servfail, nxdomain], true, no_such_host()),
            ([refused, servfail], true, Err(ResolveError::Misbehaving("a_b.example".into()))),
        ] {
            let ((first, _), (second, asked)) = (name_server(codes[0]).await, name_server(codes[1]).await);
            let names = Names::asking_in_turn(&[first, second]);
            assert_eq!(names.addresses("a_b.example", 7).await, expected, "{codes:?}");
            assert_eq!(asked.load(Ordering::Relaxed) > 0, second_is_asked, "{codes:?}");
        }
        let impossible = Names::asking_in_turn(&[]).addresses("a..b", 7).await;
        assert_eq!(impossible, Err(ResolveError::NoSuchHost("a..b".into())));
    }

    #[tokio::test]
    async fn files_that_changed_are_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let watching = |poll| Names::watching(files(&dir, [None, None]), poll);
        let (names, later) = (watching(Duration::from_millis(5)), watching(Duration::from_secs(3600)));
        let (first, first_later) = (names.0.current(), later.0.current());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(Arc::ptr_eq(&first, &names.0.current()), "nothing changed");
        files(&dir, [None, Some("nameserver 127.0.0.1")]);
        let changed = async {
            while Arc::ptr_eq(&first, &names.0.current()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), changed).await.expect("changed");
        assert!(Arc::ptr_eq(&first_later, &later.0.current()), "not looked at yet");
        let next = names.0.current();
        assert_eq!(next.servers[0].options().cache_size, 0);
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
