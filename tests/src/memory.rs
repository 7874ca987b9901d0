//! Memory that flows hold: socket pages, pipes, slab and resident memory.

use std::collections::HashSet;
use std::fs;
use std::io::{Error, Result};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

const PAGE: u64 = 4096;

/// One look at the machine, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    /// Pages of all TCP sockets (sockstat, `mem`).
    pub tcp: u64,
    /// Bytes that wait in pipes of the given processes.
    pub pipes: u64,
    pub slab: u64,
    /// Of the slab what is no cache of files, which come and go with everybody's work.
    pub unreclaimable: u64,
    /// Resident memory of the given processes.
    pub rss: u64,
    /// What the kernel says is available; a cross-check that everything else on the machine disturbs.
    pub available: u64,
}

impl Held {
    pub fn now(pids: &[u32]) -> Result<Held> {
        Ok(Held {
            tcp: tcp_pages()? * PAGE,
            pipes: pids.iter().map(|pid| pipe_bytes(*pid)).sum(),
            slab: meminfo("Slab:")?,
            unreclaimable: meminfo("SUnreclaim:")?,
            rss: pids.iter().map(|pid| rss(*pid)).sum(),
            available: meminfo("MemAvailable:")?,
        })
    }

    /// Growth since `before`, in bytes; what shrank counts against it.
    pub fn grown_since(&self, before: &Held) -> i64 {
        let total = |held: &Held| (held.tcp + held.pipes + held.slab + held.rss) as i64;
        total(self) - total(before)
    }

    /// The least of each part in several looks within half a second: what is there all the time.
    pub fn lasting(pids: &[u32]) -> Result<Held> {
        let mut least = Held::now(pids)?;
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(100));
            let now = Held::now(pids)?;
            least = Held {
                tcp: least.tcp.min(now.tcp),
                pipes: least.pipes.min(now.pipes),
                slab: least.slab.min(now.slab),
                unreclaimable: least.unreclaimable.min(now.unreclaimable),
                rss: least.rss.min(now.rss),
                available: least.available.min(now.available),
            };
        }
        Ok(least)
    }

    /// Growth since `before`, in bytes, of each part by itself: what shrank is no credit for what did not.
    pub fn grown_by_parts(&self, before: &Held) -> u64 {
        let parts = |held: &Held| [held.tcp, held.pipes, held.unreclaimable, held.rss];
        parts(self).into_iter().zip(parts(before)).map(|(now, then)| now.saturating_sub(then)).sum()
    }
}

fn tcp_pages() -> Result<u64> {
    let sockstat = fs::read_to_string("/proc/net/sockstat")?;
    let line = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let mut words = line.split_whitespace().skip_while(|word| *word != "mem").skip(1);
    Ok(words.next().and_then(|pages| pages.parse().ok()).unwrap_or(0))
}

fn meminfo(name: &str) -> Result<u64> {
    Ok(kilobytes(&fs::read_to_string("/proc/meminfo")?, name))
}

/// Resident memory of a process, in bytes; 0 when it is gone.
pub fn rss(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status")).map_or(0, |status| kilobytes(&status, "VmRSS:"))
}

/// Resident memory of a process that is no file's, so without the code that it came to run; 0 when it is gone.
pub fn anonymous(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status")).map_or(0, |status| kilobytes(&status, "RssAnon:"))
}

fn kilobytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Open file descriptors of a process; 0 when it is gone.
pub fn open_fds(pid: u32) -> usize {
    let Fds { sockets, others } = open_fds_by_kind(pid);
    sockets + others
}

/// Open file descriptors of a process, by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fds {
    pub sockets: usize,
    pub others: usize,
}

/// As [`open_fds`], told apart.
pub fn open_fds_by_kind(pid: u32) -> Fds {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path()).is_ok_and(|name| name.to_string_lossy().starts_with("socket:"))
    };
    let (sockets, others): (Vec<_>, Vec<_>) = entries.partition(is_socket);
    Fds { sockets: sockets.len(), others: others.len() }
}

