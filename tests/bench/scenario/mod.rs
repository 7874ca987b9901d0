//! The scenarios, in the order in which they run.

mod budget;
mod churn;
mod encrypt;
mod grpc;
mod handshake;
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
    /// What five rounds take on two cores.
    pub seconds: u32,
    pub run: fn(&mut Context) -> anyhow::Result<Vec<Line>>,
}

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "throughput",
        about: "one and eight streams each way, and the CPU they cost",
        seconds: 131,
        run: throughput::run,
    },
    Scenario {
        name: "paced",
        about: "CPU of downloads paced at 1 Gbit/s each",
        seconds: 110,
        run: paced::run,
    },
    Scenario {
        name: "roundtrip",
        about: "64-byte round trips, nothing beside them; three times the rounds",
        seconds: 170,
        run: latency::alone,
    },
    Scenario {
        name: "loaded",
        about: "64-byte round trips beside four bulk flows",
        seconds: 95,
        run: latency::loaded,
    },
    Scenario {
        name: "churn",
        about: "dial + echo + close, eight clients; the dial alone",
        seconds: 83,
        run: churn::run,
    },
    Scenario {
        name: "handshake",
        about: "a lane's TLS handshake alone, over memory: full and resumed, both sides",
        seconds: 10,
        run: handshake::run,
    },
    Scenario {
        name: "turned",
        about: "interactive first, then gigabytes one way",
        seconds: 48,
        run: turned::run,
    },
    Scenario {
        name: "encrypted",
        about: "lanes that stay in TLS, beside ssh -L",
        seconds: 67,
        run: encrypt::run,
    },
    Scenario { name: "grpc", about: "the gRPC frontend, one stream each way", seconds: 68, run: grpc::run },
    Scenario { name: "stalled", about: "eight readers that never read", seconds: 400, run: stalled::run },
    Scenario {
        name: "budget",
        about: "an agent with a budget of 8 MiB and 64 stalled flows, half of them both ways",
        seconds: 115,
        run: budget::run,
    },
    Scenario {
        name: "link",
        about: "a link of 1 Gbit/s with 5 and 20 ms each way, filled and half filled",
        seconds: 215,
        run: link::run,
    },
    Scenario { name: "idle", about: "memory of flows that do nothing", seconds: 30, run: idle::run },
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
