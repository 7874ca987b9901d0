//! `cargo xtask lint`: format, clippy without warnings (with eBPF and without), bans, licences, sources; advisories
//! where they can be had.

use std::process::Command;

use anyhow::Result;

use crate::{setup, sh};

pub(crate) fn run() -> Result<()> {
    sh::run("check the format", &mut cargo(&["fmt", "--all", "--check"]))?;
    sh::run(
        "clippy, no warning allowed",
        &mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    )?;
    sh::run(
        "clippy without eBPF",
        &mut cargo(&[
            "clippy",
            "--package=proxy-user",
            "--no-default-features",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]),
    )?;
    setup::cargo_deny()?;
    sh::run(
        "check bans, licences and sources",
        &mut cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]),
    )?;
    advisories()
}

/// The advisory database comes over the network; where it cannot be had that is said loudly and is no error.
fn advisories() -> Result<()> {
    if sh::ask(&mut cargo(&["deny", "fetch", "db"])).is_none() {
        sh::say(
            "!!! SKIPPED: whether a dependency has a known fault; `cargo deny fetch db` cannot have the database",
        );
        return Ok(());
    }
    sh::run("check advisories", &mut cargo(&["deny", "--log-level", "error", "check", "advisories"]))
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = sh::cargo();
    cargo.args(args);
    cargo
}
