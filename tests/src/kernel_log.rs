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

    /// The faults since the last call, each with the program it happened in, equal ones counted.
    pub fn new_warnings(&mut self) -> Result<Vec<String>> {
        let mut found: Vec<(String, usize)> = Vec::new();
        let (mut record, mut program) = ([0; 8192], String::new());
        loop {
            let line = match self.kmsg.read(&mut record) {
                Ok(n @ 1..) => text_of(&record[..n]),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Records that were overwritten before we read them.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(error) => return Err(error),
            };
            if let Some((_, rest)) = line.split_once("Comm: ") {
                program = rest.split(' ').next().unwrap_or_default().to_owned();
            }
            if is_warning(&line) {
                // The processor and the process differ from time to time; the place is what counts.
                let place = line.split_once(" at ").map_or(line.as_str(), |(_, place)| place);
                match found.iter_mut().find(|(other, _)| other == place) {
                    Some((_, times)) => *times += 1,
                    None => found.push((place.to_owned(), 1)),
                }
            }
        }
        let words = |(place, times)| format!("{place}, {times} times, last in {program}");
        Ok(found.into_iter().map(words).collect())
    }
}

/// A fault of the kernel's own that is known: it miscounts up to a page of a socket's memory when it passes bytes of a
/// socket that it sends redirected bytes to as well. Engines that are chosen by themselves do not get there; sockmap
/// that is forced does (ARCHITECTURE.md).
pub fn is_miscount_of_forced_sockmap(warning: &str) -> bool {
    warning.contains(" inet_sock_destruct+")
}

fn text_of(record: &[u8]) -> String {
    let text = String::from_utf8_lossy(record);
    text.split_once(';').and_then(|(_, rest)| rest.lines().next()).unwrap_or_default().to_owned()
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
        "UBSAN:",
        "kernel BUG",
        "page allocation failure",
        "unregister_netdevice: waiting",
        "TCP: out of memory",
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
