//! Ports and sockets for programs that must be told a number before they start.

use std::io::{ErrorKind, Result};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// `N` loopback ports that were free a moment ago, all different.
pub fn free<const N: usize>() -> Result<[u16; N]> {
    let held = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
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
