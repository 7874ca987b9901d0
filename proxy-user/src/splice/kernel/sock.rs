//! What the kernel says about a socket.
//!
//! Raw `getsockopt` and `ioctl` calls, since no safe wrapper offers TCP_INFO or the queue lengths.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::net::sockopt;

/// The part of `struct tcp_info` that the engine uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// `TCP_ESTABLISHED` is 1, `TCP_CLOSE` 7.
    pub state: u8,
    /// Bytes acknowledged by the peer since the connection began; FIN and SYN may count as one each.
    pub bytes_acked: u64,
    /// Bytes received in order since the connection began.
    pub bytes_received: u64,
    /// Written but not yet sent once.
    pub notsent: u32,
    /// Window scales: the peer's, ours.
    pub window_scales: (u8, u8),
}

impl TcpInfo {
    pub fn is_established(&self) -> bool {
        self.state == 1
    }

    /// No connection is left. A peer that only ended its direction leaves `TCP_CLOSE_WAIT`.
    pub fn is_closed(&self) -> bool {
        self.state == 7
    }
}

/// The kernel's cookie of a socket: unique for the life of the system, never reused.
///
/// # Errors
/// The errno of `getsockopt(SO_COOKIE)`.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut value = 0u64;
    get(&socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut value)?;
    Ok(value)
}

/// # Errors
/// The errno of `getsockopt(TCP_INFO)`.
pub fn tcp_info(socket: impl AsFd) -> io::Result<TcpInfo> {
    let mut raw = MaybeUninit::<Info>::zeroed();
    get(&socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut raw)?;
    // SAFETY: zeroed, then filled as far as this kernel knows the structure; all fields are integers.
    let raw = unsafe { raw.assume_init() };
    Ok(TcpInfo {
        state: raw.bytes8[0],
        bytes_acked: raw.bytes_acked,
        bytes_received: raw.bytes_received,
        notsent: raw.notsent_bytes,
        window_scales: (raw.bytes8[6] & 0xf, raw.bytes8[6] >> 4),
    })
}

/// Bytes written and not yet acknowledged (TCP) or not yet read by the peer (Unix).
///
/// # Errors
/// The errno of `ioctl(SIOCOUTQ)`.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    sockopt::unsent(&socket)
}

/// Bytes that can be read now.
///
/// # Errors
/// The errno of `ioctl(FIONREAD)`.
pub fn readable(socket: impl AsFd) -> io::Result<u32> {
    queue(&socket, libc::FIONREAD)
}

/// All bytes ever written to a TCP socket that its kernel side accepted, in the count of `bytes_acked`.
///
/// # Errors
/// As [`tcp_info`] and [`unacknowledged`].
pub fn enqueued(socket: impl AsFd) -> io::Result<u64> {
    let mut before = tcp_info(&socket)?.bytes_acked;
    loop {
        let waiting = unacknowledged(&socket)?;
        let after = tcp_info(&socket)?.bytes_acked;
        if after == before {
            return Ok(after + u64::from(waiting));
        }
        before = after;
    }
}

/// Makes the kernel run the verdict over bytes that arrived before the socket entered its map.
/// `Ok(true)` when the source already ended its stream.
///
/// # Errors
/// The socket's pending error.
pub fn kick(socket: impl AsFd) -> io::Result<bool> {
    let mut byte = 0u8;
    // SAFETY: one byte, valid for the call.
    let got = unsafe {
        libc::recv(socket.as_fd().as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT)
    };
    match got {
        0 => Ok(true),
        1.. => Ok(false),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            error => Err(error),
        },
    }
}

/// Sets the send buffer past the system's ceiling. The kernel doubles `bytes`.
///
/// # Errors
/// `EPERM` without CAP_NET_ADMIN.
pub fn force_send_buffer(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &value)
}

/// Readiness to read begins with so many bytes, the end of the stream or an error (SO_RCVLOWAT); 1 is the kernel's
/// own choice. The kernel makes the receive buffer hold them, and may ask for less than `bytes`.
///
/// # Errors
/// The errno of `setsockopt`.
pub fn receive_at_least(socket: impl AsFd, bytes: u32) -> io::Result<()> {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &value)
}

/// Has every segment that arrives looked at by the program, instead of by the one before it.
///
/// # Errors
/// The errno of `setsockopt(SO_ATTACH_BPF)`.
pub fn attach_filter(socket: impl AsFd, program: BorrowedFd<'_>) -> io::Result<()> {
    set(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &program.as_raw_fd())
}

/// # Errors
/// The errno of `setsockopt(SO_DETACH_FILTER)`: ENOENT where none is attached.
pub fn detach_filter(socket: impl AsFd) -> io::Result<()> {
    set(&socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0i32)
}

/// `struct tcp_info` up to and including `tcpi_min_rtt`.
#[repr(C)]
struct Info {
    bytes8: [u8; 8],
    words: [u32; 24],
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt: u32,
}

const _: () = assert!(size_of::<Info>() == 152);

fn queue(socket: &impl AsFd, request: libc::c_ulong) -> io::Result<u32> {
    let mut value: libc::c_int = 0;
    // SAFETY: both requests write one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request as _, &raw mut value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.max(0) as u32) }
}

fn get<T>(socket: &impl AsFd, level: i32, name: i32, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, which callers make valid for any bits.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn set<T>(socket: &impl AsFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
