//! The proxy-agent binary: flags, log, runtime, run, exit code.

use std::process::ExitCode;

use proxy_user::agent::options::Options;
use proxy_user::agent::run::run;
use proxy_user::ops::{cli, log};

const PROGRAM: &str = "proxy-agent";

fn main() -> ExitCode {
    let args = cli::arguments(std::env::args_os());
    let invocation = Options::parse(&args, |name| std::env::var(name).ok());
    let socket = Options::default().operator_socket;
    cli::start(PROGRAM, &socket, invocation, |options| match log::init(PROGRAM, &options.log) {
        Err(error) => cli::fail(PROGRAM, &error),
        Ok(log) => serve(*options, &log),
    })
}

fn serve(options: Options, log: &log::LogGuard) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Err(error) => return cli::fail(PROGRAM, &error),
        Ok(runtime) => runtime,
    };
    let code = runtime.block_on(run(options, log)).unwrap_or_else(|error| cli::fail(PROGRAM, &error));
    // Flows that were cut must not keep the process.
    runtime.shutdown_background();
    code
}
