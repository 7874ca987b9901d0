use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::flow::{Direction, Engine, FlowTable, Path};

fn scrape(registry: &Registry) -> String {
    String::from_utf8(encode(registry).unwrap()).unwrap()
}

/// Name to (type, help) of every family.
fn families(text: &str) -> BTreeMap<&str, (&str, &str)> {
    let mut help = BTreeMap::new();
    let mut all = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, words)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            help.insert(name, words);
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            all.insert(name, (kind, help[name]));
        }
    }
    all
}

pub(super) fn touched_server() -> (ServerMetrics, FlowTable) {
    let flows = FlowTable::new();
    let metrics = ServerMetrics::new(&flows).unwrap();
    let second = Duration::from_secs(1);
    metrics.dial_succeeded(second);
    DialFailure::ALL.into_iter().for_each(|reason| metrics.dial_failed(reason));
    metrics.frontend_write(second);
    metrics.connection_ended(second);
    for service in [Service::Proxy, Service::Connect] {
        drop(metrics.grpc_connection(service));
        drop(metrics.full_receive_channel(service));
    }
    drop((metrics.http_connection(), metrics.pending_dial(), metrics.established()));
    metrics.ready_backends("default", 2);
    metrics.packet(Segment::FromClient, "DIAL_REQ");
    metrics.stream_error(Segment::ToAgent, "Canceled", "DATA");
    metrics.lease_deleted(404, "NotFound", second);
    metrics.leases_listed(200, "", second);
    (metrics, flows)
}

#[test]
fn the_servers_series_are_upstreams() {
    let (metrics, _flows) = touched_server();
    let text = scrape(metrics.registry());
    for line in [
        "konnectivity_network_proxy_server_dial_failure_count{reason=\"send_rsp\"} 1",
        "konnectivity_network_proxy_server_ready_backends{proxy_strategy=\"default\"} 2",
        "konnectivity_network_proxy_server_ready_backend_connections 2",
        "konnectivity_network_proxy_server_stream_packets_total{packet_type=\"DIAL_REQ\",segment=\"from_client\"} 1",
        "konnectivity_network_proxy_server_stream_errors_total{code=\"Canceled\",packet_type=\"DATA\",segment=\"to_agent\"} 1",
        "konnectivity_network_proxy_server_lease_delete_total{http_status_code=\"404\",reason=\"NotFound\"} 1",
        "konnectivity_network_proxy_server_lease_list_total{http_status_code=\"200\",reason=\"\"} 1",
        "konnectivity_network_proxy_server_grpc_connections{service_method=\"Proxy\"} 0",
        "konnectivity_network_proxy_server_grpc_connections{service_method=\"Connect\"} 0",
        "konnectivity_network_proxy_server_full_receive_channels{service_method=\"Proxy\"} 0",
        "konnectivity_network_proxy_server_full_receive_channels{service_method=\"Connect\"} 0",
        "konnectivity_network_proxy_server_lease_delete_latency_seconds_count{http_status_code=\"404\"} 1",
        "konnectivity_network_proxy_server_lease_list_latency_seconds_count{http_status_code=\"200\"} 1",
        "konnectivity_network_proxy_server_dial_duration_seconds_bucket{le=\"1e-06\"} 0",
        "konnectivity_network_proxy_server_dial_duration_seconds_bucket{le=\"12.5\"} 1",
        "konnectivity_network_proxy_server_connection_duration_seconds_bucket{le=\"86400\"} 1",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
}

#[test]
fn the_agents_series_are_upstreams() {
    let metrics = AgentMetrics::new(&FlowTable::new()).unwrap();
    let second = Duration::from_secs(1);
    metrics.dial_succeeded(second);
    metrics.dial_failed(true);
    metrics.dial_failed(false);
    let open = (metrics.endpoint(), metrics.server());
    metrics.known_servers(3);
    metrics.packet(Segment::ToAgent, "DATA");
    metrics.stream_error(Segment::FromAgent, "Unavailable", "DATA");
    metrics.leases_listed(200, "", second);
    metrics.leases_watched(200, "");
    let text = scrape(metrics.registry());
    for line in [
        "konnectivity_network_proxy_agent_endpoint_dial_failure_total{reason=\"timeout\"} 1",
        "konnectivity_network_proxy_agent_endpoint_dial_failure_total{reason=\"unknown\"} 1",
        "konnectivity_network_proxy_agent_server_connection_failure_count{direction=\"to_server\"} 1",
        "konnectivity_network_proxy_agent_open_server_connections 1",
        "konnectivity_network_proxy_agent_open_endpoint_connections 1",
        "konnectivity_network_proxy_agent_known_server_count 3",
        "konnectivity_network_proxy_agent_dial_duration_seconds_bucket{le=\"30\"} 1",
        "konnectivity_network_proxy_agent_lease_lists_total{http_response_code=\"200\",reason=\"\"} 1",
        "konnectivity_network_proxy_agent_lease_watches_total{http_response_code=\"200\",reason=\"\"} 1",
        "konnectivity_network_proxy_agent_lease_list_latency_seconds_count{http_response_code=\"200\"} 1",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}");
    }
    drop(open);
    let text = scrape(metrics.registry());
    assert!(text.contains("konnectivity_network_proxy_agent_open_endpoint_connections 0\n"));
}

/// Name to bounds of upstream's histograms, each of which has one series.
fn buckets(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        let Some(line) = line.strip_prefix("konnectivity_network_proxy_") else { continue };
        let Some((name, labels)) = line.split_once("_bucket{") else { continue };
        let bound = labels.split_once("le=\"").unwrap().1.split_once('"').unwrap().0;
        all.entry(name).or_default().push(bound);
    }
    all
}

