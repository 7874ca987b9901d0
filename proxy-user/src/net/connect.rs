//! TCP connections to a proxy-server: DNS at each attempt, by a proxy where the environment names one.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::dial;
use super::lookup::{self, Lookup, spread};

/// The head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no address for {host:?}: {source}; see whether the name is right and this node's DNS knows it")]
    Lookup { host: String, source: io::Error },
    #[error("could not connect to {address}: {source}; {}", next_step(source))]
    Connect { address: SocketAddr, source: io::Error },
    #[error("no connection to {0} within {1:?}; {SILENT}")]
    Timeout(String, Duration),
    #[error(
        "could not reach the proxy {proxy}, which HTTPS_PROXY names: {source}; see that it runs there, or name the host in \
         NO_PROXY if it can be reached without the proxy"
    )]
    NoProxy { proxy: String, source: io::Error },
    #[error(
        "the proxy {proxy} refused the way to {target}: {answer:?}; let it pass, or name the host in NO_PROXY if it \
         can be reached without the proxy"
    )]
    Refused { proxy: String, target: String, answer: String },
    #[error(
        "the proxy {proxy} answered with more than {MAX_HEAD} bytes of head, too long to be a proxy's; see what \
         HTTPS_PROXY names"
    )]
    HeadTooLong { proxy: String },
    #[error("the proxy {proxy} ended the connection: {source}; see its log, and what HTTPS_PROXY names")]
    Proxy { proxy: String, source: io::Error },
}

const SILENT: &str = "nothing answers there: see the route, and what filters packets on the way";

fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "nothing listens there: see that a server runs, and that host and port are those it has for agents"
        }
        io::ErrorKind::TimedOut => SILENT,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "no way leads there: see this node's routes (`ip route get` tells)"
        }
        _ => "see that host and port are those that a server has for agents",
    }
}

/// A proxy named in the environment that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("HTTPS_PROXY is {0:?}, which is no http:// address")]
pub struct ProxyError(String);

/// The way to one host and port. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector {
    host: String,
    port: u16,
    proxy: Option<Proxy>,
    lookup: Lookup,
}

#[derive(Clone)]
struct Proxy {
    host: String,
    port: u16,
    /// Base64 of `user:password`.
    credentials: Option<String>,
}

impl Connector {
    /// By HTTPS_PROXY and NO_PROXY (or in lower case), with the meaning that Go gives them.
    ///
    /// # Errors
    /// A proxy that cannot be used.
    pub fn from_env(host: &str, port: u16) -> Result<Connector, ProxyError> {
        let proxy = proxy_for(host, port, ["HTTPS_PROXY", "https_proxy"], |name| std::env::var(name).ok());
        Connector::by(host, port, proxy.as_deref())
    }

    /// As if the environment named this proxy, and no exemption.
    ///
    /// # Errors
    /// A proxy that cannot be used.
    pub fn by(host: &str, port: u16, proxy: Option<&str>) -> Result<Connector, ProxyError> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let proxy = match proxy {
            Some(proxy) if !is_exempt(&host, port, "") => Some(Proxy::parse(proxy)?),
            _ => None,
        };
        Ok(Connector { host, port, proxy, lookup: lookup::system })
    }

    /// A new connection, with [`super::sockopt::tune`] applied.
    ///
    /// # Errors
    /// The last address' failure, or the proxy's.
    pub async fn connect(&self, within: Duration) -> Result<TcpStream, ConnectError> {
        let connected = timeout(within, self.connect_in_time(within)).await;
        connected.unwrap_or_else(|_| Err(ConnectError::Timeout(self.to_string(), within)))
    }

    async fn connect_in_time(&self, within: Duration) -> Result<TcpStream, ConnectError> {
        let Some(proxy) = &self.proxy else {
            return connect(self.lookup, &self.host, self.port, within).await;
        };
        let socket = connect(self.lookup, &proxy.host, proxy.port, within).await;
        let socket = socket.map_err(|error| match error {
            ConnectError::Lookup { source, .. } | ConnectError::Connect { source, .. } => {
                ConnectError::NoProxy { proxy: proxy.to_string(), source }
            }
            other => other,
        });
        self.ask(proxy, socket?).await
    }

    async fn ask(&self, proxy: &Proxy, mut socket: TcpStream) -> Result<TcpStream, ConnectError> {
        let failed = |source| ConnectError::Proxy { proxy: proxy.to_string(), source };
        let mut head = format!("CONNECT {self} HTTP/1.1\r\nHost: {self}\r\nUser-Agent: proxy-agent\r\n");
        if let Some(credentials) = &proxy.credentials {
            head += &format!("Proxy-Authorization: Basic {credentials}\r\n");
        }
        head += "\r\n";
        socket.write_all(head.as_bytes()).await.map_err(failed)?;
        // Byte by byte: what follows the head is the server's.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() == MAX_HEAD {
                return Err(ConnectError::HeadTooLong { proxy: proxy.to_string() });
            }
            answer.push(socket.read_u8().await.map_err(failed)?);
        }
        let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        match line.split(' ').nth(1) {
            Some("200") if line.starts_with("HTTP/1.") => Ok(socket),
            _ => Err(ConnectError::Refused {
                proxy: proxy.to_string(),
                target: self.to_string(),
                answer: line,
            }),
        }
    }
}

