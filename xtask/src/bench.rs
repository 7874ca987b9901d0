//! `cargo xtask bench`: builds everything in release form and measures it.

use anyhow::{Result, bail};

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
    let mut bench = std::process::Command::new(sh::root().join("target/release/bench"));
    match bench.current_dir(sh::root()).args(words).status()? {
        status if status.success() => Ok(()),
        status => bail!("the bench ended with {status}: a gate was missed or a scenario failed, see above"),
    }
}
