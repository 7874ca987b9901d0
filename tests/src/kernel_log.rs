//! New warnings in the kernel's log: none of our work may cause one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Once;

/// Where the kernel is told to tell again what it tells once (Documentation/admin-guide/clearing-warn-once.rst). There
/// while debugfs is mounted, which is left to whoever owns the machine.
const TELL_AGAIN: &str = "/sys/kernel/debug/clear_warn_once";

/// Watches the kernel log from the moment it was opened. Most warnings are told once after each start of the machine
/// (`WARN_ON_ONCE`): one that was heard, and perhaps excused, would hide all later ones, so the kernel is made to forget
/// what it told then and after each look.
pub struct KernelLog {
    kmsg: File,
}

impl KernelLog {
    /// Needs the right to read /dev/kmsg.
    pub fn watch() -> Result<KernelLog> {
        let mut kmsg = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        kmsg.seek(SeekFrom::End(0))?;
        hear_again();
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
        hear_again();
        for line in &faults.starved {
            let _ = writeln!(std::io::stderr(), "\n!!! THE KERNEL GOT NO PROCESSOR: {line}\n");
        }
        let words = |(place, times)| format!("{place}, {times} times, last in {}", faults.program);
        Ok(faults.found.into_iter().map(words).collect())
    }
}

/// Where that cannot be had, it is said aloud once.
fn hear_again() {
    static TOLD: Once = Once::new();
    if let Err(error) = tell_again(Path::new(TELL_AGAIN)) {
        TOLD.call_once(|| {
            let _ = writeln!(
                std::io::stderr(),
                "\n!!! SKIPPED in part: what the kernel warned of before in this boot it does not tell again: \
                 {TELL_AGAIN}: {error}; `mount -t debugfs none /sys/kernel/debug` gives it where the kernel is not \
                 locked down, and a machine started anew has told nothing yet\n"
            );
        });
    }
}

fn tell_again(file: &Path) -> Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(b"1")
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

/// A fault of the kernel's own that is known: it miscounts up to a page of a socket's memory where it passes bytes of a
/// socket whose receive buffer is full, or that it sends redirected bytes to as well (ARCHITECTURE.md). No flow gets
/// there; tests of passing do.
pub fn is_miscount_of_passing(warning: &str) -> bool {
    // This check of the several in the function, by its line in Linux 6.18, where it was seen.
    warning.starts_with("net/ipv4/af_inet.c:157 inet_sock_destruct+0x")
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
    fn the_kernel_is_asked_to_tell_again_where_it_can_be() {
        let file = tempfile::NamedTempFile::new().unwrap();
        tell_again(file.path()).unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"1");
        // Never made: only the kernel's own file does anything.
        let missing = file.path().with_extension("missing");
        assert_eq!(tell_again(&missing).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!missing.exists());
    }

    #[test]
    fn one_check_is_known_and_not_its_neighbours() {
        let known = "net/ipv4/af_inet.c:157 inet_sock_destruct+0x169/0x190, 1 times, last in kworker/1:0";
        assert!(is_miscount_of_passing(known));
        for other in [
            "net/ipv4/af_inet.c:154 inet_sock_destruct+0x140/0x190, 1 times, last in kworker/1:0",
            "net/core/sock.c:157 inet_sock_destruct+0x169/0x190, 1 times, last in kworker/1:0",
            "net/core/stream.c:1 other, 1 times, last in net/ipv4/af_inet.c:157 inet_sock_destruct+0x1/0x2",
        ] {
            assert!(!is_miscount_of_passing(other), "{other}");
        }
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
