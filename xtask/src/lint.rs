//! `cargo xtask lint`: format, clippy without warnings, bans, licences, sources; advisories where they can be had.

use std::process::Command;

use crate::{setup, sh};

pub(crate) fn all() -> anyhow::Result<()> {
    sh::run(cargo(&["fmt", "--all", "--check"]))?;
    sh::run(cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    setup::cargo_deny()?;
    sh::run(cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]))?;
    advisories()
}

/// The advisory database comes over the network; where it cannot be had that is said loudly and is no error.
fn advisories() -> anyhow::Result<()> {
    let had = cargo(&["deny", "fetch", "db"]).output().is_ok_and(|output| output.status.success());
    if !had {
        println!("SKIPPED advisories: the advisory database cannot be reached from this machine");
        return Ok(());
    }
    sh::run(cargo(&["deny", "--log-level", "error", "check", "advisories"]))
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args);
    command
}
