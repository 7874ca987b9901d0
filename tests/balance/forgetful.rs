//! A balancer that forgets what is idle and tells nobody.

use std::time::Duration;

use proxy_tests::balancer::Manner;
use proxy_tests::runner::until;
use proxy_tests::targets::Target;

use crate::fleet::{Fleet, dial};

/// After which the balancer forgets: more than a busy machine's pauses beside the pings that keep a control stream known.
const IDLE: Duration = Duration::from_secs(10);
/// What a dial on a forgotten lane may take beyond a usual one: the acknowledgement that does not come.
const LOSS: Duration = Duration::from_secs(1);
/// What that and the dial that is made instead take, when nothing delays them. A busy machine may be late with one of
/// three dials, not with two.
const MEDIAN: Duration = Duration::from_millis(1500);
const EACH: Duration = Duration::from_secs(3);
/// Lanes that may be tried without a flow on them.
const VAIN: u64 = 20;

/// A dial on a lane that is dead without knowing it is repeated within a second, on a control stream that is never
/// idle for so long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_forgotten_costs_a_dial_a_second_at_most() {
    let fleet = Fleet::start(Manner::Forgets(IDLE), 1, &[]).await.unwrap();
    let target = Target::echo().await.unwrap();
    fleet.found(1).await.unwrap();
    let stream = || fleet.servers[0].registry().streams().first().map(|agent| agent.number);
    let lost = || fleet.servers[0].lanes.as_ref().unwrap().stats().lost_in_dial;
    let first = stream();
    let one = async || dial(fleet.servers[0].socket(), &target).await.unwrap();
    let (mut cost, mut usual) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        usual.push(one().await);
    }
    for _ in 0..3 {
        tokio::time::sleep(IDLE + Duration::from_millis(500)).await;
        let before = lost();
        let mut slowest = one().await;
        assert!(lost() - before <= 1, "more than one dead lane was tried");
        // The first may have found a lane that is new, and the next one that is not.
        for _ in 0..4 {
            slowest = slowest.max(one().await);
        }
        cost.push(slowest);
    }
    assert!(fleet.balancer.forgotten_lanes() > 0, "nothing was forgotten");
    assert_eq!((fleet.balancer.forgotten_streams(), stream()), (0, first), "control streams");
    assert!(usual.iter().all(|dial| *dial < LOSS), "{usual:?}");
    cost.sort();
    assert!(cost[1] < MEDIAN && cost[2] < EACH, "{cost:?}, usually {usual:?}");
    until("the flows to end", || fleet.servers.iter().all(|server| server.flows().is_empty())).await.unwrap();
    let (tried, carried) = (fleet.balancer.lanes(), fleet.on_lanes());
    assert!(tried <= carried + VAIN, "{tried} lanes were tried and {carried} carried flows");
}
