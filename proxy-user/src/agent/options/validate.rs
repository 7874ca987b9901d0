//! What upstream's agent refuses, all of it at once.

use std::time::Duration;

use super::Options;
use crate::net::tls::server_name;
use crate::ops::flags::checks::{exists, odd_host, pair};
use crate::ops::flags::show_go_duration;
use crate::wire::identifiers::Identifiers;
use crate::wire::metadata::is_carried;
use crate::wire::range::Range;

/// What was read and cannot be meant, by flag; adds to the warnings.
pub(super) fn finish(o: &mut Options) -> Vec<(&'static str, String)> {
    let mut found: Vec<(&str, String)> = Vec::new();
    pair(("agent-key", "agent key", &o.agent_key), ("agent-cert", "agent cert", &o.agent_cert), &mut found);
    exists("ca-cert", "error checking agent CA cert", &o.ca_cert, &mut found);
    if o.ca_cert.is_empty() {
        let gist =
            "failed to load CA cert: a file must be named, nothing else is trusted to vouch for the server";
        found.push(("ca-cert", gist.to_owned()));
    }
    // As Go's dialer has it, and gRPC's name for what the certificate must say.
    if o.proxy_server_host.is_empty() {
        "localhost".clone_into(&mut o.proxy_server_host);
        o.warnings.push("--proxy-server-host is empty, and taken as localhost.".to_owned());
    }
    if server_name(&o.proxy_server_host).is_err() {
        let host = &o.proxy_server_host;
        let gist = match odd_host(host, "proxy-server-port") {
            Some(why) => format!("proxy server host {host:?} is neither a name nor an address, it {why}"),
            None => format!(
                "proxy server host {host:?} is neither a name nor an address: write one of these alone, as \
                 konnectivity-server.kube-system, 10.0.0.1 or fd00::1"
            ),
        };
        found.push(("proxy-server-host", gist));
    }
    for (flag, what, port, lost) in [
        ("proxy-server-port", "proxy server port", o.proxy_server_port, "no server will be found there"),
        (
            "health-server-port",
            "health server port",
            o.health_server_port,
            "there will be no probes and metrics",
        ),
        ("admin-server-port", "admin server port", o.admin_server_port, "there will be no profiles"),
    ] {
        if port.0 <= 0 {
            found.push((flag, format!("{what} {} must be greater than 0", port.0)));
        } else if port.number().is_none() {
            o.warnings.push(format!("--{flag}={} is no port, which is 65535 at the most: {lost}.", port.0));
        }
    }
    if o.xfr_channel_size <= 0 {
        found.push((
            "xfr-channel-size",
            format!("channel size {} must be greater than 0", o.xfr_channel_size),
        ));
    }
    if o.enable_contention_profiling && !o.enable_profiling {
        let gist = "if --enable-contention-profiling is set, --enable-profiling must also be set";
        found.push(("enable-profiling", gist.to_owned()));
    }
    if o.sync_interval > o.sync_interval_cap {
        let (interval, cap) = (show_go_duration(o.sync_interval), show_go_duration(o.sync_interval_cap));
        let gist = format!("sync interval {interval} must be less than sync interval cap {cap}");
        found.push(("sync-interval", gist));
    }
    if !is_carried(&o.agent_id) {
        found.push((
            "agent-id",
            format!("agent ID {:?} fits into no header: it has control characters", o.agent_id),
        ));
    }
    // Upstream's test runner writes a list as Go shows it; upstream's agent offers a name with the brackets then.
    if let Some(inner) = o.alpn_proto.join(",").strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        o.alpn_proto = match inner {
            "" => Vec::new(),
            names => names.split(',').map(str::to_owned).collect(),
        };
    }
    // RFC 7301, 3.1: the length of a name is one byte, and no name is empty.
    if let Some(name) = o.alpn_proto.iter().find(|name| name.len() > 255) {
        let gist = format!(
            "protocol name of {} bytes, 255 at the most: write the names one by one, separated by commas",
            name.len()
        );
        found.push(("alpn-proto", gist));
    }
    if o.alpn_proto.iter().any(String::is_empty) {
        let gist = "protocol name of 0 bytes, 1 at the least: take out the comma that has no name before or behind it";
        found.push(("alpn-proto", gist.to_owned()));
    }
    // Upstream offers it as it stands.
    let spaced = o.alpn_proto.iter().filter(|name| !name.is_empty() && name.trim() != name.as_str());
    let spaced: Vec<_> = spaced.map(|name| format!("{name:?}")).collect();
    if !spaced.is_empty() {
        o.warnings.push(format!(
            "--alpn-proto has {}, with spaces that no balancer knows: write commas without spaces, as a,b",
            spaced.join(" and ")
        ));
    }
    // Upstream takes it and busies itself; a pause of nothing is none.
    o.probe_interval = o.probe_interval.max(Duration::from_millis(1));
    o.sync_interval = o.sync_interval.max(Duration::from_millis(1));
    let token = &o.service_account_token_path;
    exists("service-account-token-path", "error checking service account token path", token, &mut found);
    match Identifiers::parse(&o.agent_identifiers) {
        Err(why) => found.push(("agent-identifiers", format!("agent address is invalid: {why}"))),
        Ok(identifiers) => {
            let strange = identifiers.strange();
            if !strange.is_empty() {
                o.warnings.push(format!(
                    "--agent-identifiers has {}, no address of that kind: no dial to an address finds this agent by it, \
                     so fill in what was to stand there",
                    strange.join(" and ")
                ));
            }
            let ranges = identifiers.cidr.iter().filter(|text| Range::parse(text).is_none());
            let ranges: Vec<String> = ranges.map(|text| format!("cidr={text}")).collect();
            if !ranges.is_empty() {
                o.warnings.push(format!(
                    "--agent-identifiers has {}, no range of addresses: no dial finds this agent by it; write an address \
                     and the length of its prefix, as 10.1.2.0/24",
                    ranges.join(" and ")
                ));
            }
            for key in identifiers.unknown {
                found.push((
                    "agent-identifiers",
                    format!("agent address is invalid: unknown address type: {key}"),
                ));
            }
        }
    }
    let kubeconfig = &o.kubeconfig;
    if !kubeconfig.is_empty()
        && std::fs::metadata(kubeconfig).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    {
        let gist = format!(
            "error checking KubeconfigPath {kubeconfig:?}, got stat {kubeconfig}: no such file or directory"
        );
        found.push(("kubeconfig", gist));
    }
    found
}
