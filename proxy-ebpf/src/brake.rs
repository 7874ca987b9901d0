//! What keeps bytes out that the destination cannot take: a redirect opens the source's TCP window again at once, however
//! much waits. The filter of a TCP socket sees each segment before TCP does and may shorten it, but not its head: so
//! the segment's acknowledgement counts and its bytes are sent once more, later, as any that a network lost.
//!
//! Only the bytes that come next in order are kept out. Without them TCP keeps what lies behind in its receive buffer,
//! where no verdict sees it: the window shuts, and the peer hears that it has one segment to send again. While the
//! socket has a backlog, what comes next is not known, and a little more than it gets in.
//!
//! Passing would close the window too, but the kernel's own accounts of a socket suffer from it (a worker charges
//! passed bytes to a socket that it did not lock), and a direction that passes cannot leave its map.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::programs::SkBuffContext;

use crate::{flow, kernel};

/// What a socket filter returns is how many bytes of the segment stay, the TCP head at the least; 0 drops all.
const ALL: i64 = u32::MAX as i64;
const HEAD: i64 = 1;
const NOTHING: i64 = 0;

/// Where the TCP head says the number of its first byte.
const SEQUENCE: usize = 4;
/// Where it says its length, in words, and its flags.
const LENGTH_AND_FLAGS: usize = 12;
const FIN: u16 = 1;
const URG: u16 = 1 << 5;

#[inline(always)]
pub(crate) fn filter(ctx: &SkBuffContext) -> i64 {
    let Some((_, slot)) = flow::slot(unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }) else { return ALL };
    if !flow::is_braked(slot) {
        return ALL;
    }
    let (Ok(seq), Ok(word)) = (ctx.load::<u32>(SEQUENCE), ctx.load::<u16>(LENGTH_AND_FLAGS)) else {
        return ALL;
    };
    let (seq, word) = (u32::from_be(seq), u16::from_be(word));
    let len = ctx.len().wrapping_sub(u32::from(word >> 12) * 4) as i32;
    if len <= 0 || kernel::expected(ctx).is_some_and(|next| !holds(seq, len, next)) || flow::opens(slot) {
        return ALL;
    }
    // Both speak of bytes that would be missing.
    if word & (FIN | URG) != 0 { NOTHING } else { HEAD }
}

/// Whether the byte that is expected next is among these `len` from `seq` on.
#[inline(always)]
fn holds(seq: u32, len: i32, next: u32) -> bool {
    let ahead = next.wrapping_sub(seq) as i32;
    ahead >= 0 && ahead < len
}
