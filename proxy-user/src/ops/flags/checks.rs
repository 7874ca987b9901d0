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
