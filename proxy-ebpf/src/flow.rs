//! What a verdict decides about arriving bytes: trim, count, redirect, close the brake or pass.
//!
//! A TCP source's verdicts run one at a time (its socket lock). A Unix source's run in the sender's `sendmsg`: two threads
//! that write to one socket at a time have two at a time.

use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};
use core::ptr::{self, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_loop, bpf_skb_adjust_room};
use aya_ebpf::programs::SkBuffContext;
use proxy_ebpf::{FULL, GONE, LAGS, LET_IN, PASS, Slot};

use crate::kernel;
use crate::maps::{DESTINATIONS, DIRECTIONS, EVENTS, SLOTS};

/// `bpf_skb_adjust_room` takes at most this many bytes at a time.
const ROOM: u32 = 4095;
/// 4 MiB: more than any segment. Half a MiB was seen where a large one had been read in part before its socket
/// entered the map.
const STEPS: u32 = 1 << 10;

#[inline(always)]
pub(crate) fn tcp(ctx: &SkBuffContext) -> u32 {
    // A bare FIN. Redirected, it would poison the destination (EPIPE); recv sees the end without it.
    if ctx.len() == 0 {
        return SK_DROP;
    }
    match slot(unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }) {
        Some((number, slot)) => tcp_in(ctx, number, slot),
        None => SK_PASS,
    }
}

#[inline(always)]
fn tcp_in(ctx: &SkBuffContext, number: u32, slot: *mut Slot) -> u32 {
    begin(ctx, slot);
    trim(ctx, slot);
    let len = u64::from(ctx.len());
    if len == 0 {
        return SK_DROP;
    }
    if passes(slot, len) {
        return SK_PASS;
    }
    if !has_credit(number, slot, len) {
        return overflow(number, slot, len);
    }
    redirect(ctx, number, slot, len)
}

#[inline(always)]
pub(crate) fn unix(ctx: &SkBuffContext) -> u32 {
    let len = u64::from(ctx.len());
    if len == 0 {
        return SK_DROP;
    }
    let found = match kernel::unix_receiver(ctx) {
        Some(cookie) => slot(cookie),
        None => None,
    };
    match found {
        None => SK_PASS,
        Some((_, slot)) if passes(slot, len) => SK_PASS,
        Some((number, slot)) => redirect(ctx, number, slot, len),
    }
}

#[inline(always)]
pub(crate) fn slot(source: u64) -> Option<(u32, *mut Slot)> {
    let number = unsafe { *DIRECTIONS.get(source)? };
    Some((number, SLOTS.get_ptr_mut(number)?))
}

/// At the first bytes: from where to count on both sides. Nothing was redirected or forwarded yet, so the
/// destination's write_seq is the number of the first byte of ours.
#[inline(always)]
fn begin(ctx: &SkBuffContext, slot: *mut Slot) {
    let begun = unsafe { addr_of_mut!((*slot).begun) };
    if unsafe { read_volatile(begun) } != 0 {
        return;
    }
    let destination = unsafe { (*slot).destination };
    if let (Some(next), Some(sending)) = (kernel::consumed(ctx), kernel::sending(&destination)) {
        unsafe {
            (*slot).next_seq = next;
            (*slot).base_seq = sending.write_seq;
            write_volatile(begun, 1);
        }
    }
}

/// The kernel hands whole segments to a verdict, also when a retransmission overlaps what was consumed.
#[inline(always)]
fn trim(ctx: &SkBuffContext, slot: *mut Slot) {
    // A destination that was gone before the first byte: there is nothing to count from.
    if unsafe { read_volatile(addr_of_mut!((*slot).begun)) } == 0 {
        return;
    }
    let Some(seq) = kernel::sequence(ctx) else { return };
    let next = unsafe { (*slot).next_seq };
    let len = ctx.len();
    let ahead = next.wrapping_sub(seq) as i32;
    if ahead < 0 {
        unsafe { (*slot).gaps += 1 };
    }
    let mut left = if ahead <= 0 { 0 } else { ahead as u32 };
    if left > len {
        left = len;
    }
    if seq.wrapping_add(len).wrapping_sub(next) as i32 > 0 {
        unsafe { (*slot).next_seq = seq.wrapping_add(len) };
    }
    if left > 0 {
        unsafe { (*slot).trimmed += u64::from(left) };
        if !cut(ctx, left) {
            unsafe { (*slot).gaps += 1 };
        }
    }
}

