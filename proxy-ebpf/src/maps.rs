//! The maps, named once. Userspace sizes them at load.

use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, RingBuf, SockHash};
use proxy_ebpf::{Offsets, Slot};

const BPF_F_MMAPABLE: u32 = 1 << 10;

/// Where fields lie in this kernel; set at load.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Global<Offsets> = Global::new(Offsets {
    skb_sk: 0,
    skb_cb: 0,
    cb_seq: 0,
    tcp_copied_seq: 0,
    tcp_rcv_nxt: 0,
    tcp_write_seq: 0,
    tcp_snd_nxt: 0,
    unix_peer: 0,
    sock_cookie: 0,
});

/// TCP sources, with `tcp_verdict`. By the source's cookie.
#[map]
pub(crate) static TCP_SOURCES: SockHash<u64> = SockHash::with_max_entries(1, 0);

/// Unix sources, with `unix_verdict`. By the source's cookie.
#[map]
pub(crate) static UNIX_SOURCES: SockHash<u64> = SockHash::with_max_entries(1, 0);

/// Destinations, without any program. By the destination's cookie.
#[map]
pub(crate) static DESTINATIONS: SockHash<u64> = SockHash::with_max_entries(1, 0);

/// The slot of a source's direction. By the source's cookie.
#[map]
pub(crate) static DIRECTIONS: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);

#[map]
pub(crate) static SLOTS: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Numbers (`u32`) of slots with their limit waiting, or half of it if they are eager, or that turned to passing.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(64 << 10, 0);
