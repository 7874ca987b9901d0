//! New warnings in the kernel's log: none of our work may cause one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom, Write};
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

    /// The faults since the last call, each with the program it happened in, equal ones counted. What a machine says
    /// that got no processor is said aloud, and a fault only where its trace leads through the code that we use.
    pub fn new_warnings(&mut self) -> Result<Vec<String>> {
        let mut faults = Faults::default();
        let mut record = [0; 8192];
        loop {
            let line = match self.kmsg.read(&mut record) {
                Ok(n @ 1..) => text_of(&record[..n]),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Records that were overwritten before we read them.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(error) => return Err(error),
            };
            faults.hear(&line);
        }
        for line in &faults.starved {
            let _ = writeln!(std::io::stderr(), "\n!!! THE KERNEL GOT NO PROCESSOR: {line}\n");
        }
        let words = |(place, times)| format!("{place}, {times} times, last in {}", faults.program);
        Ok(faults.found.into_iter().map(words).collect())
    }
}

/// What lines of the log amount to.
#[derive(Default)]
struct Faults {
    found: Vec<(String, usize)>,
    /// What a starved machine said.
    starved: Vec<String>,
    /// Whether the lines since then may be the trace of the last of those.
    tracing: bool,
    program: String,
}

impl Faults {
    fn hear(&mut self, line: &str) {
        if let Some((_, rest)) = line.split_once("Comm: ") {
            self.program = rest.split(' ').next().unwrap_or_default().to_owned();
        }
        if is_starvation(line) {
            self.starved.push(line.to_owned());
            self.tracing = true;
        } else if is_warning(line) {
            self.tracing = false;
            self.add(line);
        } else if self.tracing && is_ours(line) {
            self.tracing = false;
            let fault = self.starved.pop().unwrap_or_default();
            self.add(&fault);
        }
    }

    fn add(&mut self, line: &str) {
        // The processor and the process differ from time to time; the place is what counts.
        let place = line.split_once(" at ").map_or(line, |(_, place)| place);
        match self.found.iter_mut().find(|(other, _)| other == place) {
            Some((_, times)) => *times += 1,
            None => self.found.push((place.to_owned(), 1)),
        }
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

/// A machine that others keep from its processors says so, whatever its kernel does.
fn is_starvation(line: &str) -> bool {
    ["rcu: INFO:", "soft lockup", "hung_task"].iter().any(|mark| line.contains(mark))
}

/// A line of a trace through what our programs run in.
fn is_ours(line: &str) -> bool {
    ["sk_psock", "sock_map", "sock_hash", "bpf"].iter().any(|mark| line.contains(mark))
}

fn is_warning(line: &str) -> bool {
    [
        "WARNING:",
        "BUG:",
        "Oops",
        "refcount_t:",
        "general protection",
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

    #[test]
    fn a_starved_machine_is_at_fault_only_within_the_code_that_we_use() {
        let lockup = "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:0:17]";
        let heard = |lines: &[&str]| {
            let mut faults = Faults::default();
            lines.iter().for_each(|line| faults.hear(line));
            (faults.found.len(), faults.starved.len())
        };
        assert_eq!(heard(&[lockup, "RIP: 0010:finish_task_switch+0x9b/0x2f0"]), (0, 1));
        assert_eq!(
            heard(&[lockup, "RIP: 0010:sk_psock_backlog+0x9b/0x2f0", " tcp_bpf_sendmsg+0x1/0x2"]),
            (1, 0)
        );
        assert_eq!(
            heard(&[lockup, "WARNING: CPU: 1 at net/core/skmsg.c:1", " sk_psock_put+0x1/0x2"]),
            (1, 1)
        );
    }
}
