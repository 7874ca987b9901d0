//! proxy-server's metrics, under upstream's names and in its words, mistakes of spelling included: some compare them.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Error, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::lanes::TO_MUX;
use super::make::Maker;
use super::{GaugeGuard, KonduitMetrics, STREAM_ERRORS, STREAM_PACKETS, ScrapePage, Segment, process};
use crate::flow::FlowTable;
use crate::lane::Fallback;

const LATENCY: [f64; 9] = [0.000001, 0.00001, 0.0001, 0.005, 0.025, 0.1, 0.5, 2.5, 12.5];
const LIFETIME: [f64; 12] = [1., 5., 15., 30., 60., 300., 900., 1800., 3600., 14400., 43200., 86400.];

/// The gRPC method of a stream, as upstream's `service_method` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// A frontend stream.
    Proxy,
    /// An agent's control stream.
    Connect,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Service::Proxy => "Proxy",
            Service::Connect => "Connect",
        }
    }
}

/// Upstream's reasons for a failed dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialFailure {
    NoAgent,
    ErrorResponse,
    UnrecognizedResponse,
    SendResponse,
    BackendClose,
    BackendDialTimeout,
    FrontendClose,
}

impl DialFailure {
    pub const ALL: [DialFailure; 7] = [
        DialFailure::NoAgent,
        DialFailure::ErrorResponse,
        DialFailure::UnrecognizedResponse,
        DialFailure::SendResponse,
        DialFailure::BackendClose,
        DialFailure::BackendDialTimeout,
        DialFailure::FrontendClose,
    ];

    pub fn name(self) -> &'static str {
        match self {
            DialFailure::NoAgent => "no_agent",
            DialFailure::ErrorResponse => "error_response",
            DialFailure::UnrecognizedResponse => "unrecognized_response",
            DialFailure::SendResponse => "send_rsp",
            DialFailure::BackendClose => "backend_close",
            DialFailure::BackendDialTimeout => "backend_dial_timeout",
            DialFailure::FrontendClose => "frontend_close",
        }
    }
}

/// Everything a proxy-server counts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ServerMetrics(Arc<ServerCounts>);

/// What [`ServerMetrics`] points to.
#[derive(Debug)]
pub struct ServerCounts {
    page: ScrapePage,
    pub konduit: KonduitMetrics,
    dial_duration: HistogramVec,
    frontend_write: HistogramVec,
    connection_duration: HistogramVec,
    grpc_connections: IntGaugeVec,
    http_connections: IntGauge,
    ready_backend_connections: IntGaugeVec,
    ready_backends: IntGaugeVec,
    pending_dials: IntGaugeVec,
    established: IntGaugeVec,
    full_receive_channels: IntGaugeVec,
    dial_failures: IntCounterVec,
    packets: IntCounterVec,
    stream_errors: IntCounterVec,
    fallbacks: IntCounterVec,
    culled_leases: IntCounter,
    lease_delete_latency: HistogramVec,
    lease_deletes: IntCounterVec,
    lease_list_latency: HistogramVec,
    lease_lists: IntCounterVec,
}

impl ServerMetrics {
    /// A registry of its own; the byte and flow counts are read from `flows` at each scrape.
    pub fn new(flows: &FlowTable) -> Result<ServerMetrics, Error> {
        let registry = Registry::new();
        let make = Maker { registry: &registry, prefix: "konnectivity_network_proxy_server_" };
        let lease_buckets = prometheus::DEFAULT_BUCKETS;
        let metrics = ServerCounts {
            konduit: KonduitMetrics::new(&registry, flows)?,
            dial_duration: make.histogram_vec(
                "dial_duration_seconds",
                "Latency of dial to the remote endpoint in seconds",
                &[],
                &LATENCY,
            )?,
            frontend_write: make.histogram_vec(
                "frontend_write_duration_seconds",
                "Latency of write to the frontend in seconds",
                &[],
                &LATENCY,
            )?,
            connection_duration: make.histogram_vec(
                "connection_duration_seconds",
                "Duration in seconds a proxied end-to-end connection was established (post-dial) before being closed.",
                &[],
                &LIFETIME,
            )?,
            grpc_connections: make.gauge_vec(
                "grpc_connections",
                "Number of current grpc connections, partitioned by service method.",
                &["service_method"],
            )?,
            http_connections: make.gauge("http_connections", "Number of current HTTP CONNECT connections")?,
            ready_backend_connections: make.gauge_vec(
                "ready_backend_connections",
                "Number of konnectivity agent connected to the proxy server. DEPRECATED, please use ready_backends",
                &[],
            )?,
            ready_backends: make.gauge_vec(
                "ready_backends",
                "Number of konnectivity agent connected to the proxy server",
                &["proxy_strategy"],
            )?,
            pending_dials: make.gauge_vec(
                "pending_backend_dials",
                "Current number of pending backend dial requests",
                &[],
            )?,
            established: make.gauge_vec(
                "established_connections",
                "Current number of established end-to-end connections (post-dial).",
                &[],
            )?,
            full_receive_channels: make.gauge_vec(
                "full_receive_channels",
                "Number of current connections blocked by a full receive channel, partitioned by service method.",
                &["service_method"],
            )?,
            dial_failures: make.counter_vec(
                "dial_failure_count",
                "Number of dial failures observed. Multiple failures can occur for a single dial request.",
                &["reason"],
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
            fallbacks: Maker { registry: &registry, prefix: "" }.counter_vec(TO_MUX.0, TO_MUX.1, &["reason"])?,
            culled_leases: make.counter("culled_leases_count", "Count of expired leases that the lease garbage collection controller has culled.")?,
            lease_delete_latency: make.histogram_vec(
                "lease_delete_latency_seconds",
                "Latency of lease deletion calls by the garbage collection controller in seconds.",
                &["http_status_code"],
                lease_buckets,
            )?,
            lease_deletes: make.counter_vec(
                "lease_delete_total",
                "Count of lease delection calls by the garbage collection controller. Labeled by HTTP status code and reason.",
                &["http_status_code", "reason"],
            )?,
            lease_list_latency: make.histogram_vec(
                "lease_list_latency_seconds",
                "Latency of lease list calls by the garbage collection controller in seconds.",
                &["http_status_code"],
                lease_buckets,
            )?,
            lease_lists: make.counter_vec(
                "lease_list_total",
                "Count of lease deletion calls by the garbage collection controller. Labeled by HTTP status code and reason.",
                &["http_status_code", "reason"],
            )?,
            page: ScrapePage::new(&registry)?,
        };
        process::register(&registry)?;
        metrics.ready_backend_connections.with_label_values::<&str>(&[]).set(0);
        for why in Fallback::ALL {
            metrics.fallbacks.with_label_values(&[why.name()]);
        }
        Ok(ServerMetrics(Arc::new(metrics)))
    }
}

impl Deref for ServerMetrics {
    type Target = ServerCounts;

