mod mistakes;
mod upstream;

use std::time::Duration;

use super::*;
use crate::ops::flags::testing::{
    KLOG, Row, every_default_is_the_contracts, every_flag_takes_its_values, mistakes, options, the_flags_are,
    the_manifest_is_understood, words,
};
use crate::ops::flags::{LaneSecurity, LanesMode, Severity};
use crate::splice::EngineChoice;

/// Upstream's flags, from the contract.
const UPSTREAM: [Row; 40] = [
    ("server-key", ""),
    ("server-cert", ""),
    ("server-ca-cert", ""),
    ("cluster-key", ""),
    ("cluster-cert", ""),
    ("cluster-ca-cert", ""),
    ("mode", "grpc"),
    ("uds-name", ""),
    ("delete-existing-uds-file", "true"),
    ("server-port", "8090"),
    ("agent-port", "8091"),
    ("admin-port", "8095"),
    ("health-port", "8092"),
    ("server-bind-address", ""),
    ("agent-bind-address", ""),
    ("health-bind-address", ""),
    ("admin-bind-address", "\"127.0.0.1\""),
    ("keepalive-time", "1h0m0s"),
    ("frontend-keepalive-time", "1h0m0s"),
    ("enable-profiling", ""),
    ("enable-contention-profiling", ""),
    ("server-id", "*"),
    ("server-count", "1"),
    ("agent-namespace", ""),
    ("agent-service-account", ""),
    ("authentication-audience", ""),
    ("kubeconfig", ""),
    ("kubeconfig-qps", ""),
    ("kubeconfig-burst", ""),
    ("kube-api-content-type", "\"application/vnd.kubernetes.protobuf\""),
    ("proxy-strategies", "\"default\""),
    ("xfr-channel-size", "10"),
    ("tls-min-version", ""),
    ("cipher-suites", ""),
    ("enable-lease-controller", ""),
    ("lease-namespace", "\"kube-system\""),
    ("lease-label", "\"k8s-app=konnectivity-server\""),
    ("graceful-shutdown-timeout", "0s"),
    ("backend-dial-timeout", "0s"),
    ("warn-on-channel-limit", "true"),
];

/// A command line that stands on its own, with existing files.
struct Line {
    file: tempfile::NamedTempFile,
}

impl Line {
    fn new() -> Line {
        Line { file: tempfile::NamedTempFile::new().unwrap() }
    }

    fn parse(&self, more: &[&str]) -> Result<Invocation<Options>, OptionsError> {
        let file = self.file.path().to_str().unwrap();
        let base = [
            format!("--cluster-cert={file}"),
            format!("--cluster-key={file}"),
            "--uds-name=/s".into(),
            "--server-port=0".into(),
        ];
        let all: Vec<String> = base.into_iter().chain(words(more)).collect();
        Options::parse(&all, |_| None)
    }

    fn options(&self, more: &[&str]) -> Options {
        options(self.parse(more))
    }

    fn mistakes(&self, more: &[&str]) -> Vec<String> {
        mistakes(self.parse(more))
    }
}

#[test]
fn every_flag_of_the_contract_exists_and_no_other() {
    the_flags_are(&table::program().flags, &UPSTREAM, &[]);
}

