//! What the doctor says of `nodeLocal`: which nodes are known and from where, who serves them, and where addresses of
//! pods are not what the Node objects say.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use super::agents::handle::AgentHandle;
use super::agents::registry::Registry;
use super::nodes::News;
use super::pick::nodes::Node;
use crate::ops::doctor::OWN_MIND;

/// A section of the report.
pub fn nodes(registry: &Registry, news: &News, now: SystemTime) -> String {
    let (streams, known) = (registry.streams(), registry.known());
    let mut served: BTreeMap<&str, (&Arc<Node>, Vec<&AgentHandle>)> =
        known.nodes().iter().map(|node| (node.name.as_str(), (node, Vec::new()))).collect();
    let mut named = Vec::new();
    let mut nowhere = Vec::new();
    for stream in streams.iter() {
        let nodes = known.nodes().of(stream);
        if !stream.ranges.is_empty() {
            named.push(format!("  {}: {}\n", stream.id, list(&stream.ranges)));
        } else if nodes.is_empty() {
            nowhere.push(stream.id.to_string());
        }
        for node in nodes {
            if let Some((_, agents)) = served.get_mut(node.name.as_str()) {
                agents.push(stream);
            }
        }
    }
    let mut text = format!("\nnodeLocal: {}\n", source(news, known.nodes().len(), now));
    for (name, (node, agents)) in &served {
        let ranges: Vec<_> = node.ranges().collect();
        let pods = if node.pods.is_empty() { " (no podCIDR)" } else { "" };
        let agents = match agents.as_slice() {
            [] => "NO AGENT, dials to it are refused".to_owned(),
            some => format!("by {}", list(some.iter().map(|agent| &agent.id))),
        };
        let _ = writeln!(text, "  {name}: {}{pods}; {agents}", list(&ranges));
    }
    if !named.is_empty() {
        named.sort();
        named.dedup();
        let _ = write!(text, "Ranges by --agent-identifiers of those connected:\n{}", named.concat());
    }
    if !nowhere.is_empty() {
        let _ = writeln!(
            text,
            "Agents of no known node, which serve other strategies only: {}; --agent-identifiers=ipv4=$(HOST_IP) says \
             where one is",
            list(&nowhere)
        );
    }
    for (node, agents) in served.values() {
        text.extend(outside(node, agents));
    }
    text
}

fn source(news: &News, nodes: usize, now: SystemTime) -> String {
    if let Some(why) = &news.alone {
        return format!("nodes are known by --agent-identifiers alone: {why}");
    }
    let heard = match news.heard {
        Some(heard) => {
            let ago = now.duration_since(heard).unwrap_or_default().as_secs();
            format!("{nodes} nodes are known by their Node objects, last heard of {ago} s ago")
        }
        None => "no Node object is known yet".to_owned(),
    };
    match &news.failing {
        Some(why) => format!("{heard}; now {why}"),
        None => heard,
    }
}

/// What is wrong with a node's pod ranges, as far as its agents tell.
fn outside(node: &Node, agents: &[&AgentHandle]) -> Option<String> {
    let names_pods = agents.iter().any(|agent| !agent.identifiers.cidr.is_empty());
    if node.pods.is_empty() {
        return (!names_pods && !agents.is_empty()).then(|| {
            format!(
                "Pods of {} are in no known range, so their dials go to the next strategy: its Node.spec.podCIDR is \
                 empty. {OWN_MIND}\n",
                node.name
            )
        });
    }
    let ranges = || node.ranges().chain(agents.iter().flat_map(|agent| agent.ranges.iter().copied()));
    let mut strangers = agents.iter().filter_map(|agent| Some((&agent.id, agent.from?)));
    let (agent, from) = strangers.find(|(_, from)| !ranges().any(|range| range.holds(*from)))?;
    Some(format!(
        "Pods of {} may be outside of its Node.spec.podCIDRs ({}): its agent {agent} comes from {from}. If that is no \
         balancer's and no NAT's address: {OWN_MIND}\n",
        node.name,
        list(&node.pods)
    ))
}

fn list<T: std::fmt::Display>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", ")
}
