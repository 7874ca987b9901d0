use std::time::Duration;

use super::*;
use crate::ops::flags::testing::{
    KLOG, Row, every_default_is_the_contracts, every_flag_takes_its_values, mistakes, options, the_flags_are,
    the_manifest_is_understood, words,
};
use crate::ops::flags::{ByteSize, Severity};

/// Upstream's flags, from the contract.
const UPSTREAM: [Row; 29] = [
    ("agent-key", ""),
    ("agent-cert", ""),
    ("ca-cert", ""),
    ("proxy-server-host", "\"127.0.0.1\""),
    ("proxy-server-port", "8091"),
    ("alpn-proto", ""),
    ("health-server-host", ""),
    ("health-server-port", "8093"),
    ("admin-bind-address", "\"127.0.0.1\""),
    ("admin-server-port", "8094"),
    ("enable-profiling", ""),
    ("enable-contention-profiling", ""),
    ("agent-id", "*"),
    ("agent-identifiers", ""),
    ("sync-interval", "1s"),
    ("sync-interval-cap", "10s"),
    ("probe-interval", "1s"),
    ("keepalive-time", "1h0m0s"),
    ("service-account-token-path", ""),
    ("warn-on-channel-limit", ""),
    ("sync-forever", ""),
    ("xfr-channel-size", "150"),
    ("count-server-leases", ""),
    ("lease-namespace", "\"kube-system\""),
    ("lease-label-selector", "\"k8s-app=konnectivity-server\""),
    ("lease-label", "\"k8s-app=konnectivity-server\""),
    ("server-count-source", "default"),
    ("kubeconfig", ""),
    ("kube-api-content-type", "\"application/vnd.kubernetes.protobuf\""),
];

/// A command line that stands on its own, with existing files.
pub(super) struct Line {
    file: tempfile::NamedTempFile,
}

impl Line {
    pub(super) fn new() -> Line {
        Line { file: tempfile::NamedTempFile::new().unwrap() }
    }

    pub(super) fn parse(&self, more: &[&str]) -> Result<Invocation<Options>, OptionsError> {
        let base = format!("--ca-cert={}", self.file.path().to_str().unwrap());
        let all: Vec<String> = [base].into_iter().chain(words(more)).collect();
        Options::parse(&all, |_| None)
    }

    pub(super) fn options(&self, more: &[&str]) -> Options {
        options(self.parse(more))
    }

    fn mistakes(&self, more: &[&str]) -> Vec<String> {
        mistakes(self.parse(more))
    }
}

#[test]
fn every_flag_of_the_contract_exists_and_no_other() {
    the_flags_are(&table::program().flags, &UPSTREAM, &["drain-quiet", "drain-timeout"]);
}

#[test]
fn every_flag_takes_good_values_and_refuses_wrong_ones() {
    every_flag_takes_its_values(
        &table::program().flags,
        &[
            ("server-count-source", "max", "max", Some("min")),
            ("lanes", "off", "off", Some("on")),
            ("lanes", "always", "always", Some("")),
            ("lane-security", "raw", "raw", Some("none")),
        ],
    );
}

#[test]
fn the_help_shows_upstreams_flags_with_upstreams_defaults() {
    let Ok(Invocation::Print(help)) = Options::parse(&words(&["--help"]), |_| None) else { panic!() };
    let contract = [&UPSTREAM[..], &KLOG].concat();
    every_default_is_the_contracts(&table::program().flags, &help, &contract);
}

#[test]
fn the_defaults_are_upstreams() {
    let options = Line::new().options(&[]);
    let ports = (options.proxy_server_port, options.health_server_port, options.admin_server_port);
    assert_eq!(ports, (Port(8091), Port(8093), Port(8094)));
    assert_eq!(
        (options.proxy_server_host.as_str(), options.admin_bind_address.as_str()),
        ("127.0.0.1", "127.0.0.1")
    );
    assert_eq!(
        (options.sync_interval, options.sync_interval_cap),
        (Duration::from_secs(1), Duration::from_secs(10))
    );
    assert_eq!(options.hello_timeout, Duration::from_secs(20));
    assert_eq!((options.drain_quiet, options.drain_timeout), (Duration::from_secs(10), None));
    assert_eq!(uuid::Uuid::parse_str(&options.agent_id).map(|id| id.get_version_num()), Ok(4));
    assert!(options.alpn_proto.is_empty() && !options.sync_forever && options.warnings.is_empty());
}

