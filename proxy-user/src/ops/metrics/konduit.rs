//! Our own metrics, the same in both binaries.

use std::time::Duration;

use prometheus::{Error, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Registry};
use tokio::runtime::Handle;

use super::make::Maker;
use super::snapshot::Snapshot;
use super::{NodeCounts, engine, flows, lanes, nodes};
use crate::flow::{FlowTable, Path};
use crate::lane::counters::{AgentLaneStats, ServerLaneStats};
use crate::splice::Snapshot as EngineCounts;

const DIAL: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 12.5];

/// None is known outside a runtime.
fn tasks() -> u64 {
    Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks() as u64)
}

/// What Konduit adds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KonduitMetrics {
    registry: Registry,
    dials: HistogramVec,
    in_force: IntGaugeVec,
    mux_pauses: IntCounter,
    flow_ends: IntCounterVec,
    refused: IntCounterVec,
    socket: IntGaugeVec,
}

impl KonduitMetrics {
    pub(super) fn new(registry: &Registry, flows: &FlowTable) -> Result<KonduitMetrics, Error> {
        let make = Maker { registry, prefix: "konduit_" };
        flows::register(registry, flows)?;
        registry.register(Box::new(Snapshot::gauge(
            "konduit_tasks",
            "Tasks that live in this process: connections, control streams, idle lanes, flows outside the engine.",
            &[],
            || vec![(Vec::new(), tasks())],
        )?))?;
        Ok(KonduitMetrics {
            registry: registry.clone(),
            dials: make.histogram_vec(
                "dial_seconds",
                "Latency of successful dials, by path.",
                &["path"],
                &DIAL,
            )?,
            in_force: make.gauge_vec(
                "in_force",
                "1 for the value that new flows obey, and who set it.",
                &["setting", "value", "by"],
            )?,
            mux_pauses: make
                .counter("mux_pauses_total", "Times a control stream's reader paused for a full flow.")?,
            flow_ends: make.counter_vec(
                "flows_ended_by_us_total",
                "Flows that this process ended, by reason.",
                &["reason"],
            )?,
            refused: make.counter_vec(
                "refused_connections_total",
                "Connections that got no further than who or what they are, by port and by what was wrong.",
                &["port", "reason"],
            )?,
            socket: make.gauge_vec(
                "frontend_socket_in_place",
                "1 while the path of the frontend's Unix socket leads to this server, else 0.",
                &[],
            )?,
        })
    }

    /// A dial succeeded on this path.
    pub fn dial(&self, path: Path, took: Duration) {
        self.dials.with_label_values(&[path.name()]).observe(took.as_secs_f64());
    }

    /// `setting` now has this value, set by this layer (`flag`, `file`, `operator`).
    pub fn in_force(&self, setting: &str, value: &str, by: &str) {
        self.in_force.with_label_values(&[setting, value, by]).set(1);
    }

    /// `setting` no longer has this value.
    pub fn out_of_force(&self, setting: &str, value: &str, by: &str) {
        // Absent already when it never was in force.
        let _ = self.in_force.remove_label_values(&[setting, value, by]);
    }

    pub fn mux_paused(&self) {
        self.mux_pauses.inc();
    }

    /// We ended a flow for this fixed reason (`stalled`).
    pub fn flow_ended_by_us(&self, reason: &'static str) {
        self.flow_ends.with_label_values(&[reason]).inc();
    }

    /// A connection to this port got no further: for its `tls`, its `head` (HTTP/1), its `preface` (HTTP/2; or no call
    /// came behind it), its `metadata`, its `token`, for want of `room` (or because it made some for another), or, on a
    /// port for operators, its `request`.
    pub fn refused(&self, port: &'static str, reason: &'static str) {
        self.refused.with_label_values(&[port, reason]).inc();
    }

    /// Whether the path of the frontend's Unix socket leads to this server.
    pub fn frontend_socket(&self, in_place: bool) {
        self.socket.with_label_values::<&str>(&[]).set(i64::from(in_place));
    }

    /// Shows a counter that somebody else moves, such as the log's lost lines.
    pub fn show_counter(&self, counter: IntCounter) -> Result<(), Error> {
        self.registry.register(Box::new(counter))
    }

    /// Shows how many bytes of flows on packets wait to be read; once.
    pub fn show_queued(&self, queued: impl Fn() -> u64 + Send + Sync + 'static) -> Result<(), Error> {
        self.registry.register(Box::new(Snapshot::gauge(
            "konduit_queued_bytes",
            "Bytes that wait inside this process, by place.",
            &["place"],
            move || vec![(vec!["mux".to_owned()], queued())],
        )?))
    }

    /// Shows from now on which engines count as proven; once.
    pub fn show_proven<const N: usize>(
        &self,
        proven: impl Fn() -> [(&'static str, bool); N] + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.registry.register(Box::new(Snapshot::gauge(
            "konduit_engine_proven",
            "1 where the start-up self-test proved the engine on this machine, and it was not caught at a wrong count \
             since: new flows may use it.",
            &["engine"],
            move || proven().map(|(name, proven)| (vec![name.to_owned()], u64::from(proven))).into(),
        )?))
    }

    /// Shows an engine's counters from now on; once.
    pub fn show_engine(
        &self,
        counts: impl Fn() -> EngineCounts + Clone + Send + Sync + 'static,
    ) -> Result<(), Error> {
        engine::register(&self.registry, counts)
    }

    /// Shows how many nodes are known, and when the API server was last heard of them; once.
    pub fn show_nodes(
        &self,
        counts: impl Fn() -> NodeCounts + Clone + Send + Sync + 'static,
    ) -> Result<(), Error> {
        nodes::register(&self.registry, counts)
    }

    /// Shows a server's lane counters from now on; once.
    pub fn show_server_lanes(
        &self,
        stats: impl Fn() -> ServerLaneStats + Clone + Send + Sync + 'static,
    ) -> Result<(), Error> {
        lanes::register_server(&self.registry, stats)
    }

    /// Shows an agent's lane counters from now on; once.
    pub fn show_agent_lanes(
        &self,
        stats: impl Fn() -> AgentLaneStats + Clone + Send + Sync + 'static,
    ) -> Result<(), Error> {
        lanes::register_agent(&self.registry, stats)
    }
}
