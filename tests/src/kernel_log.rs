//! New warnings in the kernel's log: none of our work may cause one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// Watches the kernel log from the moment it was opened.
pub struct KernelLog {
    kmsg: File,
}

impl KernelLog {
    /// Needs the right to read /dev/kmsg.
    pub fn watch() -> Result<KernelLog> {
        let mut kmsg = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        kmsg.seek(SeekFrom::End(0))?;
        Ok(KernelLog { kmsg })
    }

    /// The lines since the last call that tell of a fault.
    pub fn new_warnings(&mut self) -> Result<Vec<String>> {
        let (mut found, mut record) = (Vec::new(), [0; 8192]);
        loop {
            match self.kmsg.read(&mut record) {
                Ok(0) => return Ok(found),
                Ok(n) => {
                    let text = String::from_utf8_lossy(&record[..n]);
                    let line = text.split_once(';').map_or("", |(_, rest)| rest.lines().next().unwrap_or(""));
                    if is_warning(line) {
                        found.push(line.to_owned());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(found),
                // Records that were overwritten before we read them.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_warning(line: &str) -> bool {
    [
        "WARNING:",
        "BUG:",
        "Oops",
        "refcount_t:",
        "general protection",
        "rcu: INFO:",
        "soft lockup",
        "hung_task",
    ]
    .iter()
    .any(|mark| line.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_faults_from_chatter() {
        assert!(is_warning("WARNING: CPU: 1 PID: 12 at net/ipv4/af_inet.c:157 inet_sock_destruct+0x1a0"));
        assert!(is_warning("BUG: unable to handle page fault"));
        assert!(!is_warning("device tun0 entered promiscuous mode"));
    }
}
