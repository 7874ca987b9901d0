//! Numbers, as Go reads them.

use super::{Refusal, Value};

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
    // Between two digits, or behind the base.
    let odd = (radix == 10 && digits.starts_with('_')) || digits.ends_with('_') || digits.contains("__");
    let plain = digits.replace('_', "");
    let signed = plain.starts_with(['-', '+']);
    let number = i64::from_str_radix(&plain, radix).ok().filter(|_| !signed && !odd);
    let number = number.ok_or("it must be a whole number")?;
    Ok(if negative { -number } else { number })
}

macro_rules! integer_value {
    ($($type:ty, $kind:literal;)+) => {$(
        impl Value for $type {
            fn kind(&self) -> &'static str {
                $kind
            }

            fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
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
    i64, "int";
    u32, "uint";
    u64, "uint";
}

/// klog's level: decimal, nothing else.
impl Value for i32 {
    fn kind(&self) -> &'static str {
        "level"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        *self = text.parse().map_err(|_| "it must be a whole number, in decimal")?;
        Ok(())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A port as upstream's agent takes it: any number above 0, though nobody listens or connects above 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub i64);

impl Port {
    /// `None`: there is none of this number.
    pub fn number(self) -> Option<u16> {
        u16::try_from(self.0).ok()
    }
}

impl From<u16> for Port {
    fn from(port: u16) -> Port {
        Port(port.into())
    }
}

impl Value for Port {
    fn kind(&self) -> &'static str {
        "port"
    }

    fn set(&mut self, text: &str, first: bool) -> Result<(), Refusal> {
        self.0.set(text, first)
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

impl Value for f32 {
    fn kind(&self) -> &'static str {
        "float32"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        let number: f32 = text.parse().map_err(|_| "it must be a number")?;
        if number.is_infinite() && !text.to_ascii_lowercase().contains("inf") {
            return Err("it is out of range".into());
        }
        *self = number;
        Ok(())
    }

    fn show(&self) -> String {
        if *self == 0.0 { String::new() } else { self.to_string() }
    }
}

/// A ceiling that is derived from the machine unless given: `auto` or a number.
impl Value for Option<u32> {
    fn kind(&self) -> &'static str {
        "count"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
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
            ("0x_1f_9a", 8090),
            ("0_17", 15),
            ("-5", -5),
        ] {
            assert_eq!(integer(text), Ok(number), "{text}");
        }
        for text in ["", "x", "1.5", "0x", "--5", "1e3", "9999999999999999999", "_1", "1_", "1__0", "-_1"] {
            assert!(integer(text).is_err(), "{text:?}");
        }
    }
}
