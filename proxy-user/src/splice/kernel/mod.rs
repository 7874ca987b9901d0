//! The kernel's side of the `sockmap` engine, and the only place that names aya.
//!
//! # Ordering rules
//! One [`Mapped`] is one direction: bytes that arrive at its *source* are given to the kernel's send queue of
//! its *destination* without userspace. The source sits in a map that has a verdict program; the destination
//! in one that has none, so `recv` and `splice(2)` go on working on a socket that is only a destination.
//!
//! 1. **Enter.** Before [`Sockmap::map_tcp`]: every byte read from the source has been written to the
//!    destination, the source's receive queue was read until `EAGAIN` where possible, nothing of ours waits
//!    for the destination, and nobody else writes to it. The direction starts in [`Mode::Redirect`]; bytes
//!    that arrived meanwhile are redirected by the kick at the end of the call.
//! 2. **Redirect.** Userspace neither reads the source nor writes the destination, and does not ask epoll for
//!    `IN` on the source (the kernel wakes readers after every verdict): `RDHUP | ERR | HUP`, edge-triggered.
//! 3. **Full.** The destination has its limit waiting: [`Sockmap::next_event`] names the slot, as it did when half of
//!    the limit waited, and the direction is to leave (rule 7). With a [brake](Limits::closes) what comes is redirected
//!    until so much waits that the brake closes; from then on the next bytes are kept out while so much waits. Without
//!    a brake, or when the destination is gone from its map, the verdict turns to [`Mode::Pass`]: bytes are charged to
//!    the source's receive buffer, so TCP's own window closes.
//! 4. **Pass.** First wait until [`Mapped::is_drained`] (redirected bytes precede passed ones), then `recv`
//!    from the source, write to the destination, [`Mapped::add_forwarded`] after each write. `EAGAIN` while
//!    `forwarded < passed` means that a kernel worker still holds bytes: poll again, do not wait for epoll.
//! 5. **Back.** [`Mapped::try_redirect`] succeeds in an instant at which everything passed was forwarded. After it
//!    rule 2 holds again, and the next overflow must wait for a new [`Mapped::is_drained`].
//! 6. **End.** EOF of the source (`recv` or `MSG_PEEK` gives 0) counts only when `forwarded == passed`; then wait
//!    for [`Mapped::is_drained`], then `shutdown(destination, WR)`: FIN is never redirected. Before closing on
//!    an error, set `SO_LINGER {1, 0}`: a mapped socket closed with unread bytes sends FIN, not RST.
//! 7. **Leave.** Under traffic by [`Mapped::ask_to_leave`] and [`Sockmap::leave`]; once [`Mapped::has_left`] and
//!    [`Mapped::is_drained`], detach the brake's filter and read the source by any means. Dropping a `Mapped` that
//!    did not leave loses what arrives in that instant, and dropping one that is not drained loses what waits in
//!    the kernel: that is for directions at their end.

mod error;
pub mod sock;

#[cfg(feature = "ebpf")]
mod btf;
#[cfg(feature = "ebpf")]
mod loader;
#[cfg(feature = "ebpf")]
mod maps;
#[cfg(feature = "ebpf")]
mod slots;
#[cfg(feature = "ebpf")]
pub use {loader::Sockmap, maps::Mapped};

#[cfg(not(feature = "ebpf"))]
mod absent;
#[cfg(not(feature = "ebpf"))]
pub use absent::{Mapped, Sockmap};

pub use error::{KernelError, MapRefused};

/// A place in the table of mapped directions. Reused only a second after its [`Mapped`] was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub(super) u32);

/// Bytes that may wait unsent at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The direction is to leave then.
    pub limit: u32,
    /// It is to leave at half of that already.
    pub half: bool,
    /// The brake of the source closes then, not below the limit: TCP bytes that come next in order are kept out, and what
    /// lies behind them waits in the source's receive buffer. The peer sends the next ones again, as what a network
    /// lost; they get in when less waits, or when the direction has [left](Sockmap::leave). For who lets it leave soon: the
    /// peer tries again more and more seldom. 0: no brake, bytes pass at the limit.
    pub closes: u32,
}

impl From<u32> for Limits {
    fn from(limit: u32) -> Limits {
        Limits { limit, half: false, closes: 0 }
    }
}

/// What the verdict does with arriving bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They go to the destination.
    Redirect,
    /// They wait for userspace.
    Pass,
}

/// What a mapped direction counted. Bytes, but for the last three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Handed to the destination's queue by the verdict.
    pub redirected: u64,
    /// Left to userspace by the verdict.
    pub passed: u64,
    /// Of the passed ones: written to the destination by userspace.
    pub forwarded: u64,
    /// Cut off, since they had been delivered before.
    pub trimmed: u64,
    /// Most bytes seen waiting unsent at the destination.
    pub peak: u64,
    /// Times that the limit was reached.
    pub overflows: u64,
    /// Times that the destination was missing from its map.
    pub strays: u64,
    /// Segments out of sequence: a kernel that must not be trusted.
    pub gaps: u64,
}

impl Counts {
    /// Bytes that the destination was given so far, by whichever way.
    pub fn delivered(&self) -> u64 {
        self.redirected + self.forwarded
    }
}

/// Whether this binary carries eBPF programs, and which, for `--version` and `doctor`.
pub fn built_with() -> &'static str {
    match (cfg!(feature = "ebpf"), option_env!("KONDUIT_EBPF_STAMP")) {
        (true, Some(stamp)) => stamp,
        (true, None) => "built without its eBPF object",
        (false, _) => "built without the ebpf feature",
    }
}
