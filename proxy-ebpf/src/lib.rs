//! What the eBPF programs and userspace agree on: map keys and values, globals, numbers.
//!
//! Map keys are socket cookies (`u64`). Values are fixed-width integers with named padding; their sizes are
//! asserted, so a drifted layout does not compile. That object and binary were built from the same file is checked
//! by the object's stamp when the binary is built.
#![no_std]

/// Bit 0 of [`Slot::state`]: bytes pass to userspace. The rest of the word counts the bytes passed so far.
pub const PASS: u64 = 1;

/// Bytes that may wait at a destination, where the source has a brake, before bytes pass: more than a backlog, or what a
/// receive buffer holds behind the bytes that a closed brake kept out, and which comes with them.
pub const LET_IN: u32 = 64 << 20;

/// What [`Slot::full`] says. The limit waits at the destination.
pub const LAGS: u32 = 1;
/// So much that the brake is closed.
pub const FULL: u32 = 2;
/// There is no destination in the map.
pub const GONE: u32 = 3;

/// One mapped direction of one flow, in an mmapped array: written by one verdict at a time (a Unix source's only add to
/// counts, and may be two), by the walk that lets sources out, by userspace, and `full` by the brake on any CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    /// `passed << 1 | PASS`. Both sides may set `PASS`, only userspace clears it (compare and swap, with
    /// `passed == forwarded` expected).
    pub state: u64,
    /// Bytes redirected by the verdict.
    pub redirected: u64,
    /// Passed bytes that userspace wrote to the destination. Written by userspace.
    pub forwarded: u64,
    /// Cookie of the destination. Written by userspace before the source enters its map.
    pub destination: u64,
    /// Bytes that may wait unsent at the destination. Written by userspace.
    pub limit: u64,
    /// Bytes that may be redirected before the destination is looked at again.
    pub credit: i64,
    /// Bytes cut off because they had been delivered already (overlapping retransmissions).
    pub trimmed: u64,
    /// Times that the limit was reached; 0 while bytes pass only because the destination is gone.
    pub overflows: u64,
    /// Times that the destination was not in its map.
    pub strays: u64,
    /// Segments that began after the next expected byte, or that could not be trimmed: never, on a kernel that
    /// works. Bytes are wrong after one.
    pub gaps: u64,
    /// Most bytes seen waiting unsent.
    pub peak: u64,
    /// Where the kernel has the destination, for the brake, which may not look sockets up; 0 before the first look.
    pub destination_at: u64,
    /// The source's next expected TCP sequence number; valid when `begun`.
    pub next_seq: u32,
    /// The destination's write_seq when the first bytes arrived; valid when `begun`.
    pub base_seq: u32,
    /// Not 0 once the first bytes arrived.
    pub begun: u32,
    /// The direction is to leave the map at the next chance. Written by userspace, and by the verdict at the limit, or at
    /// half of it for who is `eager`.
    pub leave: u32,
    /// Not 0 once the source left its map at an exact byte.
    pub left: u32,
    /// Written by userspace: bytes that wait unsent at the destination when the brake of the source closes, and keeps out
    /// what comes next; 0 without a brake.
    pub closes: u32,
    /// [`LAGS`], [`FULL`] or [`GONE`]; 0 when less than the limit was seen waiting. The brake is closed with the last two,
    /// until the source left its map, and while bytes pass to userspace only with the last.
    pub full: u32,
    /// Written by userspace: not 0 when the direction is to leave at half of the limit already.
    pub eager: u32,
}

const _: () = assert!(size_of::<Slot>() == 128);

/// Byte offsets inside structures of the running kernel, found in its BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `sk_buff.sk`
    pub skb_sk: u32,
    /// `sk_buff.cb`; for TCP it begins with the segment's sequence number (`tcp_skb_cb.seq`).
    pub skb_cb: u32,
    /// `tcp_skb_cb.seq`
    pub cb_seq: u32,
    /// `tcp_sock.copied_seq`
    pub tcp_copied_seq: u32,
    /// `tcp_sock.rcv_nxt`
    pub tcp_rcv_nxt: u32,
    /// `tcp_sock.write_seq`
    pub tcp_write_seq: u32,
    /// `tcp_sock.snd_nxt`
    pub tcp_snd_nxt: u32,
    /// `unix_sock.peer`
    pub unix_peer: u32,
    /// `sock_common.skc_cookie`; `sock` begins with its `sock_common`.
    pub sock_cookie: u32,
}

const _: () = assert!(size_of::<Offsets>() == 36);

#[cfg(feature = "user")]
mod user {
    #![allow(unsafe_code)]

    // SAFETY: repr(C), integers only, no padding (asserted above), any bit pattern is valid.
    unsafe impl aya::Pod for super::Slot {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Offsets {}
}
