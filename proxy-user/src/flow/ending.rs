//! How a flow ended: one type for metrics, the log line and the wire.

/// One direction of a flow. `Up` goes from the client (the API server) towards the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    Up,
    Down,
}

/// How one direction of a flow finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The source ended its stream (FIN, close_notify) and every byte was handed over.
    Clean,
    /// The source or the destination aborted (RST, TLS end without close_notify, mux RESET).
    Aborted,
    /// The kernel refused in a way that is no ordinary end; the errno.
    Failed(i32),
    /// We ended it: shutdown, operator, a budget, a stall bound.
    Cancelled,
}

/// How a whole flow ended. Byte counts are final when this value exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub up: Finish,
    pub down: Finish,
    /// Bytes handed to the target's side.
    pub up_bytes: u64,
    /// Bytes handed to the client's side.
    pub down_bytes: u64,
}

impl Ending {
    pub fn is_clean(&self) -> bool {
        self.up == Finish::Clean && self.down == Finish::Clean
    }
}
