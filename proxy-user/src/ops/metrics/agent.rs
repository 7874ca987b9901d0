//! proxy-agent's metrics, under upstream's names and in its words, mistakes of spelling included: some compare them.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Error, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::make::Maker;
use super::{GaugeGuard, KonduitMetrics, STREAM_ERRORS, STREAM_PACKETS, ScrapePage, Segment, process};
use crate::flow::FlowTable;

const LATENCY: [f64; 7] = [0.005, 0.025, 0.1, 0.5, 2.5, 10., 30.];

/// Everything a proxy-agent counts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AgentMetrics(Arc<AgentCounts>);

/// What [`AgentMetrics`] points to.
#[derive(Debug)]
pub struct AgentCounts {
    page: ScrapePage,
    pub konduit: KonduitMetrics,
    dial_duration: HistogramVec,
    dial_failures: IntCounterVec,
    server_failures: IntCounterVec,
    open_servers: IntGaugeVec,
    known_servers: IntGauge,
    open_endpoints: IntGaugeVec,
    packets: IntCounterVec,
    stream_errors: IntCounterVec,
    lease_lists: IntCounterVec,
    lease_watches: IntCounterVec,
    lease_list_latency: HistogramVec,
}

impl AgentMetrics {
    /// A registry of its own; the byte and flow counts are read from `flows` at each scrape.
    pub fn new(flows: &FlowTable) -> Result<AgentMetrics, Error> {
        let registry = Registry::new();
        let make = Maker { registry: &registry, prefix: "konnectivity_network_proxy_agent_" };
        let metrics = AgentCounts {
            konduit: KonduitMetrics::new(&registry, flows)?,
            dial_duration: make.histogram_vec(
                "dial_duration_seconds",
                "Latency of dial to the remote endpoint in seconds",
                &[],
                &LATENCY,
            )?,
            dial_failures: make.counter_vec(
                "endpoint_dial_failure_total",
                "Number of failures dialing the remote endpoint, by reason (example: timeout).",
                &["reason"],
            )?,
            server_failures: make.counter_vec(
                "server_connection_failure_count",
                "Count of failures to send to or receive from the proxy server, labeled by the direction (from_server or to_server). DEPRECATED, please use stream_events_error_total",
                &["direction"],
            )?,
            open_servers: make.gauge_vec(
                "open_server_connections",
                "Current number of open server connections.",
                &[],
            )?,
            known_servers: make.gauge("known_server_count", "Current number of servers agent is trying to connect to.")?,
            open_endpoints: make.gauge_vec(
                "open_endpoint_connections",
                "Current number of open endpoint connections.",
                &[],
            )?,
            packets: make.counter_vec(
                "stream_packets_total",
                STREAM_PACKETS,
                &["segment", "packet_type"],
            )?,
            stream_errors: make.counter_vec(
                "stream_errors_total",
                STREAM_ERRORS,
                &["segment", "code", "packet_type"],
            )?,
            lease_lists: make.counter_vec(
                "lease_lists_total",
                "Count of server lease list calls made by the agent to the k8s apiserver, labeled by HTTP response code and reason",
                &["http_response_code", "reason"],
            )?,
            lease_watches: make.counter_vec(
                "lease_watches_total",
                "Count of server lease watch calls made by the agent to the k8s apiserver, labeled by HTTP response code and reason",
                &["http_response_code", "reason"],
            )?,
            lease_list_latency: make.histogram_vec(
                "lease_list_latency_seconds",
                "Latency of server lease listing in seconds",
                &["http_response_code"],
                &LATENCY,
            )?,
            page: ScrapePage::new(&registry)?,
        };
        process::register(&registry)?;
        metrics.open_servers.with_label_values::<&str>(&[]).set(0);
        Ok(AgentMetrics(Arc::new(metrics)))
    }
}

impl Deref for AgentMetrics {
    type Target = AgentCounts;

    fn deref(&self) -> &AgentCounts {
        &self.0
    }
}

impl AgentCounts {
    pub fn registry(&self) -> &Registry {
        self.page.registry()
    }

    /// What every listener answers at `/metrics`.
    pub fn page(&self) -> &ScrapePage {
        &self.page
    }

    /// A target was reached.
    pub fn dial_succeeded(&self, took: Duration) {
        self.dial_duration.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    pub fn dial_failed(&self, timeout: bool) {
        let reason = if timeout { "timeout" } else { "unknown" };
        self.dial_failures.with_label_values(&[reason]).inc();
    }

    /// A connection to a target that is open.
    #[must_use]
    pub fn endpoint(&self) -> GaugeGuard {
        GaugeGuard::new(&self.open_endpoints.with_label_values::<&str>(&[]))
    }

    /// A member of the set of servers that the agent is connected to.
    #[must_use]
    pub fn server(&self) -> GaugeGuard {
        GaugeGuard::new(&self.open_servers.with_label_values::<&str>(&[]))
    }

    pub fn known_servers(&self, count: usize) {
        self.known_servers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A packet was received, or a send was attempted; `packet_type` is the enum's name.
    pub fn packet(&self, segment: Segment, packet_type: &str) {
        self.packets.with_label_values(&[segment.name(), packet_type]).inc();
    }

    /// A stream failed otherwise than by EOF; also moves the deprecated counter by direction.
    pub fn stream_error(&self, segment: Segment, code: &str, packet_type: &str) {
        self.stream_errors.with_label_values(&[segment.name(), code, packet_type]).inc();
        let direction = if segment == Segment::FromAgent { "to_server" } else { "from_server" };
        self.server_failures.with_label_values(&[direction]).inc();
    }

    pub fn leases_listed(&self, status: u16, reason: &str, took: Duration) {
        let status = status.to_string();
        self.lease_list_latency.with_label_values(&[&status]).observe(took.as_secs_f64());
        self.lease_lists.with_label_values(&[status.as_str(), reason]).inc();
    }

    pub fn leases_watched(&self, status: u16, reason: &str) {
        self.lease_watches.with_label_values(&[status.to_string().as_str(), reason]).inc();
    }
}
