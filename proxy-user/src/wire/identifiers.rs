//! `--agent-identifiers`: what an agent says it can reach, as a URL query.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses and names under which an agent wants to be picked. Values are opaque text, never checked as
/// addresses: manifests rely on literals such as `ipv4=${HOST_IP}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identifiers {
    raw: String,
    pub ipv4: Vec<String>,
    pub ipv6: Vec<String>,
    pub host: Vec<String>,
    pub cidr: Vec<String>,
    pub default_route: bool,
    /// Keys that no version knows; the agent's own flag check refuses them, a server ignores them.
    pub unknown: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifiersError {
    #[error("invalid semicolon separator in query")]
    Semicolon,
    #[error("invalid URL escape {0:?}")]
    Escape(String),
}

impl Identifiers {
    /// # Errors
    /// What Go's `url.ParseQuery` refuses.
    pub fn parse(raw: &str) -> Result<Identifiers, IdentifiersError> {
        let mut identifiers = Identifiers { raw: raw.to_owned(), ..Default::default() };
        let mut default_route = None;
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            if pair.contains(';') {
                return Err(IdentifiersError::Semicolon);
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (unescape(key)?, unescape(value)?);
            match &*key {
                "ipv4" => identifiers.ipv4.push(value),
                "ipv6" => identifiers.ipv6.push(value),
                "host" => identifiers.host.push(value),
                "cidr" => identifiers.cidr.push(value),
                "default-route" => {
                    default_route
                        .get_or_insert(matches!(&*value, "1" | "t" | "T" | "TRUE" | "true" | "True"));
                }
                _ => identifiers.unknown.push(key),
            }
        }
        identifiers.default_route = default_route.unwrap_or(false);
        Ok(identifiers)
    }

    /// The text as it was given, which is what travels.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// Values that are no address of the kind they are given as, each as `key=value`: no dial names them. Manifests
    /// whose variables nobody filled in have such, and they are no mistake.
    pub fn strange(&self) -> Vec<String> {
        let v4 = self.ipv4.iter().filter(|text| text.parse::<Ipv4Addr>().is_err()).map(|text| ("ipv4", text));
        let v6 = self.ipv6.iter().filter(|text| text.parse::<Ipv6Addr>().is_err()).map(|text| ("ipv6", text));
        v4.chain(v6).map(|(key, value)| format!("{key}={value}")).collect()
    }

    /// Every text that `destHost` compares a dial's host with.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        [&self.ipv4, &self.ipv6, &self.host].into_iter().flatten().map(String::as_str)
    }

    /// Those hosts that are addresses; IPv4 as such, however it was written.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.hosts().filter_map(|text| text.parse::<IpAddr>().ok()).map(|address| address.to_canonical())
    }
}

/// Go's `url.QueryUnescape`, for text.
fn unescape(text: &str) -> Result<String, IdentifiersError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = tail.get(..2).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
                let byte = hex.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
                let escape =
                    || String::from_utf8_lossy(&[b"%", tail.get(..2).unwrap_or(tail)].concat()).into_owned();
                bytes.push(byte.ok_or_else(|| IdentifiersError::Escape(escape()))?);
                rest = &tail[2..];
            }
            other => bytes.push(*other),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_repeat_and_values_are_unescaped() {
        let parsed =
            Identifiers::parse("ipv4=1.2.3.4&ipv4=5.6.7.8&host=a%2Fb+c&ipv6=:::::&default-route=T&x=1&&host")
                .unwrap();
        assert_eq!(parsed.ipv4, ["1.2.3.4", "5.6.7.8"]);
        assert_eq!(parsed.host, ["a/b c", ""]);
        assert_eq!(parsed.ipv6, [":::::"]);
        assert!(parsed.default_route);
        assert_eq!(parsed.unknown, ["x"]);
        assert_eq!(parsed.strange(), ["ipv6=:::::"]);
        let odd = Identifiers::parse("ipv4=abc&ipv4=1.2.3.4&ipv6=fd00::1&host=abc&ipv4=${HOST_IP}").unwrap();
        assert_eq!(odd.strange(), ["ipv4=abc", "ipv4=${HOST_IP}"]);
    }

    #[test]
    fn only_the_first_default_route_counts() {
        assert!(!Identifiers::parse("default-route=no&default-route=true").unwrap().default_route);
    }

    #[test]
    fn what_go_refuses_is_refused() {
        assert_eq!(Identifiers::parse("a=1;b=2"), Err(IdentifiersError::Semicolon));
        assert_eq!(Identifiers::parse("a=%zz"), Err(IdentifiersError::Escape("%zz".into())));
        assert_eq!(Identifiers::parse("a=%4"), Err(IdentifiersError::Escape("%4".into())));
    }

    #[test]
    fn a_sign_is_no_hex_digit() {
        assert!(Identifiers::parse("a=%+4").is_err());
    }
}
