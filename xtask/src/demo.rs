//! `cargo xtask demo`: from a fresh clone to real bytes through both binaries, and what carried them.

use anyhow::Result;

use crate::{bench, setup};

pub(crate) fn run() -> Result<()> {
    setup::run(&setup::Options { build_only: true })?;
    bench::build()?;
    bench::program(&["demo", "--out", "target/demo"])
}
