//! The scenarios, in the order in which they run.

mod budget;
mod churn;
mod encrypt;
mod grpc;
mod idle;
mod latency;
mod link;
mod paced;
mod stalled;
pub mod throughput;
mod turned;

use crate::context::Context;
use crate::method::Line;

pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&mut Context) -> anyhow::Result<Vec<Line>>,
}

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "throughput",
        about: "one and eight streams each way, and the CPU they cost",
        run: throughput::run,
    },
    Scenario { name: "paced", about: "CPU of senders paced at 1 Gbit/s each", run: paced::run },
    Scenario { name: "roundtrip", about: "64-byte round trips, nothing beside them", run: latency::alone },
    Scenario { name: "loaded", about: "64-byte round trips beside four bulk flows", run: latency::loaded },
    Scenario { name: "churn", about: "dial + echo + close, eight clients; the dial alone", run: churn::run },
    Scenario { name: "turned", about: "interactive first, then gigabytes one way", run: turned::run },
    Scenario { name: "encrypted", about: "lanes that stay in TLS, beside ssh -L", run: encrypt::run },
    Scenario { name: "grpc", about: "the gRPC frontend, one stream each way", run: grpc::run },
    Scenario { name: "stalled", about: "eight readers that never read", run: stalled::run },
    Scenario {
        name: "budget",
        about: "an agent with a budget of 8 MiB and 64 stalled flows",
        run: budget::run,
    },
    Scenario { name: "link", about: "a link of 1 Gbit/s with 5 and 20 ms each way", run: link::run },
    Scenario { name: "idle", about: "memory of flows that do nothing", run: idle::run },
];

/// The scenarios of these names, all without a name.
pub fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    for name in names {
        anyhow::ensure!(
            ALL.iter().any(|scenario| scenario.name == name),
            "there is no scenario {name}; `bench list` names them"
        );
    }
    Ok(ALL
        .iter()
        .filter(|scenario| names.is_empty() || names.iter().any(|name| name == scenario.name))
        .collect())
}
