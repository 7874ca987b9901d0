//! Peers' words, short enough for a line.

use std::borrow::Cow;

/// A DNS name with its port fits.
const WHOLE: usize = 300;

/// The text, or its begin and its length in bytes.
pub fn short(text: &str) -> Cow<'_, str> {
    within(WHOLE, text)
}

/// As [`short`], of what should be no longer than so many bytes.
pub fn within(whole: usize, text: &str) -> Cow<'_, str> {
    if text.len() <= whole {
        return text.into();
    }
    let begin = &text[..text.floor_char_boundary(whole / 2)];
    format!("{begin}… ({} bytes)", text.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_keeps_its_begin_and_tells_its_length() {
        assert!(matches!(short("a.example:80"), Cow::Borrowed("a.example:80")));
        let name = "ä".repeat(5000);
        assert_eq!(short(&name), format!("{}… (10000 bytes)", "ä".repeat(75)));
        assert_eq!(short(&format!("x{name}")), format!("x{}… (10001 bytes)", "ä".repeat(74)));
    }
}
