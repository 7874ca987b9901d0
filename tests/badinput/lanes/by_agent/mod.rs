//! A played agent's words to our server.

mod agent;
mod play;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proxy_tests::konduit::Lanes;
use proxy_tests::runner::until;
use proxy_user::server::options::{Strategies, Strategy};

use self::agent::Agent;
use super::lane::Socket;
use super::{Shape, Word, all_closed, each, sayings};
use crate::cell::{Cell, Plan};
use crate::{Witness, dials, panics};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// In place of the hello.
    Hello,
    /// In the pool, never dialled on.
    Warm,
    /// The server dials on it.
    Dialled,
    /// The dial was acknowledged.
    Acknowledged,
    /// It carries the flow of that dial.
    Flow,
    /// Back in the pool after a dial that failed.
    Again,
    /// Back in the pool after a flow that ended.
    Ended,
    /// Opened for a dial that came over the control stream.
    Claimed,
    /// It carries the flow of that dial.
    Joined,
}

const MOMENTS: [Moment; 9] = [
    Moment::Hello,
    Moment::Warm,
    Moment::Dialled,
    Moment::Acknowledged,
    Moment::Flow,
    Moment::Again,
    Moment::Ended,
    Moment::Claimed,
    Moment::Joined,
];

#[derive(Debug, Clone, Copy)]
struct Case {
    number: u16,
    moment: Moment,
    word: Word,
    shape: Shape,
    raw: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for moment in MOMENTS {
        for (word, shape) in sayings(moment == Moment::Hello) {
            let flows = matches!(moment, Moment::Flow | Moment::Joined);
            // A flow in clear may have left its frames before it ends.
            let ended = moment == Moment::Ended;
            for raw in [true, false].into_iter().filter(|raw| flows || *raw != ended) {
                cases.push(Case { number: cases.len() as u16, moment, word, shape, raw });
            }
        }
    }
    cases
}

impl Case {
    fn host(self) -> String {
        format!("case-{}", self.number)
    }
}

/// The server, a bystander's agent at it, and every lane that was played.
struct Stage {
    cell: Cell,
    played: Mutex<Vec<(String, Socket)>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_says_on_a_lane_harms_its_own_dial_at_most() {
    panics::watch();
    let plan = Plan { lanes: Lanes::Raw, ..Plan::default() };
    let strategies = Strategies(vec![Strategy::DestHost]);
    let mut cell = Cell::serve(plan, |options| options.proxy_strategies = strategies).unwrap();
    cell.start_agent(plan, |options| options.agent_identifiers = "ipv4=127.0.0.1".to_owned()).unwrap();
    cell.server.has_agents(1).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    let lanes = cell.server.lanes.clone().unwrap();
    dials(&cell).await;
    let stage = Arc::new(Stage { cell, played: Mutex::default() });
    let watch = tokio::spawn(async move {
        loop {
            witness.still_works().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    each(cases(), |case| {
        let stage = stage.clone();
        async move { Agent::start(stage, case).await.play().await }
    })
    .await;
    dials(&stage.cell).await;
    let server = &stage.cell.server;
    server.has_agents(1).await.unwrap();
    until("an end of all flows but the bystander's", || server.flows().len() == 1).await.unwrap();
    until("nobody to wait for a lane", || lanes.stats().waiting == 0).await.unwrap();
    all_closed(&stage.played).await;
    watch.abort();
    assert!(watch.await.unwrap_err().is_cancelled(), "the bystander's flow was harmed");
    assert_eq!(panics::seen(), [""; 0]);
}
