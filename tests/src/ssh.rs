//! `ssh -L` through a server of our own on a loopback port, with throwaway keys: what Konnectivity replaced.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::child::Child;
use crate::ports;

const SSHD: &str = "/usr/sbin/sshd";

pub struct Ssh {
    pub front: SocketAddr,
    client: Child,
    server: Child,
}

impl Ssh {
    pub fn installed() -> bool {
        Path::new(SSHD).exists()
    }

    pub fn start(directory: &Path, target: SocketAddr) -> anyhow::Result<Ssh> {
        let [listen, front] = ports::free()?.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let host = new_key(directory, "host")?;
        let user = new_key(directory, "user")?;
        let accepted = directory.join("authorized");
        fs::copy(user.with_extension("pub"), &accepted)?;
        // Where sshd separates privileges; its package's service would make it.
        if !Path::new("/run/sshd").exists() {
            fs::create_dir_all("/run/sshd").context("sshd wants /run/sshd")?;
        }
        let mut server = Command::new(SSHD);
        server.args(["-D", "-e", "-f", "/dev/null", "-h"]).arg(&host);
        for option in [
            format!("ListenAddress={}", listen.ip()),
            format!("Port={}", listen.port()),
            format!("AuthorizedKeysFile={}", accepted.display()),
            "StrictModes=no".to_owned(),
            "UsePAM=no".to_owned(),
            "PidFile=none".to_owned(),
            "PermitRootLogin=yes".to_owned(),
            "MaxSessions=1000".to_owned(),
        ] {
            server.arg("-o").arg(option);
        }
        let server = Child::start("sshd", directory, &mut server)?;
        ports::wait_tcp(listen, Duration::from_secs(60)).with_context(|| server.last_words())?;
        let mut client = Command::new("ssh");
        client.args(["-N", "-F", "/dev/null", "-i"]).arg(&user);
        client.args(["-p", &listen.port().to_string(), "-L", &format!("{front}:{target}")]);
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ExitOnForwardFailure=yes",
            "BatchMode=yes",
        ] {
            client.arg("-o").arg(option);
        }
        let client = Child::start("ssh", directory, client.arg(listen.ip().to_string()))?;
        ports::wait_tcp(front, Duration::from_secs(60))
            .with_context(|| format!("ssh: {}\nsshd: {}", client.last_words(), server.last_words()))?;
        Ok(Ssh { front, client, server })
    }

    pub fn pids(&self) -> Vec<u32> {
        vec![self.client.pid(), self.server.pid()]
    }
}

fn new_key(directory: &Path, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let key = directory.join(name);
    // ssh-keygen asks before it replaces a file.
    let _ = fs::remove_file(&key);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status()
        .context("starting ssh-keygen")?;
    anyhow::ensure!(made.success(), "ssh-keygen failed with {made}");
    Ok(key)
}
