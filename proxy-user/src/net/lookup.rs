//! The addresses of a server's name, in an order that spreads connections over them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::net::lookup_host;

/// A lookup under way.
pub(super) type Looking<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// Finds the addresses of a host, each with this port.
pub(super) type Lookup = fn(&str, u16) -> Looking<'_>;

/// By the system's resolver.
pub(super) fn system(host: &str, port: u16) -> Looking<'_> {
    Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) })
}

/// Turns the addresses of each family by a random number of places; which family is where stays. The system's resolver
/// sorts by likeness to our own address (RFC 6724, rule 9), as Go does for IPv6 alone: whoever always began with the
/// first would never see another of the servers behind a name.
pub(super) fn spread(addresses: &mut [SocketAddr]) {
    if addresses.len() < 2 {
        return;
    }
    let mut random = [0; 8];
    // Without random bytes the order stays.
    let _ = getrandom::fill(&mut random);
    turn(addresses, u64::from_ne_bytes(random));
}

fn turn(addresses: &mut [SocketAddr], by: u64) {
    for six in [false, true] {
        let places: Vec<usize> =
            (0..addresses.len()).filter(|place| addresses[*place].is_ipv6() == six).collect();
        let mut family: Vec<SocketAddr> = places.iter().map(|place| addresses[*place]).collect();
        let first = by % family.len().max(1) as u64;
        family.rotate_left(first as usize);
        for (place, address) in places.into_iter().zip(family) {
            addresses[place] = address;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns_within_their_family() {
        let turned = |by| {
            let all = ["[fd00::1]:1", "[fd00::2]:1", "10.0.0.1:1", "[fd00::3]:1", "10.0.0.2:1"];
            let mut addresses = all.map(|text| text.parse::<SocketAddr>().unwrap());
            turn(&mut addresses, by);
            addresses.map(|address| address.to_string())
        };
        assert_eq!(turned(0), ["[fd00::1]:1", "[fd00::2]:1", "10.0.0.1:1", "[fd00::3]:1", "10.0.0.2:1"]);
        assert_eq!(turned(1), ["[fd00::2]:1", "[fd00::3]:1", "10.0.0.2:1", "[fd00::1]:1", "10.0.0.1:1"]);
        assert_eq!(turned(2), ["[fd00::3]:1", "[fd00::1]:1", "10.0.0.1:1", "[fd00::2]:1", "10.0.0.2:1"]);
        assert_eq!(turned(6), turned(0));
        turn(&mut [], 7);
    }
}
