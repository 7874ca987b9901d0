//! The nodes that the Kubernetes API lists: what each serves, and which agents are its own.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node as Object;

use crate::server::agents::handle::AgentHandle;
use crate::wire::range::{Prefixes, Range};

/// What a Node object says of a node's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    /// Its name, host name and DNS names, in small letters.
    pub names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`; none where the network plugin manages addresses by itself.
    pub pods: Vec<Range>,
}

impl Node {
    /// `None`: it has no name. Whatever else makes no sense is left out.
    pub fn of(object: Object) -> Option<Node> {
        let name = object.metadata.name?;
        let spec = object.spec.unwrap_or_default();
        let pods = spec.pod_cidrs.filter(|all| !all.is_empty()).or_else(|| Some(vec![spec.pod_cidr?]));
        let pods = pods.into_iter().flatten().filter_map(|text| Range::parse(&text)).collect();
        let mut node = Node { names: vec![name.to_ascii_lowercase()], name, addresses: Vec::new(), pods };
        let given = object.status.and_then(|status| status.addresses).unwrap_or_default();
        for text in given.into_iter().map(|given| given.address) {
            match text.parse::<IpAddr>() {
                Ok(address) => push(&mut node.addresses, address.to_canonical()),
                Err(_) if text.is_empty() => {}
                Err(_) => push(&mut node.names, text.to_ascii_lowercase()),
            }
        }
        Some(node)
    }

    /// Its own addresses, and its pods'.
    pub fn ranges(&self) -> impl Iterator<Item = Range> {
        self.addresses.iter().copied().map(Range::of).chain(self.pods.iter().copied())
    }

    /// An agent is a node's when its id is the node's name, or its identifiers (ipv4, ipv6, host) have a name or an
    /// address of the node.
    pub fn has(&self, agent: &AgentHandle) -> bool {
        agent.id.as_str() == self.name
            || agent.addresses.iter().any(|address| self.addresses.contains(address))
            || agent
                .identifiers
                .hosts()
                .any(|host| self.names.iter().any(|name| name.eq_ignore_ascii_case(host)))
    }
}

fn push<T: PartialEq>(all: &mut Vec<T>, one: T) {
    if !all.contains(&one) {
        all.push(one);
    }
}

/// All nodes, by name and by address.
#[derive(Debug, Default)]
pub struct Nodes {
    all: HashMap<String, Arc<Node>>,
    ranges: Prefixes<Vec<Arc<Node>>>,
    names: HashMap<String, Vec<Arc<Node>>>,
}

impl Nodes {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.all.values()
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Node>> {
        self.all.get(name)
    }

    /// Whose agent this is.
    pub fn of(&self, agent: &AgentHandle) -> Vec<&Arc<Node>> {
        let addresses = agent.addresses.iter().flat_map(|address| self.of_range(Range::of(*address)));
        let names = agent.identifiers.hosts().chain([agent.id.as_str()]).flat_map(|name| self.named(name));
        let mut found: Vec<&Arc<Node>> = addresses.chain(names).filter(|node| node.has(agent)).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        found
    }

    /// What was known of this node before.
    pub(super) fn put(&mut self, node: Node) -> Option<Arc<Node>> {
        let before = self.remove(&node.name);
        let node = Arc::new(node);
        for range in node.ranges() {
            self.ranges.entry(range).or_default().push(node.clone());
        }
        for name in &node.names {
            self.names.entry(name.clone()).or_default().push(node.clone());
        }
        self.all.insert(node.name.clone(), node);
        before
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<Node>> {
        let node = self.all.remove(name)?;
        let keep = |nodes: &mut Vec<Arc<Node>>| {
            nodes.retain(|other| other.name != name);
            !nodes.is_empty()
        };
        node.ranges().for_each(|range| self.ranges.retain(range, keep));
        for name in &node.names {
            if self.names.get_mut(name).is_some_and(|nodes| !keep(nodes)) {
                self.names.remove(name);
            }
        }
        Some(node)
    }

    pub(super) fn named(&self, name: &str) -> &[Arc<Node>] {
        self.names.get(&name.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
    }

    pub(super) fn of_range(&self, range: Range) -> &[Arc<Node>] {
        self.ranges.get(range).map_or(&[], Vec::as_slice)
    }

    pub(super) fn longest(&self, address: IpAddr) -> Option<(Range, &[Arc<Node>])> {
        self.ranges.longest(address).map(|(range, nodes)| (range, nodes.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{NodeAddress, NodeSpec, NodeStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn object(name: &str, addresses: &[(&str, &str)], pod_cidr: Option<&str>, pod_cidrs: &[&str]) -> Object {
        let addresses = addresses
            .iter()
            .map(|(type_, address)| NodeAddress { type_: (*type_).into(), address: (*address).into() });
        Object {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            spec: Some(NodeSpec {
                pod_cidr: pod_cidr.map(str::to_owned),
                pod_cidrs: Some(pod_cidrs.iter().map(|cidr| (*cidr).to_owned()).collect()),
                ..NodeSpec::default()
            }),
            status: Some(NodeStatus { addresses: Some(addresses.collect()), ..NodeStatus::default() }),
        }
    }

    #[test]
    fn a_node_object_says_names_addresses_and_pod_ranges() {
        let addresses = [
            ("InternalIP", "192.0.2.7"),
            ("InternalIP", "fd00::7"),
            ("ExternalIP", "198.51.100.7"),
            ("ExternalIP", "192.0.2.7"),
            ("Hostname", "Worker-1"),
            ("InternalDNS", "worker-1.example"),
        ];
        let node =
            Node::of(object("worker-1", &addresses, Some("10.9.0.0/24"), &["10.1.2.0/24", "fd00:1::/64"]));
        let node = node.unwrap();
        assert_eq!(node.names, ["worker-1", "worker-1.example"]);
        let ranges: Vec<String> = node.ranges().map(|range| range.to_string()).collect();
        let expected = ["192.0.2.7/32", "fd00::7/128", "198.51.100.7/32", "10.1.2.0/24", "fd00:1::/64"];
        assert_eq!(ranges, expected);
    }

    #[test]
    fn what_is_missing_or_nonsense_is_left_out() {
        for (pod_cidr, pod_cidrs, found) in [
            (Some("10.9.0.0/24"), &[][..], &["10.9.0.0/24"][..]),
            (None, &[], &[]),
            (Some(""), &[], &[]),
            (Some("10.9.0.0/24"), &["x", "10.1.2.0/24"], &["10.1.2.0/24"]),
        ] {
            let node = Node::of(object("n", &[], pod_cidr, pod_cidrs)).unwrap();
            let pods: Vec<String> = node.pods.iter().map(Range::to_string).collect();
            assert_eq!(pods, found, "{pod_cidr:?} {pod_cidrs:?}");
        }
        assert_eq!(Node::of(Object::default()), None);
    }
}
