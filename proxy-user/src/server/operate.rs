//! What an operator has of a running server: listeners beside the flows, and the words at its start.

use super::options::{Mode, Options};
use crate::flow::FlowTable;
use crate::ops::admin::Admin;
use crate::ops::doctor::{Hop, Patient};
use crate::ops::health::Health;
use crate::ops::listeners::Listeners;
use crate::ops::metrics::ServerMetrics;
use crate::ops::operator::Desk;
use crate::ops::settings::Live;
use crate::parts;
use crate::splice::Splicer;
use crate::splice::proof::Abilities;

/// Binds and serves health, admin and operator socket, watches the live settings, and logs what is in force.
/// Ready is when `has_agent` says so; `nodes` is what the doctor says of them. Must be called inside a tokio runtime;
/// serves until dropped.
pub fn operate(
    options: &Options,
    metrics: &ServerMetrics,
    flows: &FlowTable,
    splicer: &Splicer,
    abilities: Abilities,
    has_agent: impl Fn() -> bool + Send + Sync + 'static,
    nodes: impl Fn() -> String + Send + Sync + 'static,
) -> (Listeners, Live) {
    let live = Live::new(options.splice.engine, options.lanes.mode, metrics.konduit.clone());
    let hop = match (options.mode, options.uds_name.is_empty()) {
        (Mode::Grpc, _) => Hop::ServerGrpc,
        (Mode::HttpConnect, true) => Hop::ServerTls,
        (Mode::HttpConnect, false) => Hop::ServerUnix,
    };
    let security = options.lanes.security;
    let patient = Patient {
        program: "proxy-server",
        abilities,
        trust: splicer.trust(),
        live: live.clone(),
        security,
        hop,
    };
    let counted = splicer.clone();
    if let Err(error) = metrics.konduit.show_engine(move || counted.snapshot()) {
        tracing::warn!(%error, "The engine's counters are not among the metrics");
    }
    patient.announce(&options.warnings, &metrics.konduit);

    let mut listeners = Listeners::new(parts::door_connections(), &metrics.konduit);
    listeners.admin(
        &options.admin_bind_address,
        options.admin_port,
        Admin::server(metrics.page().clone(), options.enable_profiling),
    );
    let health = Health::server(has_agent, metrics.page().clone());
    listeners.health(&options.health_bind_address, options.health_port, health);
    let doctor = move || patient.report() + &nodes();
    let desk = Desk { flows: flows.clone(), live: live.clone(), doctor: Box::new(doctor) };
    listeners.operator(&options.operator_socket, desk);
    listeners.live_settings(&options.live_settings, live.clone());
    let steered = splicer.clone();
    listeners.keep(live.clone().each(move |now| steered.set_engine(now.engine)));
    (listeners, live)
}
