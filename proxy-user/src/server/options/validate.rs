//! What upstream's server refuses, all of it at once.

use std::time::Duration;

use super::Options;
use crate::kube::{names, selector};
use crate::net::cipher::TlsPolicy;
use crate::ops::flags::Value;
use crate::ops::flags::checks::{exists, odd_host, pair};
use crate::server::agents::listen::IDLE;
use crate::server::lease;
use crate::wire::metadata::is_carried;

/// What was read and cannot be meant, by flag; adds to the warnings.
pub(super) fn finish(options: &mut Options) -> Vec<(&'static str, String)> {
    let mut found: Vec<(&str, String)> = Vec::new();
    files(options, &mut found);
    frontend(options, &mut found);
    ports(options, &mut found);
    agents(options, &mut found);
    flows(options, &mut found);
    warn(options);
    for time in [&mut options.keepalive_time, &mut options.frontend_keepalive_time] {
        *time = keepalive(*time);
    }
    if !is_carried(&options.server_id) {
        let gist =
            format!("server ID {:?} fits into no header: it has control characters", options.server_id);
        found.push(("server-id", gist));
    }
    if options.lanes.ping.is_zero() {
        found.push(("lane-ping", "lane ping must be greater than 0".to_owned()));
    }
    found
}

/// As grpc-go: 0 means its default, and nothing is pinged more often than each second.
fn keepalive(asked: Duration) -> Duration {
    match asked {
        Duration::ZERO => Duration::from_secs(2 * 3600),
        asked => asked.max(Duration::from_secs(1)),
    }
}