/// Cuts `left` bytes off the front; `false` when the kernel would not.
#[inline(always)]
fn cut(ctx: &SkBuffContext, left: u32) -> bool {
    let mut cut = Cut { skb: ctx.skb.skb, left };
    let step: extern "C" fn(u64, *mut Cut) -> i64 = cut_step;
    unsafe { bpf_loop(STEPS, step as *mut c_void, ptr::from_mut(&mut cut).cast(), 0) };
    unsafe { read_volatile(addr_of_mut!(cut.left)) == 0 }
}

struct Cut {
    skb: *mut __sk_buff,
    left: u32,
}

/// One call of `bpf_loop`: 1 ends it.
extern "C" fn cut_step(_: u64, cut: *mut Cut) -> i64 {
    let cut = unsafe { &mut *cut };
    let step = if cut.left > ROOM { ROOM } else { cut.left };
    if step == 0 || unsafe { bpf_skb_adjust_room(cut.skb, -(step as i32), 0, 0) } != 0 {
        return 1;
    }
    cut.left -= step;
    0
}

/// Counts the bytes as passed when the direction passes.
#[inline(always)]
fn passes(slot: *mut Slot, len: u64) -> bool {
    let state = unsafe { addr_of_mut!((*slot).state) };
    for _ in 0..2 {
        let old = unsafe { read_volatile(state) };
        if old & PASS == 0 {
            return false;
        }
        if swap(state, old, old + (len << 1)) {
            return true;
        }
        // Userspace turned the direction back in this instant.
    }
    false
}

/// Whether `len` more bytes may wait at the destination. Looks at it only when the last look's credit is used
/// up, which is safe since what was sent only grows. At half of the limit who is eager is told of, once: who is bulky is
/// better let out before the limit is reached. Beyond it only a direction that has a brake has credit.
#[inline(always)]
fn has_credit(number: u32, slot: *mut Slot, len: u64) -> bool {
    let credit = unsafe { (*slot).credit };
    if credit >= len as i64 {
        unsafe { (*slot).credit = credit - len as i64 };
        return true;
    }
    let destination = unsafe { (*slot).destination };
    let Some(sending) = kernel::sending(&destination) else {
        // Not in its map: the redirect says so.
        return true;
    };
    let waiting = unsent(slot, &sending);
    let limit = unsafe { read_volatile(addr_of_mut!((*slot).limit)) };
    unsafe {
        (*slot).destination_at = sending.at;
        if waiting > (*slot).peak {
            (*slot).peak = waiting;
        }
    }
    if waiting >= limit {
        return lags(number, slot, waiting);
    }
    if unsafe { read_volatile(addr_of_mut!((*slot).full)) } != GONE {
        unsafe { write_volatile(addr_of_mut!((*slot).full), 0) };
    }
    let half = limit / 2;
    let eager = unsafe { read_volatile(addr_of_mut!((*slot).eager)) } != 0;
    let leave = unsafe { addr_of_mut!((*slot).leave) };
    if waiting >= half && eager && unsafe { read_volatile(leave) } == 0 {
        unsafe { write_volatile(leave, 1) };
        let _ = EVENTS.output::<u32>(number, 0);
    }
    let room = if limit - waiting < half { limit - waiting } else { half };
    unsafe { (*slot).credit = room as i64 - len as i64 };
    true
}

/// Bytes that wait at the destination, given to it and not sent.
#[inline(always)]
fn unsent(slot: *mut Slot, sending: &kernel::Sending) -> u64 {
    let given = unsafe {
        read_volatile(addr_of_mut!((*slot).redirected)) + read_volatile(addr_of_mut!((*slot).forwarded))
    };
    let base = unsafe { (*slot).base_seq };
    let unsent = base.wrapping_add(given as u32).wrapping_sub(sending.snd_nxt) as i32;
    if unsent < 0 { 0 } else { unsent as u64 }
}

