//! HAProxy → HAProxy in TCP mode: the two-hop path to compare with.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::child::Child;
use crate::ports;

/// Two HAProxy processes in a row.
pub struct Haproxy {
    pub front: SocketAddr,
    hops: [Child; 2],
}

/// Whether HAProxy may use splice(2); its own default is no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Splicing {
    Stock,
    Auto,
}

impl Haproxy {
    pub fn installed() -> bool {
        Command::new(program()).arg("-v").output().is_ok_and(|output| output.status.success())
    }

    pub fn start(directory: &Path, target: SocketAddr, splicing: Splicing) -> anyhow::Result<Haproxy> {
        let [first, second] = ports::free()?.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let near = hop(directory, "haproxy-2", second, target, splicing)?;
        let far = hop(directory, "haproxy-1", first, second, splicing)?;
        let mut both = Haproxy { front: first, hops: [far, near] };
        for (child, address) in both.hops.iter_mut().zip([first, second]) {
            if let Err(error) = ports::wait_tcp(address, Duration::from_secs(60)) {
                child.check()?;
                return Err(error.into());
            }
        }
        Ok(both)
    }

    pub fn pids(&self) -> Vec<u32> {
        self.hops.iter().map(Child::pid).collect()
    }
}

fn program() -> &'static str {
    if Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" }
}

fn hop(
    directory: &Path,
    name: &str,
    listen: SocketAddr,
    to: SocketAddr,
    splicing: Splicing,
) -> anyhow::Result<Child> {
    let splice = if splicing == Splicing::Auto { "    option splice-auto\n" } else { "" };
    // Two threads as there are two processors here; buffers and everything else as HAProxy sets them.
    let config = format!(
        "global\n    nbthread 2\n    maxconn 4000\ndefaults\n    mode tcp\n{splice}    timeout connect 10s\n    \
         timeout client 10m\n    timeout server 10m\nlisten hop\n    bind {listen}\n    server next {to}\n"
    );
    let file = directory.join(format!("{name}.cfg"));
    fs::write(&file, config)?;
    // -db: stay in the foreground, as one process.
    Child::start(name, directory, Command::new(program()).arg("-db").arg("-f").arg(&file))
}
