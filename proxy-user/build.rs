//! Generates the protocol's types, and embeds the eBPF object when it is the one of these sources.

#[path = "../xtask/src/stamp.rs"]
#[allow(dead_code, unreachable_pub)]
mod stamp;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    protocol()?;
    commit();
    println!("cargo:rustc-check-cfg=cfg(ebpf_object)");
    if env::var_os("CARGO_FEATURE_EBPF").is_some() {
        object()?;
    }
    Ok(())
}

/// For `--version`. Sources without git have no commit.
fn commit() {
    let git = |args: &[&str]| {
        let asked = Command::new("git").args(args).output().ok().filter(|asked| asked.status.success())?;
        Some(String::from_utf8(asked.stdout).ok()?.trim().to_owned())
    };
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo:rustc-env=KONDUIT_COMMIT={commit}");
    }
    // It grows with every commit, checkout and rebase.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
}

fn protocol() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/konnectivity.proto", "proto/lane.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(files)?;
    Ok(())
}

fn object() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..");
    for path in [
        "ebpf",
        "../proxy-ebpf/Cargo.toml",
        "../proxy-ebpf/src",
        "../Cargo.lock",
        "../Cargo.toml",
        "../xtask/src/stamp.rs",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Some((object, stamp)) = stamp::to_embed(&root, &env::var("PROFILE")?)? {
        fs::write(Path::new(&env::var("OUT_DIR")?).join("proxy-ebpf.o"), object)?;
        println!("cargo:rustc-cfg=ebpf_object");
        println!("cargo:rustc-env=KONDUIT_EBPF_STAMP={} by {}", &stamp.sources[..12], stamp.toolchain);
    }
    Ok(())
}