#[test]
fn what_manifests_and_upstreams_test_runner_write() {
    let line = Line::new();
    let options = line.options(&[
        "--logtostderr=false",
        "--log-file=/var/log/konnectivity-agent.log",
        "--log-file-max-size=0",
        "--stderrthreshold=1",
        "--alpn-proto=[]",
        "--agent-identifiers=ipv4=${HOST_IP}&host=node%2D1&default-route=true",
        "--sync-interval=5s",
        "--sync-interval-cap=30s",
        "--keepalive-time=1h0m0s",
        "--lease-label-selector=",
        "--server-count-source=",
        "--vmodule=",
        "--kube-api-content-type=application/json",
        "--v=4",
        "--buffer-budget=8MiB",
        "--drain-timeout=25s",
    ]);
    assert_eq!((options.log.to_stderr, options.log.stderr_threshold), (false, Severity::Warning));
    assert!(options.alpn_proto.is_empty());
    assert_eq!(options.agent_identifiers, "ipv4=${HOST_IP}&host=node%2D1&default-route=true");
    assert_eq!(options.sync_interval_cap, Duration::from_secs(30));
    assert_eq!(options.splice.buffer_budget, Some(ByteSize::mib(8)));
    assert_eq!(options.drain_timeout, Some(Duration::from_secs(25)));
    assert_eq!(line.options(&["--alpn-proto=a,b", "--alpn-proto=c"]).alpn_proto, ["a", "b", "c"]);
}

#[test]
fn the_environment_gives_the_id_and_the_flag_wins() {
    let line = Line::new();
    let base = words(&["--ca-cert", line.file.path().to_str().unwrap()]);
    let env = |name: &str| (name == "PROXY_AGENT_ID").then(|| "from-env".to_owned());
    assert_eq!(options(Options::parse(&base, env)).agent_id, "from-env");
    let flagged: Vec<String> = base.into_iter().chain(words(&["--agent-id", "mine"])).collect();
    assert_eq!(options(Options::parse(&flagged, env)).agent_id, "mine");
}

/// As upstream, which takes an empty name for a name.
#[test]
fn an_empty_id_that_is_given_is_taken() {
    let line = Line::new();
    assert_eq!(line.options(&["--agent-id="]).agent_id, "");
}

#[test]
fn what_is_no_address_starts_with_a_warning() {
    let line = Line::new();
    let warnings = |identifiers: &str| line.options(&["--agent-identifiers", identifiers]).warnings;
    assert!(warnings("ipv4=10.0.0.1&ipv6=fd00::1&host=node-1&default-route=true").is_empty());
    let [told] = &warnings("ipv4=abc&host=node-1&ipv4=${HOST_IP}&ipv6=")[..] else {
        panic!("not one sentence")
    };
    assert!(told.contains("ipv4=abc and ipv4=${HOST_IP} and ipv6=,"), "{told}");
    let [told] = &warnings("cidr=10.0.0.0/99&cidr=10.0.0.0/9&cidr=foo")[..] else {
        panic!("not one sentence")
    };
    assert!(told.contains("cidr=10.0.0.0/99 and cidr=foo,"), "{told}");
}

#[test]
fn spaces_in_alpn_names_start_with_a_warning() {
    let line = Line::new();
    assert!(line.options(&["--alpn-proto=a,b"]).warnings.is_empty());
    let [told] = &line.options(&["--alpn-proto=a, b, "]).warnings[..] else { panic!("not one sentence") };
    assert!(told.starts_with("--alpn-proto has \" b\" and \" \", ") && told.contains("write"), "{told}");
}

