//! Leaving the map under traffic. Taking a source out of its map swaps its `data_ready` and its program in two
//! steps, and bytes that arrive between them are dropped. The kernel's walk over TCP sockets locks each
//! socket while this program looks at it: arriving segments wait in its backlog, so no verdict can run.

use core::ffi::c_void;
use core::ptr::{addr_of_mut, from_ref, read_volatile, write_volatile};

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_map_delete_elem, bpf_seq_write, bpf_skc_to_tcp_sock};
use proxy_ebpf::PASS;

use crate::flow;
use crate::maps::TCP_SOURCES;

/// `struct bpf_iter__tcp`
#[repr(C)]
pub(crate) struct Walk {
    meta: *const Meta,
    socket: *mut c_void,
    uid: u32,
}

/// The start of `struct bpf_iter_meta`
#[repr(C)]
struct Meta {
    output: *mut seq_file,
}

#[inline(always)]
pub(crate) fn visit(walk: *const Walk) {
    let socket = unsafe { (*walk).socket };
    // Only a full socket is locked; the helper gives nothing for the others.
    if socket.is_null() || unsafe { bpf_skc_to_tcp_sock(socket) }.is_null() {
        return;
    }
    let cookie = unsafe { bpf_get_socket_cookie(socket) };
    let Some((number, slot)) = flow::slot(cookie) else { return };
    let state = unsafe { addr_of_mut!((*slot).state) };
    let now = unsafe { read_volatile(state) };
    let wants = unsafe { read_volatile(addr_of_mut!((*slot).leave)) } != 0;
    // Not while passing: a recv of passed bytes moves the socket's copied_seq only as long as the socket has a
    // verdict, and without that the kernel takes later bytes for a gap ("recvmsg seq # bug").
    if !wants || now & PASS != 0 {
        return;
    }
    let removed =
        unsafe { bpf_map_delete_elem(from_ref(&TCP_SOURCES).cast_mut().cast(), from_ref(&cookie).cast()) };
    if removed == 0 {
        unsafe {
            // In this order, since userspace asks in the other one whether a direction left or overflowed; a CPU that
            // turns the stores round makes it ask once more.
            write_volatile(addr_of_mut!((*slot).left), 1);
            write_volatile(state, now | PASS);
            // Userspace reads who left, and may have no need to walk on.
            bpf_seq_write((*(*walk).meta).output, from_ref(&number).cast(), size_of_val(&number) as u32);
        }
    }
}
