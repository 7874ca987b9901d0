//! Load: a target that does what a flow's first byte asks, and clients that measure through any [`Way`] to it.
//!
//! Clients and target are blocking threads (one epoll loop for echoes): cheap enough that a direct connection
//! over loopback is limited by the kernel and not by the generator.

pub mod bulk;
pub mod conn;
pub mod echo;
pub mod grpc;
pub mod pacing;
mod packets;
pub mod stall;
pub mod target;
pub mod way;

pub use conn::Conn;
pub use target::Target;
pub use way::Way;

/// What a flow is for: its first byte, sent by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Job {
    /// The target sends back what it gets.
    Echo = b'e',
    /// The target sends until the flow ends.
    Down = b'd',
    /// The target reads until the flow ends, and counts.
    Up = b'u',
    /// As `Down`, at the rate in the next eight bytes (bytes per second, little endian).
    Paced = b'p',
    /// The target sends as many bytes as the next eight bytes say, then FIN.
    Exactly = b'n',
    /// Ten echoes of 64 bytes, then as `Exactly`.
    Turn = b't',
    /// The target neither reads nor sends.
    Hold = b'h',
}

impl Job {
    pub fn from_byte(byte: u8) -> Option<Job> {
        [Job::Echo, Job::Down, Job::Up, Job::Paced, Job::Exactly, Job::Turn, Job::Hold]
            .into_iter()
            .find(|job| *job as u8 == byte)
    }
}
