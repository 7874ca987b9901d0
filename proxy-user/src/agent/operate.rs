//! What an operator has of a running agent: listeners beside the flows, and the words at its start.

use super::doctor;
use super::options::Options;
use crate::flow::FlowTable;
use crate::ops::admin::Admin;
use crate::ops::doctor::{Hop, Patient};
use crate::ops::health::Health;
use crate::ops::listeners::Listeners;
use crate::ops::metrics::AgentMetrics;
use crate::ops::operator::Desk;
use crate::ops::settings::Live;
use crate::parts;
use crate::splice::Splicer;
use crate::splice::proof::Abilities;
use crate::wire::identifiers::Identifiers;

/// Binds and serves health, admin and operator socket, watches the live settings, and logs what is in force.
/// Ready is when `has_server` says so. Must be called inside a tokio runtime; serves until dropped.
pub fn operate(
    options: &Options,
    metrics: &AgentMetrics,
    flows: &FlowTable,
    splicer: &Splicer,
    abilities: Abilities,
    has_server: impl Fn() -> bool + Send + Sync + 'static,
) -> (Listeners, Live) {
    let live = Live::new(options.splice.engine, options.lanes.mode, metrics.konduit.clone());
    let security = options.lanes.security;
    let patient = Patient {
        program: "proxy-agent",
        abilities,
        trust: splicer.trust(),
        live: live.clone(),
        security,
        hop: Hop::Agent,
    };
    let counted = splicer.clone();
    if let Err(error) = metrics.konduit.show_engine(move || counted.snapshot()) {
        tracing::warn!(%error, "The engine's counters are not among the metrics");
    }
    patient.announce(&options.warnings, &metrics.konduit);

    let mut listeners = Listeners::new(parts::door_connections(), &metrics.konduit);
    let health = Health::agent(has_server, metrics.page().clone());
    // A number that is no port was told of at the start.
    if let Some(port) = options.health_server_port.number() {
        listeners.health(&options.health_server_host, port, health);
    }
    let health_port = listeners.health.map_or(options.health_server_port, |address| address.port().into());
    let admin = Admin::agent(health_port, options.enable_profiling);
    if let Some(port) = options.admin_server_port.number() {
        listeners.admin(&options.admin_bind_address, port, admin);
    }
    // Checked at start.
    let identifiers = Identifiers::parse(&options.agent_identifiers).unwrap_or_default();
    let doctor = move || {
        let own = doctor::own_addresses(|name| std::env::var(name).ok());
        patient.report() + &doctor::place(&identifiers, &own)
    };
    let desk = Desk { flows: flows.clone(), live: live.clone(), doctor: Box::new(doctor) };
    listeners.operator(&options.operator_socket, desk);
    listeners.live_settings(&options.live_settings, live.clone());
    let steered = splicer.clone();
    listeners.keep(live.clone().each(move |now| steered.set_engine(now.engine)));
    (listeners, live)
}
