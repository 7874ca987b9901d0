//! Command lines that upstream's program was given (v0.36): what it starts with, and its words for what it refuses.

use super::Line;
use crate::ops::flags::testing::answers_as_upstream;

const STARTS: &[&str] = &[
    "--keepalive-time=-1s",
    "--keepalive-time=0",
    "--frontend-keepalive-time=-1s",
    "--agent-port=0x1f9a",
    "--agent-port=1_8091",
    "--mode=x --mode=grpc",
    "--proxy-strategies=x --proxy-strategies=default",
    "--proxy-strategies=default,,destHost",
    "--proxy-strategies=default,default",
    "--stderrthreshold=9",
    "--stderrthreshold=-1",
    "--stderrthreshold=wArNiNg",
    "--alsologtostderrthreshold=7",
    "--v=-1",
    "--vmodule=a=1,",
    "--log-backtrace-at=a.go:12",
    "--log-backtrace-at=",
    "--lease-label=a=-b",
    "--cipher-suites=",
    "--cipher-suites=\"TLS_AES_128_GCM_SHA256\"",
    "--tls-min-version=VersionTLS10",
    "--server-count=0",
    "--server-count=-1",
    "--server-count=3000000000",
    "--kubeconfig-qps=nan",
    "--kubeconfig-qps=-1",
    "--kubeconfig-burst=-1",
    "--kubeconfig-burst=3000000000",
    "--xfr-channel-size=100000",
    "--server-id=",
    "--enable-profiling=T",
    "--enable-profiling false",
    "--help=false",
    "extra args",
    "--server-bind-address=https://nonsense",
    "--health-bind-address=nonsense",
    "--admin-bind-address=nonsense",
    "--admin-port=8092",
    "--warn-on-channel-limit=false",
    "--kube-api-content-type=",
    "--kubeconfig=/",
    "--lease-namespace=",
];

