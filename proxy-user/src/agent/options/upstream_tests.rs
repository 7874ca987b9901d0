//! Command lines that upstream's program was given (v0.36): what it starts with, and its words for what it refuses.

use super::tests::Line;
use crate::ops::flags::testing::answers_as_upstream;

const STARTS: &[&str] = &[
    "--keepalive-time=-1s",
    "--probe-interval=-1s",
    "--probe-interval=0",
    "--probe-interval=5.s",
    "--sync-interval=-1s",
    "--sync-interval=0 --sync-interval-cap=0",
    "--proxy-server-port=70000",
    "--health-server-port=70000",
    "--admin-server-port=99999999999",
    "--proxy-server-host=",
    "--proxy-server-host=[::1]",
    "--proxy-server-host=::1",
    "--alpn-proto=[]",
    "--alpn-proto=",
    "--alpn-proto=\"a,b\",c",
    "--agent-id=",
    "--agent-identifiers=",
    "--lease-label=foo",
    "--lease-label-selector=",
    "--server-count-source=",
    "--server-count-source=x --server-count-source=max",
    "--service-account-token-path=/",
    "--health-server-host=nonsense",
    "--admin-bind-address=nonsense",
    "--warn-on-channel-limit",
    "--xfr-channel-size=5000000000",
];

const REFUSES: &[(&str, &str)] = &[
    (
        "--sync-interval=-1s --sync-interval-cap=-2s",
        "failed to validate agent options with sync-interval-cap must be >= 0, got -2s",
    ),
    (
        "--sync-interval=20s",
        "failed to validate agent options with sync interval 20s must be less than sync interval cap 10s",
    ),
    (
        "--proxy-server-port=-1",
        "failed to validate agent options with proxy server port -1 must be greater than 0",
    ),
    (
        "--proxy-server-port=0",
        "failed to validate agent options with proxy server port 0 must be greater than 0",
    ),
    ("--alpn-proto=a\"b", "invalid argument \"a\\\"b\" for \"--alpn-proto\" flag: "),
    ("--alpn-proto=\"a", "invalid argument \"\\\"a\" for \"--alpn-proto\" flag: "),
    ("--lease-label=!!", "invalid argument \"!!\" for \"--lease-label\" flag: "),
    ("--lease-label-selector=!!", "invalid argument \"!!\" for \"--lease-label-selector\" flag: "),
    ("--lease-label=!! --lease-label=a", "invalid argument \"!!\" for \"--lease-label\" flag: "),
    (
        "--server-count-source=min",
        "failed to validate agent options with --server-count-source must be one of '', 'default', 'max', got min",
    ),
    ("--xfr-channel-size=-3", "failed to validate agent options with channel size -3 must be greater than 0"),
    (
        "--enable-contention-profiling",
        "failed to validate agent options with if --enable-contention-profiling is set, --enable-profiling must also",
    ),
    ("--probe-interval=1", "invalid argument \"1\" for \"--probe-interval\" flag: time: missing unit in"),
    (
        "--probe-interval=1e3s",
        "invalid argument \"1e3s\" for \"--probe-interval\" flag: time: unknown unit \"e\"",
    ),
    (
        "--probe-interval=9999999999h",
        "invalid argument \"9999999999h\" for \"--probe-interval\" flag: time: inv",
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
        ("--keepalive-time=-1s", "--keepalive-time=-1s is less than no time, and taken as 0s"),
        ("--probe-interval=-1m", "--probe-interval=-1m is less than no time"),
        ("--sync-interval=-1s", "--sync-interval=-1s is less than no time"),
        (
            "--proxy-server-port=70000",
            "--proxy-server-port=70000 is no port, which is 65535 at the most: no server",
        ),
        ("--health-server-port=70000", "--health-server-port=70000 is no port"),
        ("--admin-server-port=70000", "--admin-server-port=70000 is no port"),
        ("--proxy-server-host=", "--proxy-server-host is empty, and taken as localhost"),
    ] {
        let [told] = &line.options(&[args]).warnings[..] else { panic!("{args}: not one sentence") };
        assert!(told.contains(words), "{args}: {told}");
    }
    assert_eq!(line.options(&["--proxy-server-host="]).proxy_server_host, "localhost");
}
