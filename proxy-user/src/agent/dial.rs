//! Dials to targets, with failures in the words of upstream's agent.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::flow::{DialError, DialReason, FlowTable};
use crate::net::dial::connect;
use crate::net::resolve::{Names, ResolveError};
use crate::net::room::{Of, tell_no_descriptor, tell_no_room};
use crate::ops::metrics::AgentMetrics;

/// A target that has not answered by then has failed, name resolution included.
const LIMIT: Duration = Duration::from_secs(5);

/// Dials targets; cheap to clone.
#[derive(Clone)]
pub struct Targets {
    pub names: Names,
    pub metrics: AgentMetrics,
    pub table: FlowTable,
    /// Dials beyond this are refused, so that established flows never run out of descriptors.
    pub most_flows: u64,
}

impl Targets {
    /// Connects to `address` (`host:port`) by `tcp`, `tcp4` or `tcp6`; nothing else is dialled, whoever asks.
    ///
    /// Whoever asks holds the [`Busy`](crate::flow::Busy) that counts the dial.
    ///
    /// # Errors
    /// Counted already.
    pub async fn dial(&self, protocol: &str, address: &str) -> Result<TcpStream, DialError> {
        let began = Instant::now();
        if self.table.under_way() > self.most_flows {
            self.metrics.dial_failed(false);
            tell_no_room(Of::Flows, self.most_flows);
            let text = format!("dial {protocol} {address}: socket: too many open files");
            return Err(DialError::new(DialReason::Exhausted, text));
        }
        let dialled = self.attempt(protocol, address, Instant::now() + LIMIT).await;
        match &dialled {
            Ok(_) => self.metrics.dial_succeeded(began.elapsed()),
            Err(error) => {
                let timeout = matches!(error.reason, DialReason::Timeout | DialReason::ConnectTimedOut);
                self.metrics.dial_failed(timeout);
            }
        }
        dialled
    }

    async fn attempt(
        &self,
        protocol: &str,
        address: &str,
        deadline: Instant,
    ) -> Result<TcpStream, DialError> {
        let wanted = match protocol {
            "tcp" => None,
            "tcp4" => Some(false),
            "tcp6" => Some(true),
            "" => return Err(DialError::new(DialReason::BadAddress, "dial: unknown network ")),
            _ => {
                let text = format!("dial {protocol}: unknown network {protocol}");
                return Err(DialError::new(DialReason::BadAddress, text));
            }
        };
        let bad = |text: String| DialError::new(DialReason::BadAddress, format!("dial {protocol}: {text}"));
        let (named, port) = split(address).map_err(bad)?;
        let host = if named.is_empty() { "127.0.0.1" } else { named };
        let mut addresses = timeout_at(deadline, self.names.addresses(host, port))
            .await
            .unwrap_or_else(|_| Err(ResolveError::Timeout(host.to_owned())))
            .map_err(|error| unresolved(protocol, &error))?;
        addresses.retain(|address| wanted.is_none_or(|six| address.is_ipv6() == six));
        match connect(addresses, deadline).await {
            Ok(Some(stream)) => Ok(stream),
            Ok(None) => Err(bad(format!("address {host}: no suitable address found"))),
            Err(refused) if named.is_empty() => Err(failed(protocol, &format!(":{port}"), &refused.source)),
            Err(refused) => Err(failed(protocol, &refused.address.to_string(), &refused.source)),
        }
    }
}

/// Go's `net.SplitHostPort`, with its errors.
fn split(address: &str) -> Result<(&str, u16), String> {
    let wrong = |why: &str| format!("address {address}: {why}");
    if address.is_empty() {
        return Err("missing address".to_owned());
    }
    let colon = address.rfind(':').ok_or_else(|| wrong("missing port in address"))?;
    let host = match address.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            None => return Err(wrong("missing ']' in address")),
            Some((host, _)) if host.len() + 2 == colon => host,
            Some((_, more)) if more.starts_with(':') => return Err(wrong("too many colons in address")),
            Some(_) => return Err(wrong("missing port in address")),
        },
        None if address[..colon].contains(':') => return Err(wrong("too many colons in address")),
        None => &address[..colon],
    };
    let port = &address[colon + 1..];
    for bracket in ['[', ']'] {
        if host.contains(bracket) || port.contains(bracket) {
            return Err(wrong(&format!("unexpected '{bracket}' in address")));
        }
    }
    let named =
        || SERVICES.iter().find(|(name, _)| name.eq_ignore_ascii_case(port)).map(|(_, number)| *number);
    // As Go, which takes no port for port 0.
    let port = if port.is_empty() { "0" } else { port };
    match port.parse::<u16>().ok().or_else(named) {
        Some(port) => Ok((host, port)),
        None if port.trim_start_matches(['-', '+']).bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("address {port}: invalid port"))
        }
        None => Err(format!("lookup tcp/{port}: unknown port")),
    }
}

