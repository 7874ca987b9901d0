//! Network namespaces without names: they live as long as somebody holds them, and nothing is left behind.
#![allow(unsafe_code)] // unshare(2) and setns(2) of one thread

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use anyhow::Context;
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A namespace with its loopback up. Making one takes root.
pub struct Netns {
    handle: File,
}

/// The default congestion control of the calling thread's namespace. A new namespace takes after the machine's first
/// one, not after the one that it was made in (tcp_sk_init).
pub const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// In words, for who reads figures.
pub fn congestion() -> String {
    fs::read_to_string(CONGESTION).map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// Chooses it for new sockets of the calling thread's namespace, unless it is in force there.
///
/// # Errors
/// [`NotFound`](std::io::ErrorKind::NotFound) for one that this kernel lacks; others where it may not be chosen.
pub fn choose_congestion(name: &str) -> std::io::Result<()> {
    if congestion() == name { Ok(()) } else { fs::write(CONGESTION, name) }
}

/// Moves the calling thread, and all threads and processes that it makes from then on, into a new namespace with its
/// loopback up.
///
/// # Errors
/// [`Errno::PERM`](rustix::io::Errno::PERM) beneath, for who may not.
pub fn enter_new() -> anyhow::Result<()> {
    // SAFETY: NEWNET changes only what new sockets of this thread belong to; no descriptor table and no memory is
    // unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("a new network namespace (are we root?)")?;
    ip(&["link", "set", "lo", "up"])
}

/// Whether this process may make no namespace, as who is not root: said aloud, since whoever asks leaves something out
/// then. Whatever else keeps it from that is for making one to say.
pub fn are_denied() -> bool {
    let made = thread::spawn(enter_new).join();
    let denied = matches!(made, Ok(Err(error)) if error.downcast_ref() == Some(&Errno::PERM));
    if denied {
        let _ = writeln!(
            std::io::stderr(),
            "\n!!! SKIPPED: this process may not make a network namespace; root may\n"
        );
    }
    denied
}

impl Netns {
    /// With the congestion control of the namespace that it is made in.
    pub fn new() -> anyhow::Result<Netns> {
        let of_maker = congestion();
        let made = thread::spawn(move || -> anyhow::Result<File> {
            enter_new()?;
            choose_congestion(&of_maker).with_context(|| format!("choosing {of_maker}"))?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let handle = made.join().map_err(|_| anyhow::anyhow!("the namespace's thread panicked"))??;
        Ok(Netns { handle })
    }

    /// Runs `work` on a thread inside. Sockets and processes that it makes belong to the namespace for good.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("entering a network namespace")?;
                work()
            });
            inside.join().map_err(|_| anyhow::anyhow!("a thread inside a namespace panicked"))?
        })
    }
}

/// Runs iproute2's `ip`, in the namespace of the calling thread.
pub fn ip(words: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("ip").args(words).output().context("starting ip (iproute2)")?;
    anyhow::ensure!(
        done.status.success(),
        "ip {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(())
}
