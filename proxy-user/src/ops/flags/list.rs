//! Lists, as pflag's string slices.

use super::{Refusal, Value};

/// A comma-separated list (one line of CSV); later occurrences append.
impl Value for Vec<String> {
    fn kind(&self) -> &'static str {
        "strings"
    }

    fn set(&mut self, text: &str, first: bool) -> Result<(), Refusal> {
        if first {
            self.clear();
        }
        self.extend(csv(text)?);
        Ok(())
    }

    fn show(&self) -> String {
        if self.is_empty() { String::new() } else { format!("[{}]", self.join(",")) }
    }
}

/// The first record as Go's encoding/csv reads it; no text is no field.
fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text.split(['\n', '\r']).next().unwrap_or_default();
    if rest.is_empty() {
        return Ok(fields);
    }
    loop {
        let after = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err("a quotation mark within a name".to_owned());
                }
                fields.push(rest[..end].to_owned());
                &rest[end..]
            }
            Some(quoted) => {
                let (field, after) = quoted_field(quoted).ok_or("a quotation mark without its other")?;
                fields.push(field);
                after
            }
        };
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err("a quotation mark within a name".to_owned()),
        }
    }
}

/// A field up to its closing mark, of which two stand for one; and what follows.
fn quoted_field(text: &str) -> Option<(String, &str)> {
    let (mut field, mut rest) = (String::new(), text);
    loop {
        let (part, after) = rest.split_once('"')?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => (field, rest) = (field + "\"", more),
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_accumulate() {
        let mut list = vec!["default".to_owned()];
        list.set("a,b", true).unwrap();
        list.set("c", false).unwrap();
        assert_eq!(list, ["a", "b", "c"]);
        list.set("", true).unwrap();
        assert!(list.is_empty());
    }

    #[test]
    fn lists_are_read_as_gos_csv() {
        for (text, fields) in [
            ("a,b", &["a", "b"][..]),
            ("[]", &["[]"]),
            ("a,,b", &["a", "", "b"]),
            ("a,", &["a", ""]),
            ("a, b", &["a", " b"]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("\"a\"\"b\"", &["a\"b"]),
            ("a,b\nc", &["a", "b"]),
        ] {
            assert_eq!(csv(text).unwrap(), fields, "{text:?}");
        }
        for text in ["a\"b", "\"a", "\"a\"b", "a,\"b"] {
            assert!(csv(text).is_err(), "{text:?}");
        }
    }
}
