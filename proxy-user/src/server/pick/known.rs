//! Whose an address is: of a node that an agent named by its identifiers, of one that has a Node object, or of nobody
//! that is known.

use std::net::IpAddr;
use std::sync::Arc;

use super::nodes::{Node, Nodes};
use crate::wire::range::{Prefixes, Range};

/// Ranges of agents that are remembered at most; a cluster has two per node or so.
const MOST: usize = 1 << 16;

/// The ranges of every node that had an agent since the start: an address of a node whose agent is away is still that
/// node's. And those of the nodes that the Kubernetes API lists.
#[derive(Debug, Default)]
pub struct Known {
    named: Prefixes<()>,
    nodes: Nodes,
}

/// Whose an address is; at least one of both.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// An agent named this range. Its word counts before a Node object's of the same length: network plugins that
    /// manage addresses by themselves leave Node.spec.podCIDR wrong.
    pub(super) named: Option<Range>,
    /// More than one only while an address moves from node to node.
    pub(super) nodes: &'a [Arc<Node>],
}

impl Known {
    /// Adds an agent's ranges; beyond the bound only those of `live` agents stay.
    pub fn add(&mut self, ranges: &[Range], live: impl Iterator<Item = Range>) {
        if self.named.len() + ranges.len() > MOST {
            self.named.clear();
            live.for_each(|range| self.insert(range));
        }
        ranges.iter().for_each(|range| self.insert(*range));
    }

    fn insert(&mut self, range: Range) {
        self.named.entry(range).insert_entry(());
    }

    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// All nodes there are. What those named that are no more is forgotten, unless an agent that `is_live` names it.
    pub fn set_nodes(&mut self, nodes: Vec<Node>, is_live: impl Fn(Range) -> bool) {
        let before = std::mem::take(&mut self.nodes);
        for node in nodes {
            self.nodes.put(node);
        }
        before.iter().for_each(|node| self.forget(node, &is_live));
    }

    pub fn put_node(&mut self, node: Node, is_live: impl Fn(Range) -> bool) {
        let before = self.nodes.put(node);
        before.iter().for_each(|before| self.forget(before, &is_live));
    }

    pub fn remove_node(&mut self, name: &str, is_live: impl Fn(Range) -> bool) {
        self.nodes.remove(name).iter().for_each(|node| self.forget(node, &is_live));
    }

    fn forget(&mut self, node: &Node, is_live: impl Fn(Range) -> bool) {
        for range in node.ranges().filter(|range| self.nodes.of_range(*range).is_empty()) {
            self.named.retain(range, |()| is_live(range));
        }
    }

    /// Whose this host of a dial is: an address, or a node's name.
    pub(super) fn place(&self, host: &str) -> Option<Place<'_>> {
        let Ok(address) = host.parse::<IpAddr>() else {
            let nodes = self.nodes.named(host);
            return (!nodes.is_empty()).then_some(Place { named: None, nodes });
        };
        let named = self.named.longest(address).map(|(range, ())| range);
        let node = self.nodes.longest(address);
        let (named, nodes) = match (named, node) {
            (Some(named), Some((range, _))) if named.bits() > range.bits() => (Some(named), &[][..]),
            (Some(named), Some((range, nodes))) => ((named == range).then_some(named), nodes),
            (named, node) => (named, node.map_or(&[][..], |(_, nodes)| nodes)),
        };
        (named.is_some() || !nodes.is_empty()).then_some(Place { named, nodes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        Range::parse(text).unwrap()
    }

    fn node(name: &str, address: &str, pods: &str) -> Node {
        let pods = pods.split(',').filter_map(Range::parse).collect();
        Node { name: name.into(), names: vec![name.into()], addresses: vec![address.parse().unwrap()], pods }
    }

    /// The range an agent named, and the nodes.
    fn place(known: &Known, host: &str) -> Option<(Option<String>, Vec<String>)> {
        let place = known.place(host)?;
        let nodes = place.nodes.iter().map(|node| node.name.clone()).collect();
        Some((place.named.map(|range| range.to_string()), nodes))
    }

    #[test]
    fn the_longest_range_says_whose_an_address_is_and_an_agents_word_counts_first() {
        let mut known = Known::default();
        known.add(
            &["10.0.0.0/8", "10.1.2.64/26", "10.1.3.0/24", "192.0.2.9/32"].map(range),
            std::iter::empty(),
        );
        let nodes = vec![
            node("one", "192.0.2.1", "10.1.2.0/24,fd00:1::/64"),
            node("two", "192.0.2.2", "10.1.3.0/24"),
        ];
        known.set_nodes(nodes, |_| false);
        for (host, named, nodes) in [
            ("10.1.2.3", None, &["one"][..]),
            ("10.1.2.70", Some("10.1.2.64/26"), &[]),
            ("10.1.3.3", Some("10.1.3.0/24"), &["two"]),
            ("10.9.9.9", Some("10.0.0.0/8"), &[]),
            ("192.0.2.9", Some("192.0.2.9/32"), &[]),
            ("192.0.2.1", None, &["one"]),
            ("::ffff:192.0.2.1", None, &["one"]),
            ("fd00:1::7", None, &["one"]),
            ("Two", None, &["two"]),
        ] {
            let nodes = nodes.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(place(&known, host), Some((named.map(str::to_owned), nodes)), "{host}");
        }
        for host in ["192.0.2.3", "fd00:2::7", "three", "two.example", ""] {
            assert_eq!(place(&known, host), None, "{host}");
        }
    }

    #[test]
    fn a_node_that_goes_takes_its_ranges_away_but_no_live_agents() {
        let mut known = Known::default();
        known.add(&["10.1.2.0/24", "192.0.2.1/32", "10.7.0.0/24"].map(range), std::iter::empty());
        known.set_nodes(vec![node("one", "192.0.2.1", "10.1.2.0/24"), node("two", "192.0.2.2", "")], |_| {
            false
        });
        known.remove_node("one", |live| live == range("10.1.2.0/24"));
        assert_eq!(place(&known, "one"), None);
        assert_eq!(place(&known, "192.0.2.1"), None, "nobody names it any more");
        assert_eq!(place(&known, "10.1.2.3"), Some((Some("10.1.2.0/24".into()), vec![])));
        assert_eq!(place(&known, "10.7.0.3"), Some((Some("10.7.0.0/24".into()), vec![])));
        known.put_node(node("two", "192.0.2.3", ""), |_| false);
        assert_eq!(place(&known, "192.0.2.2"), None);
        assert_eq!(place(&known, "192.0.2.3"), Some((None, vec!["two".into()])));
        known.set_nodes(vec![node("three", "192.0.2.3", "")], |_| false);
        assert_eq!(place(&known, "two"), None);
        assert_eq!(place(&known, "192.0.2.3"), Some((None, vec!["three".into()])));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut known = Known::default();
        let many: Vec<Range> = (0..MOST as u32).map(|n| Range::of(IpAddr::from(n.to_be_bytes()))).collect();
        known.add(&many, std::iter::empty());
        known.add(&[range("198.51.100.0/24")], [range("192.0.2.0/24")].into_iter());
        assert_eq!(place(&known, "0.0.0.7"), None);
        for (host, named) in [("192.0.2.9", "192.0.2.0/24"), ("198.51.100.9", "198.51.100.0/24")] {
            assert_eq!(place(&known, host), Some((Some(named.into()), vec![])));
        }
    }
}
