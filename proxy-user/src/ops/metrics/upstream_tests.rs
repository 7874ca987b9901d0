//! Every metric of upstream's programs, as their sources have it (pkg/{server,agent}/metrics, konnectivity-client's
//! common/metrics, client_golang's process collector), mistakes of spelling included.

use std::collections::BTreeSet;
use std::time::Duration;

use prometheus::Registry;
use prometheus::proto::{MetricFamily, MetricType};

use super::tests::touched_server;
use super::{AgentMetrics, Segment};
use crate::flow::FlowTable;

/// Name without its prefix, type, labels, upper bounds of a histogram's buckets, HELP.
type Row = (&'static str, MetricType, &'static [&'static str], &'static [f64], &'static str);

const LATENCY: &[f64] = &[0.000001, 0.00001, 0.0001, 0.005, 0.025, 0.1, 0.5, 2.5, 12.5];
const LIFETIME: &[f64] = &[1., 5., 15., 30., 60., 300., 900., 1800., 3600., 14400., 43200., 86400.];
const AGENT: &[f64] = &[0.005, 0.025, 0.1, 0.5, 2.5, 10., 30.];
/// client_golang's, where none are given.
const DEFAULT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1., 2.5, 5., 10.];
const PACKETS: &str =
    "Count of packets processed, by segment and packet type (example: from_client, DIAL_REQ)";
const ERRORS: &str = "Count of gRPC stream errors, by segment, grpc Code, packet type. (example: from_agent, \
                      Code.Unavailable, DIAL_RSP)";

use MetricType::{COUNTER, GAUGE, HISTOGRAM};

const SERVER: &[Row] = &[
    ("dial_duration_seconds", HISTOGRAM, &[], LATENCY, "Latency of dial to the remote endpoint in seconds"),
    (
        "frontend_write_duration_seconds",
        HISTOGRAM,
        &[],
        LATENCY,
        "Latency of write to the frontend in seconds",
    ),
    (
        "connection_duration_seconds",
        HISTOGRAM,
        &[],
        LIFETIME,
        "Duration in seconds a proxied end-to-end connection was established (post-dial) before being closed.",
    ),
    (
        "grpc_connections",
        GAUGE,
        &["service_method"],
        &[],
        "Number of current grpc connections, partitioned by service method.",
    ),
    ("http_connections", GAUGE, &[], &[], "Number of current HTTP CONNECT connections"),
    (
        "ready_backend_connections",
        GAUGE,
        &[],
        &[],
        "Number of konnectivity agent connected to the proxy server. DEPRECATED, please use ready_backends",
    ),
    (
        "ready_backends",
        GAUGE,
        &["proxy_strategy"],
        &[],
        "Number of konnectivity agent connected to the proxy server",
    ),
    ("pending_backend_dials", GAUGE, &[], &[], "Current number of pending backend dial requests"),
    (
        "established_connections",
        GAUGE,
        &[],
        &[],
        "Current number of established end-to-end connections (post-dial).",
    ),
    (
        "full_receive_channels",
        GAUGE,
        &["service_method"],
        &[],
        "Number of current connections blocked by a full receive channel, partitioned by service method.",
    ),
    (
        "dial_failure_count",
        COUNTER,
        &["reason"],
        &[],
        "Number of dial failures observed. Multiple failures can occur for a single dial request.",
    ),
    (
        "culled_leases_count",
        COUNTER,
        &[],
        &[],
        "Count of expired leases that the lease garbage collection controller has culled.",
    ),
    (
        "lease_delete_latency_seconds",
        HISTOGRAM,
        &["http_status_code"],
        DEFAULT,
        "Latency of lease deletion calls by the garbage collection controller in seconds.",
    ),
    (
        "lease_delete_total",
        COUNTER,
        &["http_status_code", "reason"],
        &[],
        "Count of lease delection calls by the garbage collection controller. Labeled by HTTP status code and reason.",
    ),
    (
        "lease_list_latency_seconds",
        HISTOGRAM,
        &["http_status_code"],
        DEFAULT,
        "Latency of lease list calls by the garbage collection controller in seconds.",
    ),
    (
        "lease_list_total",
        COUNTER,
        &["http_status_code", "reason"],
        &[],
        "Count of lease deletion calls by the garbage collection controller. Labeled by HTTP status code and reason.",
    ),
    ("stream_packets_total", COUNTER, &["packet_type", "segment"], &[], PACKETS),
    ("stream_errors_total", COUNTER, &["code", "packet_type", "segment"], &[], ERRORS),
];

const OF_AGENT: &[Row] = &[
    ("dial_duration_seconds", HISTOGRAM, &[], AGENT, "Latency of dial to the remote endpoint in seconds"),
    (
        "server_connection_failure_count",
        COUNTER,
        &["direction"],
        &[],
        "Count of failures to send to or receive from the proxy server, labeled by the direction (from_server or \
         to_server). DEPRECATED, please use stream_events_error_total",
    ),
    (
        "endpoint_dial_failure_total",
        COUNTER,
        &["reason"],
        &[],
        "Number of failures dialing the remote endpoint, by reason (example: timeout).",
    ),
    ("open_server_connections", GAUGE, &[], &[], "Current number of open server connections."),
    ("known_server_count", GAUGE, &[], &[], "Current number of servers agent is trying to connect to."),
    ("open_endpoint_connections", GAUGE, &[], &[], "Current number of open endpoint connections."),
    (
        "lease_lists_total",
        COUNTER,
        &["http_response_code", "reason"],
        &[],
        "Count of server lease list calls made by the agent to the k8s apiserver, labeled by HTTP response code and \
         reason",
    ),
    (
        "lease_watches_total",
        COUNTER,
        &["http_response_code", "reason"],
        &[],
        "Count of server lease watch calls made by the agent to the k8s apiserver, labeled by HTTP response code and \
         reason",
    ),
    (
        "lease_list_latency_seconds",
        HISTOGRAM,
        &["http_response_code"],
        AGENT,
        "Latency of server lease listing in seconds",
    ),
    ("stream_packets_total", COUNTER, &["packet_type", "segment"], &[], PACKETS),
    ("stream_errors_total", COUNTER, &["code", "packet_type", "segment"], &[], ERRORS),
];

const PROCESS: &[Row] = &[
    ("cpu_seconds_total", COUNTER, &[], &[], "Total user and system CPU time spent in seconds."),
    ("open_fds", GAUGE, &[], &[], "Number of open file descriptors."),
    ("max_fds", GAUGE, &[], &[], "Maximum number of open file descriptors."),
    ("virtual_memory_bytes", GAUGE, &[], &[], "Virtual memory size in bytes."),
    ("virtual_memory_max_bytes", GAUGE, &[], &[], "Maximum amount of virtual memory available in bytes."),
    ("resident_memory_bytes", GAUGE, &[], &[], "Resident memory size in bytes."),
    ("start_time_seconds", GAUGE, &[], &[], "Start time of the process since unix epoch in seconds."),
    (
        "network_receive_bytes_total",
        COUNTER,
        &[],
        &[],
        "Number of bytes received by the process over the network.",
    ),
    (
        "network_transmit_bytes_total",
        COUNTER,
        &[],
        &[],
        "Number of bytes sent by the process over the network.",
    ),
    // Ours: prometheus' own library for Rust has it.
    ("threads", GAUGE, &[], &[], "Number of OS threads in the process."),
];

const SCRAPES: &[Row] = &[
    ("requests_total", COUNTER, &["code"], &[], "Total number of scrapes by HTTP status code."),
    ("requests_in_flight", GAUGE, &[], &[], "Current number of scrapes being served."),
];

fn touched_agent() -> AgentMetrics {
    let agent = AgentMetrics::new(&FlowTable::new()).unwrap();
    let second = Duration::from_secs(1);
    agent.dial_succeeded(second);
    agent.dial_failed(true);
    drop((agent.endpoint(), agent.server()));
    agent.packet(Segment::FromAgent, "DIAL_RSP");
    agent.stream_error(Segment::FromAgent, "Unavailable", "DATA");
    agent.leases_listed(200, "", second);
    agent.leases_watched(200, "");
    agent
}

/// The families behind `prefix` are those of `rows`, no more and no fewer, each as its row says.
fn are_upstreams(registry: &Registry, prefix: &str, rows: &[Row]) {
    let all = registry.gather();
    let ours: Vec<(&str, &MetricFamily)> =
        all.iter().filter_map(|family| Some((family.name().strip_prefix(prefix)?, family))).collect();
    let names = |names: &mut dyn Iterator<Item = &'static str>| names.collect::<BTreeSet<_>>();
    let wanted = names(&mut rows.iter().map(|row| row.0));
    assert_eq!(ours.iter().map(|(name, _)| *name).collect::<BTreeSet<_>>(), wanted, "{prefix}");
    for (name, kind, labels, bounds, help) in rows {
        let (_, family) = ours.iter().find(|(ours, _)| ours == name).unwrap();
        assert_eq!((family.get_field_type(), family.help()), (*kind, *help), "{prefix}{name}");
        for series in family.get_metric() {
            let named: Vec<&str> = series.get_label().iter().map(|pair| pair.name()).collect();
            assert_eq!(named, *labels, "{prefix}{name}");
            let buckets = series.get_histogram().get_bucket().iter();
            let uppers: Vec<f64> = buckets.map(|bucket| bucket.upper_bound()).collect();
            assert_eq!(uppers, *bounds, "{prefix}{name}");
        }
    }
}

#[test]
fn every_family_is_upstreams_by_name_type_labels_buckets_and_help() {
    let (server, _flows) = touched_server();
    let agent = touched_agent();
    are_upstreams(server.registry(), "konnectivity_network_proxy_server_", SERVER);
    are_upstreams(agent.registry(), "konnectivity_network_proxy_agent_", OF_AGENT);
    for registry in [server.registry(), agent.registry()] {
        are_upstreams(registry, "process_", PROCESS);
        are_upstreams(registry, "promhttp_metric_handler_", SCRAPES);
    }
}

/// What is there before anything happened; of the agent's, upstream shows `open_server_connections` later, but its own
/// test runner asks for it at once.
#[test]
fn an_untouched_program_shows_what_upstreams_shows_from_the_start() {
    let server = super::ServerMetrics::new(&FlowTable::new()).unwrap();
    server.ready_backends("default", 0);
    let agent = AgentMetrics::new(&FlowTable::new()).unwrap();
    for (registry, wanted) in [
        (
            server.registry(),
            &["culled_leases_count", "http_connections", "ready_backend_connections", "ready_backends"][..],
        ),
        (agent.registry(), &["known_server_count", "open_server_connections"]),
    ] {
        let all = registry.gather();
        let names = all.iter().filter_map(|family| family.name().strip_prefix("konnectivity_network_proxy_"));
        let mut names: Vec<&str> = names.map(|name| name.split_once('_').unwrap().1).collect();
        names.sort_unstable();
        assert_eq!(names, wanted);
    }
}
