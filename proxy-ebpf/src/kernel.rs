//! Looks into the kernel's structures, at the offsets that userspace found in its BTF.

use core::ptr;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_map_lookup_elem, bpf_probe_read_kernel, bpf_sk_release, bpf_skc_to_tcp_sock};
use aya_ebpf::programs::SkBuffContext;

use crate::maps::{DESTINATIONS, OFFSETS};

/// The value of type `T` at `base + offset`, or `None` when that cannot be read.
#[inline(always)]
fn read<T: Copy>(base: u64, offset: u32) -> Option<T> {
    let from = (base + u64::from(offset)) as *const T;
    unsafe { bpf_probe_read_kernel(from) }.ok()
}

/// The kernel's `struct sk_buff` behind a context. The verifier hides its address; reading it back from the
/// stack, where the context pointer was spilled, reveals it.
#[inline(always)]
fn sk_buff(ctx: &SkBuffContext) -> Option<u64> {
    let spilled: *mut __sk_buff = ctx.as_ptr().cast();
    unsafe { bpf_probe_read_kernel(ptr::from_ref(&spilled).cast::<u64>()) }.ok()
}

/// The socket of the context's `sk_buff`: with TCP the one that receives, with Unix the sender's.
#[inline(always)]
fn socket(ctx: &SkBuffContext) -> Option<u64> {
    read(sk_buff(ctx)?, OFFSETS.load().skb_sk)
}

/// The segment's TCP sequence number.
#[inline(always)]
pub(crate) fn sequence(ctx: &SkBuffContext) -> Option<u32> {
    let offsets = OFFSETS.load();
    read(sk_buff(ctx)?, offsets.skb_cb + offsets.cb_seq)
}

/// The next sequence number that the receiving TCP socket has not consumed.
#[inline(always)]
pub(crate) fn consumed(ctx: &SkBuffContext) -> Option<u32> {
    read(socket(ctx)?, OFFSETS.load().tcp_copied_seq)
}

/// The next sequence number that the receiving TCP socket has not got, as far as it has worked through its backlog.
#[inline(always)]
pub(crate) fn expected(ctx: &SkBuffContext) -> Option<u32> {
    read(socket(ctx)?, OFFSETS.load().tcp_rcv_nxt)
}

/// The cookie of the Unix socket that receives.
#[inline(always)]
pub(crate) fn unix_receiver(ctx: &SkBuffContext) -> Option<u64> {
    let offsets = OFFSETS.load();
    let sender = socket(ctx)?;
    let receiver: u64 = read(sender, offsets.unix_peer)?;
    read(receiver, offsets.sock_cookie)
}

/// The send side of a destination.
pub(crate) struct Sending {
    pub(crate) at: u64,
    pub(crate) write_seq: u32,
    pub(crate) snd_nxt: u32,
}

/// How far the destination with this cookie has sent; `None` when it is not in its map.
#[inline(always)]
pub(crate) fn sending(cookie: &u64) -> Option<Sending> {
    let socket = unsafe {
        bpf_map_lookup_elem(ptr::from_ref(&DESTINATIONS).cast_mut().cast(), ptr::from_ref(cookie).cast())
    };
    if socket.is_null() {
        return None;
    }
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket) } as u64;
    let sending = sending_at(tcp);
    unsafe { bpf_sk_release(socket) };
    sending
}

/// The same of a TCP socket at a known place.
#[inline(always)]
pub(crate) fn sending_at(tcp: u64) -> Option<Sending> {
    if tcp == 0 {
        return None;
    }
    let offsets = OFFSETS.load();
    Some(Sending {
        at: tcp,
        write_seq: read(tcp, offsets.tcp_write_seq)?,
        snd_nxt: read(tcp, offsets.tcp_snd_nxt)?,
    })
}
