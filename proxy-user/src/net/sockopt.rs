//! Socket options and kernel counters that std has no words for.
#![allow(unsafe_code)] // getsockopt(TCP_INFO) and ioctl(SIOCOUTQ) have no safe wrapper.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// After how long without traffic the first probe goes out, how often it is repeated, and how many may go
/// unanswered: Go's defaults, so that a dead peer is noticed after 150 s, and no balancer or NAT forgets a flow.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 9;

/// TCP_NODELAY and SO_KEEPALIVE 15 s/15 s/9: what every TCP socket of ours has.
pub fn tune(socket: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
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

/// TCP_USER_TIMEOUT: ends the connection when sent bytes stay unacknowledged, or the peer's window closed, for
/// this long. For control streams only: a flow whose reader pauses would be ended by it.
pub fn set_user_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    SockRef::from(socket).set_tcp_user_timeout(Some(timeout))
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

/// The kernel's `struct tcp_info` up to `tcpi_snd_wnd` (Linux 5.4). A shorter answer leaves the rest zero.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct TcpInfo {
    pub state: u8,
    pub ca_state: u8,
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    pub options: u8,
    pub wscale: u8,
    pub flags: u8,
    pub rto: u32,
    pub ato: u32,
    pub snd_mss: u32,
    pub rcv_mss: u32,
    pub unacked: u32,
    pub sacked: u32,
    pub lost: u32,
    pub retrans: u32,
    pub fackets: u32,
    pub last_data_sent: u32,
    pub last_ack_sent: u32,
    pub last_data_recv: u32,
    pub last_ack_recv: u32,
    pub pmtu: u32,
    pub rcv_ssthresh: u32,
    /// Microseconds, as `rttvar` and `min_rtt`.
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_ssthresh: u32,
    pub snd_cwnd: u32,
    pub advmss: u32,
    pub reordering: u32,
    pub rcv_rtt: u32,
    pub rcv_space: u32,
    pub total_retrans: u32,
    pub pacing_rate: u64,
    pub max_pacing_rate: u64,
    /// Counts a FIN that was acknowledged.
    pub bytes_acked: u64,
    /// Counts a FIN that was received.
    pub bytes_received: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    /// In the send queue and never sent.
    pub notsent_bytes: u32,
    pub min_rtt: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    /// Bytes per second.
    pub delivery_rate: u64,
    pub busy_time: u64,
    pub rwnd_limited: u64,
    pub sndbuf_limited: u64,
    pub delivered: u32,
    pub delivered_ce: u32,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub dsack_dups: u32,
    pub reord_seen: u32,
    pub rcv_ooopack: u32,
    pub snd_wnd: u32,
}

const _: () = assert!(size_of::<TcpInfo>() == 232);

pub fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    let mut info = MaybeUninit::<TcpInfo>::zeroed();
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the descriptor is open while borrowed; the kernel writes at most `length` bytes into `info`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every field is an integer, for which zeroes and whatever the kernel wrote are valid.
    Ok(unsafe { info.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn counters_follow_the_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut left = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut right, _) = listener.accept().unwrap();
        tune(&left).unwrap();
        assert!(left.nodelay().unwrap());
        left.write_all(&[7; 1000]).unwrap();
        right.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(tcp_info(&right).unwrap().bytes_received, 1000);
        assert_eq!(tcp_info(&left).unwrap().bytes_sent, 1000);
        assert!(tcp_info(&left).unwrap().snd_wnd > 0);
    }

    #[test]
    fn a_unix_socket_says_what_its_peer_has_not_read() {
        let (mut left, mut right) = UnixStream::pair().unwrap();
        left.write_all(&[7; 100]).unwrap();
        assert!(unsent(&left).unwrap() > 0);
        right.read_exact(&mut [0; 100]).unwrap();
        assert_eq!(unsent(&left).unwrap(), 0);
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
