//! resolv.conf, read as Go reads it: what it cannot make sense of it passes over, and names are asked of somebody
//! whatever the file says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;

use super::hosts::own_name;

/// Whom to ask, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<IpAddr>,
    /// What is put behind a name, in turn.
    pub(super) search: Vec<Name>,
    /// A name with as many dots is asked for as it is before anything is put behind it.
    pub(super) dots: usize,
    /// For each question to each server.
    pub(super) timeout: Duration,
    /// How often all servers are asked in turn.
    pub(super) attempts: usize,
    /// Over TCP alone: where UDP to the servers is lost or forbidden.
    pub(super) tcp: bool,
}

/// resolv.conf(5): "the name servers listed are used; up to MAXNS (currently 3)".
const MOST_SERVERS: usize = 3;
/// With none in the file: "the default is to use the name server on the local machine".
const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

impl ResolvConf {
    /// Of the file's text; a file that is missing says as much as an empty one.
    pub(super) fn parse(text: &[u8]) -> ResolvConf {
        let mut conf = ResolvConf {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            tcp: false,
        };
        for line in String::from_utf8_lossy(text).lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(server);
                    conf.servers.extend(server.filter(|_| conf.servers.len() < MOST_SERVERS));
                    if server.is_none() {
                        tracing::warn!(line, "resolv.conf: no address of a name server, passed over");
                    }
                }
                Some("domain") => conf.search = words.take(1).filter_map(suffix).collect(),
                Some("search") => conf.search = words.filter_map(suffix).collect(),
                Some("options") => words.for_each(|option| conf.set(option)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            tracing::warn!(servers = ?LOCAL, "resolv.conf names no server; asking on this machine for names");
            conf.servers = LOCAL.to_vec();
        }
        if conf.search.is_empty() {
            conf.search = own_domain().into_iter().collect();
        }
        conf
    }

    fn set(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        // As Go: a number that is none counts as 0.
        let number = value.parse::<usize>().unwrap_or_default();
        match name {
            "ndots" => self.dots = number.min(15),
            "timeout" => self.timeout = Duration::from_secs(number.max(1) as u64),
            "attempts" => self.attempts = number.max(1),
            "use-vc" | "usevc" | "tcp" => self.tcp = true,
            _ => {}
        }
    }
}

/// Its zone is lost, if it has one.
fn server(word: &str) -> Option<IpAddr> {
    let bare = word.split_once('%').map_or(word, |(bare, _)| bare);
    bare.parse().ok().filter(|address: &IpAddr| bare == word || address.is_ipv6())
}

fn suffix(word: &str) -> Option<Name> {
    let mut name = Name::from_str_relaxed(word).inspect_err(|error| {
        tracing::warn!(word, %error, "resolv.conf: no name to put behind others, passed over");
    });
    name.iter_mut().for_each(|name| name.set_fqdn(true));
    name.ok().filter(|name| !name.is_root())
}

/// What follows the first dot of this machine's name.
fn own_domain() -> Option<Name> {
    suffix(own_name()?.split_once('.')?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Vec<String>, Vec<String>) {
        let conf = ResolvConf::parse(text.as_bytes());
        let texts = |all: &[Name]| all.iter().map(ToString::to_string).collect();
        (conf.servers.iter().map(ToString::to_string).collect(), texts(&conf.search))
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        let text = "# nameserver 10.0.0.9\n; x\nnameserver 10.0.0.300\nnameserver\nnameserver 10.0.0.10\n\
                    search a..b svc.cluster.local . cluster.local.\nnonsense\noptions ndots:5 rotate what:7\n\
                    nameserver fd00::10 # mine\nnameserver 10.0.0.11\nnameserver 10.0.0.12";
        let (servers, search) = parsed(text);
        assert_eq!(servers, ["10.0.0.10", "fd00::10", "10.0.0.11"]);
        assert_eq!(search, ["svc.cluster.local.", "cluster.local."]);
        assert_eq!(ResolvConf::parse(text.as_bytes()).dots, 5);
        assert_eq!(parsed("search a b\ndomain c.example d").1, ["c.example."]);
        assert_eq!(ResolvConf::parse(b"nameserver \xff\nnameserver ::1").servers, [LOCAL[1]]);
    }

    #[test]
    fn without_a_server_this_machine_is_asked() {
        for text in ["", "search example", "nameserver none", "# nothing"] {
            assert_eq!(parsed(text).0, ["127.0.0.1", "::1"], "{text:?}");
        }
    }

    #[test]
    fn a_question_has_a_second_and_an_attempt_at_least() {
        let options = |text: &str| {
            let conf = ResolvConf::parse(format!("options {text}").as_bytes());
            (conf.dots, conf.timeout.as_secs(), conf.attempts, conf.tcp)
        };
        assert_eq!(options(""), (1, 5, 2, false));
        assert_eq!(options("timeout:0 attempts:0 ndots:0"), (0, 1, 1, false));
        assert_eq!(options("timeout:x attempts:-1 ndots:99 use-vc"), (15, 1, 1, true));
        assert_eq!(options("timeout:3 attempts:4 ndots:2"), (2, 3, 4, false));
    }
}
