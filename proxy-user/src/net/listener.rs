//! Listening TCP sockets and what comes out of them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use super::room::remedy;
use super::seldom::Seldom;
use super::sockopt;
use super::tls::TlsInfo;

/// Connections that may wait for `accept`; the kernel cuts it down to net.core.somaxconn.
pub(super) const BACKLOG: i32 = 4096;
/// A listener that ran out of descriptors tries again after this long.
pub(super) const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("failed to listen on {address}: {source}; {}", next_step(.source))]
    Bind { address: String, source: io::Error },
    #[error(
        "failed to listen on {address}: neither an IP address nor a name that has one: {source}; name an address \
         of this machine, without a port"
    )]
    Address { address: String, source: io::Error },
    #[error("failed to listen on {path:?}: {source}")]
    Unix { path: PathBuf, source: io::Error },
    #[error(
        "failed to listen on {path:?}: something is there already; remove it or set --delete-existing-uds-file"
    )]
    Exists { path: PathBuf },
    #[error(
        "failed to listen on {path:?}: something is there that is not a socket; remove it if it is not needed"
    )]
    NotASocket { path: PathBuf },
    #[error(
        "failed to listen on {path:?}: the path is longer than the {limit} bytes that a Unix socket may have"
    )]
    TooLong { path: PathBuf, limit: usize },
}

fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "is another process using it?",
        io::ErrorKind::AddrNotAvailable => {
            "the address belongs to no interface here, name one that does (`ip addr` lists them)"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE or a lower net.ipv4.ip_unprivileged_port_start"
        }
        _ => "name another address or port",
    }
}

/// Our end's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    Tcp(SocketAddr),
    Unix(Arc<std::path::Path>),
}

/// The peer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    Tcp(SocketAddr),
    /// A process on this machine, by the credentials it had when it connected.
    Unix {
        pid: Option<i32>,
        uid: Option<u32>,
    },
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Local::Tcp(address) => write!(f, "{address}"),
            Local::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::Tcp(address) => write!(f, "{address}"),
            Remote::Unix { pid: Some(pid), .. } => write!(f, "pid {pid}"),
            Remote::Unix { .. } => f.write_str("a local process"),
        }
    }
}

/// A connection, and what is known of its peer. `stream` is the bare socket until a handshake wrapped it.
#[derive(Debug)]
pub struct Accepted<S> {
    pub stream: S,
    pub local: Local,
    pub remote: Remote,
    /// `None` before a handshake and on sockets without TLS.
    pub tls: Option<TlsInfo>,
}

impl<S> Accepted<S> {
    /// The same connection over something that wraps its socket.
    pub fn map<T>(self, wrap: impl FnOnce(S) -> T) -> Accepted<T> {
        Accepted { stream: wrap(self.stream), local: self.local, remote: self.remote, tls: self.tls }
    }
}

/// A bound TCP listener.
#[derive(Debug)]
pub struct TcpListener {
    inner: tokio::net::TcpListener,
    local: SocketAddr,
}

impl TcpListener {
    /// Binds `host:port`. An empty `host` is every address of the machine, IPv6 and IPv4; port 0 lets the
    /// kernel choose. A name is looked up now, and its lookup waited for. Must be called inside a tokio runtime.
    pub fn bind(host: &str, port: u16) -> Result<TcpListener, ListenError> {
        let address = format!("{host}:{port}");
        let bound = match host {
            "" => bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
                .or_else(|_| bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))),
            "localhost" => bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)),
            other => match unbracketed(other).parse::<IpAddr>() {
                Ok(ip) => bind(SocketAddr::new(ip, port)),
                Err(_) => match look_up(other, port) {
                    Ok(named) => bind(named),
                    Err(source) => return Err(ListenError::Address { address, source }),
                },
            },
        };
        let refuse = |source| ListenError::Bind { address: address.clone(), source };
        let inner = bound.map_err(refuse)?;
        let local = inner.local_addr().map_err(refuse)?;
        Ok(TcpListener { inner, local })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next connection, with [`sockopt::tune`] applied. Waits out whatever makes accepting fail.
    pub async fn accept(&self) -> Accepted<TcpStream> {
        loop {
            match self.inner.accept().await {
                Ok((stream, remote)) => {
                    let local = stream.local_addr().unwrap_or(self.local);
                    return Accepted {
                        stream,
                        local: Local::Tcp(local),
                        remote: Remote::Tcp(remote),
                        tls: None,
                    };
                }
                Err(error) => wait_out(&self.local, &error).await,
            }
        }
    }
}

/// The host without the brackets of an IPv6 address, if it has both.
pub(crate) fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(host)
}

/// One address of a name: of IPv4 where it has one, as in Go.
fn look_up(name: &str, port: u16) -> io::Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = (name, port).to_socket_addrs()?.collect();
    let four = addresses.iter().find(|address| address.is_ipv4());
    four.or(addresses.first()).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn bind(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    sockopt::tune(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    tokio::net::TcpListener::from_std(socket.into())
}

/// After a failed accept: at once for a connection that went away, after a pause when descriptors or memory ran
/// out, so that the loop does not spin while the backlog stays readable.
pub(super) async fn wait_out(what: &(impl fmt::Display + ?Sized), error: &io::Error) {
    /// A listener tries twenty times a second.
    static SAID: Seldom = Seldom::new(Duration::from_secs(10));
    if let Some(next) = remedy(error) {
        if SAID.take(Instant::now()) {
            tracing::warn!(listener = %what, %error, next, "cannot accept for now");
        }
        tokio::time::sleep(EXHAUSTED_PAUSE).await;
    } else {
        tracing::debug!(listener = %what, %error, "a connection went away before it was accepted");
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_address_means_both_families() {
        let listener = TcpListener::bind("", 0).unwrap();
        let port = listener.local_addr().port();
        let client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let accepted = listener.accept().await;
        let Remote::Tcp(remote) = accepted.remote else { panic!("{:?}", accepted.remote) };
        assert_eq!(remote.port(), client.local_addr().unwrap().port());
        assert!(accepted.stream.nodelay().unwrap());
        let accepted = socket2::SockRef::from(&accepted.stream);
        assert!(accepted.keepalive().unwrap() && accepted.out_of_band_inline().unwrap());
    }

    #[tokio::test]
    async fn a_taken_port_and_a_name_without_address_are_refused_with_what_was_asked() {
        let first = TcpListener::bind("127.0.0.1", 0).unwrap();
        let port = first.local_addr().port();
        let error = TcpListener::bind("127.0.0.1", port).unwrap_err();
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(error.to_string().ends_with("is another process using it?"), "{error}");
        // Too long a label: no resolver is asked.
        let nowhere = format!("{}.example", "a".repeat(64));
        let error = TcpListener::bind(&nowhere, 0).unwrap_err();
        assert!(matches!(error, ListenError::Address { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{nowhere}:0: neither an IP address nor")), "{error}");
    }

    #[tokio::test]
    async fn an_address_of_elsewhere_is_called_that() {
        // Documentation's (RFC 5737).
        let error = TcpListener::bind("192.0.2.1", 0).unwrap_err();
        assert!(error.to_string().contains("belongs to no interface here"), "{error}");
        assert!(!error.to_string().contains("another process"), "{error}");
    }

    #[tokio::test]
    async fn a_name_is_listened_on_by_its_ipv4_address() {
        // The resolver's, since we know it in lower case only.
        let listener = TcpListener::bind("LocalHost", 0).unwrap();
        assert_eq!(listener.local_addr().ip(), Ipv4Addr::LOCALHOST);
    }
}
