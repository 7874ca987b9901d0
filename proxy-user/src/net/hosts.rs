//! The hosts file, read as Go reads it: lines that say nothing are passed over.

use std::collections::HashMap;
use std::net::IpAddr;

/// Names in lower case and without a final dot, each with its addresses in the file's order.
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<String, Vec<String>>);

impl Hosts {
    pub(super) fn parse(text: &[u8]) -> Hosts {
        let mut hosts = Hosts::default();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
            let Some(address) = words.next().filter(|word| is_address(word)) else { continue };
            for name in words {
                hosts.0.entry(key(name)).or_default().push(address.to_owned());
            }
        }
        hosts
    }

    /// The addresses of a name, some perhaps with a zone. A name that is in the file is asked of no server, not even for
    /// addresses of the other family.
    pub(super) fn addresses(&self, name: &str) -> Option<&[String]> {
        self.0.get(&key(name)).map(Vec::as_slice)
    }
}

/// What this machine is called, as the kernel has it.
pub(crate) fn own_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned())
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn is_address(word: &str) -> bool {
    let bare = word.split_once('%').map_or(word, |(bare, _)| bare);
    bare.parse::<IpAddr>().is_ok_and(|address| bare == word || address.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_its_addresses_in_the_file_s_order() {
        let text =
            b"# comment\n10.0.0.2 Db db.example. # 10.9.9.9 db\n\nnonsense db\n10.0.0.300 db\n10.0.0.9\n\
                     fd00::1\tdb\r\n\xff\xfe other\n10.0.0.1 db\nfe80::1%lo link\n10.0.0.1%lo link";
        let hosts = Hosts::parse(text);
        let found = |name| hosts.addresses(name).map(|found| found.join(" "));
        assert_eq!(found("db").as_deref(), Some("10.0.0.2 fd00::1 10.0.0.1"));
        assert_eq!(found("DB.").as_deref(), found("db").as_deref());
        assert_eq!(found("db.example").as_deref(), Some("10.0.0.2"));
        assert_eq!(found("link").as_deref(), Some("fe80::1%lo"));
        assert_eq!(found("other"), None);
        assert!(Hosts::parse(b"").addresses("db").is_none());
    }
}
