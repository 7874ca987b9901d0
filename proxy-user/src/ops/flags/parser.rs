//! Reads a command line against a flag table; goes on after a mistake, so that all of them are told at once.

use super::checks::mistake;
use super::value::Value;
use super::{Flag, Mistakes, Program, Refusal, help, parse_go_duration};

/// A read command line.
#[derive(Debug)]
pub enum Parsed {
    Flags {
        mistakes: Mistakes,
        /// Sentences for the log: deprecated flags that were used, and those that have no effect.
        warnings: Vec<String>,
    },
    /// `--help` or `--version` came first: this text is to be printed.
    Print(String),
}

/// Fills `options` from `args` (without the binary's name).
pub(crate) fn parse<O: Default + 'static>(
    program: &Program<O>,
    options: &mut O,
    args: &[String],
    version: &str,
) -> Parsed {
    let mut reader =
        Reader { program, options, mistakes: Mistakes::default(), warnings: Vec::new(), given: Vec::new() };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let step = match arg.strip_prefix("--") {
            Some("") => break,
            Some(long) => reader.long(arg, long, &mut args),
            None => match arg.strip_prefix('-') {
                None | Some("") => Step::Next,
                Some(shorts) => reader.short(arg, shorts, &mut args),
            },
        };
        match step {
            Step::Next => {}
            Step::Help => return Parsed::Print(help::render(program)),
            Step::Version => return Parsed::Print(version.to_owned()),
        }
    }
    reader.name_the_powerless();
    Parsed::Flags { mistakes: reader.mistakes, warnings: reader.warnings }
}

enum Step {
    Next,
    Help,
    Version,
}

struct Reader<'a, O: 'static> {
    program: &'a Program<O>,
    options: &'a mut O,
    mistakes: Mistakes,
    warnings: Vec<String>,
    given: Vec<&'static str>,
}

impl<'a, O: Default> Reader<'a, O> {
    fn long<'s>(&mut self, arg: &str, long: &str, args: &mut impl Iterator<Item = &'s String>) -> Step {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return self.wrong(arg, format!("bad flag syntax: {arg}"));
        }
        let name = name.replace('_', "-");
        let program: &'a Program<O> = self.program;
        match program.flags.iter().find(|flag| flag.name == name) {
            Some(flag) => self.take(flag, arg, value, args),
            None if name == "help" => self.help(value),
            None if name == "version" => Step::Version,
            None => {
                let near = nearest(&name, program.flags.iter().map(|flag| flag.name));
                let hint = near.map(|near| format!("; did you mean --{near}?")).unwrap_or_default();
                self.wrong(&name, format!("unknown flag: --{name}{hint}"))
            }
        }
    }

    /// `-h`, `-v=4`, `-v 4`, `-v4`.
    fn short<'s>(&mut self, arg: &str, shorts: &str, args: &mut impl Iterator<Item = &'s String>) -> Step {
        let mut letters = shorts.chars();
        let letter = letters.next();
        let rest = letters.as_str();
        let program: &'a Program<O> = self.program;
        match program.flags.iter().find(|flag| flag.short.is_some() && flag.short == letter) {
            Some(flag) => {
                let value = Some(rest.strip_prefix('=').unwrap_or(rest)).filter(|_| !rest.is_empty());
                self.take(flag, arg, value, args)
            }
            None if letter == Some('h') => Step::Help,
            None => {
                let letter = letter.unwrap_or('-');
                self.wrong(
                    arg,
                    format!("unknown shorthand flag: {letter:?} in {arg}; long flags take two dashes"),
                )
            }
        }
    }

    fn help(&mut self, value: Option<&str>) -> Step {
        let mut wanted = true;
        match value.map_or(Ok(()), |value| wanted.set(value, true)) {
            Ok(()) if wanted => Step::Help,
            Ok(()) => Step::Next,
            Err(why) => self.wrong("help", unread(Some('h'), "help", value.unwrap_or_default(), &why.text())),
        }
    }

    fn take<'s>(
        &mut self,
        flag: &Flag<O>,
        arg: &str,
        value: Option<&str>,
        args: &mut impl Iterator<Item = &'s String>,
    ) -> Step {
        let field = (flag.field)(self.options);
        let value = match value {
            Some(value) => value,
            None if field.kind() == "bool" => "true",
            None => match args.next() {
                Some(value) => value,
                None => {
                    let short = flag.short.filter(|_| !arg.starts_with("--"));
                    let of = short.map(|short| format!("{short:?} in ")).unwrap_or_default();
                    return self.wrong(flag.name, format!("flag needs an argument: {of}{arg}"));
                }
            },
        };
        let below = flag.none_below_zero && parse_go_duration(value).is_ok_and(|nanos| nanos < 0);
        if below {
            self.warnings.push(format!("--{}={value} is less than no time, and taken as 0s.", flag.name));
        }
        let first = !self.given.contains(&flag.name);
        match field.set(if below { "0s" } else { value }, first) {
            // The last value wins, so it also heals an earlier one.
            Ok(()) => {
                self.mistakes.invalid.remove(flag.name);
            }
            Err(Refusal::Invalid(why)) => {
                // What begins so is said of the flag.
                let why = if why.starts_with("must ") { format!("{} {why}", flag.name) } else { why };
                self.mistakes.invalid.insert(flag.name.to_owned(), mistake(flag.name, why));
            }
            Err(Refusal::Unread(why)) => {
                self.wrong(flag.name, unread(flag.short, flag.name, value, &why));
            }
        }
        if first {
            self.given.push(flag.name);
            if let Some(instead) = flag.deprecated {
                self.warnings.push(format!("Flag --{} has been deprecated, {instead}", flag.name));
            }
        }
        Step::Next
    }

    /// One sentence for all of them. A default is no wish.
    fn name_the_powerless(&mut self) {
        let mut default = O::default();
        let mut names = Vec::new();
        for flag in self.program.flags.iter().filter(|flag| flag.powerless && self.given.contains(&flag.name))
        {
            if (flag.field)(self.options).show() != (flag.field)(&mut default).show() {
                names.push(format!("--{}", flag.name));
            }
        }
        if !names.is_empty() {
            self.warnings.push(format!("Taken without effect, --help says why: {}", names.join(", ")));
        }
    }

    fn wrong(&mut self, key: &str, text: String) -> Step {
        self.mistakes.unread.entry(key.to_owned()).or_insert(text);
        Step::Next
    }
}

/// As pflag words it.
fn unread(short: Option<char>, name: &str, value: &str, why: &str) -> String {
    let short = short.map(|short| format!("-{short}, ")).unwrap_or_default();
    mistake(name, format!("invalid argument {value:?} for \"{short}--{name}\" flag: {why}"))
}

/// The known name that `name` was most likely meant to be.
fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(d, _)| *d <= 2)
        .min()
        .map(|(_, n)| n)
}

/// Letters to change, add or drop to get from one name to the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}
