//! Command lines that are refused.

use super::Line;

#[test]
fn one_mistake_is_told_in_upstreams_words() {
    let line = Line::new();
    let file = line.file.path().to_str().unwrap();
    for (more, gist) in [
        (&["--mode=x"][..], "mode must be set to either 'grpc' or 'http-connect' not \"x\""),
        (&["--server-port=8090"], "server port should be set to 0 not 8090 for UDS"),
        (&["--agent-port=49152"], "please do not try to use ephemeral port 49152 for the agent port"),
        (&["--admin-port=1023"], "please do not try to use reserved port 1023 for the admin port"),
        (&["--health-port=70000"], "--health-port"),
        (
            &["--server-ca-cert=/none"],
            "error checking server CA cert /none, got stat /none: no such file or directory",
        ),
        (
            &["--enable-contention-profiling"],
            "if --enable-contention-profiling is set, --enable-profiling must also be set",
        ),
        (
            &["--server-key=/none"],
            "error checking server key /none, got stat /none: no such file or directory",
        ),
        (
            &["--server-cert=/none"],
            "error checking server cert /none, got stat /none: no such file or directory",
        ),
        (
            &["--cluster-key=/none"],
            "error checking cluster key /none, got stat /none: no such file or directory",
        ),
        (
            &["--cluster-cert=/none"],
            "error checking cluster cert /none, got stat /none: no such file or directory",
        ),
        (
            &["--cluster-ca-cert=/none"],
            "error checking cluster CA cert /none, got stat /none: no such file or directory",
        ),
        (&["--server-key", file], "server key should not be set for UDS"),
        (&["--server-cert", file], "server cert should not be set for UDS"),
        (&["--server-ca-cert", file], "server ca cert should not be set for UDS"),
        (&["--enable-lease-controller", "--lease-label="], "empty string provided: write at least one"),
        (&["--enable-lease-controller", "--lease-label=a"], "\"a\" is no key=value; write"),
        (
            &["--enable-lease-controller", "--lease-label=a=b,"],
            "invalid label format: a=b,: \"\" is no key=value; write",
        ),
        (&["--enable-lease-controller", "--lease-label=a=b=c"], "invalid label format: a=b=c: "),
        (
            &["--uds-name=", "--server-port=8090", "--server-bind-address=[::1"],
            "address \"[::1\" has one bracket of two: write",
        ),
        (&["--agent-bind-address=::1]"], "address \"::1]\" has one bracket of two: write"),
        (&["--agent-bind-address=0.0.0.0:8091"], "has a port: write 0.0.0.0 alone"),
        (&["--lane-ping=0"], "lane ping must be greater than 0"),
        (&["--proxy-strategies="], "ProxyStrategies cannot be empty"),
        (&["--proxy-strategies=,"], "invalid proxy strategies: proxy strategies cannot be empty"),
        (&["--proxy-strategies=default,x"], "invalid proxy strategies: unknown proxy strategy: x"),
        (&["--xfr-channel-size=0"], "channel size 0 must be greater than 0"),
        (
            &["--tls-min-version=TLS1"],
            "unsupported TLS version \"TLS1\", supported values are: VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13",
        ),
        (
            &["--cipher-suites=TLS_RSA_WITH_RC4_128_SHA"],
            "cipher suite TLS_RSA_WITH_RC4_128_SHA not supported, doesn't exist or considered as insecure",
        ),
        (&["--graceful-shutdown-timeout=-1s"], "must be >= 0, got -1s"),
        (&["--backend-dial-timeout=-1s"], "must be >= 0, got -1s"),
        (
            &["--kubeconfig=/none"],
            "checking KubeconfigPath \"/none\", got stat /none: no such file or directory",
        ),
        (&["--server-id=a\nb"], "server ID \"a\\nb\" fits into no header"),
        (&["--sevrer-id=x"], "unknown flag: --sevrer-id; did you mean --server-id?"),
        (&["-mode=grpc"], "long flags take two dashes"),
        (&["--server-id"], "flag needs an argument: --server-id"),
        (&["--=x"], "bad flag syntax: --=x"),
        (&["--lane-security=inner-tls"], "'encrypt' or 'raw'"),
    ] {
        let found = line.mistakes(more);
        assert!(found.iter().any(|mistake| mistake.contains(gist)), "{gist:?} is not in {found:?}");
        assert!(found.iter().all(|mistake| mistake.contains("-")), "{found:?}");
    }
}

/// As upstream, which serves without its lease then.
#[test]
fn a_server_without_a_lease_it_should_have_says_why() {
    for (more, gist) in [
        ("--lease-namespace=", "no namespace is named \"\", so there will be no lease"),
        ("--lease-namespace=A_b", "no namespace is named \"A_b\""),
        ("--server-id=Master_1", "no lease can be named \"konnectivity-proxy-server-Master_1\", so agents"),
        ("--server-id=", "'-' and single dots, 227 at the most"),
        ("--server-id=master-1.example", ""),
        ("--lease-namespace=kube-node-lease", ""),
    ] {
        let told = |line: &[&str]| Line::new().options(line).warnings;
        let (without, with) = (told(&[more]), told(&[more, "--enable-lease-controller"]));
        assert_eq!(without.len() + usize::from(!gist.is_empty()), with.len(), "{with:?}");
        assert!(with.iter().any(|warning| warning.contains(gist)) || gist.is_empty(), "{with:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let error = Line::new().parse(&["--mode=x", "--agent-port=1", "--frobnicate"]).unwrap_err();
    assert_eq!(error.mistakes.len(), 3, "{error}");
    let text = error.to_string();
    // As upstream, which validates what it could read alone.
    assert!(text.starts_with("3 mistakes on the command line:\n  "), "{text}");
    for flag in ["--mode", "--agent-port", "--frobnicate"] {
        assert!(text.contains(flag), "{text}");
    }
}

#[test]
fn agent_authentication_must_be_whole_and_is_never_ignored() {
    let line = Line::new();
    let found = line.mistakes(&["--agent-namespace=kube-system"]).join("\n");
    for gist in [
        "--agent-service-account cannot be empty when agent authentication is enabled",
        "--authentication-audience cannot be empty when agent authentication is enabled",
    ] {
        assert!(found.contains(gist), "{found}");
    }
    let file = line.file.path().to_str().unwrap();
    let found = line.mistakes(&["--agent-namespace=a", "--cluster-ca-cert", file]).join("\n");
    assert!(
        found.contains("--cluster-ca-cert can not be used when agent authentication is enabled"),
        "{found}"
    );
}

#[test]
fn a_tcp_frontend_needs_its_certificates() {
    let line = Line::new();
    let file = line.file.path().to_str().unwrap();
    let found = line.mistakes(&["--uds-name=", "--server-port=8090"]).join("\n");
    assert!(found.contains("server ca cert must be set when in TCP mode (uds-name is empty)"), "{found}");
    let found = line.mistakes(&["--server-key", file, "--cluster-key="]).join("\n");
    assert!(
        found.contains(&format!("cannot have server cert empty when server key is set to {file:?}")),
        "{found}"
    );
    assert!(
        found.contains(&format!("cannot have cluster key empty when cluster cert is set to {file:?}")),
        "{found}"
    );
    assert!(found.contains("server key should not be set for UDS"), "{found}");
    let all = [
        "--uds-name=",
        "--server-port=8090",
        "--server-cert",
        file,
        "--server-key",
        file,
        "--server-ca-cert",
        file,
    ];
    assert_eq!(line.options(&all).server_port, 8090);
}