/// The names for ports that Go knows without /etc/services.
const SERVICES: [(&str, u16); 15] = [
    ("domain", 53),
    ("ftp", 21),
    ("ftps", 990),
    ("gopher", 70),
    ("http", 80),
    ("https", 443),
    ("imap2", 143),
    ("imap3", 220),
    ("imaps", 993),
    ("pop3", 110),
    ("pop3s", 995),
    ("smtp", 25),
    ("submissions", 465),
    ("ssh", 22),
    ("telnet", 23),
];

fn unresolved(protocol: &str, error: &ResolveError) -> DialError {
    let reason = match error {
        ResolveError::NoSuchHost(_) => DialReason::NoSuchHost,
        ResolveError::Timeout(_) => DialReason::Timeout,
        ResolveError::Misbehaving(_) => DialReason::DnsFailure,
    };
    DialError::new(reason, format!("dial {protocol}: {error}"))
}

fn failed(protocol: &str, address: &str, source: &io::Error) -> DialError {
    let (reason, words) = match source.raw_os_error() {
        Some(libc::ECONNREFUSED) => (DialReason::Refused, "connect: connection refused".to_owned()),
        Some(libc::EHOSTUNREACH) => (DialReason::NoRoute, "connect: no route to host".to_owned()),
        Some(libc::ENETUNREACH) => {
            (DialReason::NetworkUnreachable, "connect: network is unreachable".to_owned())
        }
        Some(libc::ECONNRESET) => (DialReason::Reset, "connect: connection reset by peer".to_owned()),
        Some(libc::ETIMEDOUT) => (DialReason::ConnectTimedOut, "connect: connection timed out".to_owned()),
        Some(libc::EMFILE | libc::ENFILE) => {
            tell_no_descriptor(source);
            (DialReason::Exhausted, "socket: too many open files".to_owned())
        }
        Some(libc::EADDRNOTAVAIL) => {
            (DialReason::NoLocalAddress, "connect: cannot assign requested address".to_owned())
        }
        Some(errno) => (DialReason::Other, format!("connect: {}", as_go_says(errno, source))),
        None if source.kind() == io::ErrorKind::TimedOut => (DialReason::Timeout, "i/o timeout".to_owned()),
        None => (DialReason::Other, source.to_string()),
    };
    DialError::new(reason, format!("dial {protocol} {address}: {words}"))
}

