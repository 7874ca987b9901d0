//! What must work whoever is at the other end.

use std::sync::Arc;
use std::time::Duration;

use proxy_tests::konduit::Frontend;
use proxy_tests::targets::Target;

use crate::pair::{Pair, Pairing, Side};
use proxy_tests::dark::Dark;

/// Makes one test of each pairing and frontend.
macro_rules! in_every_pairing {
    ($($case:ident),+ $(,)?) => {
        $(mod $case {
            use super::{Frontend, Pairing, Side};

            async fn run(server: Side, agent: Side, frontend: Frontend) {
                super::$case(Pairing { server, agent, frontend, lanes: true }).await.unwrap();
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn between_ours_by_connect() {
                run(Side::Ours, Side::Ours, Frontend::Connect).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn between_ours_by_grpc() {
                run(Side::Ours, Side::Ours, Frontend::Grpc).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_upstreams_agent_by_connect() {
                run(Side::Ours, Side::Upstream, Frontend::Connect).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_upstreams_agent_by_grpc() {
                run(Side::Ours, Side::Upstream, Frontend::Grpc).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_upstreams_server_by_connect() {
                run(Side::Upstream, Side::Ours, Frontend::Connect).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn of_upstreams_server_by_grpc() {
                run(Side::Upstream, Side::Ours, Frontend::Grpc).await;
            }

            /// The control: what a case asks of ours, upstream's two do for each other.
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn between_upstreams_by_connect() {
                run(Side::Upstream, Side::Upstream, Frontend::Connect).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn between_upstreams_by_grpc() {
                run(Side::Upstream, Side::Upstream, Frontend::Grpc).await;
            }
        })+
    };
}

in_every_pairing!(basic, large, hundred_flows, cancelled_dials, agent_killed, server_restarted, one_name);

async fn basic(pairing: Pairing) -> anyhow::Result<()> {
    let pair = Pair::start(pairing).await?;
    let target = Target::echo().await?;
    for turn in 0..3 {
        let mut flow = pair.dial(&target.name()).await?;
        for length in [1, 25, 4096, 70_000] {
            flow.exchange(length, turn).await?;
        }
    }
    let refused = pair.dial("127.0.0.1:1").await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.ends_with("dial tcp 127.0.0.1:1: connect: connection refused"), "{refused}");
    let refused = pair.dial("no-port").await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("missing port in address"), "{refused}");
    pair.kept_to_the_contract();
    Ok(())
}

async fn large(pairing: Pairing) -> anyhow::Result<()> {
    let pair = Pair::start(pairing).await?;
    let target = Target::echo().await?;
    pair.dial(&target.name()).await?.exchange(16 << 20, 7).await?;
    pair.kept_to_the_contract();
    Ok(())
}

async fn hundred_flows(pairing: Pairing) -> anyhow::Result<()> {
    let pair = Arc::new(Pair::start(pairing).await?);
    let target = Target::echo().await?;
    let mut flows = tokio::task::JoinSet::new();
    for number in 0..100 {
        let (pair, target) = (pair.clone(), target.name());
        flows.spawn(async move { pair.dial(&target).await?.exchange(20_000 + number, number as u64).await });
    }
    while let Some(flow) = flows.join_next().await {
        flow??;
    }
    pair.kept_to_the_contract();
    Ok(())
}

/// Twenty dials that are given up while nobody answers them: flows beside them go on, new ones work, and when the
/// target answers at last nothing of theirs is left there.
async fn cancelled_dials(pairing: Pairing) -> anyhow::Result<()> {
    let pair = Pair::start(pairing).await?;
    let (target, dark) = (Target::echo().await?, Dark::new()?);
    let mut neighbour = pair.dial(&target.name()).await?;
    let mut dials = Vec::new();
    for _ in 0..20 {
        dials.push(pair.begin(&dark.address.to_string()).await?);
    }
    neighbour.exchange(1000, 1).await?;
    for dial in dials {
        dial.cancel().await;
    }
    neighbour.exchange(1000, 2).await?;
    pair.dial(&target.name()).await?.exchange(1000, 3).await?;
    // Longer than the agent's five seconds for a dial.
    let left = tokio::task::spawn_blocking(move || dark.light(Duration::from_millis(5500))).await??;
    // Upstream's server does not notice that the sender of a CONNECT has gone, and forgets the flow thereafter.
    let leaks = (pairing.server, pairing.frontend) == (Side::Upstream, Frontend::Connect);
    assert_eq!(left > 0, leaks, "{left} connections of cancelled dials are open");
    neighbour.exchange(1000, 4).await?;
    pair.kept_to_the_contract();
    Ok(())
}

async fn agent_killed(pairing: Pairing) -> anyhow::Result<()> {
    // A flow on a lane outlives its control stream, and an agent in this process cannot be killed.
    let mut pair = Pair::start(Pairing { lanes: false, ..pairing }).await?;
    let (target, dark) = (Target::echo().await?, Dark::new()?);
    let mut flow = pair.dial(&target.name()).await?;
    flow.exchange(1000, 1).await?;
    let waits = pair.begin(&dark.address.to_string()).await?;
    flow.exchange(1000, 2).await?;
    pair.kill_agent().await?;
    flow.ended().await?;
    // Upstream's server leaves dials by gRPC without an answer.
    if (pairing.server, pairing.frontend) != (Side::Upstream, Frontend::Grpc) {
        let told = tokio::time::timeout(Duration::from_secs(3), waits.answered()).await?;
        assert!(told.is_err(), "a dial without an agent succeeded");
    }
    pair.start_agent().await?;
    pair.dials().await?;
    pair.kept_to_the_contract();
    Ok(())
}

async fn server_restarted(pairing: Pairing) -> anyhow::Result<()> {
    let mut pair = Pair::start(Pairing { lanes: false, ..pairing }).await?;
    let target = Target::echo().await?;
    for turn in 0..2 {
        let mut flow = pair.dial(&target.name()).await?;
        flow.exchange(1000, turn).await?;
        pair.kill_server().await?;
        flow.ended().await?;
        pair.start_server()?;
        pair.dials().await?;
    }
    pair.kept_to_the_contract();
    Ok(())
}

/// Two agents with one name: both count their connections from 1, and nobody gets another's bytes.
async fn one_name(pairing: Pairing) -> anyhow::Result<()> {
    let mut pair = Pair::start(Pairing { lanes: false, ..pairing }).await?;
    pair.start_agent().await?;
    let target = Target::echo().await?;
    let mut flows = Vec::new();
    for number in 0..20 {
        let mut flow = pair.dial(&target.name()).await?;
        flow.exchange(5000, number).await?;
        flows.push(flow);
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
    if pairing.server == Side::Ours {
        assert_eq!(lived, 10, "flows of the agent that is left");
    }
    pair.dials().await?;
    pair.kept_to_the_contract();
    Ok(())
}

async fn lives(mut flow: crate::flow::Flow) -> bool {
    let exchanged = tokio::spawn(async move { flow.exchange(3000, 5).await });
    matches!(exchanged.await, Ok(Ok(())))
}
