//! Konduit's eBPF programs.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
// Programs are exported symbols in named sections, and every helper takes raw pointers.
#![allow(unsafe_code)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual BSD/GPL\0";