/// The limit waits at the destination, or more: asks to be let out, and closes the brake when it is too much. `false` when
/// the source has none, or it does not hold.
#[inline(always)]
fn lags(number: u32, slot: *mut Slot, waiting: u64) -> bool {
    unsafe { (*slot).credit = 0 };
    let closes = closes_at(slot);
    if closes == 0 {
        return false;
    }
    let full = unsafe { addr_of_mut!((*slot).full) };
    let before = unsafe { read_volatile(full) };
    let now = if waiting >= closes { FULL } else { LAGS };
    if now > before {
        unsafe {
            if before == 0 {
                (*slot).overflows += 1;
            }
            write_volatile(full, now);
            write_volatile(addr_of_mut!((*slot).leave), 1);
        }
        let _ = EVENTS.output::<u32>(number, 0);
    }
    waiting < LET_IN as u64
}

/// Bytes that close the brake; 0 without one.
#[inline(always)]
fn closes_at(slot: *mut Slot) -> u64 {
    unsafe { read_volatile(addr_of_mut!((*slot).closes)) as u64 }
}

/// Whether the brake is closed. What passes closes TCP's own window, which a peer bears for longer than losses; but
/// nobody will take what is for a destination that is gone.
#[inline(always)]
pub(crate) fn is_braked(slot: *mut Slot) -> bool {
    let full = unsafe { read_volatile(addr_of_mut!((*slot).full)) };
    if full < FULL || closes_at(slot) == 0 || unsafe { read_volatile(addr_of_mut!((*slot).left)) } != 0 {
        return false;
    }
    full == GONE || unsafe { read_volatile(addr_of_mut!((*slot).state)) } & PASS == 0
}

/// Opens a closed brake when less waits than closes it; `false` while it stays closed. A destination that was freed
/// meanwhile gives any numbers; the next verdict then finds that it is gone.
#[inline(always)]
pub(crate) fn opens(slot: *mut Slot) -> bool {
    let at = unsafe { read_volatile(addr_of_mut!((*slot).destination_at)) };
    let Some(sending) = kernel::sending_at(at) else { return false };
    if unsent(slot, &sending) >= closes_at(slot) {
        return false;
    }
    // Only what is still closed for want of room: the verdict on another CPU may find the destination gone.
    let (_, opened) = unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            addr_of_mut!((*slot).full),
            FULL,
            LAGS,
        )
    };
    opened
}

/// The destination lags: from these bytes on they pass.
#[inline(always)]
fn overflow(number: u32, slot: *mut Slot, len: u64) -> u32 {
    unsafe { (*slot).overflows += 1 };
    turn(number, slot, len)
}

#[inline(always)]
fn turn(number: u32, slot: *mut Slot, len: u64) -> u32 {
    let state = unsafe { addr_of_mut!((*slot).state) };
    for _ in 0..4 {
        let old = unsafe { read_volatile(state) };
        if swap(state, old, (old | PASS) + (len << 1)) {
            break;
        }
    }
    unsafe { (*slot).credit = 0 };
    // A full ring loses the event; the watchdog looks at the slot anyway.
    let _ = EVENTS.output::<u32>(number, 0);
    SK_PASS
}

#[inline(always)]
fn redirect(ctx: &SkBuffContext, number: u32, slot: *mut Slot, len: u64) -> u32 {
    // Counted before the bytes are queued: whoever compares with the destination's queue must not see them
    // there first.
    let redirected = unsafe { addr_of_mut!((*slot).redirected) };
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(redirected, len) };
    let destination = unsafe { (*slot).destination };
    if DESTINATIONS.redirect_skb(ctx, destination, 0) == i64::from(SK_PASS) {
        return SK_PASS;
    }
    // Dropping would lose bytes without a trace; passing leaves them to userspace.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(redirected, len.wrapping_neg()) };
    unsafe {
        (*slot).strays += 1;
        write_volatile(addr_of_mut!((*slot).full), GONE);
    }
    turn(number, slot, len)
}

#[inline(always)]
fn swap(word: *mut u64, old: u64, new: u64) -> bool {
    let (_, swapped) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, old, new)
    };
    swapped
}
