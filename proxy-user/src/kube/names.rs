//! Names of objects and namespaces, as Kubernetes takes them.

/// The most that an object's name may have, in bytes.
pub const MAX_NAME: usize = 253;

/// A namespace's name, an RFC 1123 label: lower-case letters, digits and `-`, which is not at the ends.
pub fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_part(name)
}

/// An object's name, an RFC 1123 subdomain: labels, here of any length, with dots between them.
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= MAX_NAME && name.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.into_iter().all(|end| end.is_some_and(inner)) && text.bytes().all(|byte| inner(byte) || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_kubernetes_has_them() {
        let long = "x".repeat(64);
        for (name, label, subdomain) in [
            ("kube-system", true, true),
            ("0", true, true),
            ("a.b-c.d", false, true),
            (&long, false, true),
            (&"x.".repeat(127), false, false),
            (&"x".repeat(254), false, false),
            ("", false, false),
            ("a..b", false, false),
            ("-a", false, false),
            ("a-", false, false),
            ("A", false, false),
            ("a_b", false, false),
            ("a/b", false, false),
        ] {
            assert_eq!((is_label(name), is_subdomain(name)), (label, subdomain), "{name:?}");
        }
    }
}
