//! The types a flag can have.

use std::time::Duration;

use super::duration::{parse_go_duration, show_go_duration};

/// Why a value is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be read; one mistake like that is final, as pflag's are.
    Unread(String),
    /// It was read, and is nothing that can be asked for. Upstream looks at what was given last.
    Invalid(String),
}

impl Refusal {
    pub fn text(self) -> String {
        let (Refusal::Unread(text) | Refusal::Invalid(text)) = self;
        text
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Refusal {
        Refusal::Unread(text)
    }
}

impl From<&str> for Refusal {
    fn from(text: &str) -> Refusal {
        Refusal::Unread(text.to_owned())
    }
}

/// A field that a flag fills.
pub trait Value {
    /// The type's name in `--help`; `bool` takes no separate argument.
    fn kind(&self) -> &'static str;

    /// Takes one occurrence of the flag; `first` is false when the flag was given before.
    fn set(&mut self, text: &str, first: bool) -> Result<(), Refusal>;

    /// The value as Go renders it; empty means that `--help` shows no default.
    fn show(&self) -> String;
}

impl Value for bool {
    fn kind(&self) -> &'static str {
        "bool"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        *self = match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err("it must be true or false".into()),
        };
        Ok(())
    }

    fn show(&self) -> String {
        if *self { "true".to_owned() } else { String::new() }
    }
}

impl Value for String {
    fn kind(&self) -> &'static str {
        "string"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        text.clone_into(self);
        Ok(())
    }

    fn show(&self) -> String {
        if self.is_empty() { String::new() } else { format!("{self:?}") }
    }
}

fn duration(text: &str) -> Result<Duration, Refusal> {
    let nanos = parse_go_duration(text)?;
    if nanos < 0 {
        let shown = show_go_duration(Duration::from_nanos(nanos.unsigned_abs()));
        return Err(Refusal::Invalid(format!("must be >= 0, got -{shown}")));
    }
    Ok(Duration::from_nanos(nanos.unsigned_abs()))
}

impl Value for Duration {
    fn kind(&self) -> &'static str {
        "duration"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        *self = duration(text)?;
        Ok(())
    }

    fn show(&self) -> String {
        show_go_duration(*self)
    }
}

/// A limit that may be absent: 0 means none.
impl Value for Option<Duration> {
    fn kind(&self) -> &'static str {
        "duration"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        *self = Some(duration(text)?).filter(|limit| !limit.is_zero());
        Ok(())
    }

    fn show(&self) -> String {
        show_go_duration(self.unwrap_or_default())
    }
}

/// Makes an enum a flag value: its spellings, and the sentence for any other one.
macro_rules! choice {
    ($type:ty, $kind:literal, $wrong:literal, { $($text:literal => $variant:expr),+ $(,)? }) => {
        impl $crate::ops::flags::Value for $type {
            fn kind(&self) -> &'static str {
                $kind
            }

            fn set(&mut self, text: &str, _first: bool) -> Result<(), $crate::ops::flags::Refusal> {
                *self = match text {
                    $($text => $variant,)+
                    other => return Err($crate::ops::flags::Refusal::Invalid(format!($wrong, other))),
                };
                Ok(())
            }

            fn show(&self) -> String {
                let spelling = [$(($text, $variant)),+].into_iter().find(|(_, variant)| variant == self);
                spelling.map(|(text, _)| text.to_owned()).unwrap_or_default()
            }
        }
    };
}
pub(crate) use choice;

/// Makes a text that somebody else reads a flag value, checked when it is given.
macro_rules! checked {
    ($(#[$doc:meta])* $type:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $type(pub String);

        impl $crate::ops::flags::Value for $type {
            fn kind(&self) -> &'static str {
                "text"
            }

            fn set(&mut self, text: &str, first: bool) -> Result<(), $crate::ops::flags::Refusal> {
                $check(text)?;
                self.0.set(text, first)
            }

            fn show(&self) -> String {
                self.0.show()
            }
        }
    };
}
pub(crate) use checked;
