//! Konduit's eBPF programs. Each is one call and one exit; what they decide is in `flow.rs`.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(core_intrinsics), allow(internal_features))]
// Programs are exported symbols in named sections, and every helper takes raw pointers.
#![allow(unsafe_code)]

#[cfg(target_arch = "bpf")]
mod brake;
#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod leave;
#[cfg(target_arch = "bpf")]
mod maps;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::{socket_filter, stream_verdict};
    use aya_ebpf::programs::SkBuffContext;

    /// Bytes arrived at a TCP source.
    #[stream_verdict]
    fn tcp_verdict(ctx: SkBuffContext) -> u32 {
        crate::flow::tcp(&ctx)
    }

    /// Bytes arrived at a Unix source.
    #[stream_verdict]
    fn unix_verdict(ctx: SkBuffContext) -> u32 {
        crate::flow::unix(&ctx)
    }

    /// A segment arrived for a TCP source.
    #[socket_filter]
    fn brake(ctx: SkBuffContext) -> i64 {
        crate::brake::filter(&ctx)
    }

    /// Sees every TCP socket of the namespace, each locked, when userspace reads the iterator.
    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/tcp")]
    fn leave(walk: *const crate::leave::Walk) -> i32 {
        crate::leave::visit(walk);
        0
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
