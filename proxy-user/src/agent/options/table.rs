//! proxy-agent's flags, one row each.

use super::Options;
use crate::ops::flags::{Flag, OPERATE_GROUP, Program, flag, konduit_flags, log_flags};

const SERVER: &str = "Connection to the server:";
const SELF: &str = "Who this agent is:";
const COUNT: &str = "How many servers there are:";
const LISTEN: &str = "Health, metrics, profiling:";
const FLOWS: &str = "Flows:";

pub(super) fn program() -> Program<Options> {
    let mut flags = upstream();
    flags.extend(konduit_flags!());
    flags.extend([
        flag!(OPERATE_GROUP, "drain-quiet", drain_quiet,
            "After the first SIGTERM the agent goes on serving and exits when it had no flow and no dial for this long."),
        flag!(OPERATE_GROUP, "drain-timeout", drain_timeout,
            "After the first SIGTERM the agent exits at the latest after this long; 0 means no limit. Set it below \
             the pod's grace period. A second signal exits at once."),
    ]);
    flags.extend(log_flags!());
    Program {
        name: "proxy-agent",
        role: "agent",
        about: "Konduit's Konnectivity agent: connects out to the servers and dials targets for them.",
        flags,
    }
}

fn upstream() -> Vec<Flag<Options>> {
    let mut label = flag!(COUNT, "lease-label", lease_label_selector, "Old name of --lease-label-selector.");
    label.hidden = true;
    label.deprecated = Some("use --lease-label-selector instead.");
    vec![
        flag!(
            SERVER,
            "proxy-server-host",
            proxy_server_host,
            "Name or address of the server; looked up at each connect."
        ),
        flag!(SERVER, "proxy-server-port", proxy_server_port, "Its port for agents."),
        flag!(SERVER, "ca-cert", ca_cert, "CAs that the server's certificate must chain to."),
        flag!(SERVER, "agent-cert", agent_cert, "Client certificate; empty shows none."),
        flag!(SERVER, "agent-key", agent_key, "Key of that certificate."),
        flag!(
            SERVER,
            "service-account-token-path",
            service_account_token_path,
            "Service account token to show; read anew at each connect."
        ),
        flag!(
            SERVER,
            "alpn-proto",
            alpn_proto,
            "Further ALPN protocols to offer, for balancers that route by them."
        ),
        flag!(SERVER, "keepalive-time", keepalive_time, "Idle time after which the connection is pinged.")
            .none_below_zero(),
        flag!(
            SERVER,
            "sync-interval",
            sync_interval,
            "How often to look for servers that are not connected yet."
        )
        .none_below_zero(),
        flag!(
            SERVER,
            "sync-interval-cap",
            sync_interval_cap,
            "Where the growth of that interval after failures ends."
        ),
        flag!(
            SERVER,
            "probe-interval",
            probe_interval,
            "How often a connection that its server wants to end (GOAWAY) is looked at: it closes when no flow needs \
             it any more. A lost connection is noticed at once."
        )
        .none_below_zero(),
        flag!(
            SERVER,
            "sync-forever",
            sync_forever,
            "Go on looking for servers when all that are known are connected."
        ),
        flag!(
            SELF,
            "agent-id",
            agent_id,
            "Unique id of this agent; also from the environment variable PROXY_AGENT_ID, else generated."
        ),
        flag!(
            SELF,
            "agent-identifiers",
            agent_identifiers,
            "What dials this agent is for, URL encoded: host=…&ipv4=…&ipv6=…&cidr=…&default-route=true."
        ),
        flag!(COUNT, "count-server-leases", count_server_leases, "Count servers by their leases."),
        flag!(COUNT, "lease-namespace", lease_namespace, "Namespace of the leases; empty means all."),
        flag!(COUNT, "lease-label-selector", lease_label_selector, "Which leases count."),
        label,
        flag!(
            COUNT,
            "server-count-source",
            server_count_source,
            "default: from leases where they are counted, else from the servers' answers; max: the larger of both."
        ),
        flag!(COUNT, "kubeconfig", kubeconfig, "How to reach the Kubernetes API; empty means in-cluster."),
        flag!(
            COUNT,
            "kube-api-content-type",
            kube_api_content_type,
            "Accepted; Konduit speaks JSON with the Kubernetes API, which every server understands."
        )
        .powerless(),
        flag!(
            LISTEN,
            "health-server-host",
            health_server_host,
            "Address of /healthz, /readyz and /metrics; empty means all."
        ),
        flag!(LISTEN, "health-server-port", health_server_port, "Its port."),
        flag!(LISTEN, "admin-bind-address", admin_bind_address, "Address of /debug/pprof; empty means all."),
        flag!(LISTEN, "admin-server-port", admin_server_port, "Its port."),
        flag!(LISTEN, "enable-profiling", enable_profiling, "Serve /debug/pprof on the admin port."),
        flag!(
            LISTEN,
            "enable-contention-profiling",
            enable_contention_profiling,
            "Accepted with --enable-profiling; there is no contention profile, /debug/pprof/block says so."
        )
        .powerless(),
        flag!(
            FLOWS,
            "xfr-channel-size",
            xfr_channel_size,
            "Accepted; Konduit bounds queues by bytes, see --mux-flow-buffer."
        )
        .powerless(),
        flag!(
            FLOWS,
            "warn-on-channel-limit",
            warn_on_channel_limit,
            "Warn in the log, once in a while, when one flow's full queue makes the others of an upstream server wait. \
             Between Konduit's own ends none ever does."
        ),
    ]
}
