//! The Kubernetes path once more as a user without rights, where eBPF cannot be loaded and the lower engines run.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

use anyhow::{Context, Result};

use crate::sh;

/// The user and group `nobody` of Debian; they own nothing.
const NOBODY: u32 = 65534;
/// Every way to stream through a kubelet, in every cell, in some 20 s; what costs more runs as root only.
const BEHAVIOURS: &str = "^Test(Exec|ExecTTY|LogsFollow|PortForward|ProxyBody|NoRoute)$";

/// Runs the short form; as root only, since without root everything ran like this already.
pub(crate) fn run(module: &Path, programs: &Path) -> Result<()> {
    if !sh::is_root() {
        return Ok(());
    }
    let room = Room::new()?;
    if sh::ask(Command::new("unshare").args(["--user", "true"]).uid(NOBODY).gid(NOBODY)).is_none() {
        sh::say(
            "!!! SKIPPED: the Kubernetes path without root: this machine lets nobody make user namespaces",
        );
        return Ok(());
    }
    let mut build = Command::new("go");
    build.current_dir(module).args(["test", "-c", "-o"]).arg(room.0.join("kubernetes.test")).arg(".");
    sh::run("build the Kubernetes path's test", &mut build)?;
    for name in ["proxy-server", "proxy-agent"] {
        fs::copy(programs.join(name), room.0.join(name)).with_context(|| format!("could not copy {name}"))?;
    }
    let mut test = Command::new(room.0.join("kubernetes.test"));
    test.current_dir(&room.0).args(["-test.timeout=10m", "-test.run", BEHAVIOURS]);
    test.env("HOME", &room.0).env("TMPDIR", &room.0);
    test.env("KONDUIT_SERVER", room.0.join("proxy-server"));
    test.env("KONDUIT_AGENT", room.0.join("proxy-agent"));
    sh::run("test the Kubernetes path without root, on the lower engines", test.uid(NOBODY).gid(NOBODY))
}

/// A directory that is nobody's and goes with its owner.
struct Room(PathBuf);

impl Room {
    fn new() -> Result<Room> {
        let room = Room(env::temp_dir().join(format!("konduit-rootless-{}", process::id())));
        fs::create_dir(&room.0).with_context(|| format!("could not make {}", room.0.display()))?;
        fs::set_permissions(&room.0, fs::Permissions::from_mode(0o755))?;
        std::os::unix::fs::chown(&room.0, Some(NOBODY), Some(NOBODY))?;
        Ok(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
