//! The types a flag can have.

use std::time::Duration;

use super::duration::{parse_go_duration, show_go_duration};

/// A field that a flag fills.
pub trait Value {
    /// The type's name in `--help`; `bool` takes no separate argument.
    fn kind(&self) -> &'static str;

    /// Takes one occurrence of the flag; `first` is false when the flag was given before.
    fn set(&mut self, text: &str, first: bool) -> Result<(), String>;

    /// The value as Go renders it; empty means that `--help` shows no default.
    fn show(&self) -> String;
}

impl Value for bool {
    fn kind(&self) -> &'static str {
        "bool"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), String> {
        *self = match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err("it must be true or false".to_owned()),
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

    fn set(&mut self, text: &str, _first: bool) -> Result<(), String> {
        text.clone_into(self);
        Ok(())
    }

    fn show(&self) -> String {
        if self.is_empty() { String::new() } else { format!("{self:?}") }
    }
}

/// A comma-separated list (one line of CSV); later occurrences append, `[]` is Go's rendering of an empty list.
impl Value for Vec<String> {
    fn kind(&self) -> &'static str {
        "strings"
    }

    fn set(&mut self, text: &str, first: bool) -> Result<(), String> {
        if first {
            self.clear();
        }
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if !inner.is_empty() {
            self.extend(inner.split(',').map(|item| item.trim_matches('"').to_owned()));
        }
        Ok(())
    }

    fn show(&self) -> String {
        if self.is_empty() { String::new() } else { format!("[{}]", self.join(",")) }
    }
}

/// An integer as Go's `ParseInt(text, 0, 64)` reads it: `10`, `0x1f90`, `0o17`, `017`, `0b11`, `1_000`.
fn integer(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    let plain = digits.replace('_', "");
    let signed = plain.starts_with(['-', '+']);
    let number = i64::from_str_radix(&plain, radix).ok().filter(|_| !signed);
    let number = number.ok_or("it must be a whole number")?;
    Ok(if negative { -number } else { number })
}

macro_rules! integer_value {
    ($($type:ty, $kind:literal;)+) => {$(
        impl Value for $type {
            fn kind(&self) -> &'static str {
                $kind
            }

            fn set(&mut self, text: &str, _first: bool) -> Result<(), String> {
                *self = <$type>::try_from(integer(text)?)
                    .map_err(|_| format!("it must lie between {} and {}", <$type>::MIN, <$type>::MAX))?;
                Ok(())
            }

            fn show(&self) -> String {
                if *self == 0 { String::new() } else { self.to_string() }
            }
        }
    )+};
}

integer_value! {
    u16, "port";
    i32, "int";
    i64, "int";
    u32, "uint";
    u64, "uint";
}

impl Value for f32 {
    fn kind(&self) -> &'static str {
        "float32"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), String> {
        *self = text.parse().map_err(|_| "it must be a number".to_owned())?;
        Ok(())
    }

    fn show(&self) -> String {
        if *self == 0.0 { String::new() } else { self.to_string() }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let nanos = parse_go_duration(text)?;
    let nanos = u64::try_from(nanos).map_err(|_| format!("it must be >= 0, got {text}"))?;
    Ok(Duration::from_nanos(nanos))
}

impl Value for Duration {
    fn kind(&self) -> &'static str {
        "duration"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), String> {
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

    fn set(&mut self, text: &str, _first: bool) -> Result<(), String> {
        *self = Some(duration(text)?).filter(|limit| !limit.is_zero());
        Ok(())
    }

    fn show(&self) -> String {
        show_go_duration(self.unwrap_or_default())
    }
}

/// A ceiling that is derived from the machine unless given: `auto` or a number.
impl Value for Option<u32> {
    fn kind(&self) -> &'static str {
        "count"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), String> {
        *self = match text {
            "auto" => None,
            text => Some(u32::try_from(integer(text)?).map_err(|_| "it must be auto or a count from 0 up")?),
        };
        Ok(())
    }

    fn show(&self) -> String {
        self.map_or_else(|| "auto".to_owned(), |count| count.to_string())
    }
}

/// Makes an enum a flag value: its spellings, and the sentence for any other one.
macro_rules! choice {
    ($type:ty, $kind:literal, $wrong:literal, { $($text:literal => $variant:expr),+ $(,)? }) => {
        impl $crate::ops::flags::Value for $type {
            fn kind(&self) -> &'static str {
                $kind
            }

            fn set(&mut self, text: &str, _first: bool) -> Result<(), String> {
                *self = match text {
                    $($text => $variant,)+
                    other => return Err(format!($wrong, other)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_as_go_reads_them() {
        for (text, number) in [
            ("8090", 8090),
            ("0x1f9a", 8090),
            ("0", 0),
            ("017", 15),
            ("0b11", 3),
            ("1_000", 1000),
            ("-5", -5),
        ] {
            assert_eq!(integer(text), Ok(number), "{text}");
        }
        for text in ["", "x", "1.5", "0x", "--5", "1e3", "9999999999999999999"] {
            assert!(integer(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn lists_accumulate_and_take_gos_empty_rendering() {
        let mut list = vec!["default".to_owned()];
        list.set("a,b", true).unwrap();
        list.set("c", false).unwrap();
        assert_eq!(list, ["a", "b", "c"]);
        list.set("[]", true).unwrap();
        assert!(list.is_empty());
        list.set("", true).unwrap();
        assert!(list.is_empty());
    }
}
