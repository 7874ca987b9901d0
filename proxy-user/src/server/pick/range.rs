//! Address ranges, and the longest of several that holds an address.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use crate::wire::identifiers::Identifiers;

/// Ranges that are remembered at most; a cluster has two per node or so.
const MOST: usize = 1 << 16;

/// An IP network, its host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    network: IpAddr,
    bits: u8,
}

impl Range {
    /// `None`: no network in CIDR notation.
    pub fn parse(text: &str) -> Option<Range> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        (bits <= width(address)).then(|| Range { network: mask(address, bits), bits })
    }

    pub fn of(address: IpAddr) -> Range {
        let address = address.to_canonical();
        Range { network: address, bits: width(address) }
    }

    /// What an agent's node serves by its identifiers: pod ranges, and the node's own addresses. Text that is neither
    /// (manifests have literals such as `ipv4=${HOST_IP}`) means nothing.
    pub fn all(identifiers: &Identifiers) -> Vec<Range> {
        let pods = identifiers.cidr.iter().filter_map(|text| Range::parse(text));
        let nodes = identifiers.hosts().filter_map(|text| text.parse().ok()).map(Range::of);
        pods.chain(nodes).collect()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::from(
            (v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).to_be_bytes(),
        ),
        IpAddr::V6(v6) => IpAddr::from(
            (v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).to_be_bytes(),
        ),
    }
}

/// The ranges of every node that had an agent since the start: an address of a node whose agent is away is still that
/// node's.
#[derive(Debug, Default)]
pub struct Known {
    /// By length of the prefix.
    ranges: BTreeMap<u8, HashSet<Range>>,
}

impl Known {
    /// Adds ranges; beyond the bound only those of `live` agents stay.
    pub fn add(&mut self, ranges: &[Range], live: impl Iterator<Item = Range>) {
        if self.ranges.values().map(HashSet::len).sum::<usize>() + ranges.len() > MOST {
            self.ranges.clear();
            live.for_each(|range| self.insert(range));
        }
        ranges.iter().for_each(|range| self.insert(*range));
    }

    fn insert(&mut self, range: Range) {
        self.ranges.entry(range.bits).or_default().insert(range);
    }

    /// The longest range with this address in it.
    pub fn longest(&self, address: IpAddr) -> Option<Range> {
        let address = address.to_canonical();
        let lengths = self.ranges.iter().rev().filter(|(bits, _)| **bits <= width(address));
        let found =
            lengths.map(|(bits, ranges)| (Range { network: mask(address, *bits), bits: *bits }, ranges));
        found.into_iter().find(|(range, ranges)| ranges.contains(range)).map(|(range, _)| range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(ranges: &[&str]) -> Known {
        let mut known = Known::default();
        let ranges: Vec<Range> = ranges.iter().map(|text| Range::parse(text).unwrap()).collect();
        known.add(&ranges, std::iter::empty());
        known
    }

    #[test]
    fn the_longest_prefix_wins() {
        let known = known(&["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "fd00::/16", "fd00:1::/64"]);
        let longest = |address: &str| known.longest(address.parse().unwrap()).map(|range| range.to_string());
        for (address, range) in [
            ("10.1.2.3", Some("10.1.2.0/24")),
            ("10.1.3.3", Some("10.1.0.0/16")),
            ("10.200.0.1", Some("10.0.0.0/8")),
            ("11.0.0.1", None),
            ("fd00:1::9", Some("fd00:1::/64")),
            ("fd00:2::9", Some("fd00::/16")),
            ("fe00::1", None),
            ("::ffff:10.1.2.3", Some("10.1.2.0/24")),
        ] {
            assert_eq!(longest(address).as_deref(), range, "{address}");
        }
    }

    #[test]
    fn host_bits_do_not_matter_and_nonsense_is_none() {
        assert_eq!(Range::parse("10.1.2.3/24"), Range::parse("10.1.2.0/24"));
        assert_eq!(Range::parse("1.2.3.4/0").unwrap().to_string(), "0.0.0.0/0");
        assert_eq!(Range::parse("fd00::1/0").unwrap().to_string(), "::/0");
        for text in ["", "10.1.2.0", "10.1.2.0/33", "fd00::/129", "10.1.2.0/-1", "10.1/16", "${CIDR}", "a/8"]
        {
            assert_eq!(Range::parse(text), None, "{text}");
        }
    }

    #[test]
    fn identifiers_name_pods_and_nodes() {
        let identifiers =
            Identifiers::parse("cidr=10.1.0.0/24&cidr=x&ipv4=192.0.2.1&host=192.0.2.2&host=node&ipv6=:::::")
                .unwrap();
        let ranges: Vec<String> = Range::all(&identifiers).iter().map(Range::to_string).collect();
        assert_eq!(ranges, ["10.1.0.0/24", "192.0.2.1/32", "192.0.2.2/32"]);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut known = Known::default();
        let many: Vec<Range> = (0..MOST as u32).map(|n| Range::of(IpAddr::from(n.to_be_bytes()))).collect();
        known.add(&many, std::iter::empty());
        let (live, new) = (Range::parse("192.0.2.0/24").unwrap(), Range::parse("198.51.100.0/24").unwrap());
        known.add(&[new], [live].into_iter());
        let address = |text: &str| known.longest(text.parse().unwrap());
        assert_eq!(address("0.0.0.7"), None);
        assert_eq!((address("192.0.2.9"), address("198.51.100.9")), (Some(live), Some(new)));
    }
}