/// Bytes that wait in the pipes of a process, each pipe once.
pub fn pipe_bytes(pid: u32) -> u64 {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for entry in entries.flatten() {
        let Ok(name) = fs::read_link(entry.path()) else { continue };
        if !name.to_string_lossy().starts_with("pipe:") || !seen.insert(name) {
            continue;
        }
        // Opening the link gives another descriptor of the same pipe. Read-write never blocks on a FIFO.
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
        let opened = rustix::fs::open(entry.path(), flags, rustix::fs::Mode::empty());
        bytes += opened.map_or(0, |pipe: OwnedFd| rustix::io::ioctl_fionread(&pipe).unwrap_or(0));
    }
    bytes
}

/// Bytes that the TCP sockets of a process hold (queues and what was taken in advance), as `ss -m` tells.
pub fn socket_bytes(pid: u32) -> Result<u64> {
    told_by(Command::new("ss").args(["-tmnpH", "-O"]), pid)
}

/// No socket at all is no answer: whoever is asked about has a connection.
fn told_by(ss: &mut Command, pid: u32) -> Result<u64> {
    let output = ss.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let owner = format!("pid={pid},");
    let mut sockets = text.lines().filter(|line| line.contains(&owner)).map(skmem).peekable();
    if !output.status.success() || sockets.peek().is_none() {
        let said = String::from_utf8_lossy(&output.stderr);
        let why = format!("{ss:?} ended with {} and names no socket of process {pid}: {said}", output.status);
        return Err(Error::other(why));
    }
    Ok(sockets.sum())
}

/// `skmem:(r1,rb2,t3,tb4,f5,w6,o7,bl8,d9)`: received, queued to send, taken in advance, backlog. What is taken in advance
/// (`sk_forward_alloc`, a signed int that `ss` prints unsigned) is negative while a packet's memory is still to be taken.
fn skmem(line: &str) -> u64 {
    let inside =
        line.split_once("skmem:(").and_then(|(_, rest)| rest.split_once(')')).map_or("", |(in_, _)| in_);
    let field = |name: &str| {
        let digits = |part: &str| part.strip_prefix(name)?.parse::<u64>().ok();
        inside.split(',').find_map(digits).unwrap_or(0)
    };
    let ahead = i64::from(field("f") as u32 as i32);
    (field("r") + field("w") + field("bl")).saturating_add_signed(ahead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_socket_holds() {
        let line = "ESTAB 0 0 127.0.0.1:1 127.0.0.1:2 users:((\"a\",pid=7,fd=3)) skmem:(r10,rb131072,t0,tb87040,f5,w20,o0,bl3,d0)";
        assert_eq!(skmem(line), 38);
        let indebted = "skmem:(r543687,rb6291456,t0,tb2626560,f4294935609,w0,o0,bl0,d0)";
        assert_eq!(skmem(indebted), 125 * 4096);
    }

    #[test]
    fn silence_is_no_answer() {
        let ask = |script: &str| told_by(Command::new("sh").args(["-c", script]), 7);
        let line = r#"echo 'users:(("a",pid=7,fd=3)) skmem:(r10,w5)'"#;
        assert_eq!(ask(line).unwrap(), 15);
        assert!(ask(&format!("{line}; exit 1")).is_err(), "it failed on its way");
        assert!(ask("true").is_err(), "it saw no socket of ours");
        assert!(ask("no-such-program").is_err());
    }

    #[test]
    fn what_shrank_is_no_credit_for_what_grew() {
        let before = Held { tcp: 8 << 20, unreclaimable: 50 << 20, ..Held::default() };
        let after = Held { tcp: 16 << 20, unreclaimable: 40 << 20, ..Held::default() };
        assert_eq!(after.grown_by_parts(&before), 8 << 20);
        assert_eq!(before.grown_by_parts(&before), 0);
    }
}
