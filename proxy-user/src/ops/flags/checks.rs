//! Checks that both binaries make, with upstream's words.

use std::io::ErrorKind;

/// `gist`, with the flag's name added when the gist does not say it.
pub(crate) fn mistake(flag: &str, gist: impl Into<String>) -> String {
    let gist = gist.into();
    let named = format!("--{flag}");
    if gist.contains(&named) { gist } else { format!("{gist} ({named})") }
}

/// Notes a file that was named and does not exist. Like upstream, nothing else about it is checked here.
pub(crate) fn exists(flag: &'static str, gist: &str, path: &str, found: &mut Vec<(&'static str, String)>) {
    let missing = || std::fs::metadata(path).is_err_and(|why| why.kind() == ErrorKind::NotFound);
    if !path.is_empty() && missing() {
        found.push((flag, format!("{gist} {path}, got stat {path}: no such file or directory")));
    }
}

/// A key and its certificate, each as (flag, what, path): both exist, and neither is given without the other.
pub(crate) fn pair(
    key: (&'static str, &str, &str),
    cert: (&'static str, &str, &str),
    found: &mut Vec<(&'static str, String)>,
) {
    for ((flag, what, path), (other_flag, other, other_path)) in [(key, cert), (cert, key)] {
        exists(flag, &format!("error checking {what}"), path, found);
        if !path.is_empty() && other_path.is_empty() {
            found.push((other_flag, format!("cannot have {other} empty when {what} is set to {path:?}")));
        }
    }
}

/// What in a text is in the way of a host, and what to write, of a port with `port_flag`. `None`: nothing usual.
pub(crate) fn odd_host(text: &str, port_flag: &str) -> Option<String> {
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((scheme, _)) = text.split_once("://") {
        return Some(format!("has a scheme: leave {scheme}:// and whatever follows the host out"));
    }
    if text.starts_with('[') != text.ends_with(']') && text.rsplit_once("]:").is_none() {
        return Some("has one bracket of two: write an IPv6 address as [::1] or ::1".to_owned());
    }
    match text.rsplit_once(':') {
        Some((host, port)) if is_port(port) && (!host.contains(':') || host.ends_with(']')) => {
            Some(format!("has a port: write {host} alone, and --{port_flag}={port}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_of_a_host_is_named() {
        for (text, wanted) in [
            ("https://a:1/b", Some("leave https:// and")),
            ("[::1", Some("write an IPv6 address as [::1]")),
            ("::1]", Some("one bracket of two")),
            ("a.example:8091", Some("write a.example alone, and --agent-port=8091")),
            ("10.0.0.1:1", Some("write 10.0.0.1 alone")),
            ("[::1]:8091", Some("write [::1] alone")),
            ("", None),
            ("a.example", None),
            ("10.0.0.1", None),
            ("::1", None),
            ("fd00::1:8091", None),
            ("[::1]", None),
        ] {
            let found = odd_host(text, "agent-port");
            assert_eq!(found.is_some(), wanted.is_some(), "{text:?}: {found:?}");
            assert!(
                wanted.is_none_or(|wanted| found.clone().unwrap().contains(wanted)),
                "{text:?}: {found:?}"
            );
        }
    }
}