const REFUSES: &[(&str, &str)] = &[
    ("--keepalive-time=", "invalid argument \"\" for \"--keepalive-time\" flag: time: invalid duration \"\""),
    (
        "--graceful-shutdown-timeout=-1m",
        "failed to validate server options with graceful-shutdown-timeout must be >= 0, got -1m0s",
    ),
    (
        "--backend-dial-timeout=-1s",
        "failed to validate server options with backend-dial-timeout must be >= 0, got -1s",
    ),
    ("--agent-port=_18091", "invalid argument \"_18091\" for \"--agent-port\" flag: "),
    ("--agent-port=1__8091", "invalid argument \"1__8091\" for \"--agent-port\" flag: "),
    ("--agent-port=", "invalid argument \"\" for \"--agent-port\" flag: "),
    ("--agent-port=x --agent-port=18091", "invalid argument \"x\" for \"--agent-port\" flag: "),
    (
        "--mode=",
        "failed to validate server options with mode must be set to either 'grpc' or 'http-connect' not \"\"",
    ),
    ("--stderrthreshold=", "invalid argument \"\" for \"--stderrthreshold\" flag: "),
    ("--stderrthreshold=0x1", "invalid argument \"0x1\" for \"--stderrthreshold\" flag: "),
    ("-v=0x4", "invalid argument \"0x4\" for \"-v, --v\" flag: "),
    ("-v", "flag needs an argument: 'v' in -v"),
    (
        "--vmodule=nonsense",
        "invalid argument \"nonsense\" for \"--vmodule\" flag: syntax error: expect comma-separated list of filename=N",
    ),
    ("--vmodule=a=-1", "invalid argument \"a=-1\" for \"--vmodule\" flag: negative value for vmodule level"),
    (
        "--log-backtrace-at=x",
        "invalid argument \"x\" for \"--log-backtrace-at\" flag: syntax error: expect file.go:234",
    ),
    (
        "--log-backtrace-at=a.go:0",
        "invalid argument \"a.go:0\" for \"--log-backtrace-at\" flag: negative or zero value for level",
    ),
    ("--log-file-max-size=-1", "invalid argument \"-1\" for \"--log-file-max-size\" flag: "),
    ("--lease-label=foo", "failed to validate server options with invalid label format: foo"),
    ("--lease-label=", "failed to validate server options with empty string provided"),
    ("--lease-label=a=b,", "failed to validate server options with invalid label format: "),
    (
        "--enable-lease-controller --lease-label=!!",
        "failed to validate server options with invalid label format: !!",
    ),
    (
        "--cipher-suites=[]",
        "failed to validate server options with cipher suite [] not supported, doesn't exist or considered as insecure",
    ),
    (
        "--cipher-suites=TLS_AES_128_GCM_SHA256,",
        "failed to validate server options with cipher suite  not supported, doesn't exist or considered as insecure",
    ),
    ("--cipher-suites=\"TLS", "invalid argument \"\\\"TLS\" for \"--cipher-suites\" flag: "),
    (
        "--tls-min-version=x",
        "failed to validate server options with unsupported TLS version \"x\", supported values are: VersionTLS10",
    ),
    (
        "--server-count=99999999999999999999",
        "invalid argument \"99999999999999999999\" for \"--server-count\" flag: ",
    ),
    ("--kubeconfig-qps=1e40", "invalid argument \"1e40\" for \"--kubeconfig-qps\" flag: "),
    ("--kubeconfig-qps=", "invalid argument \"\" for \"--kubeconfig-qps\" flag: "),
    ("--xfr-channel-size=0", "failed to validate server options with channel size 0 must be greater than 0"),
    ("--proxy-strategies=", "failed to validate server options with ProxyStrategies cannot be empty"),
    (
        "--proxy-strategies=,",
        "failed to validate server options with invalid proxy strategies: proxy strategies cannot be empty",
    ),
    ("--enable-profiling=", "invalid argument \"\" for \"--enable-profiling\" flag: "),
    ("--help=x", "invalid argument \"x\" for \"-h, --help\" flag: "),
    ("--frob", "unknown flag: --frob"),
    ("-frob", "unknown shorthand flag: 'f' in -frob"),
    ("--=x", "bad flag syntax: --=x"),
    ("---x", "bad flag syntax: ---x"),
    ("--server-id", "flag needs an argument: --server-id"),
    ("--warn-on-channel-limit=x", "invalid argument \"x\" for \"--warn-on-channel-limit\" flag: "),
    (
        "--kubeconfig=/none",
        "failed to validate server options with checking KubeconfigPath \"/none\", got stat /none: no such file",
    ),
    (
        "--uds-name= --server-port=8090",
        "failed to validate server options with 2 mistakes:\n  server ca cert must be set when in TCP mode",
    ),
];

#[test]
fn where_upstream_starts_so_does_this_and_what_it_refuses_is_refused() {
    let line = Line::new();
    answers_as_upstream(STARTS, REFUSES, |args| line.parse(args));
}

/// Taken as upstream takes it, and it says so: nothing comes of it there.
#[test]
fn what_can_mean_nothing_starts_with_a_warning() {
    let line = Line::new();
    for (args, words) in [
        (&["--keepalive-time=-1s"][..], "--keepalive-time=-1s is less than no time, and taken as 0s"),
        (&["--frontend-keepalive-time=-1s"], "--frontend-keepalive-time=-1s is less than no time"),
        (&["--server-count=0"], "--server-count=0 is no count of servers"),
        (&["--server-count=-1"], "--server-count=-1 is no count of servers"),
        (&["--enable-lease-controller", "--lease-label=a=-b"], "\"-b\" is no label value"),
        (&["--enable-lease-controller", "--lease-label=k8s app=c"], "\"k8s app\" is no label key"),
    ] {
        let told = line.options(args).warnings;
        assert!(told.iter().any(|told| told.contains(words)), "{args:?}: {told:?}");
    }
}