#[test]
fn every_flag_takes_good_values_and_refuses_wrong_ones() {
    every_flag_takes_its_values(
        &table::program().flags,
        &[
            ("mode", "http-connect", "http-connect", Some("tcp")),
            ("proxy-strategies", "destHost,default", "\"destHost,default\"", Some("nearest")),
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
    assert_eq!((options.agent_port, options.health_port, options.admin_port), (8091, 8092, 8095));
    assert_eq!(Options::default().server_port, 8090);
    assert_eq!(options.admin_bind_address, "127.0.0.1");
    assert_eq!(options.keepalive_time, Duration::from_secs(3600));
    assert_eq!(options.proxy_strategies, Strategies(vec![Strategy::Default]));
    assert_eq!((options.log.v, options.log.stderr_threshold), (4, Severity::Error));
    assert!(
        options.delete_existing_uds_file && options.log.to_stderr && options.backend_dial_timeout.is_none()
    );
    assert_eq!((options.lanes.mode, options.lanes.security), (LanesMode::Auto, LaneSecurity::Encrypt));
    assert_eq!(uuid::Uuid::parse_str(&options.server_id).map(|id| id.get_version_num()), Ok(4));
    // Upstream's default too, but nobody should learn it from an intruder.
    let open = "--cluster-ca-cert is not set: whoever reaches the agent port can register as an agent.";
    assert_eq!(options.warnings, [open]);
}

#[test]
fn pflags_habits() {
    let line = Line::new();
    let options = line.options(&[
        "--mode=grpc",
        "--mode",
        "http-connect",
        "--agent-port=0x1f9a",
        "-v",
        "2",
        "--delete-existing-uds-file",
        "ignored",
        "--enable-profiling=0",
        "--cipher-suites=TLS_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        "--cipher-suites",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "--lease-label=a=b,c=d",
        "--server-id=",
        "--log_file_max_size=0",
        "--backend-dial-timeout=1m0s",
        "--engine=splice",
        "--",
        "--no-flag-behind-the-dashes",
    ]);
    assert_eq!(options.mode, Mode::HttpConnect);
    assert_eq!((options.agent_port, options.log.v, options.log.file_max_size), (8090, 2, 0));
    assert!(options.delete_existing_uds_file && !options.enable_profiling);
    assert_eq!(options.cipher_suites.len(), 3);
    assert_eq!((options.lease_label.as_str(), options.server_id.as_str()), ("a=b,c=d", ""));
    assert_eq!(options.backend_dial_timeout, Some(Duration::from_secs(60)));
    assert_eq!(options.splice.engine, EngineChoice::Splice);
    assert_eq!(line.options(&["-v=6"]).log.v, 6);
    assert_eq!(line.options(&["-v7"]).log.v, 7);
}

#[test]
fn the_environment_gives_the_id_and_the_flag_wins() {
    let line = Line::new();
    let file = line.file.path().to_str().unwrap();
    let base = words(&["--uds-name=/s", "--server-port=0", "--cluster-key", file, "--cluster-cert", file]);
    let env = |name: &str| (name == "PROXY_SERVER_ID").then(|| "from-env".to_owned());
    assert_eq!(options(Options::parse(&base, env)).server_id, "from-env");
    let flagged: Vec<String> = base.into_iter().chain(words(&["--server-id=mine"])).collect();
    assert_eq!(options(Options::parse(&flagged, env)).server_id, "mine");
}

#[test]
fn help_version_and_questions_need_nothing_else() {
    for words_in in [&["--help"][..], &["-h"], &["--mode=wrong", "--help"]] {
        let Ok(Invocation::Print(text)) = Options::parse(&words(words_in), |_| None) else {
            panic!("{words_in:?}")
        };
        for flag in table::program().flags.iter().filter(|flag| !flag.hidden) {
            assert!(text.contains(&format!("--{}", flag.name)), "--{} is not in the help", flag.name);
        }
        assert!(!text.contains("warn-on-channel-limit") && text.contains("(default 8091)"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 112), "{text}");
    }
    assert!(matches!(Options::parse(&words(&["--version"]), |_| None), Ok(Invocation::Print(_))));
    assert!(
        matches!(Options::parse(&words(&["flows", "--help"]), |_| None), Ok(Invocation::Ask(args)) if args.len() == 2)
    );
}

#[test]
fn deprecated_and_powerless_flags_are_taken_with_a_warning() {
    let line = Line::new();
    let warnings = line
        .options(&["--warn-on-channel-limit=false", "--tls-min-version=VersionTLS10"])
        .warnings
        .join("\n");
    assert!(warnings.contains("--warn-on-channel-limit has been deprecated"), "{warnings}");
    assert!(warnings.contains("VersionTLS10"), "{warnings}");
}

#[test]
fn one_warning_names_what_has_no_effect() {
    let line = Line::new();
    let powerless = |args: &[&str]| {
        let told =
            line.options(args).warnings.into_iter().filter(|text| text.starts_with("Taken without effect"));
        told.collect::<Vec<_>>()
    };
    let args = [
        "--log-backtrace-at=a.go:1",
        "--enable-profiling",
        "--enable-contention-profiling",
        "--xfr-channel-size=7",
    ];
    let [told] = powerless(&args).try_into().unwrap();
    for flag in ["--log-backtrace-at", "--enable-contention-profiling", "--xfr-channel-size"] {
        assert!(told.contains(flag), "{told}");
    }
    assert!(!told.contains("--enable-profiling") && !told.contains("--kube-api-content-type"), "{told}");
    // What is so anyway is not asked for.
    assert!(powerless(&["--xfr-channel-size=10", "--log-backtrace-at="]).is_empty());
}

#[test]
fn the_manifests_flags_are_understood() {
    let text = include_str!("../../../../../deploy/server/pod.yaml");
    the_manifest_is_understood(text, |flags| Options::parse(flags, |_| None));
}

#[test]
fn pings_are_never_a_busy_loop() {
    let options = Line::new().options(&["--keepalive-time=0s", "--frontend-keepalive-time=1ms"]);
    assert_eq!(options.keepalive_time, Duration::from_secs(7200));
    assert_eq!(options.frontend_keepalive_time, Duration::from_secs(1));
}

/// Balancers come first. The default is upstream's and no wish.
#[test]
fn a_keepalive_time_that_agents_do_not_get_is_told_once() {
    let line = Line::new();
    let told = |args: &[&str]| {
        let warnings = line.options(args).warnings.into_iter();
        warnings.filter(|text| text.contains("keepalive-time")).collect::<Vec<_>>()
    };
    for (asked, shown) in [("30s", "30s"), ("5001ms", "5.001s"), ("0", "0s")] {
        let [told] = told(&[&format!("--keepalive-time={asked}")]).try_into().unwrap();
        assert!(told.starts_with(&format!("--keepalive-time={shown} is taken as 5s, ")), "{told}");
    }
    for heeded in ["--keepalive-time=5s", "--keepalive-time=1s", "--keepalive-time=1h"] {
        assert_eq!(told(&[heeded, "--frontend-keepalive-time=30s"]), [""; 0], "{heeded}");
    }
}
