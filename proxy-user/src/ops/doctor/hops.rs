//! Which engines a hop can use, in one sentence, and what would change that.

use crate::ops::flags::{EngineChoice, LaneSecurity, LanesMode};
use crate::ops::settings::InForce;
use crate::splice::proof::{Abilities, Proof};

/// The hop that this process joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// http-connect on a Unix socket, and a lane.
    ServerUnix,
    /// http-connect over TLS, and a lane.
    ServerTls,
    /// gRPC, and a lane.
    ServerGrpc,
    /// A lane, and the target.
    Agent,
}

impl Hop {
    fn ends(self) -> &'static str {
        match self {
            Hop::ServerUnix => "http-connect on a Unix socket to lane",
            Hop::ServerTls => "http-connect over TLS to lane",
            Hop::ServerGrpc => "gRPC frontend to lane",
            Hop::Agent => "lane to target",
        }
    }
}

/// Says what carries the bytes of new flows on this hop, and what it would take to have more.
pub fn hop_sentence(hop: Hop, security: LaneSecurity, now: InForce, abilities: &Abilities) -> String {
    let ends = hop.ends();
    if now.lanes == LanesMode::Off {
        return format!(
            "{ends}: lanes are off, so flows travel as packets on the control stream and are copied in userspace; \
             lanes=auto would give each flow a connection of its own"
        );
    }
    if security == LaneSecurity::Encrypt {
        return format!(
            "{ends}: lanes stay in TLS (--lane-security=encrypt), so bytes are copied in userspace; \
             --lane-security=raw at both ends lets the kernel move them, on a network that is trusted or encrypted"
        );
    }
    match hop {
        Hop::ServerTls => {
            return format!(
                "{ends}: the API server's end is TLS, so bytes are copied in userspace; a Unix socket (--uds-name) \
                 lets the kernel move them"
            );
        }
        Hop::ServerGrpc => {
            return format!(
                "{ends}: the API server's end is a gRPC stream, so bytes are copied in userspace; \
                 --mode=http-connect on a Unix socket lets the kernel move them"
            );
        }
        Hop::ServerUnix | Hop::Agent => {}
    }
    let sockmap = if hop == Hop::Agent { &abilities.sockmap_tcp } else { &abilities.sockmap_unix };
    let allowed = |engine: &str| match now.engine {
        // What comes from a Unix socket is mapped only on request.
        EngineChoice::Auto if hop == Hop::ServerUnix => engine == "splice",
        EngineChoice::Auto | EngineChoice::Sockmap => true,
        EngineChoice::Splice => engine == "splice",
        EngineChoice::Copy => false,
    };
    let mut uses = Vec::new();
    let mut missing = Vec::new();
    for (engine, proof) in [("sockmap", sockmap), ("splice", &abilities.splice)] {
        match proof {
            _ if !allowed(engine) => missing.push(format!("no {engine}: engine is {}", now.engine.name())),
            Proof::Proven => uses.push(engine),
            Proof::NotProven(why) => missing.push(format!("no {engine}: {why}")),
        }
    }
    uses.push("copy");
    let uses = uses.join(", ");
    match missing.as_slice() {
        [] => format!("{ends}: lanes leave TLS where the other end allows it, then {uses} move the bytes"),
        missing => {
            let missing = missing.join("; ");
            format!(
                "{ends}: lanes leave TLS where the other end allows it, then {uses} move the bytes; {missing}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(hop: Hop, security: LaneSecurity, engine: EngineChoice, lanes: LanesMode) -> String {
        let mut abilities = Abilities::none("CAP_BPF is missing");
        abilities.splice = Proof::Proven;
        hop_sentence(hop, security, InForce { engine, lanes }, &abilities)
    }

    #[test]
    fn each_sentence_says_what_moves_the_bytes_and_what_would_change_it() {
        use EngineChoice::{Auto, Copy};
        let on = LanesMode::Auto;
        for (text, moves, change) in [
            (sentence(Hop::Agent, LaneSecurity::Raw, Auto, LanesMode::Off), "as packets", "lanes=auto"),
            (
                sentence(Hop::Agent, LaneSecurity::Encrypt, Auto, on),
                "copied in userspace",
                "--lane-security=raw",
            ),
            (sentence(Hop::ServerTls, LaneSecurity::Raw, Auto, on), "copied in userspace", "--uds-name"),
            (
                sentence(Hop::ServerGrpc, LaneSecurity::Raw, Auto, on),
                "copied in userspace",
                "--mode=http-connect",
            ),
            (
                sentence(Hop::Agent, LaneSecurity::Raw, Auto, on),
                "splice, copy move",
                "no sockmap: CAP_BPF is missing",
            ),
            (
                sentence(Hop::ServerUnix, LaneSecurity::Raw, Auto, on),
                "then splice, copy move",
                "no sockmap: engine is auto",
            ),
            (
                sentence(Hop::ServerUnix, LaneSecurity::Raw, Copy, on),
                "then copy move",
                "no splice: engine is copy",
            ),
        ] {
            assert!(text.contains(moves) && text.contains(change), "{moves:?} and {change:?} in {text:?}");
        }
    }
}
