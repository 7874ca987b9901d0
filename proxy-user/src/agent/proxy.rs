//! `HTTPS_PROXY` and `NO_PROXY`, as Go's programs read them.

/// An HTTP proxy that connects us on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub host: String,
    pub port: u16,
    /// `user:password`
    credentials: Option<String>,
}

impl Proxy {
    /// The proxy that the environment names for a TLS connection to `host`, if any.
    pub fn for_host(host: &str, port: u16, env: impl Fn(&str) -> Option<String>) -> Option<Proxy> {
        let either =
            |upper: &str, lower: &str| env(upper).filter(|text| !text.is_empty()).or_else(|| env(lower));
        let named = either("HTTPS_PROXY", "https_proxy").filter(|text| !text.is_empty())?;
        let excepted = either("NO_PROXY", "no_proxy").unwrap_or_default();
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if local || excepted.split(',').any(|entry| excludes(entry.trim(), host, port)) {
            return None;
        }
        Proxy::parse(&named)
    }

    fn parse(text: &str) -> Option<Proxy> {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(credentials.to_owned()), address),
            None => (None, authority),
        };
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (address, 80),
        };
        Some(Proxy { host: host.to_owned(), port, credentials })
    }

    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(super) fn connect_head(&self, target: &str) -> String {
        let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: proxy-agent\r\n");
        if let Some(credentials) = &self.credentials {
            head += &format!("Proxy-Authorization: Basic {}\r\n", base64(credentials.as_bytes()));
        }
        head + "\r\n"
    }
}

/// One entry of NO_PROXY: `*`, a name with all below it, `.name` for only those below, an address, a range, each
/// with or without a port.
fn excludes(entry: &str, host: &str, port: u16) -> bool {
    let (entry, entry_port) = match entry.rsplit_once(':') {
        Some((name, text)) if !name.contains(':') => (name, text.parse::<u16>().ok()),
        _ => (entry, None),
    };
    if entry_port.is_some_and(|entry_port| entry_port != port) {
        return false;
    }
    match entry {
        "" => false,
        "*" => true,
        _ => match (entry.split_once('/'), host.parse::<std::net::IpAddr>()) {
            (Some((net, bits)), Ok(ip)) => in_range(net, bits, ip),
            (None, Ok(ip)) => entry.parse() == Ok(ip),
            (_, Err(_)) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                let entry = entry.to_ascii_lowercase();
                let below = entry.strip_prefix("*.").or(entry.strip_prefix('.'));
                match below {
                    Some(domain) => host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
                    None => {
                        host == entry || host.strip_suffix(&entry).is_some_and(|rest| rest.ends_with('.'))
                    }
                }
            }
        },
    }
}

fn in_range(net: &str, bits: &str, ip: std::net::IpAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    let Ok(bits) = bits.parse::<u32>() else { return false };
    match (net.parse(), ip) {
        (Ok(V4(net)), V4(ip)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            net.to_bits() & mask == ip.to_bits() & mask
        }
        (Ok(V6(net)), V6(ip)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            net.to_bits() & mask == ip.to_bits() & mask
        }
        _ => false,
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let symbol = ALPHABET[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { symbol as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env<'a>(https: &'a str, no: &'a str) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| match name {
            "HTTPS_PROXY" => Some(https.to_owned()),
            "no_proxy" => Some(no.to_owned()),
            _ => None,
        }
    }

    #[test]
    fn the_environment_names_a_proxy() {
        let proxy = Proxy::for_host("k8s.example", 8132, env("http://u:p@proxy.example:3128/", "")).unwrap();
        assert_eq!(proxy.address(), "proxy.example:3128");
        let head = proxy.connect_head("k8s.example:8132");
        assert!(head.contains("Proxy-Authorization: Basic dTpw\r\n"), "{head}");
        assert_eq!(Proxy::for_host("127.0.0.1", 8132, env("http://proxy:3128", "")), None);
        assert_eq!(Proxy::for_host("a", 1, env("", "")), None);
    }

    #[test]
    fn exceptions_are_names_below_names_addresses_and_ranges() {
        let excluded =
            |no: &str, host: &str| Proxy::for_host(host, 8132, env("http://proxy:3128", no)).is_none();
        assert!(excluded("*", "a"));
        assert!(excluded("b, k8s.example", "api.k8s.example"));
        assert!(excluded(".k8s.example", "api.k8s.example"));
        assert!(!excluded(".k8s.example", "k8s.example"));
        assert!(!excluded("8s.example", "k8s.example"));
        assert!(excluded("10.0.0.0/8", "10.1.2.3"));
        assert!(!excluded("10.0.0.0/8", "11.1.2.3"));
        assert!(excluded("k8s.example:8132", "k8s.example"));
        assert!(!excluded("k8s.example:443", "k8s.example"));
        assert!(excluded("fd00::/16", "fd00::1"));
    }

    #[test]
    fn base64_is_padded() {
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(base64(b"abc"), "YWJj");
    }
}
