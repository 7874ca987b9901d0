//! What both binaries do before they run: help, version, mistakes, questions to a running process.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use super::flags::{Invocation, OptionsError};
use super::{doctor, operator};
use crate::splice::proof;

/// The arguments after the binary's name, as text; bytes that are no UTF-8 are replaced, and then refused by
/// whatever reads them.
pub fn arguments(args: impl IntoIterator<Item = OsString>) -> Vec<String> {
    args.into_iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect()
}

/// Does what was asked for; `run` runs the proxy.
pub fn start<O>(
    program: &str,
    socket: &str,
    invocation: Result<Invocation<O>, OptionsError>,
    run: impl FnOnce(Box<O>) -> ExitCode,
) -> ExitCode {
    match invocation {
        Ok(Invocation::Run(options)) => run(options),
        Ok(Invocation::Print(text)) => {
            // A reader that closed the pipe has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Ask(args)) => {
            operator::ask(program, &args, socket, || doctor::alone(program, &proof::prove()))
        }
        Err(error) => {
            let _ =
                writeln!(std::io::stderr(), "Error: {error}\n\nRun `{program} --help` to see every flag.");
            ExitCode::FAILURE
        }
    }
}

/// A sentence on stderr for what kept the proxy from running, and the exit code 1.
pub fn fail(program: &str, error: &dyn std::error::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "Error: {program} cannot run: {error}");
    ExitCode::FAILURE
}
