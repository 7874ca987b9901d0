//! Command-line flags with pflag's habits, from one table per binary.
//!
//! A row names a flag, its group, its help and the field it fills; the parser, `--help` and the tests read the
//! same rows. Upstream's habits that operators rely on: `--x=v` and `--x v`, booleans only as `--x` or `--x=v`,
//! a repeated scalar's last value wins, comma-separated lists accumulate, integers may be written in hexadecimal,
//! further positional arguments are ignored.

pub(crate) mod checks;
mod duration;
mod help;
mod parser;
mod shared;
mod size;
#[cfg(test)]
pub(crate) mod testing;
mod value;

pub use duration::{parse_go_duration, show_go_duration};
pub use parser::Parsed;
pub(crate) use parser::parse;
pub(crate) use shared::{ENGINE_GROUP, LANE_GROUP, LOG_GROUP, OPERATE_GROUP, konduit_flags, log_flags};
pub use shared::{
    EngineChoice, EngineOptions, LaneOptions, LaneSecurity, LanesMode, LogOptions, MuxOptions, Severity,
};
pub use size::ByteSize;
pub use value::Value;
pub(crate) use value::choice;

/// One row: everything the parser and `--help` know about a flag.
pub struct Flag<O> {
    pub name: &'static str,
    pub short: Option<char>,
    /// The heading in `--help`; groups appear in the order of their first flag.
    pub group: &'static str,
    pub help: &'static str,
    /// Parsed, but not listed in `--help`.
    pub hidden: bool,
    /// Parsed with a warning that ends in this sentence.
    pub deprecated: Option<&'static str>,
    /// Accepted for upstream's sake; whoever sets it is told that nothing comes of it.
    pub powerless: bool,
    pub field: fn(&mut O) -> &mut dyn Value,
}

impl<O> Flag<O> {
    pub(crate) fn powerless(self) -> Flag<O> {
        Flag { powerless: true, ..self }
    }
}

/// A row of a flag table: `flag!(GROUP, "name", path.to.field, "help")`.
macro_rules! flag {
    ($group:expr, $name:literal, $($field:ident).+, $help:expr) => {
        $crate::ops::flags::Flag {
            name: $name,
            short: None,
            group: $group,
            help: $help,
            hidden: false,
            deprecated: None,
            powerless: false,
            field: |options: &mut Options| &mut options.$($field).+,
        }
    };
}
pub(crate) use flag;

/// What one binary is called and says about itself.
pub(crate) struct Program<O: 'static> {
    /// `proxy-server` or `proxy-agent`.
    pub(crate) name: &'static str,
    /// As upstream's validation errors call it: `server` or `agent`.
    pub(crate) role: &'static str,
    pub(crate) about: &'static str,
    pub(crate) flags: Vec<Flag<O>>,
}

/// What was asked for on the command line.
#[derive(Debug)]
pub enum Invocation<O> {
    /// Run the proxy with these options.
    Run(Box<O>),
    /// Print this (help or version) and exit with 0.
    Print(String),
    /// Ask a running process over its operator socket: the arguments after the binary's name.
    Ask(Vec<String>),
}

/// Everything that is wrong with the command line, at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct OptionsError {
    pub program: &'static str,
    pub role: &'static str,
    /// One sentence each, with the flag's name.
    pub mistakes: Vec<String>,
}

impl std::fmt::Display for OptionsError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "failed to validate {} options with ", self.role)?;
        match self.mistakes.as_slice() {
            [only] => write!(out, "{only}"),
            many => {
                write!(out, "{} mistakes:", many.len())?;
                many.iter().try_for_each(|mistake| write!(out, "\n  {mistake}"))
            }
        }
    }
}
