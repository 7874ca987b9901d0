//! What the engine counts beside the bytes of each flow's [`Meter`](crate::flow::Meter).

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a flow or a direction got less than the engine in force allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// The pool had no pipe: copied.
    NoPipe,
    /// A socket was no longer established, or spoke before it could enter the map.
    NotMappable,
    /// All slots of the kernel's table are taken.
    NoSlot,
    /// The kernel refused the socket for another reason.
    MapRefused,
    /// A mapped direction reached its limit: it left the map, or its bytes passed through userspace.
    Overflow,
    /// The socket had left the map when its bytes came.
    Evicted,
    /// Too many new flows waited for the engine thread: the flow was refused.
    Refused,
}

impl Fallback {
    pub const ALL: [Fallback; 7] = [
        Fallback::NoPipe,
        Fallback::NotMappable,
        Fallback::NoSlot,
        Fallback::MapRefused,
        Fallback::Overflow,
        Fallback::Evicted,
        Fallback::Refused,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fallback::NoPipe => "no_pipe",
            Fallback::NotMappable => "not_mappable",
            Fallback::NoSlot => "no_slot",
            Fallback::MapRefused => "map_refused",
            Fallback::Overflow => "overflow",
            Fallback::Evicted => "evicted",
            Fallback::Refused => "refused",
        }
    }
}

/// The engine's counters as they are now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Flows that run on engine threads.
    pub flows: u64,
    /// Directions that are in the kernel's map.
    pub mapped: u64,
    /// Entries of the kernel's maps that are no direction's, told only while `mapped` is 0.
    pub forgotten: u64,
    /// Pipes lent to bulk directions.
    pub pipes: u64,
    /// Times that a direction entered the map, ever.
    pub promotions: u64,
    /// Times that a direction left the map while it went on, ever.
    pub demotions: u64,
    /// Times that a thread polled awake instead of sleeping at once, ever; 50 µs at the most each.
    pub busy_polls: u64,
    /// Mapped directions whose counts did not agree with the kernel's, ever. One is one too many: sockmap is off
    /// for new flows from then on.
    pub violations: u64,
    /// Bytes cut off as delivered before (overlapping retransmissions), ever.
    pub trimmed: u64,
    /// Bytes of mapped directions that passed through userspace, ever: what could neither be redirected nor kept out.
    pub passed: u64,
    fallbacks: [u64; 7],
}

impl Snapshot {
    /// How often `reason` occurred, ever.
    pub fn fallbacks(&self, reason: Fallback) -> u64 {
        self.fallbacks[reason as usize]
    }
}

#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) flows: AtomicU64,
    pub(super) promotions: AtomicU64,
    pub(super) demotions: AtomicU64,
    pub(super) busy_polls: AtomicU64,
    pub(super) violations: AtomicU64,
    trimmed: AtomicU64,
    passed: AtomicU64,
    fallbacks: [AtomicU64; 7],
}

impl Stats {
    pub(super) fn fell_back(&self, reason: Fallback) {
        self.fallbacks[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add(&self, counter: &AtomicU64, by: u64) {
        counter.fetch_add(by, Ordering::Relaxed);
    }

    /// Books bytes of mapped directions that were not redirected.
    pub(super) fn moved_otherwise(&self, passed: u64, trimmed: u64) {
        if passed | trimmed > 0 {
            self.add(&self.passed, passed);
            self.add(&self.trimmed, trimmed);
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            flows: read(&self.flows),
            mapped: 0,
            forgotten: 0,
            pipes: 0,
            promotions: read(&self.promotions),
            demotions: read(&self.demotions),
            busy_polls: read(&self.busy_polls),
            violations: read(&self.violations),
            trimmed: read(&self.trimmed),
            passed: read(&self.passed),
            fallbacks: self.fallbacks.each_ref().map(read),
        }
    }
}
