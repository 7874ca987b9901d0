//! Installs what is missing. On Debian and Ubuntu as root it does so by itself, elsewhere it says what to do.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::sh;
use crate::tools::{self, Family};

/// Debian's rustc has a prebuilt `core` for eBPF, so nothing unstable has to be compiled for it.
const BUILD: [&str; 9] = [
    "build-essential",
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
    "libxml2-dev",
];
const BPF_LINKER: &str = "0.13.0";
const CARGO_DENY: &str = "0.20.2";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only what `cargo xtask build` needs, without the programs that tests compare with
    #[arg(long)]
    pub(crate) build_only: bool,
}

/// A compiler that can make eBPF objects.
pub(crate) enum Toolchain {
    /// Debian's cargo and rustc, with `core` for eBPF among its libraries.
    Debian { cargo: PathBuf, rustc: PathBuf },
    /// rustup's nightly with rust-src; `core` is compiled on the way.
    Nightly,
}

impl Toolchain {
    /// The toolchain on this machine, Debian's first since it needs less.
    pub(crate) fn find() -> Option<Toolchain> {
        Toolchain::debian().or_else(Toolchain::nightly)
    }

    fn debian() -> Option<Toolchain> {
        let (cargo, rustc) = (PathBuf::from("/usr/bin/cargo"), PathBuf::from("/usr/bin/rustc"));
        let sysroot = sh::ask(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let core = Path::new(&sysroot).join("lib/rustlib/bpfel-unknown-none/lib");
        (cargo.is_file() && core.is_dir()).then_some(Toolchain::Debian { cargo, rustc })
    }

    fn nightly() -> Option<Toolchain> {
        let sysroot =
            sh::ask(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))?;
        Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir().then_some(Toolchain::Nightly)
    }

    /// The compiler's and the linker's own names of themselves; `None` when one cannot be asked.
    pub(crate) fn version(&self) -> Option<String> {
        let rustc = match self {
            Toolchain::Debian { rustc, .. } => sh::ask(Command::new(rustc).arg("--version")),
            Toolchain::Nightly => {
                sh::ask(Command::new("rustup").args(["run", "nightly", "rustc", "--version"]))
            }
        };
        let linker = sh::ask(Command::new(sh::find("bpf-linker")?).arg("--version"));
        Some(format!("{}, {}", rustc?, linker?))
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.build_only {
        tools::go()?;
    }
    ready_to_build()?;
    if !options.build_only {
        let family = Family::here();
        let missing =
            if family == Some(Family::Debian) { tools::missing(Family::Debian) } else { Vec::new() };
        if !missing.is_empty() {
            refresh()?;
            install(&missing)?;
        }
        tools::check(family)?;
    }
    sh::say("everything is here");
    Ok(())
}

/// Makes sure that [`Toolchain::find`] and `bpf-linker` succeed, by installing them where that is possible.
pub(crate) fn ready_to_build() -> Result<Toolchain> {
    if Toolchain::find().is_none() && sh::find("apt-get").is_some() {
        let missing: Vec<_> = BUILD.into_iter().filter(|package| !installed(package)).collect();
        refresh()?;
        match offers_web_toolchain() {
            Some(false) if sh::find("rustup").is_some() => nightly()?,
            _ => install(&missing)?,
        }
    }
    let Some(toolchain) = Toolchain::find() else { bail!("{}", by_hand()) };
    if sh::find("bpf-linker").is_none() {
        install_linker()?;
    }
    Ok(toolchain)
}

/// Makes sure that `cargo deny` is here. It reads a lock file in three seconds even unoptimised, and takes minutes more
/// to build optimised.
pub(crate) fn cargo_deny() -> Result<()> {
    if sh::find("cargo-deny").is_some() {
        return Ok(());
    }
    let mut cargo = sh::cargo();
    cargo.args(["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--debug"]);
    sh::run("install cargo-deny (a minute)", &mut cargo)
}

/// Where apt has no `core` for eBPF, as on Ubuntu: rustup's nightly compiles it.
fn nightly() -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile=minimal", "--component=rust-src"]);
    sh::run("install rustup's nightly with rust-src", &mut rustup)
}

fn install_linker() -> Result<()> {
    let mut cargo = sh::cargo();
    cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"]);
    if Path::new(LLVM_PREFIX).join("bin/llvm-config").is_file() {
        cargo.env("LLVM_PREFIX", LLVM_PREFIX).args(["--no-default-features", "--features", "llvm-22"]);
    }
    sh::run("install bpf-linker (about a minute)", &mut cargo)
}

fn installed(package: &str) -> bool {
    sh::ask(Command::new("dpkg-query").args(["-W", "-f=${Status}", package]))
        .is_some_and(|status| status == "install ok installed")
}

/// Whether apt knows Debian's newer rustc; `None` when apt cannot be asked.
fn offers_web_toolchain() -> Option<bool> {
    let policy = sh::ask(Command::new("apt-cache").args(["policy", "libstd-rust-web-dev-bpf"]))?;
    Some(policy.contains("Candidate:") && !policy.contains("Candidate: (none)"))
}

fn refresh() -> Result<()> {
    if !sh::is_root() {
        return Ok(());
    }
    sh::run("refresh the package lists", Command::new("apt-get").args(["-q", "update"]))
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.contains(&"libstd-rust-web-dev-bpf") && offers_web_toolchain() == Some(false) {
        bail!("{}", by_hand());
    }
    if !sh::is_root() {
        bail!(
            "these Debian packages are missing; install them and run this again:\n  \
             sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    let _services = NoServices::start();
    sh::run(
        &format!("install {} Debian packages (half a minute)", packages.len()),
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "install", "-y", "--no-install-recommends"])
            .args(packages),
    )
}

/// While it lives, packages do not start the services they bring: we want haproxy and sshd as programs only.
struct NoServices(Option<&'static Path>);

impl NoServices {
    fn start() -> NoServices {
        let policy = Path::new("/usr/sbin/policy-rc.d");
        let options = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(policy);
        let written = options.and_then(|mut file| file.write_all(b"#!/bin/sh\nexit 101\n"));
        NoServices(written.is_ok().then_some(policy))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = self.0 {
            let _ = fs::remove_file(policy);
        }
    }
}

fn by_hand() -> String {
    format!(
        "the eBPF object needs a compiler with the eBPF target, and bpf-linker. Either\n  \
         on Debian 12 with its security archive:  apt-get install {}\n  \
         anywhere with rustup:                    rustup toolchain install nightly --profile minimal --component rust-src\n\
         and then\n  \
         cargo install bpf-linker --version {BPF_LINKER} --locked\n\
         (with Debian's LLVM: LLVM_PREFIX={LLVM_PREFIX}, --no-default-features --features llvm-22).\n\
         Without eBPF at all: cargo build --release -p proxy-user --no-default-features",
        BUILD.join(" ")
    )
}
