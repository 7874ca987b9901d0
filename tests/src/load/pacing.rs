//! The socket options that std and rustix do not offer.
#![allow(unsafe_code)] // setsockopt with options that no safe crate names

use std::io::{Error, Result};
use std::mem::size_of_val;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Caps what the kernel sends on this socket, in bytes per second.
pub fn pace(socket: &TcpStream, bytes_per_second: u64) -> Result<()> {
    // SAFETY: the option's value is a u64 that outlives the call, and its true size is passed.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const bytes_per_second).cast(),
            size_of_val(&bytes_per_second) as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
