//! What this machine and process can do, and why not more, in words.

mod hops;
mod machine;

use std::fmt::Write;

pub use hops::{Hop, hop_sentence};
pub use machine::Machine;

use super::flags::LaneSecurity;
use super::metrics::KonduitMetrics;
use super::settings::Live;
use super::version;
use crate::splice::Trust;
use crate::splice::proof::{Abilities, Proof};

/// Why addresses of pods are not where Node objects say, and what to do.
pub const OWN_MIND: &str = "Calico, Cilium in cluster-pool mode and the AWS VPC CNI assign addresses of their own \
                            mind, whatever Node.spec.podCIDR says; give the agents of such nodes the ranges in use by \
                            --agent-identifiers=cidr=…";

/// What the doctor knows of the process it belongs to.
#[derive(Debug, Clone)]
pub struct Patient {
    pub program: &'static str,
    /// As proven at the start.
    pub abilities: Abilities,
    pub trust: Trust,
    pub live: Live,
    pub security: LaneSecurity,
    pub hop: Hop,
}

impl Patient {
    /// The whole report.
    pub fn report(&self) -> String {
        let mut text = head(self.program, &self.abilities.in_force(&self.trust));
        let security = match self.security {
            LaneSecurity::Encrypt => "encrypt",
            LaneSecurity::Raw => "raw where the other end allows it too",
        };
        let _ = write!(
            text,
            "\nIn force for new flows: {}, lane security {security}\n\nThis hop: {}\n",
            self.live,
            self.sentence()
        );
        text
    }

    /// Logs at start what is in force and what would change it, and shows as metrics what is proven.
    pub fn announce(&self, warnings: &[String], metrics: &KonduitMetrics) {
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let (abilities, trust) = (self.abilities.clone(), self.trust.clone());
        let proven = move || abilities.in_force(&trust).each().map(|(name, proof)| (name, proof.is_proven()));
        if let Err(error) = metrics.show_proven(proven) {
            tracing::warn!(%error, "What was proven is not among the metrics");
        }
        tracing::info!("{}", version::line(self.program));
        tracing::info!("{}", self.abilities);
        tracing::info!("New flows, {}", self.sentence());
    }

    /// For the log at start: what is in force, what can carry bytes, and what would change that.
    pub fn sentence(&self) -> String {
        hop_sentence(self.hop, self.security, self.live.now(), &self.abilities.in_force(&self.trust))
    }
}

/// What can be said without a running process.
pub fn alone(program: &str, abilities: &Abilities) -> String {
    let mut text = head(program, abilities);
    text.push_str("\nNo process answered, so this is about the machine only.\n");
    text
}

fn head(program: &str, abilities: &Abilities) -> String {
    let machine = Machine::look();
    let mut text =
        format!("{}\n{machine}\nEngines:\n  copy          always\n", version::text(program).trim_end());
    for (name, proof) in abilities.each() {
        let _ = match proof {
            Proof::Proven => writeln!(text, "  {name:13} proven by the start-up self-test"),
            Proof::NotProven(why) => writeln!(text, "  {name:13} no: {why}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::flow::FlowTable;
    use crate::ops::flags::{EngineChoice, LanesMode};
    use crate::ops::metrics::{AgentMetrics, encode};

    #[test]
    fn the_report_names_every_engine_and_what_is_in_force() {
        let metrics = AgentMetrics::new(&FlowTable::new()).unwrap();
        let patient = Patient {
            program: "proxy-agent",
            abilities: Abilities::none("nothing was tried"),
            trust: Trust::default(),
            live: Live::new(EngineChoice::Auto, LanesMode::Auto, metrics.konduit.clone()),
            security: LaneSecurity::Encrypt,
            hop: Hop::Agent,
        };
        let text = patient.report();
        for words in [
            "proxy-agent 0.",
            "copy          always",
            "sockmap-tcp   no: nothing was tried",
            "splice        no: nothing was tried",
            "engine=auto (flag), lanes=auto (flag), lane security encrypt",
            "Open files:",
            "CAP_BPF",
        ] {
            assert!(text.contains(words), "{words:?} in\n{text}");
        }
    }

    #[test]
    fn a_kernel_that_was_caught_is_told_of_wherever_proofs_are() {
        let metrics = AgentMetrics::new(&FlowTable::new()).unwrap();
        let (sockmap_tcp, sockmap_unix, splice) = (Proof::Proven, Proof::Proven, Proof::Proven);
        let patient = Patient {
            program: "proxy-agent",
            abilities: Abilities { sockmap_tcp, sockmap_unix, splice, took: Duration::ZERO },
            trust: Trust::default(),
            live: Live::new(EngineChoice::Auto, LanesMode::Auto, metrics.konduit.clone()),
            security: LaneSecurity::Raw,
            hop: Hop::Agent,
        };
        patient.announce(&[], &metrics.konduit);
        let says = |sockmap: u64, report: &str, sentence: &str| {
            let page = encode(metrics.registry()).unwrap();
            let page = String::from_utf8(page).unwrap();
            for (engine, proven) in [("sockmap-tcp", sockmap), ("sockmap-unix", sockmap), ("splice", 1)] {
                let line = format!("konduit_engine_proven{{engine=\"{engine}\"}} {proven}");
                assert!(page.lines().any(|have| have == line), "{line} in\n{page}");
            }
            assert!(patient.report().contains(report), "{report:?} in\n{}", patient.report());
            assert!(patient.sentence().contains(sentence), "{sentence:?} in {:?}", patient.sentence());
        };
        says(1, "sockmap-tcp   proven by", "then sockmap, splice, copy move the bytes");
        patient.trust.lose();
        says(
            0,
            "sockmap-tcp   no: proven at the start, but",
            "then splice, copy move the bytes; no sockmap: proven at",
        );
    }
}
