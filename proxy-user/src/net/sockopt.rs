//! Socket options that std has no words for.
#![allow(unsafe_code)] // ioctl(SIOCOUTQ) and ioctl(SIOCATMARK) have no safe wrapper.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{SockRef, TcpKeepalive};

/// After how long without traffic the first probe goes out, how often it is repeated, and how many may go
/// unanswered: Go's defaults, so that a dead peer is noticed after 150 s, and no balancer or NAT forgets a flow.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 9;

/// TCP_NODELAY, SO_OOBINLINE and SO_KEEPALIVE 15 s/15 s/9: what every TCP socket of ours has.
///
/// An urgent byte is one like the others then: the kernel's map redirects it in any case, and a read, or the count of
/// what can be read, would leave it out.
pub fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_out_of_band_inline(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Makes the next close of the socket an abort: RST instead of FIN.
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// Takes [`reset_on_close`] back.
///
/// # Errors
/// The kernel's.
pub fn end_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_linger(None)
}

/// TCP_USER_TIMEOUT: ends the connection when sent bytes stay unacknowledged, or the peer's window closed, for
/// this long. For control streams and the gRPC frontend, whose peers read all the time: a flow that has the connection
/// to itself would be ended by a reader that pauses.
pub fn set_user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(timeout))
}

/// What became of a connection that nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HungUp {
    /// Reset, or given up by the kernel.
    pub broken: bool,
    /// Both directions are closed. Of a Unix socket whose own direction is open: its peer is gone.
    pub closed: bool,
}

pub fn hung_up(socket: &impl AsFd) -> HungUp {
    // The kernel reports both, asked or not; at once, since the timeout is zero.
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let told = rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok();
    let flags = if told { fds[0].revents() } else { PollFlags::empty() };
    HungUp { broken: flags.contains(PollFlags::ERR), closed: flags.contains(PollFlags::HUP) }
}

/// Bytes in the send queue: for TCP not acknowledged yet, for a Unix socket not read yet by the peer.
pub fn unsent(socket: &impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while borrowed; TIOCOUTQ (= SIOCOUTQ) writes one int through the pointer,
    // which is valid for that.
    let status = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// Whether the next byte is urgent: reads end in front of such a byte, whatever is behind it. False for a socket that
/// does not say.
pub fn at_mark(socket: &impl AsFd) -> bool {
    /// asm-generic/sockios.h; libc does not name it.
    const SIOCATMARK: libc::Ioctl = 0x8905;
    let mut here: libc::c_int = 0;
    // SAFETY: as in `unsent`; SIOCATMARK writes one int as well.
    let status = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCATMARK, &raw mut here) };
    status == 0 && here != 0
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_unix_socket_says_what_its_peer_has_not_read() {
        let (mut left, mut right) = UnixStream::pair().unwrap();
        left.write_all(&[7; 100]).unwrap();
        assert!(unsent(&left).unwrap() > 0);
        right.read_exact(&mut [0; 100]).unwrap();
        assert_eq!(unsent(&left).unwrap(), 0);
    }

    #[test]
    fn what_nobody_reads_is_known_to_be_closed_or_broken() {
        let (left, mut right) = UnixStream::pair().unwrap();
        right.write_all(b"unread").unwrap();
        right.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(hung_up(&left), HungUp { broken: false, closed: false });
        drop(right);
        assert_eq!(hung_up(&left), HungUp { broken: false, closed: true });

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut right, _) = listener.accept().unwrap();
        right.write_all(b"unread").unwrap();
        assert!(!hung_up(&left).broken);
        reset_on_close(&right).unwrap();
        drop(right);
        assert!(hung_up(&left).broken);
    }

    #[test]
    fn an_abort_is_a_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut right, _) = listener.accept().unwrap();
        reset_on_close(&left).unwrap();
        drop(left);
        assert_eq!(right.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
