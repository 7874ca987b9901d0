//! Builds the eBPF object and its stamp, then the binaries that embed it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::{self, Toolchain};
use crate::sh;
use crate::stamp::{self, Stamp};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the eBPF object
    #[arg(long)]
    ebpf_only: bool,
    /// Build the object even when the one that is there is up to date
    #[arg(long)]
    force: bool,
    /// Cargo profile of the binaries
    #[arg(long, default_value = "release")]
    profile: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    ebpf(options.force)?;
    if options.ebpf_only {
        return Ok(());
    }
    binaries(&options.profile)
}

/// Builds both binaries; release builds need the object, see [`ebpf`].
pub(crate) fn binaries(profile: &str) -> Result<()> {
    sh::run(
        &format!("build proxy-server and proxy-agent ({profile})"),
        sh::cargo().args(["build", "--profile", profile, "-p", "proxy-user", "--bins"]),
    )
}

/// Builds the object unless one with a matching stamp lies there already.
pub(crate) fn ebpf(force: bool) -> Result<()> {
    let root = sh::root();
    if !force && is_current(&root, Toolchain::find().and_then(|toolchain| toolchain.version())) {
        sh::say("the eBPF object is up to date");
        return Ok(());
    }
    let toolchain = setup::ready_to_build()?;
    let sources = stamp::sources(&root).context("could not read what the eBPF object is made of")?;
    let built = compile(&root, &toolchain)?;
    let object = fs::read(&built).with_context(|| format!("no object at {}", built.display()))?;
    let version = toolchain.version().context("the compiler or bpf-linker does not tell its version")?;
    let stamp = Stamp { sources, object: stamp::digest(&object), toolchain: version };
    let place = stamp::object_path(&root);
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&place, &object).with_context(|| format!("could not write {}", place.display()))?;
    fs::write(stamp::stamp_path(&root), stamp.render())?;
    sh::say(format!("eBPF object: {} bytes, by {}", object.len(), stamp.toolchain));
    Ok(())
}

/// A machine that lacks the toolchain uses what it was given.
pub(crate) fn is_current(root: &Path, toolchain: Option<String>) -> bool {
    stamp::matching(root)
        .is_ok_and(|(_, stamp)| toolchain.is_none_or(|toolchain| toolchain == stamp.toolchain))
}

fn compile(root: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let target = root.join("target/ebpf");
    let linker = sh::find("bpf-linker").context("bpf-linker is not on PATH")?;
    let mut flags = stamp::FLAGS.map(str::to_owned).to_vec();
    flags.push(format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH));
    flags.push(format!("-Clinker={}", linker.display()));
    let mut cargo = match toolchain {
        Toolchain::Debian { cargo, rustc } => {
            let mut command = Command::new(cargo);
            command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
            command
        }
        Toolchain::Nightly => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo"]).env_remove("RUSTC");
            command
        }
    };
    cargo
        .current_dir(root)
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .args(["build", "--locked", "--release", "-p", "proxy-ebpf", "--bin", "proxy-ebpf"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&target);
    if matches!(toolchain, Toolchain::Nightly) {
        cargo.args(["-Z", "build-std=core"]);
    }
    sh::run("compile the eBPF object", &mut cargo)?;
    Ok(target.join("bpfel-unknown-none/release/proxy-ebpf"))
}
