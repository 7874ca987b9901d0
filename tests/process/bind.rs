//! Where the programs listen: every address that a flag can name reaches the listener it is for.

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use proxy_tests::child::Child;
use proxy_tests::ports;

use crate::ground::{Place, SOON};

/// A listener's flag, the rest of its name, and its port.
type Row = (&'static str, u16);

/// What the address flags of a start are.
#[derive(Debug, Clone, Copy)]
enum Given {
    /// Each another address of this machine.
    Apart,
    /// Each an empty one.
    Empty,
    /// None at all.
    Nothing,
}

impl Given {
    fn address(self, at: usize) -> Option<String> {
        match self {
            Given::Apart => Some(format!("127.0.1.{}", at + 1)),
            Given::Empty => Some(String::new()),
            Given::Nothing => None,
        }
    }

    /// Where the listener is expected; `None`: at every address.
    fn expected(self, at: usize, flag: &str) -> Option<String> {
        let default = || (flag == "admin-bind-address").then(|| "127.0.0.1".to_owned());
        self.address(at).map_or_else(default, |address| Some(address).filter(|text| !text.is_empty()))
    }
}

fn answers(address: IpAddr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(address, port), SOON).is_ok()
}

/// Starts both programs, and gives them back with their listeners' rows.
fn start(place: &Place, given: Given) -> ([Child; 2], [Row; 6]) {
    let [frontend, server_admin, agent_admin] = ports::free().unwrap();
    let rows = [
        ("server-bind-address", frontend),
        ("agent-bind-address", place.agent_port),
        ("health-bind-address", place.server_health),
        ("admin-bind-address", server_admin),
        ("health-server-host", place.agent_health),
        ("admin-bind-address", agent_admin),
    ];
    let addresses = rows
        .iter()
        .enumerate()
        .map(|(at, (flag, _))| given.address(at).map(|address| format!("--{flag}={address}")));
    let addresses: Vec<Option<String>> = addresses.collect();
    let (of_server, of_agent) = addresses.split_at(4);
    let file = |name: &str| place.ground.path(name).display().to_string();
    let server_flags = [
        "--uds-name=".to_owned(),
        format!("--server-port={frontend}"),
        format!("--server-cert={}", file("server.crt")),
        format!("--server-key={}", file("server.key")),
        format!("--server-ca-cert={}", file("ca.crt")),
        format!("--admin-port={server_admin}"),
    ];
    // Nobody needs it when it is told to go.
    let agent_flags = [format!("--admin-server-port={agent_admin}"), "--drain-quiet=0s".to_owned()];
    fn all<'a>(flags: &'a [String], addresses: &'a [Option<String>]) -> Vec<&'a str> {
        flags.iter().chain(addresses.iter().flatten()).map(String::as_str).collect()
    }
    let mut server = place.server(&all(&server_flags, of_server)).unwrap();
    let server = Child::start("server", &place.ground.path(""), &mut server).unwrap();
    let agent = place.spawn_agent(&all(&agent_flags, of_agent)).unwrap();
    ([server, agent], rows)
}

#[test]
fn every_listener_is_where_its_flag_says() {
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !six {
        // Past libtest's capture: a skip must be seen.
        let _ =
            writeln!(std::io::stderr(), "\n!!! SKIPPED in part: no IPv6 here, so nobody is asked over it\n");
    }
    for given in [Given::Apart, Given::Empty, Given::Nothing] {
        let place = Place::new().unwrap();
        let (mut programs, rows) = start(&place, given);
        for (at, (flag, port)) in rows.into_iter().enumerate() {
            let expected = given.expected(at, flag);
            let first = expected.as_deref().unwrap_or("127.0.0.1").parse().unwrap();
            let what = format!("--{flag}, {given:?}, at {first}:{port}");
            if ports::wait(SOON, &what, || answers(first, port)).is_err() {
                programs.iter_mut().for_each(|program| program.check().unwrap());
                panic!("{what}: nobody listens");
            }
            for other in ["127.0.0.1", "127.0.0.9", "::1"] {
                let other: IpAddr = other.parse().unwrap();
                if other == first || (other.is_ipv6() && !six) {
                    continue;
                }
                assert_eq!(answers(other, port), expected.is_none(), "{what}: {other}");
            }
        }
    }
}
