//! What must work whoever is at the other end.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use proxy_tests::dark::Dark;
use proxy_tests::konduit::Frontend;
use proxy_tests::runner::SOON;
use proxy_tests::targets::Target;
use tokio::task::JoinSet;

use crate::balanced::three_servers;
use crate::flow::{Dialling, Flow};
use crate::pair::{Pair, Pairing, Side};

/// More than all windows on the way, and than a message may have.
const LARGE: usize = 12 << 20;

/// Makes one test of each pairing, in which both frontends do the same at once. Upstream's ends with each other are
/// the control: what the peers do there, the contract says of upstream.
macro_rules! in_every_pairing {
    ($($case:ident: $killed:literal),+ $(,)?) => {
        $(mod $case {
            use super::{Side, by_both_frontends};

            async fn run(server: Side, agent: Side) {
                by_both_frontends(server, agent, $killed, super::$case).await.unwrap();
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn between_ours() {
                run(Side::Ours, Side::Ours).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_upstreams_agent() {
                run(Side::Ours, Side::Upstream).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_upstreams_server() {
                run(Side::Upstream, Side::Ours).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn between_upstreams() {
                run(Side::Upstream, Side::Upstream).await;
            }
        })+
    };
}

// Whether somebody is killed in it.
in_every_pairing! {
    basic: false,
    large: false,
    hundred_flows: false,
    cancelled_dials: false,
    agent_killed: true,
    server_restarted: true,
    one_name: true,
    three_servers: true,
    drained: true,
}

async fn by_both_frontends<F>(
    server: Side,
    agent: Side,
    killed: bool,
    case: impl Fn(Pairing) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut frontends = JoinSet::new();
    for frontend in [Frontend::Connect, Frontend::Grpc] {
        let done = tokio::spawn(case(Pairing { server, agent, frontend, lanes: true, killed }));
        frontends.spawn(async move { (frontend, done.await) });
    }
    while let Some(done) = frontends.join_next().await {
        let (frontend, outcome) = done?;
        let by = || format!("by {frontend:?}");
        outcome.with_context(by)?.with_context(by)?;
    }
    Ok(())
}

async fn basic(pairing: Pairing) -> anyhow::Result<()> {
    let pair = Pair::start(pairing).await?;
    let target = Target::echo().await?;
    for &caller in pairing.callers() {
        for turn in 0..3 {
            let mut flow = pair.dial_by(caller, &target.name()).await?;
            for length in [1, 25, 4096, 70_000] {
                flow.exchange(length, turn).await?;
            }
        }
        let refused = told(pair.begin(caller, "127.0.0.1:1").await?).await;
        assert!(
            refused.ends_with("dial tcp 127.0.0.1:1: connect: connection refused"),
            "{caller:?}: {refused}"
        );
        let refused = told(pair.begin(caller, "no-port").await?).await;
        assert!(refused.contains("missing port in address"), "{caller:?}: {refused}");
    }
    pair.kept_to_the_contract();
    Ok(())
}

/// Why a dial failed; nothing if it did not.
async fn told(dial: Dialling) -> String {
    words(dial.answered().await)
}

fn words(answered: anyhow::Result<Flow>) -> String {
    answered.err().map(|error| error.to_string()).unwrap_or_default()
}

async fn large(pairing: Pairing) -> anyhow::Result<()> {
    let pair = Pair::start(pairing).await?;
    let target = Target::echo().await?;
    for &caller in pairing.callers() {
        pair.dial_by(caller, &target.name()).await?.exchange(LARGE, 7).await?;
    }
    pair.kept_to_the_contract();
    Ok(())
}

async fn hundred_flows(pairing: Pairing) -> anyhow::Result<()> {
    let pair = Arc::new(Pair::start(pairing).await?);
    let target = Target::echo().await?;
    for &caller in pairing.callers() {
        let mut flows = JoinSet::new();
        for number in 0..100 {
            let (pair, target) = (pair.clone(), target.name());
            flows.spawn(async move {
                let mut flow = pair.dial_by(caller, &target).await?;
                flow.exchange(20_000 + number, number as u64).await.with_context(|| format!("{caller:?}"))
            });
        }
        while let Some(flow) = flows.join_next().await {
            flow??;
        }
    }
    pair.kept_to_the_contract();
    Ok(())
}

/// Twenty dials of each caller that are given up while nobody answers them: flows beside them go on, new ones work,
/// and when the target answers at last nothing of theirs is left there.
async fn cancelled_dials(pairing: Pairing) -> anyhow::Result<()> {
    let pair = Pair::start(pairing).await?;
    let (target, dark) = (Target::echo().await?, Dark::new()?);
    let mut neighbours = pair.flows(&target).await?;
    let mut dials = Vec::new();
    for &caller in pairing.callers() {
        for _ in 0..20 {
            dials.push(pair.begin(caller, &dark.address.to_string()).await?);
        }
    }
    go_on(&mut neighbours).await?;
    for dial in dials {
        dial.cancel().await;
    }
    go_on(&mut neighbours).await?;
    pair.flows(&target).await?;
    // Longer than the agent's five seconds for a dial.
    let left = tokio::task::spawn_blocking(move || dark.light(Duration::from_millis(5500))).await??;
    // Upstream's server does not notice that the sender of a CONNECT has gone, and forgets the flow thereafter.
    let leaks = (pairing.server, pairing.frontend) == (Side::Upstream, Frontend::Connect);
    assert_eq!(left > 0, leaks, "{left} connections of cancelled dials are open");
    go_on(&mut neighbours).await?;
    pair.kept_to_the_contract();
    Ok(())
}

async fn go_on(flows: &mut [Flow]) -> anyhow::Result<()> {
    for flow in flows {
        flow.exchange(1000, 2).await?;
    }
    Ok(())
}

async fn agent_killed(pairing: Pairing) -> anyhow::Result<()> {
    let mut pair = Pair::start(pairing).await?;
    let (target, dark) = (Target::echo().await?, Dark::new()?);
    let mut flows = pair.flows(&target).await?;
    let (mut waits, began) = (Vec::new(), Instant::now());
    for &caller in pairing.callers() {
        waits.push(pair.begin(caller, &dark.address.to_string()).await?);
    }
    // The dials are on their way before this comes back.
    go_on(&mut flows).await?;
    pair.kill_agent().await?;
    // An agent gives a dial five seconds: on a machine so busy it may have answered them all before it was killed.
    let answered_before = began.elapsed() > Duration::from_secs(4);
    for flow in flows {
        match pairing.server {
            Side::Ours => flow.told_of_its_end().await?,
            Side::Upstream => flow.ended().await?,
        }
    }
    // Upstream's server leaves dials by gRPC without an answer.
    if (pairing.server, pairing.frontend) != (Side::Upstream, Frontend::Grpc) {
        for dial in waits {
            let told = tokio::time::timeout(SOON, dial.answered()).await?;
            assert!(told.is_err(), "a dial without an agent succeeded");
        }
    } else if answered_before {
        let _ = writeln!(
            std::io::stderr(),
            "\n!!! SKIPPED: too busy a machine to see dials that are forgotten\n"
        );
    } else {
        for dial in waits {
            let quiet = tokio::time::timeout(Duration::from_millis(200), dial.answered()).await;
            let answer = quiet.map(words);
            // On its way, but not there before the agent was gone.
            let late = answer.as_ref().is_ok_and(|words| words.contains("No agent available"));
            assert!(late || answer.is_err(), "the peer answered a dial that upstream forgets: {answer:?}");
        }
    }
    pair.start_agent().await?;
    pair.dials().await?;
    pair.kept_to_the_contract();
    Ok(())
}

async fn server_restarted(pairing: Pairing) -> anyhow::Result<()> {
    let mut pair = Pair::start(pairing).await?;
    let target = Target::echo().await?;
    for _ in 0..2 {
        let flows = pair.flows(&target).await?;
        pair.kill_server().await?;
        for flow in flows {
            flow.ended().await?;
        }
        pair.start_server().await?;
        pair.dials().await?;
    }
    pair.kept_to_the_contract();
    Ok(())
}

/// Two agents with one name: both count their connections from 1, and nobody gets another's bytes.
async fn one_name(pairing: Pairing) -> anyhow::Result<()> {
    let mut pair = Pair::start(pairing).await?;
    pair.start_agent().await?;
    let target = Target::echo().await?;
    let mut flows = Vec::new();
    while flows.len() < 12 {
        flows.extend(pair.flows(&target).await?);
    }
    for (number, flow) in flows.iter_mut().enumerate() {
        flow.exchange(9000, 100 + number as u64).await?;
    }
    pair.kill_agent().await?;
    let mut lived = 0;
    for flow in flows {
        lived += u64::from(lives(flow).await);
    }
    // Upstream's server gives every dial to the older of the two.
    assert_eq!(lived, if pairing.server == Side::Ours { 6 } else { 0 }, "flows of the agent that is left");
    pair.dials().await?;
    pair.kept_to_the_contract();
    Ok(())
}

/// An agent that drains serves its flows and, as long as there is no other, new dials; it comes back to no server.
async fn drained(pairing: Pairing) -> anyhow::Result<()> {
    let mut pair = Pair::start(pairing).await?;
    let target = Target::echo().await?;
    let mut flows = pair.flows(&target).await?;
    pair.agents[0].drain().await?;
    go_on(&mut flows).await?;
    flows.extend(pair.flows(&target).await?);
    pair.start_agent().await?;
    flows.extend(pair.flows(&target).await?);
    go_on(&mut flows).await?;
    pair.kill_server().await?;
    for flow in flows {
        flow.ended().await?;
    }
    pair.start_server().await?;
    pair.dials().await?;
    // Longer than any pause between two looks for servers.
    tokio::time::sleep(Duration::from_secs(1)).await;
    pair.agents[0].has(0).await?;
    pair.kept_to_the_contract();
    Ok(())
}

async fn lives(mut flow: Flow) -> bool {
    let exchanged = tokio::spawn(async move { flow.exchange(3000, 5).await });
    matches!(exchanged.await, Ok(Ok(())))
}
