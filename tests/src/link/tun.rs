//! Opens a TUN device in the namespace of the calling thread.
#![allow(unsafe_code)] // TUNSETIFF and TUNSETOFFLOAD have no safe wrapper

use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context;

/// With `offload` TCP segments cross in pieces of up to 64 KiB, each behind a virtio-net header, as on a machine
/// whose network card segments and merges. Without it every segment is a bare IP packet.
pub(super) fn open(name: &str, offload: bool) -> anyhow::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .context("opening /dev/net/tun")?;
    // SAFETY: ifreq is plain data for which all zeroes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    // Without the four bytes of packet information in front.
    let header = if offload { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | header) as libc::c_short;
    // SAFETY: the request is a valid ifreq that outlives the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if done < 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("making the TUN device {name}"));
    }
    if offload {
        let what = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        // SAFETY: the request takes an integer, no pointer.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(what)) };
        if done < 0 {
            return Err(std::io::Error::last_os_error()).context("letting the TUN device offload segments");
        }
    }
    Ok(file.into())
}
