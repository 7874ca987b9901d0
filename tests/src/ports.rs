//! Ports and sockets for programs that must be told a number before they start.

use std::io::{ErrorKind, Result};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// `N` loopback ports that were free a moment ago, all different. Below the range that the kernel gives to outgoing
/// connections, and below 49152: a proxy-server refuses higher ones.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Programs that run at the same time have neighbouring numbers, and take hundreds of ports.
    let start = (u64::from(std::process::id()) * 4001 % 11_000) as u16;
    let mut held = Vec::with_capacity(N);
    for _ in 0..11_000 {
        if held.len() == N {
            break;
        }
        let port = 21_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed) % 11_000) % 11_000;
        // Every address: a server may bind them all.
        held.extend(TcpListener::bind(("0.0.0.0", port)).map(|listener| (port, listener)));
    }
    let ports: Vec<u16> = held.iter().map(|(port, _)| *port).collect();
    ports.try_into().map_err(|_| ErrorKind::AddrInUse.into())
}

/// Waits until something accepts at `address`.
pub fn wait_tcp(address: SocketAddr, longest: Duration) -> Result<()> {
    wait(longest, &format!("{address}"), || TcpStream::connect(address).is_ok())
}

/// Waits until something accepts at the Unix socket `path`.
pub fn wait_unix(path: &Path, longest: Duration) -> Result<()> {
    wait(longest, &path.display().to_string(), || UnixStream::connect(path).is_ok())
}

/// Asks `ready` until it says yes. Another process gives no event to wait for.
pub fn wait(longest: Duration, what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !ready() {
        if began.elapsed() > longest {
            return Err(std::io::Error::new(
                ErrorKind::TimedOut,
                format!("{what}: not there after {} s", longest.as_secs()),
            ));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
