//! Network namespaces without names: they live as long as somebody holds them, and nothing is left behind.
#![allow(unsafe_code)] // unshare(2) and setns(2) of one thread

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A namespace with its loopback up. Making one takes root.
pub struct Netns {
    handle: File,
}

impl Netns {
    pub fn new() -> anyhow::Result<Netns> {
        let made = thread::spawn(|| -> anyhow::Result<File> {
            // SAFETY: NEWNET changes only what new sockets of this thread belong to; no descriptor table and no
            // memory is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .context("a new network namespace (are we root?)")?;
            ip(&["link", "set", "lo", "up"])?;
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