#[test]
fn one_mistake_is_told_in_upstreams_words() {
    let line = Line::new();
    let file = line.file.path().to_str().unwrap();
    let long_name = format!("--alpn-proto={}", "a".repeat(300));
    for (more, gist) in [
        (
            &["--agent-key=/none", "--agent-cert", file][..],
            "error checking agent key /none, got stat /none: no such file or directory".to_owned(),
        ),
        (
            &["--agent-cert=/none", "--agent-key", file],
            "error checking agent cert /none, got stat /none: no such file or directory".to_owned(),
        ),
        (&["--agent-key", file], format!("cannot have agent cert empty when agent key is set to {file:?}")),
        (&["--agent-cert", file], format!("cannot have agent key empty when agent cert is set to {file:?}")),
        (&["--ca-cert=/none"], "error checking agent CA cert /none".to_owned()),
        (&["--ca-cert="], "failed to load CA cert".to_owned()),
        (
            &["--proxy-server-host=https://konnectivity:8091"],
            "proxy server host \"https://konnectivity:8091\" is neither a name nor an address, it has a scheme: leave \
             https:// and"
                .to_owned(),
        ),
        (
            &["--proxy-server-host=konnectivity:8091"],
            "it has a port: write konnectivity alone, and --proxy-server-port=8091".to_owned(),
        ),
        (&["--proxy-server-host=[::1"], "it has one bracket of two: write".to_owned()),
        (&["--proxy-server-host=a b"], "is neither a name nor an address: write one".to_owned()),
        (&["--proxy-server-port=0"], "proxy server port 0 must be greater than 0".to_owned()),
        (&["--health-server-port=0"], "health server port 0 must be greater than 0".to_owned()),
        (&["--admin-server-port=0"], "admin server port 0 must be greater than 0".to_owned()),
        (&["--xfr-channel-size=-3"], "channel size -3 must be greater than 0".to_owned()),
        (
            &["--agent-id=a\nb"],
            "agent ID \"a\\nb\" fits into no header: it has control characters".to_owned(),
        ),
        (&[&long_name], "protocol name of 300 bytes, 255 at the most".to_owned()),
        (&["--alpn-proto=a,,b"], "protocol name of 0 bytes, 1 at the least: take out".to_owned()),
        (&["--sync-interval=1m"], "sync interval 1m0s must be less than sync interval cap 10s".to_owned()),
        (
            &["--service-account-token-path=/none"],
            "error checking service account token path /none".to_owned(),
        ),
        (&["--agent-identifiers=mac=1"], "agent address is invalid: unknown address type: mac".to_owned()),
        (
            &["--agent-identifiers=ipv4=1;2"],
            "agent address is invalid: invalid semicolon separator in query".to_owned(),
        ),
        (&["--agent-identifiers=%zz=1"], "agent address is invalid: invalid URL escape \"%zz\"".to_owned()),
        (&["--kubeconfig=/none"], "error checking KubeconfigPath \"/none\"".to_owned()),
        (
            &["--lease-label-selector=a in b"],
            "invalid argument \"a in b\" for \"--lease-label-selector\" flag: found \"b\", expected '('"
                .to_owned(),
        ),
        (
            &["--lease-label=a=-b"],
            "invalid argument \"a=-b\" for \"--lease-label\" flag: \"-b\" is no label value"
                .to_owned(),
        ),
        (
            &["--server-count-source=min"],
            "--server-count-source must be one of '', 'default', 'max', got min".to_owned(),
        ),
        (&["--probe-interval=1"], "missing unit in duration".to_owned()),
    ] {
        let found = line.mistakes(more);
        assert_eq!(found.len(), 1, "{more:?}: {found:?}");
        assert!(found[0].contains(&gist), "{gist:?} is not in {found:?}");
        let error = line.parse(more).unwrap_err().to_string();
        // As upstream, which has read everything before it validates.
        let unread = gist.starts_with("invalid argument") || gist.contains("duration");
        let validated = error.starts_with("failed to validate agent options with ");
        assert!(validated != unread && !error.contains('\n'), "{error}");
    }
}

#[test]
fn the_old_name_of_the_selector_fills_the_same_field() {
    let options = Line::new().options(&["--lease-label=a=b"]);
    assert_eq!(options.lease_label_selector, Selector("a=b".to_owned()));
    assert!(
        options.warnings.join("\n").contains("use --lease-label-selector instead"),
        "{:?}",
        options.warnings
    );
}

/// Upstream's agent offers the brackets; its test runner writes every list like that.
#[test]
fn a_list_as_go_shows_it_is_that_list() {
    let line = Line::new();
    for (shown, names) in [("[]", &[][..]), ("[a]", &["a"]), ("[a,b]", &["a", "b"]), ("a,b", &["a", "b"])] {
        assert_eq!(line.options(&["--alpn-proto", shown]).alpn_proto, names, "{shown}");
    }
}

#[test]
fn what_is_hidden_is_not_in_the_help() {
    let Ok(Invocation::Print(text)) = Options::parse(&words(&["-h"]), |_| None) else { panic!() };
    assert!(
        text.contains("--drain-quiet") && text.contains("Konduit: lanes") && text.contains("Logging (klog)")
    );
    assert!(!text.contains("--lease-label "), "{text}");
}

#[test]
fn the_manifests_flags_are_understood() {
    let text = include_str!("../../../../deploy/agent/daemonset.yaml");
    the_manifest_is_understood(text, |flags| Options::parse(flags, |_| None));
}