/// `host:port`
impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Never the credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

async fn connect(lookup: Lookup, host: &str, port: u16, within: Duration) -> Result<TcpStream, ConnectError> {
    let unknown = |source| ConnectError::Lookup { host: host.to_owned(), source };
    let mut addresses = lookup(host, port).await.map_err(unknown)?;
    spread(&mut addresses);
    // One address that swallows packets must leave time for the others.
    let share = within / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut last = unknown(io::Error::from(io::ErrorKind::NotFound));
    for address in addresses {
        let connected = timeout(share, dial::one(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(socket) => return Ok(socket),
            Err(source) => last = ConnectError::Connect { address, source },
        }
    }
    Err(last)
}

impl Proxy {
    fn parse(text: &str) -> Result<Proxy, ProxyError> {
        let refuse = || ProxyError(text.rsplit('@').next().unwrap_or_default().to_owned());
        let bare = match text.split_once("://") {
            // grpc-go asks every proxy in clear, whatever its URL says.
            Some(("http" | "https", rest)) => rest,
            Some(_) => return Err(refuse()),
            None => text,
        };
        let authority = bare.split('/').next().unwrap_or_default();
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(base64(unescape(credentials).as_bytes())), address),
            None => (None, authority),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') && !port.contains(']') => {
                (host, port.parse().map_err(|_| refuse())?)
            }
            _ => (address, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() { Err(refuse()) } else { Ok(Proxy { host, port, credentials }) }
    }
}

/// What the first of `names` that is set says, unless NO_PROXY (or in lower case) exempts the host. `variable` looks
/// into the environment.
pub(crate) fn proxy_for(
    host: &str,
    port: u16,
    names: [&str; 2],
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let first = |names: [&str; 2]| {
        names.into_iter().find_map(|name| variable(name).filter(|value| !value.is_empty()))
    };
    let exempt = first(["NO_PROXY", "no_proxy"]).unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    first(names).filter(|_| !is_exempt(host, port, &exempt))
}

/// Whether NO_PROXY exempts the host: `*`, an address, a network, a name with its subdomains, `.name` for the
/// subdomains only, each with a port or without. This machine is always exempt.
fn is_exempt(host: &str, port: u16, exempt: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    exempt.split(',').map(|rule| rule.trim().to_ascii_lowercase()).filter(|rule| !rule.is_empty()).any(
        |rule| {
            if rule == "*" {
                return true;
            }
            if let Some((network, bits)) = rule.split_once('/') {
                return match (address, network.parse(), bits.parse()) {
                    (Some(address), Ok(network), Ok(bits)) => contains(network, bits, address),
                    _ => false,
                };
            }
            let (rule, wanted) = match rule.rsplit_once(':') {
                Some((rule, wanted)) if !rule.contains(':') || rule.ends_with(']') => {
                    match wanted.parse::<u16>() {
                        Ok(wanted) => (rule.to_owned(), Some(wanted)),
                        Err(_) => (rule.to_owned() + ":" + wanted, None),
                    }
                }
                _ => (rule, None),
            };
            if wanted.is_some_and(|wanted| wanted != port) {
                return false;
            }
            let rule = rule.trim_start_matches('[').trim_end_matches(']');
            if let (Some(address), Ok(exempt)) = (address, rule.parse::<IpAddr>()) {
                return address == exempt;
            }
            let rule = rule.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(rule);
            match rule.strip_prefix('.') {
                Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
                None => host == rule || host.strip_suffix(rule).is_some_and(|rest| rest.ends_with('.')),
            }
        },
    )
}

fn contains(network: IpAddr, bits: u32, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// Percent escapes of a URL's user part.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| tail.get(..2)).flatten();
        let escaped = escaped.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
