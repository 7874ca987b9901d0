//! The head of an HTTP CONNECT request and every reply upstream gives to one, byte for byte.

use std::fmt::Write;
use std::mem::MaybeUninit;

use crate::flow::{DialError, DialReason};

/// The most bytes a request head may have: Go's `DefaultMaxHeaderBytes`, and what `initialReadLimitSize` adds to it.
pub const MAX_HEAD: usize = (1 << 20) + 4096;
/// Go has no such bound; whoever comes near it does not mean a CONNECT.
const MAX_HEADERS: usize = 1024;

/// The reply to a dial that succeeded. No header follows it: Go clients read on right behind it.
pub const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n";

/// What a request's first bytes amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// More bytes are needed.
    Partial,
    /// `CONNECT target`; the flow's own bytes begin at `end`.
    Connect { target: String, end: usize },
    /// A well-formed request of another method.
    Other,
    /// No HTTP/1 request.
    Malformed,
    /// No end within [`MAX_HEAD`] bytes, or too many headers.
    TooLong,
}

impl Head {
    /// The target is the request-target, not the Host header: clients put anything there.
    pub fn parse(bytes: &[u8]) -> Head {
        // The library would pass over empty lines, without an end; Go does not.
        if let Some(b'\r' | b'\n') = bytes.first() {
            return Head::Malformed;
        }
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut headers) {
            Ok(httparse::Status::Complete(end)) if end > MAX_HEAD => Head::TooLong,
            Ok(httparse::Status::Complete(end)) => match (request.method, request.path) {
                (Some("CONNECT"), Some(target)) => Head::Connect { target: target.to_owned(), end },
                _ => Head::Other,
            },
            Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => Head::TooLong,
            Ok(httparse::Status::Partial) => Head::Partial,
            Err(httparse::Error::TooManyHeaders) => Head::TooLong,
            Err(_) => Head::Malformed,
        }
    }
}

/// The reply to a dial that failed. The connection closes behind it.
pub fn dial_failed(error: &DialError) -> Vec<u8> {
    let text = &error.text;
    let with_newline = |status: &str, prefix: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{prefix}: {text}\r\n")
    };
    let reply = match error.reason {
        DialReason::Withdrawn => String::new(),
        DialReason::NoAgent => {
            format!(
                "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\ncurrently no tunnels available: {text}"
            )
        }
        DialReason::SendFailed => with_newline("502 Bad Gateway", "Failed to tunnel dial request"),
        DialReason::SendTimeout => with_newline("504 Gateway Timeout", "Failed to tunnel dial request"),
        DialReason::AgentLost => with_newline("502 Bad Gateway", "Backend context error"),
        DialReason::AgentTimeout => with_newline("504 Gateway Timeout", "Backend dial timeout"),
        reason => {
            let status = match reason {
                DialReason::Timeout => "504 Gateway Timeout",
                DialReason::Exhausted => "503 Service Unavailable",
                _ => "502 Bad Gateway",
            };
            format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}"
            )
        }
    };
    reply.into_bytes()
}

