//! Why a dial failed: a typed reason, from which the DIAL_RSP text, the HTTP status and the metric label follow.

/// The reason behind a failed dial. The numbers travel in `DialResponse.reason` between our own ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DialReason {
    /// An upstream agent's text, or a reason this version does not know.
    Other = 1,
    NoAgent = 2,
    /// The agent refused: network other than tcp, address that does not parse.
    BadAddress = 3,
    Refused = 4,
    /// No answer from the target in time.
    Timeout = 5,
    NoSuchHost = 6,
    DnsFailure = 7,
    NoRoute = 8,
    NetworkUnreachable = 9,
    Reset = 10,
    /// The agent has no file descriptors or memory left for one more flow.
    Exhausted = 11,
    /// The agent's control stream ended while the dial was pending.
    AgentLost = 12,
    /// No answer from the agent in time.
    AgentTimeout = 13,
    /// The dial could not be sent to the agent.
    SendFailed = 14,
    /// Whoever asked went away.
    Cancelled = 15,
    /// The dial could not be sent to the agent in time.
    SendTimeout = 16,
    /// The agent gave the dial up.
    Withdrawn = 17,
    /// The agent's kernel gave the target up (ETIMEDOUT), which upstream does not take for a timeout.
    ConnectTimedOut = 18,
    /// The agent has no address or port of its own left for the connection (EADDRNOTAVAIL).
    NoLocalAddress = 19,
}

impl DialReason {
    pub const ALL: [DialReason; 19] = [
        DialReason::Other,
        DialReason::NoAgent,
        DialReason::BadAddress,
        DialReason::Refused,
        DialReason::Timeout,
        DialReason::NoSuchHost,
        DialReason::DnsFailure,
        DialReason::NoRoute,
        DialReason::NetworkUnreachable,
        DialReason::Reset,
        DialReason::Exhausted,
        DialReason::AgentLost,
        DialReason::AgentTimeout,
        DialReason::SendFailed,
        DialReason::Cancelled,
        DialReason::SendTimeout,
        DialReason::Withdrawn,
        DialReason::ConnectTimedOut,
        DialReason::NoLocalAddress,
    ];

    /// What an upstream agent's words mean. The one place where a decision reads text, since the wire gives no more;
    /// the first three lines are upstream's own mapping to HTTP status.
    pub fn from_text(text: &str) -> DialReason {
        let text = text.to_ascii_lowercase();
        let words: [(&str, DialReason); 13] = [
            ("timeout", DialReason::Timeout),
            ("deadline exceeded", DialReason::Timeout),
            ("too many open files", DialReason::Exhausted),
            ("connection refused", DialReason::Refused),
            ("no such host", DialReason::NoSuchHost),
            ("server misbehaving", DialReason::DnsFailure),
            ("no route to host", DialReason::NoRoute),
            ("network is unreachable", DialReason::NetworkUnreachable),
            ("connection reset", DialReason::Reset),
            ("connection timed out", DialReason::ConnectTimedOut),
            ("cannot assign requested address", DialReason::NoLocalAddress),
            ("unknown network", DialReason::BadAddress),
            ("missing port in address", DialReason::BadAddress),
        ];
        words
            .into_iter()
            .find(|(word, _)| text.contains(word))
            .map_or(DialReason::Other, |(_, reason)| reason)
    }

    /// The server says so by itself, and no agent.
    pub fn is_of_server(self) -> bool {
        use DialReason::{AgentLost, AgentTimeout, NoAgent, SendFailed, SendTimeout};
        matches!(self, NoAgent | AgentLost | AgentTimeout | SendFailed | SendTimeout)
    }

    /// The reason that `number` stands for on the wire; an unknown number is [`DialReason::Other`].
    pub fn from_wire(number: u32) -> DialReason {
        DialReason::ALL.into_iter().find(|reason| *reason as u32 == number).unwrap_or(DialReason::Other)
    }
}

/// A failed dial: the typed reason, and the text that upstream's peers read (Go's wording).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct DialError {
    pub reason: DialReason,
    pub text: String,
}

impl DialError {
    pub fn new(reason: DialReason, text: impl Into<String>) -> DialError {
        DialError { reason, text: text.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for reason in DialReason::ALL {
            assert_eq!(DialReason::from_wire(reason as u32), reason);
        }
        assert_eq!(DialReason::from_wire(9999), DialReason::Other);
    }

    #[test]
    fn upstreams_words_are_understood() {
        let of = DialReason::from_text;
        assert_eq!(of("dial tcp 10.0.0.1:80: connect: connection refused"), DialReason::Refused);
        assert_eq!(of("dial tcp 198.18.0.254:1234: i/o timeout"), DialReason::Timeout);
        assert_eq!(of("dial tcp: lookup x: no such host"), DialReason::NoSuchHost);
        assert_eq!(of("dial tcp 10.0.0.1:80: connect: connection timed out"), DialReason::ConnectTimedOut);
        assert_eq!(of("connect: cannot assign requested address"), DialReason::NoLocalAddress);
        assert_eq!(of("something else"), DialReason::Other);
    }
}
