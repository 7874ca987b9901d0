//! What the operator may choose about the engines.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::SpliceError;
use super::policy::{CALM_AFTER, ORPHAN_AFTER};

/// `--engine`: the highest engine that new flows may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum EngineChoice {
    /// Start in copy; from a TCP socket move bulk to splice(2), promote what stays small or rare to sockmap.
    #[default]
    Auto = 0,
    /// sockmap from the first byte wherever the ends allow it.
    Sockmap = 1,
    /// splice(2) from the first byte wherever the ends allow it.
    Splice = 2,
    Copy = 3,
}

impl EngineChoice {
    pub const ALL: [EngineChoice; 4] =
        [EngineChoice::Auto, EngineChoice::Sockmap, EngineChoice::Splice, EngineChoice::Copy];

    pub fn name(self) -> &'static str {
        match self {
            EngineChoice::Auto => "auto",
            EngineChoice::Sockmap => "sockmap",
            EngineChoice::Splice => "splice",
            EngineChoice::Copy => "copy",
        }
    }

    pub(super) fn from_number(number: u8) -> EngineChoice {
        EngineChoice::ALL.into_iter().find(|choice| *choice as u8 == number).unwrap_or_default()
    }
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for EngineChoice {
    type Err = SpliceError;

    fn from_str(text: &str) -> Result<EngineChoice, SpliceError> {
        EngineChoice::ALL
            .into_iter()
            .find(|choice| choice.name() == text)
            .ok_or_else(|| SpliceError::NoSuchEngine(text.to_owned()))
    }
}

/// Settings of the splice engine. New flows obey a change at once, running flows go on as they are.
#[derive(Debug, Clone)]
pub struct SpliceConfig {
    pub engine: EngineChoice,
    /// Bytes; ceiling of the send buffer that a promoted flow may force on its destination.
    pub flow_buffer_max: u64,
    /// Bytes that all flows together may hold back; `None`: a quarter of the container's memory limit, else 1/16
    /// of the machine. Each gets a part of what is left when it begins and keeps it to its end. None gets less than
    /// 96 KiB in each direction, 64 KiB of them as its receive buffer: a loopback peer stands still before less. With
    /// more flows than one to 192 KiB the sum grows with their number. What is in flight to a destination,
    /// unacknowledged, is not bounded. Read at the start only.
    pub buffer_budget: Option<u64>,
    /// Threads for interactive flows, and as many for bulk flows; 0: by the number of CPUs. Read at the start
    /// only.
    pub threads: usize,
    /// Whether a thread for interactive flows polls awake for up to 50 µs while events follow each other closely; one
    /// thread at a time, and none where the process may use only one CPU. Read at the start only.
    pub busy_poll: bool,
    /// How long a direction must have been small or rare before `auto` gives it to the kernel. Read at the start
    /// only.
    pub calm_after: Duration,
    /// How long a flow goes on without a byte moved after its client closed a Unix socket altogether. Read at the
    /// start only.
    pub orphan_after: Duration,
    /// What the self-test proved; the rest is not used, whatever `engine` says. Read at the start only.
    pub proven: Proven,
}

/// Engines that may be used on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// Redirecting TCP → TCP.
    pub sockmap_tcp: bool,
    /// Redirecting Unix → TCP.
    pub sockmap_unix: bool,
    pub splice: bool,
}

impl Default for Proven {
    fn default() -> Proven {
        Proven { sockmap_tcp: true, sockmap_unix: true, splice: true }
    }
}

impl Default for SpliceConfig {
    fn default() -> SpliceConfig {
        SpliceConfig {
            engine: EngineChoice::Auto,
            flow_buffer_max: 16 << 20,
            buffer_budget: None,
            threads: 0,
            busy_poll: true,
            calm_after: CALM_AFTER,
            orphan_after: ORPHAN_AFTER,
            proven: Proven::default(),
        }
    }
}
