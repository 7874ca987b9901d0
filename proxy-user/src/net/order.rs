//! Which of a name's addresses is dialled first: RFC 6724, section 6, as far as Go goes by it (net/addrselect.go).

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Sorts addresses for dialling; equals keep their order.
pub(super) fn sort(addresses: &mut [SocketAddr]) {
    if addresses.len() > 1 {
        addresses.sort_by_cached_key(|address| Rank::of(address.ip(), source(*address)));
    }
}

/// The address that the kernel would use as ours; none where it knows no way. Nothing is sent.
fn source(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// By the section's rules, in their order; what is less goes first. Go leaves out rules 3, 4 and 7 (deprecated addresses,
/// home addresses, tunnels).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Reachable {
        other_scope: bool,
        other_label: bool,
        precedence: Reverse<u8>,
        scope: u8,
        /// Equal for IPv4, where likeness says nothing of nearness.
        prefix: Reverse<u32>,
    },
    /// Rule 1.
    Unreachable,
}

impl Rank {
    fn of(to: IpAddr, source: Option<IpAddr>) -> Rank {
        let Some(source) = source else { return Rank::Unreachable };
        let (policy, own) = (policy(to), policy(source));
        Rank::Reachable {
            other_scope: scope(to) != scope(source),
            other_label: policy.label != own.label,
            precedence: Reverse(policy.precedence),
            scope: scope(to),
            prefix: Reverse(common_prefix(to, source)),
        }
    }
}

struct Policy {
    precedence: u8,
    label: u8,
}

/// The table of section 2.1.
fn policy(address: IpAddr) -> Policy {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let (precedence, label) = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => (50, 0),
        [0, 0, 0, 0, 0, 0xffff, ..] => (35, 4),
        [0, 0, 0, 0, 0, 0, ..] => (1, 3),
        [0x2001, 0, ..] => (5, 5),
        [0x2002, ..] => (30, 2),
        [0x3ffe, ..] => (1, 12),
        [0xfec0..=0xfeff, ..] => (1, 11),
        [0xfc00..=0xfdff, ..] => (3, 13),
        _ => (40, 1),
    };
    Policy { precedence, label }
}

const LINK_LOCAL: u8 = 0x2;
const SITE_LOCAL: u8 = 0x5;
const GLOBAL: u8 = 0xe;

/// Section 3.1; this machine's own address is as near as the link.
fn scope(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) if address.is_loopback() || address.is_link_local() => LINK_LOCAL,
        IpAddr::V4(_) => GLOBAL,
        IpAddr::V6(address) => match address.segments() {
            [0xff00..=0xffff, ..] => address.octets()[1] & 0xf,
            [0xfec0..=0xfeff, ..] => SITE_LOCAL,
            _ if address.is_loopback() || address.is_unicast_link_local() => LINK_LOCAL,
            _ => GLOBAL,
        },
    }
}

/// Bits that both have in common, of the 64 that name a network.
fn common_prefix(to: IpAddr, source: IpAddr) -> u32 {
    match (to, source) {
        (IpAddr::V6(to), IpAddr::V6(source)) => (to.to_bits() ^ source.to_bits()).leading_zeros().min(64),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_can_reach_has_a_source() {
        assert_eq!(source("127.0.0.1:1".parse().unwrap()), Some(Ipv4Addr::LOCALHOST.into()));
        // Link-local without a link: no way leads there (RFC 4007, 6).
        assert_eq!(source("[fe80::1]:1".parse().unwrap()), None);
    }

    /// Pairs in the order wanted, each address with our own towards it; `-`: no way leads there.
    #[test]
    fn the_order_is_go_s() {
        for wanted in [
            // The cases of Go's own test, by their rules: scope, scope, precedence, smaller scope.
            ["2001:db8:1::1 2001:db8:1::2", "198.51.100.121 169.254.13.78"],
            ["198.51.100.121 198.51.100.117", "2001:db8:1::1 fe80::1"],
            ["2001:db8:1::1 2001:db8:1::2", "10.1.2.3 10.1.2.4"],
            ["fe80::1 fe80::2", "2001:db8:1::1 2001:db8:1::2"],
            // Other rules: reachable, precedence, label, this machine, common prefix.
            ["10.1.2.3 10.1.2.4", "2001:db8:1::1 -"],
            ["10.1.2.3 10.1.2.4", "fd00::1 fd00::2"],
            ["fd00::1 fd00::2", "2001:db8:1::1 fd00::2"],
            ["::1 ::1", "127.0.0.1 127.0.0.1"],
            ["2001:db8:1::1 2001:db8:1::2", "2001:db8:2::1 2001:db8:1::2"],
        ] {
            let parse = |text: &str| {
                let (to, source) = text.split_once(' ').unwrap();
                Rank::of(to.parse().unwrap(), source.parse().ok())
            };
            assert!(parse(wanted[0]) < parse(wanted[1]), "{wanted:?}");
        }
        // Equals stay: likeness of IPv4 addresses counts for nothing.
        let rank = |to: &str| Rank::of(to.parse().unwrap(), Some("10.2.3.4".parse().unwrap()));
        assert_eq!(rank("54.83.193.112"), rank("10.2.3.5"));
        assert_eq!(Rank::of("::2".parse().unwrap(), None), Rank::of("10.0.0.1".parse().unwrap(), None));
    }
}
