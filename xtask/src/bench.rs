//! `cargo xtask bench`: builds everything in release form and measures it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::{build, sh};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to do, passed on: `run` (the default), `integrity`, `list`, each with `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    build()?;
    let mut words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    // `cargo xtask bench --quick` means `bench run --quick`.
    if words.first().is_none_or(|word| word.starts_with('-') && *word != "--help") {
        words.insert(0, "run");
    }
    program(&words)
}

/// Builds both binaries and the bench in release form.
pub(crate) fn build() -> Result<()> {
    build::ebpf(false)?;
    build::binaries("release")?;
    sh::run(
        "build the bench",
        sh::cargo().args(["build", "--release", "-p", "proxy-tests", "--bin", "bench"]),
    )
}

/// Runs the bench that [`build`] made.
pub(crate) fn program(words: &[&str]) -> Result<()> {
    let release = sh::root().join("target/release");
    are_built(&release)?;
    match Command::new(release.join("bench")).current_dir(sh::root()).args(words).status()? {
        status if status.success() => Ok(()),
        status => bail!("the bench ended with {status}: a gate was missed or a scenario failed, see above"),
    }
}

fn are_built(release: &Path) -> Result<()> {
    for name in ["bench", "proxy-server", "proxy-agent"] {
        ensure!(
            release.join(name).exists(),
            "there is no {name} in {} yet; build first: `cargo xtask test build figures`",
            release.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_built_is_told_how() {
        let release = tempfile::tempdir().unwrap();
        for name in ["bench", "proxy-server", "proxy-agent"] {
            let error = are_built(release.path()).unwrap_err().to_string();
            assert!(
                error.contains(&format!("no {name} in")) && error.contains("test build figures"),
                "{error}"
            );
            std::fs::write(release.path().join(name), "").unwrap();
        }
        are_built(release.path()).unwrap();
    }
}