    fn deref(&self) -> &ServerCounts {
        &self.0
    }
}

impl ServerCounts {
    pub fn registry(&self) -> &Registry {
        self.page.registry()
    }

    /// What every listener answers at `/metrics`.
    pub fn page(&self) -> &ScrapePage {
        &self.page
    }

    /// A dial succeeded, `took` after it was asked for.
    pub fn dial_succeeded(&self, took: Duration) {
        self.dial_duration.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    pub fn dial_failed(&self, reason: DialFailure) {
        self.dial_failures.with_label_values(&[reason.name()]).inc();
    }

    /// A flow begins that travels as packets.
    pub fn fell_back(&self, why: Fallback) {
        self.fallbacks.with_label_values(&[why.name()]).inc();
    }

    /// A packet or chunk was written to a frontend.
    pub fn frontend_write(&self, took: Duration) {
        self.frontend_write.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// An established connection ended, `lived` after its dial.
    pub fn connection_ended(&self, lived: Duration) {
        self.connection_duration.with_label_values::<&str>(&[]).observe(lived.as_secs_f64());
    }

    #[must_use]
    pub fn grpc_connection(&self, service: Service) -> GaugeGuard {
        GaugeGuard::new(&self.grpc_connections.with_label_values(&[service.name()]))
    }

    #[must_use]
    pub fn http_connection(&self) -> GaugeGuard {
        GaugeGuard::new(&self.http_connections)
    }

    /// From an agent being picked to the dial's end.
    #[must_use]
    pub fn pending_dial(&self) -> GaugeGuard {
        GaugeGuard::new(&self.pending_dials.with_label_values::<&str>(&[]))
    }

    /// Upstream sets its gauge whenever it looks for a dial, so the series is there from then on.
    pub fn pending_dials_looked_at(&self) {
        self.pending_dials.with_label_values::<&str>(&[]);
    }

    #[must_use]
    pub fn established(&self) -> GaugeGuard {
        GaugeGuard::new(&self.established.with_label_values::<&str>(&[]))
    }

    /// A stream's reader waits for room.
    #[must_use]
    pub fn full_receive_channel(&self, service: Service) -> GaugeGuard {
        GaugeGuard::new(&self.full_receive_channels.with_label_values(&[service.name()]))
    }

    /// Distinct keys that `strategy` can pick from; call with 0 at start for every configured strategy.
    pub fn ready_backends(&self, strategy: &str, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.ready_backends.with_label_values(&[strategy]).set(count);
        self.ready_backend_connections.with_label_values::<&str>(&[]).set(count);
    }

    /// A packet was received, or a send was attempted; `packet_type` is the enum's name.
    pub fn packet(&self, segment: Segment, packet_type: &str) {
        self.packets.with_label_values(&[segment.name(), packet_type]).inc();
    }

    /// A stream failed otherwise than by EOF; `code` is gRPC's name, receive errors have the type `Unknown`.
    pub fn stream_error(&self, segment: Segment, code: &str, packet_type: &str) {
        self.stream_errors.with_label_values(&[segment.name(), code, packet_type]).inc();
    }

    /// An expired lease was deleted.
    pub fn lease_culled(&self) {
        self.culled_leases.inc();
    }

    pub fn lease_deleted(&self, status: u16, reason: &str, took: Duration) {
        let status = status.to_string();
        self.lease_delete_latency.with_label_values(&[&status]).observe(took.as_secs_f64());
        self.lease_deletes.with_label_values(&[status.as_str(), reason]).inc();
    }

    pub fn leases_listed(&self, status: u16, reason: &str, took: Duration) {
        let status = status.to_string();
        self.lease_list_latency.with_label_values(&[&status]).observe(took.as_secs_f64());
        self.lease_lists.with_label_values(&[status.as_str(), reason]).inc();
    }
}
