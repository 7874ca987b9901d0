//! Whether `--agent-identifiers` can be understood: a URL query with known keys; values are free text.

const KEYS: [&str; 5] = ["host", "ipv4", "ipv6", "cidr", "default-route"];

/// Why the text is refused, in upstream's words.
pub(super) fn check(text: &str) -> Result<(), String> {
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        if pair.contains(';') {
            return Err("invalid semicolon separator in query".to_owned());
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = unescape(key)?;
        unescape(value)?;
        if !KEYS.contains(&key.as_str()) {
            return Err(format!("unknown address type: {key}"));
        }
    }
    Ok(())
}

/// Undoes `%xx` and `+`.
fn unescape(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let code = tail.get(..2).and_then(|code| std::str::from_utf8(code).ok());
                let byte = code
                    .filter(|code| !code.starts_with('+'))
                    .and_then(|code| u8::from_str_radix(code, 16).ok());
                let wrong = || format!("invalid URL escape {:?}", format!("%{}", code.unwrap_or_default()));
                bytes.push(byte.ok_or_else(wrong)?);
                rest = &tail[2..];
            }
            byte => bytes.push(*byte),
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