fn files(o: &Options, found: &mut Vec<(&'static str, String)>) {
    pair(("server-key", "server key", &o.server_key), ("server-cert", "server cert", &o.server_cert), found);
    exists("server-ca-cert", "error checking server CA cert", &o.server_ca_cert, found);
    pair(
        ("cluster-key", "cluster key", &o.cluster_key),
        ("cluster-cert", "cluster cert", &o.cluster_cert),
        found,
    );
    exists("cluster-ca-cert", "error checking cluster CA cert", &o.cluster_ca_cert, found);
    if let Err(why) = std::fs::metadata(&o.kubeconfig)
        && !o.kubeconfig.is_empty()
        && why.kind() == std::io::ErrorKind::NotFound
    {
        let path = &o.kubeconfig;
        let gist = format!("checking KubeconfigPath {path:?}, got stat {path}: no such file or directory");
        found.push(("kubeconfig", gist));
    }
}

fn frontend(o: &Options, found: &mut Vec<(&'static str, String)>) {
    if o.uds_name.is_empty() {
        if o.server_ca_cert.is_empty() {
            let gist = "server ca cert must be set when in TCP mode (uds-name is empty)";
            found.push(("server-ca-cert", gist.to_owned()));
        }
        if o.server_cert.is_empty() && o.server_key.is_empty() {
            let gist = "server cert and server key must be set when in TCP mode (uds-name is empty)";
            found.push(("server-cert", gist.to_owned()));
        }
        return;
    }
    if o.server_port != 0 {
        found.push(("server-port", format!("server port should be set to 0 not {} for UDS", o.server_port)));
    }
    for (flag, what, value) in [
        ("server-key", "server key", &o.server_key),
        ("server-cert", "server cert", &o.server_cert),
        ("server-ca-cert", "server ca cert", &o.server_ca_cert),
    ] {
        if !value.is_empty() {
            found.push((flag, format!("{what} should not be set for UDS")));
        }
    }
}

fn ports(o: &Options, found: &mut Vec<(&'static str, String)>) {
    // Without its health and admin ports a server runs, as upstream's.
    for (flag, address, port_flag, asked) in [
        ("server-bind-address", &o.server_bind_address, "server-port", o.uds_name.is_empty()),
        ("agent-bind-address", &o.agent_bind_address, "agent-port", true),
    ] {
        if asked && let Some(why) = odd_host(address, port_flag) {
            found.push((flag, format!("address {address:?} {why}")));
        }
    }
    for (flag, what, port) in [
        ("server-port", "server port", o.server_port),
        ("agent-port", "agent port", o.agent_port),
        ("admin-port", "admin port", o.admin_port),
        ("health-port", "health port", o.health_port),
    ] {
        if port > 49151 {
            found.push((flag, format!("please do not try to use ephemeral port {port} for the {what}")));
        } else if port < 1024 && (flag != "server-port" || o.uds_name.is_empty()) {
            found.push((flag, format!("please do not try to use reserved port {port} for the {what}")));
        }
    }
}

fn agents(o: &Options, found: &mut Vec<(&'static str, String)>) {
    if o.cluster_cert.is_empty() && o.cluster_key.is_empty() {
        let gist = "cluster cert and cluster key must be set: agents are only served over TLS";
        found.push(("cluster-cert", gist.to_owned()));
    }
    let authentication = [
        ("agent-namespace", &o.agent_namespace),
        ("agent-service-account", &o.agent_service_account),
        ("authentication-audience", &o.authentication_audience),
    ];
    if authentication.iter().any(|(_, value)| !value.is_empty()) {
        if !o.cluster_ca_cert.is_empty() {
            let gist = "--cluster-ca-cert can not be used when agent authentication is enabled";
            found.push(("cluster-ca-cert", gist.to_owned()));
        }
        for (flag, value) in authentication {
            if value.is_empty() {
                found.push((flag, format!("--{flag} cannot be empty when agent authentication is enabled")));
            }
        }
    }
    // Upstream reads them at the start, whoever needs them.
    if let Err(gist) = labels(&o.lease_label) {
        found.push(("lease-label", gist));
    }
}

/// The API server would refuse every lease. Upstream starts and serves without one, so this is no mistake.
fn leases(o: &Options) -> Vec<String> {
    let mut found = Vec::new();
    if !names::is_label(&o.lease_namespace) {
        found.push(format!(
            "--lease-namespace: no namespace is named {:?}, so there will be no lease and agents do not count this \
             server: set it to one that exists.",
            o.lease_namespace
        ));
    }
    for (key, value) in pairs(&o.lease_label) {
        if let Err(why) = selector::check_label(key, value) {
            found.push(format!(
                "--lease-label: {why}, so there will be no lease and agents do not count this server."
            ));
        }
    }
    let name = lease::name(&o.server_id);
    if !names::is_subdomain(&name) {
        found.push(format!(
            "--server-id: no lease can be named {name:?}, so agents do not count this server: let the id end with a \
             letter or digit and have only lower-case letters, digits, '-' and single dots, {} at the most.",
            names::MAX_NAME - lease::name("").len()
        ));
    }
    found
}

fn labels(text: &str) -> Result<(), String> {
    if text.is_empty() {
        let gist = "empty string provided: write at least one label, as k8s-app=konnectivity-server";
        return Err(gist.to_owned());
    }
    match text.split(',').find(|label| label.matches('=').count() != 1) {
        None => Ok(()),
        Some(label) => Err(format!(
            "invalid label format: {text}: {label:?} is no key=value; write such pairs, separated by commas"
        )),
    }
}

fn pairs(labels: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = labels.split(',').filter_map(|label| label.split_once('='));
    pairs.map(|(key, value)| (key.trim(), value.trim()))
}

fn flows(o: &Options, found: &mut Vec<(&'static str, String)>) {
    if o.enable_contention_profiling && !o.enable_profiling {
        let gist = "if --enable-contention-profiling is set, --enable-profiling must also be set";
        found.push(("enable-profiling", gist.to_owned()));
    }
    if o.xfr_channel_size <= 0 {
        found.push((
            "xfr-channel-size",
            format!("channel size {} must be greater than 0", o.xfr_channel_size),
        ));
    }
    if let Err(why) = TlsPolicy::parse(&o.tls_min_version, &[]) {
        found.push(("tls-min-version", why.to_string()));
    }
    for suite in &o.cipher_suites {
        if let Err(why) = TlsPolicy::parse("", std::slice::from_ref(suite)) {
            found.push(("cipher-suites", why.to_string()));
        }
    }
}

fn warn(o: &mut Options) {
    if let Ok(policy) = TlsPolicy::parse(&o.tls_min_version, &o.cipher_suites) {
        o.warnings.extend(policy.notes);
    }
    if o.cluster_ca_cert.is_empty() && o.agent_namespace.is_empty() {
        let text = "--cluster-ca-cert is not set: whoever reaches the agent port can register as an agent.";
        o.warnings.push(text.to_owned());
    }
    if o.server_count < 1 {
        o.warnings
            .push(format!("--server-count={} is no count of servers: agents look for one.", o.server_count));
    }
    if o.enable_lease_controller {
        let leases = leases(o);
        o.warnings.extend(leases);
    }
    // A default is no wish.
    let asked = o.keepalive_time;
    if asked != Options::default().keepalive_time && keepalive(asked) > IDLE {
        o.warnings.push(format!(
            "--keepalive-time={} is taken as {IDLE:?}, the most there is: balancers forget who is idle \
             for longer.",
            asked.show()
        ));
    }
}
