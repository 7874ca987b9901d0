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
}

impl DialReason {
    pub const ALL: [DialReason; 15] = [
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
    ];

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
