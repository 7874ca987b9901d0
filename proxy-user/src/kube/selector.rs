//! The grammar of label selectors, as Kubernetes reads them: equality, sets, existence, comparison.

use super::names::is_subdomain;

/// Says what is wrong with a selector. The API server applies it; this finds mistakes at start.
///
/// # Errors
/// A sentence about the first mistake.
pub fn check(selector: &str) -> Result<(), String> {
    let mut rest = selector.trim();
    if rest.is_empty() {
        return Ok(());
    }
    loop {
        rest = requirement(rest)?.trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => return Ok(()),
            None => return Err(format!("found {rest:?}, expected ',' or the end")),
        }
    }
}

/// Says what is wrong with a label that an object is to have.
///
/// # Errors
/// A sentence about its key, else about its value.
pub fn check_label(key: &str, value: &str) -> Result<(), String> {
    self::key(key)?;
    self::value(value)
}

/// Reads one requirement and gives back what follows it.
fn requirement(text: &str) -> Result<&str, String> {
    if let Some(negated) = text.strip_prefix('!') {
        let (key, rest) = word(negated.trim_start());
        return self::key(key).map(|()| rest);
    }
    let (key, rest) = word(text);
    self::key(key)?;
    let rest = rest.trim_start();
    for operator in ["==", "!=", "="] {
        if let Some(after) = rest.strip_prefix(operator) {
            let (value, rest) = word(after.trim_start());
            return self::value(value).map(|()| rest);
        }
    }
    for operator in ['<', '>'] {
        if let Some(after) = rest.strip_prefix(operator) {
            let (number, rest) = word(after.trim_start());
            let read: Result<i64, _> = number.parse();
            return read.map(|_| rest).map_err(|_| format!("{number:?} behind {operator} is no integer"));
        }
    }
    match word(rest) {
        ("in" | "notin", set) => set_of_values(set.trim_start()),
        ("", rest) => Ok(rest),
        (other, _) => Err(format!("found {other:?}, expected an operator: =, ==, !=, in, notin, <, >")),
    }
}

fn set_of_values(text: &str) -> Result<&str, String> {
    let inside = text.strip_prefix('(').ok_or_else(|| format!("found {text:?}, expected '('"))?;
    let (values, rest) = inside.split_once(')').ok_or("a set of values has no ')'")?;
    values.split(',').try_for_each(|value| self::value(value.trim()))?;
    Ok(rest)
}

/// Up to the next space or special character.
fn word(text: &str) -> (&str, &str) {
    let end = text.find(|letter: char| letter.is_whitespace() || "=!,()<>".contains(letter));
    text.split_at(end.unwrap_or(text.len()))
}

/// A label's name, with or without a DNS prefix.
fn key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    match prefix.is_none_or(is_subdomain) && !name.is_empty() && is_name(name) {
        true => Ok(()),
        false => {
            Err(format!("{key:?} is no label key, which is {NAME}, behind a DNS name and a slash or alone"))
        }
    }
}

fn value(value: &str) -> Result<(), String> {
    match is_name(value) {
        true => Ok(()),
        false => Err(format!("{value:?} is no label value, which is empty or {NAME}")),
    }
}

const NAME: &str = "1 to 63 letters, digits, '-', '_' and '.' with a letter or digit at both ends";

/// [`NAME`]. Empty is one too.
fn is_name(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= 63
        && text.bytes().all(inside)
        && ends.into_iter().flatten().all(|end| end.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_reads_is_read() {
        for selector in [
            "",
            " ",
            "k8s-app=konnectivity-server",
            "k8s-app == konnectivity-server , tier!=x",
            "example.com/app in (a, b,c),!gone, here",
            "app notin (a)",
            "app in ()",
            "app=",
            "size>5,size < 10",
            "in in (in)",
        ] {
            assert_eq!(check(selector), Ok(()), "{selector:?}");
        }
    }

    #[test]
    fn what_it_refuses_is_refused() {
        let long = "x".repeat(64);
        for selector in [
            "=",
            ",",
            "a,",
            "a=b,,c=d",
            "a=b c=d",
            "a in b",
            "a in (b",
            "a within (b)",
            "a=-b",
            "a=b/c",
            "-a=b",
            "EXAMPLE.com/a=b",
            "a/b/c=d",
            "/a=b",
            "a>b",
            "!",
            "a=b)",
            &long,
        ] {
            assert!(check(selector).is_err(), "{selector:?}");
        }
    }
}