/// The reply to a head that asks for nothing we do; `None` while more bytes are needed, and for a CONNECT.
/// `date` is the time in HTTP's format, for the one reply that upstream's HTTP library dates.
pub fn refused(head: &Head, date: &str) -> Option<Vec<u8>> {
    let plain = |status: &str| {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
        );
        (head + status).into_bytes()
    };
    match head {
        Head::Partial | Head::Connect { .. } => None,
        Head::Malformed => Some(plain("400 Bad Request")),
        Head::TooLong => Some(plain("431 Request Header Fields Too Large")),
        Head::Other => {
            let body = "this proxy only supports CONNECT passthrough\n";
            let mut reply = String::from(
                "HTTP/1.1 405 Method Not Allowed\r\nContent-Type: text/plain; charset=utf-8\r\n",
            );
            let length = body.len();
            let _ = write!(
                reply,
                "X-Content-Type-Options: nosniff\r\nDate: {date}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            Some(reply.into_bytes())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_the_request_target_and_the_rest_belongs_to_the_flow() {
        let bytes = b"CONNECT 10.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nhello";
        let Head::Connect { target, end } = Head::parse(bytes) else { panic!("not a CONNECT") };
        assert_eq!((target.as_str(), &bytes[end..]), ("10.0.0.1:80", &b"hello"[..]));
        let bare = b"CONNECT [::1]:80 HTTP/1.1\r\n\r\n";
        assert_eq!(Head::parse(bare), Head::Connect { target: "[::1]:80".into(), end: bare.len() });
    }

    #[test]
    fn every_split_of_a_head_is_partial_before_its_end() {
        let bytes = b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n";
        for split in 0..bytes.len() {
            assert_eq!(Head::parse(&bytes[..split]), Head::Partial, "after {split} bytes");
        }
    }

    #[test]
    fn a_head_may_be_as_long_as_gos() {
        let head = |headers: usize, value: usize| {
            let header = [b"X: ".as_slice(), &vec![b'a'; value], b"\r\n"].concat();
            [b"CONNECT a:80 HTTP/1.1\r\n", header.repeat(headers).as_slice(), b"\r\n"].concat()
        };
        for long in [head(1000, 900), head(1, MAX_HEAD - 100)] {
            assert_eq!(Head::parse(&long), Head::Connect { target: "a:80".into(), end: long.len() });
        }
        assert_eq!(Head::parse(&head(1, MAX_HEAD)), Head::TooLong);
        assert_eq!(Head::parse(&head(1, MAX_HEAD)[..MAX_HEAD]), Head::TooLong);
        assert_eq!(Head::parse(&head(1, MAX_HEAD)[..MAX_HEAD - 1]), Head::Partial);
        assert_eq!(Head::parse(&head(1025, 1)), Head::TooLong);
    }

    #[test]
    fn what_is_no_connect_is_told_so() {
        assert_eq!(Head::parse(b"\r\nCONNECT a:80 HTTP/1.1\r\n\r\n"), Head::Malformed);
        assert_eq!(Head::parse(b"GET / HTTP/1.1\r\n\r\n"), Head::Other);
        assert_eq!(Head::parse(b"\x16\x03\x01\x02\x00\x01"), Head::Malformed);
        assert_eq!(Head::parse(&[b"GET /", &[b'a'; MAX_HEAD][..]].concat()), Head::TooLong);
        let reply = String::from_utf8(refused(&Head::Other, "D").unwrap()).unwrap();
        assert!(reply.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(reply.ends_with("\r\n\r\nthis proxy only supports CONNECT passthrough\n"));
    }

    #[test]
    fn failures_have_upstreams_bytes() {
        let reply =
            |reason, text: &str| String::from_utf8(dial_failed(&DialError::new(reason, text))).unwrap();
        assert_eq!(
            reply(DialReason::NoAgent, "No agent available"),
            "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\ncurrently no tunnels available: No agent available"
        );
        assert_eq!(
            reply(DialReason::Refused, "refused"),
            "HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nrefused"
        );
        assert!(
            reply(DialReason::Timeout, "i/o timeout")
                .starts_with("HTTP/1.1 504 Gateway Timeout\r\nConnection: close\r\n")
        );
        assert!(reply(DialReason::Exhausted, "x").starts_with("HTTP/1.1 503 Service Unavailable\r\n"));
        assert_eq!(
            reply(DialReason::AgentLost, "context canceled"),
            "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nBackend context error: context canceled\r\n"
        );
        for (reason, status, what) in [
            (DialReason::SendFailed, "502 Bad Gateway", "Failed to tunnel dial request"),
            (DialReason::SendTimeout, "504 Gateway Timeout", "Failed to tunnel dial request"),
            (DialReason::AgentTimeout, "504 Gateway Timeout", "Backend dial timeout"),
        ] {
            assert_eq!(
                reply(reason, "why"),
                format!(
                    "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{what}: why\r\n"
                )
            );
        }
    }
}
