//! Konduit's one door: each subcommand is one module.

mod bench;
mod build;
mod demo;
mod gotest;
mod image;
mod kernel;
/// As the tests and the bench watch it; there it is part of a library.
#[allow(unreachable_pub)]
#[path = "../../tests/src/kernel_log.rs"]
mod kernel_log;
mod lint;
mod rootless;
mod setup;
mod sh;
mod stamp;
#[cfg(test)]
mod stamp_test;
mod test;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Prepare, build and try Konduit", disable_version_flag = true)]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing needs, or say exactly what is missing
    Setup(setup::Options),
    /// Build the eBPF object, then proxy-server and proxy-agent
    Build(build::Options),
    /// Pack both programs as OCI images, without a container engine: target/image/*.tar
    #[command(long_about = image::HELP)]
    Image,
    /// Measure beside a direct connection, HAProxy and ssh -L; prints a table, draws target/bench/results.svg
    Bench(bench::Options),
    /// Build everything, move real bytes through both binaries here, show what carried them
    Demo,
    /// Run every test, cheapest first, with a printed time per step
    Test(test::Options),
    /// Check format, clippy, bans, licences, sources and advisories
    Lint,
}

fn main() -> ExitCode {
    let result = match Xtask::parse().command {
        Command::Setup(options) => setup::run(&options),
        Command::Build(options) => build::run(&options),
        Command::Image => image::run(),
        Command::Bench(options) => bench::run(&options),
        Command::Demo => demo::run(),
        Command::Test(options) => test::run(&options),
        Command::Lint => lint::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