#[test]
fn histograms_have_upstreams_buckets() {
    let (server, _flows) = touched_server();
    let agent = AgentMetrics::new(&FlowTable::new()).unwrap();
    agent.dial_succeeded(Duration::from_secs(1));
    agent.leases_listed(200, "", Duration::from_secs(1));
    let latency = "1e-06 1e-05 0.0001 0.005 0.025 0.1 0.5 2.5 12.5 +Inf";
    let default = "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 +Inf";
    let of_agent = "0.005 0.025 0.1 0.5 2.5 10 30 +Inf";
    for (registry, expected) in [
        (
            server.registry(),
            &[
                (
                    "server_connection_duration_seconds",
                    "1 5 15 30 60 300 900 1800 3600 14400 43200 86400 +Inf",
                ),
                ("server_dial_duration_seconds", latency),
                ("server_frontend_write_duration_seconds", latency),
                ("server_lease_delete_latency_seconds", default),
                ("server_lease_list_latency_seconds", default),
            ][..],
        ),
        (
            agent.registry(),
            &[("agent_dial_duration_seconds", of_agent), ("agent_lease_list_latency_seconds", of_agent)],
        ),
    ] {
        let text = scrape(registry);
        let found: Vec<_> =
            buckets(&text).into_iter().map(|(name, bounds)| (name, bounds.join(" "))).collect();
        let expected: Vec<_> = expected.iter().map(|(name, bounds)| (*name, (*bounds).to_owned())).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn bytes_of_live_flows_count_at_once() {
    let (metrics, flows) = touched_server();
    let open = flows.open("a:1", "agent", Path::LaneRaw);
    open.meter().add(Direction::Down, Engine::Sockmap, 7);
    let line = "konduit_bytes_total{direction=\"to_client\",engine=\"sockmap\",path=\"lane-raw\"} 7";
    assert!(scrape(metrics.registry()).contains(line));
    drop(open);
    assert!(scrape(metrics.registry()).contains(line));
    assert!(
        scrape(metrics.registry()).contains("konduit_flows_total{outcome=\"cancelled\",path=\"lane-raw\"} 1")
    );
}

#[test]
fn process_metrics_tell_of_this_process() {
    let (metrics, _flows) = touched_server();
    let text = scrape(metrics.registry());
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.and_then(|line| line.split_once(' ')).unwrap().1.parse().unwrap()
    };
    assert!(value("process_resident_memory_bytes") > 1e6);
    assert!(value("process_open_fds") >= 3.0);
    assert!(value("process_max_fds") >= value("process_open_fds"));
    assert!(value("process_start_time_seconds") > 1.6e9);
    assert!(value("process_threads") >= 1.0);
}

#[test]
fn the_counters_of_engine_and_lanes_are_shown() {
    let (metrics, _flows) = touched_server();
    metrics.konduit.show_engine(crate::splice::Snapshot::default).unwrap();
    metrics.konduit.show_server_lanes(crate::lane::counters::ServerLaneStats::default).unwrap();
    metrics.konduit.show_nodes(|| NodeCounts { known: 3, heard: 1_700_000_000 }).unwrap();
    let text = scrape(metrics.registry());
    for line in [
        "konduit_engine{what=\"mapped\"} 0",
        "konduit_engine{what=\"forgotten\"} 0",
        "konduit_engine_events_total{event=\"demoted\"} 0",
        "konduit_engine_events_total{event=\"violation\"} 0",
        "konduit_engine_fallbacks_total{reason=\"overflow\"} 0",
        "konduit_lanes{state=\"idle\"} 0",
        "konduit_lanes_total{event=\"asked\"} 0",
        "konduit_nodes 3",
        "konduit_nodes_heard_timestamp_seconds 1700000000",
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    let agent = AgentMetrics::new(&FlowTable::new()).unwrap();
    agent.konduit.show_agent_lanes(crate::lane::counters::AgentLaneStats::default).unwrap();
    assert!(scrape(agent.registry()).contains("konduit_lanes_total{event=\"opened\"} 0"));
}

#[test]
fn dashboard_and_alerts_name_metrics_that_exist() {
    let (server, _flows) = touched_server();
    server.konduit.show_engine(crate::splice::Snapshot::default).unwrap();
    server.konduit.show_server_lanes(crate::lane::counters::ServerLaneStats::default).unwrap();
    server.konduit.dial(Path::Mux, Duration::ZERO);
    server.konduit.show_proven(|| [("splice", true)]).unwrap();
    server.konduit.in_force("lanes", "auto", "flag");
    server.konduit.frontend_socket(true);
    let agent = AgentMetrics::new(&FlowTable::new()).unwrap();
    agent.dial_failed(true);
    agent.packet(Segment::ToAgent, "DATA");
    agent.stream_error(Segment::ToAgent, "Unavailable", "DATA");
    drop(agent.endpoint());
    let (server, agent) = (scrape(server.registry()), scrape(agent.registry()));
    let mut known: Vec<&str> = families(&server).into_keys().chain(families(&agent).into_keys()).collect();
    // Labelled by what happened, so absent from a scrape in which nothing did.
    known.extend(["konduit_lanes_landed_total", "konduit_log_lines_lost_total"]);
    let mut named = 0;
    for text in [
        include_str!("../../../../deploy/observe/alerts.yaml"),
        include_str!("../../../../deploy/observe/dashboard.json"),
    ] {
        for word in text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_') {
            let family = word.trim_end_matches("_bucket");
            if ["konduit_", "konnectivity_network_", "process_"]
                .iter()
                .any(|prefix| family.starts_with(prefix))
            {
                assert!(known.contains(&family), "{family}");
                named += 1;
            }
        }
    }
    assert!(named > 30, "{named}");
}
