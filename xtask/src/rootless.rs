//! The Kubernetes path once more as a user without rights, where eBPF cannot be loaded and the lower engines run.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, process};

use anyhow::{Context, Result};

use crate::test::Form;
use crate::{gotest, sh};

/// The user and group `nobody` of Debian; they own nothing.
const NOBODY: u32 = 65534;
/// Upstream's Go client as a program.
const CLIENT: &str = "konnectivity-client";
/// What costs most: the short form has it as root only. `logs -f`, `exec` with and without a TTY, `port-forward` and
/// proxied bodies are left in every cell, which takes some 20 s.
const LEFT_OUT: [&str; 11] = [
    "TestAttach",
    "TestAttachTTY",
    "TestCalmThenBulk",
    "TestComesBack",
    "TestCopy",
    "TestExecStdin",
    "TestKonnectivityClient",
    "TestPortForwardService",
    "TestProxySubresources",
    "TestRefused",
    "TestStalledReader",
];

/// As root only, since without root everything ran like this already.
pub(crate) fn run(module: &Path, programs: &Path, form: Form) -> Result<()> {
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
    let at = |name: &str| room.0.join(name);
    for (name, args) in
        [("kubernetes.test", &["test", "-vet=off", "-c"][..]), (CLIENT, &["build", "-C", "konnectivity"])]
    {
        let mut build = Command::new("go");
        build.current_dir(module).args(args).arg("-o").arg(at(name)).arg(".");
        sh::run("build what tests the Kubernetes path", &mut build)?;
    }
    for name in ["proxy-server", "proxy-agent"] {
        fs::copy(programs.join(name), at(name)).with_context(|| format!("could not copy {name}"))?;
    }
    let mut test = Command::new("go");
    test.current_dir(&room.0).args(["tool", "test2json", "-p", "rootless", "setpriv", "--clear-groups"]);
    test.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "env".to_owned()]);
    for (variable, path) in [
        ("HOME", room.0.clone()),
        ("TMPDIR", room.0.clone()),
        ("KONDUIT_SERVER", at("proxy-server")),
        ("KONDUIT_AGENT", at("proxy-agent")),
        ("KONDUIT_KONNECTIVITY_CLIENT", at(CLIENT)),
    ] {
        test.arg(format!("{variable}={}", path.display()));
    }
    test.arg(at("kubernetes.test")).args(["-test.v=test2json", "-test.timeout", form.time_out()]);
    match form {
        Form::Full => {
            test.env("KONDUIT_FULL", "1");
        }
        Form::Short => {
            let left_out = LEFT_OUT.join(", ");
            sh::say(format!("!!! SHORT FORM: without root these run with --full only: {left_out}"));
            test.arg(format!("-test.skip=^({})$", LEFT_OUT.join("|")));
        }
    }
    gotest::run("test the Kubernetes path without root, on the lower engines", &mut test)
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
