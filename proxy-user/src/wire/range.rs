//! Address ranges, and the longest of several that holds an address.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;

use super::identifiers::Identifiers;

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

    /// Length of the prefix.
    pub fn bits(self) -> u8 {
        self.bits
    }

    pub fn holds(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.bits <= width(address) && mask(address, self.bits) == self.network
    }

    /// What an agent's node serves by its identifiers: pod ranges, and the node's own addresses. Text that is neither
    /// (manifests have literals such as `ipv4=${HOST_IP}`) means nothing.
    pub fn all(identifiers: &Identifiers) -> Vec<Range> {
        let pods = identifiers.cidr.iter().filter_map(|text| Range::parse(text));
        let nodes = identifiers.addresses().map(Range::of);
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

/// Something of each range, and the longest range that holds an address.
#[derive(Debug)]
pub struct Prefixes<T> {
    /// By length of the prefix; none is empty.
    by_length: BTreeMap<u8, HashMap<Range, T>>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Prefixes<T> {
        Prefixes { by_length: BTreeMap::new() }
    }
}

impl<T> Prefixes<T> {
    pub fn entry(&mut self, range: Range) -> Entry<'_, Range, T> {
        self.by_length.entry(range.bits).or_default().entry(range)
    }

    pub fn get(&self, range: Range) -> Option<&T> {
        self.by_length.get(&range.bits)?.get(&range)
    }

    /// Keeps of this range's what `keep` says.
    pub fn retain(&mut self, range: Range, keep: impl FnOnce(&mut T) -> bool) {
        let Some(ranges) = self.by_length.get_mut(&range.bits) else { return };
        if ranges.get_mut(&range).is_some_and(|value| !keep(value)) {
            ranges.remove(&range);
        }
        if ranges.is_empty() {
            self.by_length.remove(&range.bits);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_length.values().map(HashMap::len).sum()
    }

    pub fn clear(&mut self) {
        self.by_length.clear();
    }

    /// The longest range with this address in it, and what is of it.
    pub fn longest(&self, address: IpAddr) -> Option<(Range, &T)> {
        let address = address.to_canonical();
        let mut lengths = self.by_length.iter().rev().filter(|(bits, _)| **bits <= width(address));
        lengths.find_map(|(bits, ranges)| {
            let (range, value) =
                ranges.get_key_value(&Range { network: mask(address, *bits), bits: *bits })?;
            Some((*range, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut prefixes = Prefixes::default();
        for range in ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "fd00::/16", "fd00:1::/64"] {
            prefixes.entry(Range::parse(range).unwrap()).insert_entry(());
        }
        let longest =
            |address: &str| prefixes.longest(address.parse().unwrap()).map(|(range, ())| range.to_string());
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
            let holds =
                range.is_some_and(|range| Range::parse(range).unwrap().holds(address.parse().unwrap()));
            assert_eq!(holds, range.is_some(), "{address}");
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
}
