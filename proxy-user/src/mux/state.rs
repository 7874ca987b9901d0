//! One flow on packets, as a pure state machine: what a packet or a local end means, and what is to be sent for it.

use super::window::{FIRST_WINDOW, FIRST_WINDOW_OF_1};

/// Who opened the flow's dial on this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Asked for the dial: our server towards an agent. Ends a flow with CLOSE_REQ towards upstream's agent.
    Dialer,
    /// Answered it: our agent towards a server, our gRPC frontend towards the API server. Ends with CLOSE_RSP.
    Acceptor,
}

/// What the peer understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Windows, each of which begins with so many bytes, FIN and RESET.
    Ours { first_window: u64 },
    /// CLOSE_REQ and CLOSE_RSP only, each of which ends both directions.
    Upstream,
}

impl Dialect {
    /// The newest of ours.
    pub const OURS: Dialect = Dialect::Ours { first_window: FIRST_WINDOW };

    /// What both ends understand of our packets, [`MUX_VERSION`](crate::wire::metadata::MUX_VERSION) at most.
    pub fn of_version(version: u32) -> Dialect {
        match version {
            0 => Dialect::Upstream,
            1 => Dialect::Ours { first_window: FIRST_WINDOW_OF_1 },
            _ => Dialect::OURS,
        }
    }

    /// The bytes that either end may send of a new flow; without windows nothing asks.
    pub(super) fn first_window(self) -> u64 {
        match self {
            Dialect::Ours { first_window } => first_window,
            Dialect::Upstream => 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    PeerFin,
    PeerReset,
    PeerCloseRequest,
    /// `failed`: it carried an error.
    PeerCloseResponse {
        failed: bool,
    },
    /// The control stream ended.
    PeerGone,
    /// Our direction ended cleanly; every byte was written.
    Shutdown,
    /// Our end was aborted, or dropped before both directions had ended.
    Abort,
}

/// What goes behind the flow's last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    Fin,
    Reset,
    CloseRequest,
    CloseResponse,
}

/// How reading ends, once the bytes that had arrived were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadEnd {
    Eof,
    Reset,
}

/// What is to be done for an event.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Send this behind the bytes that are still queued.
    pub send: Option<Closing>,
    /// Reading ends.
    pub read: Option<ReadEnd>,
    /// Writing fails from here on, and the peer reads nothing more.
    pub broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    Ended,
}

/// The open and closed halves of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowState {
    role: Role,
    dialect: Dialect,
    read: Side,
    write: Side,
    /// A CLOSE_REQ of ours is on its way and its CLOSE_RSP has not come.
    awaiting_response: bool,
}

impl FlowState {
    pub fn new(role: Role, dialect: Dialect) -> FlowState {
        FlowState { role, dialect, read: Side::Open, write: Side::Open, awaiting_response: false }
    }

    /// No packet of this flow matters any more, in either direction, once what is queued was sent.
    pub fn is_over(&self) -> bool {
        self.read == Side::Ended && self.write == Side::Ended && !self.awaiting_response
    }

    /// Bytes that arrive now are wanted.
    pub fn is_reading(&self) -> bool {
        self.read == Side::Open
    }

    pub fn is_writing(&self) -> bool {
        self.write == Side::Open
    }

    /// The end of our direction is a CLOSE_REQ, which ends both: the peer's CLOSE_RSP is on its way at once.
    pub fn answers_close(&self) -> bool {
        (self.role, self.dialect) == (Role::Dialer, Dialect::Upstream)
    }

    pub fn step(&mut self, event: Event) -> Step {
        match event {
            Event::PeerFin => self.read_ends(ReadEnd::Eof),
            Event::PeerReset | Event::PeerGone => self.both_end(ReadEnd::Reset, None),
            Event::PeerCloseRequest => {
                // The peer waits for this response even when our side had ended already.
                let response = (!self.is_over()).then_some(Closing::CloseResponse);
                self.both_end(ReadEnd::Eof, response)
            }
            Event::PeerCloseResponse { failed } => {
                self.both_end(if failed { ReadEnd::Reset } else { ReadEnd::Eof }, None)
            }
            Event::Shutdown => self.shutdown(),
            Event::Abort => self.abort(),
        }
    }

    fn shutdown(&mut self) -> Step {
        if self.write == Side::Ended {
            return Step::default();
        }
        match (self.dialect, self.role) {
            (Dialect::Ours { .. }, _) => {
                self.write = Side::Ended;
                Step { send: Some(Closing::Fin), ..Step::default() }
            }
            // Upstream's agent sends what it had read from the target, then CLOSE_RSP: reading goes on until then.
            (Dialect::Upstream, Role::Dialer) => {
                self.write = Side::Ended;
                self.awaiting_response = true;
                Step { send: Some(Closing::CloseRequest), ..Step::default() }
            }
            (Dialect::Upstream, Role::Acceptor) => self.both_end(ReadEnd::Eof, Some(Closing::CloseResponse)),
        }
    }

    fn abort(&mut self) -> Step {
        if self.read == Side::Ended && self.write == Side::Ended {
            return Step::default();
        }
        match (self.dialect, self.role) {
            (Dialect::Ours { .. }, _) => self.both_end(ReadEnd::Reset, Some(Closing::Reset)),
            (Dialect::Upstream, Role::Acceptor) => {
                self.both_end(ReadEnd::Reset, Some(Closing::CloseResponse))
            }
            (Dialect::Upstream, Role::Dialer) => {
                let asked = std::mem::replace(&mut self.awaiting_response, true);
                let step = Step {
                    send: (!asked).then_some(Closing::CloseRequest),
                    read: (self.read == Side::Open).then_some(ReadEnd::Reset),
                    broken: true,
                };
                (self.read, self.write) = (Side::Ended, Side::Ended);
                step
            }
        }
    }

    fn read_ends(&mut self, how: ReadEnd) -> Step {
        let was_open = std::mem::replace(&mut self.read, Side::Ended) == Side::Open;
        Step { read: was_open.then_some(how), ..Step::default() }
    }

    fn both_end(&mut self, how: ReadEnd, send: Option<Closing>) -> Step {
        self.awaiting_response = false;
        let was_writing = std::mem::replace(&mut self.write, Side::Ended) == Side::Open;
        Step { send, broken: was_writing, ..self.read_ends(how) }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
