//! Why the in-kernel path cannot be had, on this machine or for one direction.

use std::io;

/// Why the eBPF programs are not loaded.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error(
        "this binary was built without the ebpf feature; build it with `cargo xtask build` to have the sockmap engine"
    )]
    NoFeature,
    #[error("this binary was built without its eBPF object; build it with `cargo xtask build`")]
    NoObject,
    #[error(
        "could not read the kernel's own types at {path} ({source}); sockmap needs a kernel built with CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf { path: &'static str, source: io::Error },
    #[error("the kernel's own types at {path} do not parse: {what}")]
    BadBtf { path: &'static str, what: &'static str },
    #[error("the kernel's types have no field {field}; this kernel is not known to the sockmap engine")]
    NoField { field: &'static str },
    #[error(
        "loading eBPF programs is not permitted; grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or run as root"
    )]
    NotPermitted,
    #[error("{what} was refused by the kernel: {reason}")]
    Refused { what: &'static str, reason: String },
    #[error(
        "the eBPF object lacks {0}; object and binary do not belong together, build both with `cargo xtask build`"
    )]
    Mismatch(&'static str),
}

/// Why one direction stays with the lower engines. Nothing was changed when this is returned.
#[derive(Debug, thiserror::Error)]
pub enum MapRefused {
    #[error("one of the two sockets is no longer established")]
    NotEstablished,
    #[error("all {0} slots for mapped directions are taken")]
    NoSlot(u32),
    #[error("{0} bytes arrived before the Unix socket entered its map; only an empty one may enter")]
    BytesWaiting(u32),
    #[error("{what}: {source}")]
    Socket { what: &'static str, source: io::Error },
    #[error("this binary has no eBPF programs")]
    NoFeature,
}

#[cfg(feature = "ebpf")]
impl MapRefused {
    pub(super) fn socket(what: &'static str) -> impl FnOnce(io::Error) -> MapRefused {
        move |source| MapRefused::Socket { what, source }
    }
}
