//! Three servers behind one address that an agent knows.

use proxy_tests::balancer::{Balancer, Manner};
use proxy_tests::runner::Ground;
use proxy_tests::targets::Target;

use crate::ends::AgentEnd;
use crate::flow::Flow;
use crate::pair::{Front, Pairing, kept_to_the_contract};

/// One is killed and another one added: flows of the others notice nothing, and the agent finds whoever is there.
pub(crate) async fn three_servers(pairing: Pairing) -> anyhow::Result<()> {
    let (ground, target) = (Ground::new()?, Target::echo().await?);
    let mut fronts = Vec::new();
    for number in 0..3 {
        fronts.push(Front::start(&ground, pairing, &format!("server-{number}"), 3).await?);
    }
    let ports: Vec<u16> = fronts.iter().map(|front| front.port).collect();
    let balancer = Balancer::start(Manner::RoundRobin, &ports).await?;
    let agent = AgentEnd::start(&ground, pairing, balancer.port)?;
    agent.has(3).await?;
    let mut flows = Vec::new();
    for front in &fronts {
        flows.push(front.flows(&target).await?);
    }
    let mut killed = fronts.remove(0);
    killed.kill().await?;
    for flow in flows.remove(0) {
        flow.ended().await?;
    }
    agent.has(2).await?;
    // New connections still meet a port where nobody listens.
    go_on(&fronts, &mut flows, &target).await?;
    let added = Front::start(&ground, pairing, "added", 3).await?;
    balancer.add(added.port);
    balancer.remove(killed.port);
    agent.has(3).await?;
    go_on(&fronts, &mut flows, &target).await?;
    added.flows(&target).await?;
    kept_to_the_contract(fronts.iter().chain([&added]), [&agent]);
    Ok(())
}

/// The flows there are and new ones.
async fn go_on(fronts: &[Front], flows: &mut [Vec<Flow>], target: &Target) -> anyhow::Result<()> {
    for flow in flows.iter_mut().flatten() {
        flow.exchange(5000, 7).await?;
    }
    for front in fronts {
        front.flows(target).await?;
    }
    Ok(())
}
