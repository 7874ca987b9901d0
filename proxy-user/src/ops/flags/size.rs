//! Sizes in bytes as people write them: `8388608`, `8MiB`, `8Mi`, `8M`.

use super::{Refusal, Value};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("K", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
];

impl ByteSize {
    pub const fn mib(mebibytes: u64) -> ByteSize {
        ByteSize(mebibytes << 20)
    }

    pub fn parse(text: &str) -> Option<ByteSize> {
        let unit = UNITS.iter().find_map(|(name, scale)| Some((text.strip_suffix(name)?, *scale)));
        let (digits, scale) = unit.unwrap_or((text, 1));
        digits.trim().parse::<u64>().ok()?.checked_mul(scale).map(ByteSize)
    }
}

impl std::fmt::Display for ByteSize {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let unit = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match unit.iter().find(|(_, scale)| self.0 > 0 && self.0.is_multiple_of(*scale)) {
            Some((name, scale)) => write!(out, "{}{name}", self.0 / scale),
            None => write!(out, "{}", self.0),
        }
    }
}

impl Value for ByteSize {
    fn kind(&self) -> &'static str {
        "size"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        *self = ByteSize::parse(text).ok_or("it must be a size such as 8388608, 8MiB or 8Mi")?;
        Ok(())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// `auto`: derived at start from what the machine or the container has.
impl Value for Option<ByteSize> {
    fn kind(&self) -> &'static str {
        "size"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        *self = match text {
            "auto" => None,
            text => {
                Some(ByteSize::parse(text).ok_or("it must be auto or a size such as 8388608, 8MiB or 8Mi")?)
            }
        };
        Ok(())
    }

    fn show(&self) -> String {
        self.map_or_else(|| "auto".to_owned(), |size| size.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_kubernetes_and_plain_spellings() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("8MiB", 8 << 20), ("30Mi", 30 << 20), ("1G", 1_000_000_000)]
        {
            assert_eq!(ByteSize::parse(text), Some(ByteSize(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5MiB", "8TiB", "99999999999GiB"] {
            assert_eq!(ByteSize::parse(text), None, "{text:?}");
        }
        assert_eq!(ByteSize(8 << 20).to_string(), "8MiB");
        assert_eq!(ByteSize(1000).to_string(), "1000");
    }
}