/// The C library's words, which Go has without the capital.
fn as_go_says(errno: i32, source: &io::Error) -> String {
    let text = source.to_string();
    let text = text.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&text);
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::wire::connect;

    #[test]
    fn addresses_are_split_as_go_splits_them() {
        assert_eq!(split("10.0.0.1:80"), Ok(("10.0.0.1", 80)));
        assert_eq!(split("[fd00::1]:80"), Ok(("fd00::1", 80)));
        assert_eq!(split(":80"), Ok(("", 80)));
        assert_eq!(split("[]:80"), Ok(("", 80)));
        assert_eq!(split("a:+80"), Ok(("a", 80)));
        assert_eq!(split("a:http"), Ok(("a", 80)));
        assert_eq!(split("[fe80::1%lo]:HTTPS"), Ok(("fe80::1%lo", 443)));
        assert_eq!(split("a:"), Ok(("a", 0)));
    }

    /// Whoever asks counts, and no dial twice: half of the room would be all.
    #[tokio::test]
    async fn as_many_dials_are_under_way_as_there_is_room_for() {
        let table = FlowTable::new();
        let metrics = AgentMetrics::new(&table).unwrap();
        let targets = Targets { names: Names::from_system(), metrics, table: table.clone(), most_flows: 2 };
        let none = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut asking = Vec::new();
        for reason in [DialReason::Refused, DialReason::Refused, DialReason::Exhausted] {
            asking.push(table.busy());
            let error = targets.dial("tcp", &none.to_string()).await.unwrap_err();
            assert_eq!(error.reason, reason, "{} ask", asking.len());
        }
    }

    /// What `net.DialTimeout` of Go 1.26 said to each.
    #[tokio::test]
    async fn what_cannot_be_dialled_is_refused_in_gos_words() {
        let table = FlowTable::new();
        let metrics = AgentMetrics::new(&table).unwrap();
        let targets = Targets { names: Names::from_system(), metrics, table, most_flows: 10 };
        let none = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let here = |host: &str| format!("{host}:{none}");
        for (protocol, address, words) in [
            ("tcp", String::new(), "dial tcp: missing address".to_owned()),
            ("tcp", "a".into(), "dial tcp: address a: missing port in address".into()),
            ("tcp", "[::1".into(), "dial tcp: address [::1: missing ']' in address".into()),
            ("tcp", "[::1]".into(), "dial tcp: address [::1]: missing port in address".into()),
            ("tcp", "[::1]x:80".into(), "dial tcp: address [::1]x:80: missing port in address".into()),
            ("tcp", "[::1]:x:80".into(), "dial tcp: address [::1]:x:80: too many colons in address".into()),
            ("tcp", "a[b:80".into(), "dial tcp: address a[b:80: unexpected '[' in address".into()),
            ("tcp", "a]b:80".into(), "dial tcp: address a]b:80: unexpected ']' in address".into()),
            ("tcp", "[a[b]:80".into(), "dial tcp: address [a[b]:80: unexpected '[' in address".into()),
            ("tcp", "]:1".into(), "dial tcp: address ]:1: unexpected ']' in address".into()),
            ("tcp", "::1:80".into(), "dial tcp: address ::1:80: too many colons in address".into()),
            ("tcp", "127.0.0.1:70000".into(), "dial tcp: address 70000: invalid port".into()),
            ("tcp", "127.0.0.1:-1".into(), "dial tcp: address -1: invalid port".into()),
            ("tcp", "127.0.0.1:x y".into(), "dial tcp: lookup tcp/x y: unknown port".into()),
            ("tcp", here("127.0.0.1"), format!("dial tcp 127.0.0.1:{none}: connect: connection refused")),
            ("tcp", here(""), format!("dial tcp :{none}: connect: connection refused")),
            ("tcp4", "[::1]:1".into(), "dial tcp4: address ::1: no suitable address found".into()),
            ("tcp6", "127.0.0.1:1".into(), "dial tcp6: address 127.0.0.1: no suitable address found".into()),
            ("foo", String::new(), "dial foo: unknown network foo".into()),
            ("", "a:1".into(), "dial: unknown network ".into()),
        ] {
            let error = targets.dial(protocol, &address).await.unwrap_err();
            assert_eq!(error.text, words, "{protocol:?} {address:?}");
        }
    }

    /// The lookup has its share of the one deadline, and failures tell what was being done.
    #[tokio::test]
    async fn whatever_is_silent_is_told_of() {
        let dns = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let table = FlowTable::new();
        let metrics = AgentMetrics::new(&table).unwrap();
        let names = Names::asking(dns.local_addr().unwrap());
        let targets = Targets { names, metrics, table, most_flows: 10 };
        let soon = || Instant::now() + Duration::from_millis(300);
        let error = targets.attempt("tcp", "svc.ns.svc:443", soon()).await.unwrap_err();
        assert_eq!(error.text, "dial tcp: lookup svc.ns.svc: i/o timeout");
        assert_eq!(error.reason, DialReason::Timeout);

        let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        full.listen(0).unwrap();
        let silent = full.local_addr().unwrap().as_socket().unwrap();
        let _first = std::net::TcpStream::connect(silent).unwrap();
        let name = format!("localhost:{}", silent.port());
        let targets = Targets { names: Names::from_system(), ..targets };
        let error = targets.attempt("tcp4", &name, soon()).await.unwrap_err();
        assert_eq!(error.text, format!("dial tcp4 {silent}: i/o timeout"));
        assert_eq!(error.reason, DialReason::Timeout);
    }

    fn refused(source: impl Into<io::Error>) -> DialError {
        failed("tcp", "10.0.0.1:80", &source.into())
    }

    /// A server answers a CONNECT by our reason; upstream's does by the words.
    #[test]
    fn reasons_answer_a_connect_as_the_words_would() {
        let (bad, unavailable, timeout) =
            ("502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout");
        for (errno, status) in [
            (libc::ECONNREFUSED, bad),
            (libc::EHOSTUNREACH, bad),
            (libc::ENETUNREACH, bad),
            (libc::ECONNRESET, bad),
            (libc::ETIMEDOUT, bad),
            (libc::EADDRNOTAVAIL, bad),
            (libc::EACCES, bad),
            (libc::EINVAL, bad),
            (libc::EMFILE, unavailable),
            (libc::ENFILE, unavailable),
        ] {
            answers(&refused(io::Error::from_raw_os_error(errno)), status);
        }
        answers(&refused(io::ErrorKind::TimedOut), timeout);
    }

    fn answers(error: &DialError, status: &str) {
        let by_words = DialError::new(DialReason::from_text(&error.text), error.text.as_str());
        let replies = [error, &by_words].map(connect::dial_failed);
        let [by_reason, by_words] = replies.map(|reply| String::from_utf8(reply).unwrap());
        assert!(by_reason.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{by_reason}");
        assert_eq!(by_reason, by_words);
    }

    #[test]
    fn failures_speak_gos_words() {
        let refused = |errno| refused(io::Error::from_raw_os_error(errno));
        let error = refused(libc::ECONNREFUSED);
        assert_eq!(error.text, "dial tcp 10.0.0.1:80: connect: connection refused");
        assert_eq!(error.reason, DialReason::Refused);
        for (errno, words) in [
            (libc::EINVAL, "invalid argument"),
            (libc::EACCES, "permission denied"),
            (libc::EPERM, "operation not permitted"),
            (libc::ENETDOWN, "network is down"),
        ] {
            assert_eq!(refused(errno).text, format!("dial tcp 10.0.0.1:80: connect: {words}"));
        }
        assert_eq!(DialReason::from_text(&refused(libc::EMFILE).text), DialReason::Exhausted);
        let missing = unresolved("tcp", &ResolveError::NoSuchHost("nowhere".into()));
        assert_eq!(missing.text, "dial tcp: lookup nowhere: no such host");
    }
}
