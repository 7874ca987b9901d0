//! Command-line flags with pflag's habits, from one table per binary.
//!
//! A row names a flag, its group, its help and the field it fills; the parser, `--help` and the tests read the
//! same rows. Upstream's habits that operators rely on: `--x=v` and `--x v`, booleans only as `--x` or `--x=v`,
//! a repeated scalar's last value wins, comma-separated lists accumulate, integers may be written in hexadecimal,
//! further positional arguments are ignored.

pub(crate) mod checks;
mod duration;
mod help;
mod list;
mod number;
mod parser;
mod shared;
mod size;
#[cfg(test)]
pub(crate) mod testing;
mod value;

use std::collections::BTreeMap;

use checks::mistake;
pub use duration::{parse_go_duration, show_go_duration};
pub use number::Port;
pub use parser::Parsed;
pub(crate) use parser::parse;
pub(crate) use shared::{ENGINE_GROUP, LANE_GROUP, LOG_GROUP, OPERATE_GROUP, konduit_flags, log_flags};
pub use shared::{
    EngineChoice, EngineOptions, LaneOptions, LaneSecurity, LanesMode, LogOptions, Modules, MuxOptions,
    Severity, TraceLocation,
};
pub use size::ByteSize;
pub use value::{Refusal, Value};
pub(crate) use value::{checked, choice};

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
    /// A time below zero is taken for none, with a warning: upstream takes it and busies itself.
    pub none_below_zero: bool,
    pub field: fn(&mut O) -> &mut dyn Value,
}

impl<O> Flag<O> {
    pub(crate) fn powerless(self) -> Flag<O> {
        Flag { powerless: true, ..self }
    }

    pub(crate) fn none_below_zero(self) -> Flag<O> {
        Flag { none_below_zero: true, ..self }
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
            none_below_zero: false,
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

/// What is wrong with single flags, by their names.
#[derive(Debug, Default)]
pub struct Mistakes {
    /// What could not be read.
    pub unread: BTreeMap<String, String>,
    /// What was read and cannot be asked for.
    pub invalid: BTreeMap<String, String>,
}

impl Mistakes {
    /// With what is wrong with their meaning, of flags that are not among these: `Ok` when there is nothing.
    pub(crate) fn and<O>(self, found: Vec<(&str, String)>, program: &Program<O>) -> Result<(), OptionsError> {
        let told = |flag: &str| self.unread.contains_key(flag) || self.invalid.contains_key(flag);
        let found: Vec<String> = found
            .into_iter()
            .filter(|(flag, _)| !told(flag))
            .map(|(flag, gist)| mistake(flag, gist))
            .collect();
        let unread = !self.unread.is_empty();
        let mistakes: Vec<String> =
            self.unread.into_values().chain(self.invalid.into_values()).chain(found).collect();
        match mistakes.is_empty() {
            true => Ok(()),
            false => Err(OptionsError { program: program.name, role: program.role, unread, mistakes }),
        }
    }
}

/// Everything that is wrong with the command line, at once.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct OptionsError {
    pub program: &'static str,
    pub role: &'static str,
    /// Some of it could not even be read, so upstream would not speak of validation.
    pub unread: bool,
    /// One sentence each, with the flag's name.
    pub mistakes: Vec<String>,
}

impl std::fmt::Display for OptionsError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.unread {
            write!(out, "failed to validate {} options with ", self.role)?;
        }
        match self.mistakes.as_slice() {
            [only] => write!(out, "{only}"),
            many => {
                write!(
                    out,
                    "{} mistakes{}:",
                    many.len(),
                    if self.unread { " on the command line" } else { "" }
                )?;
                many.iter().try_for_each(|mistake| write!(out, "\n  {mistake}"))
            }
        }
    }
}
