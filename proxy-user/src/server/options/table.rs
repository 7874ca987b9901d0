//! proxy-server's flags, one row each.

use super::Options;
use crate::ops::flags::{Flag, Program, flag, konduit_flags, log_flags};

const FRONTEND: &str = "Frontend (how the API server reaches this server):";
const AGENTS: &str = "Agents (how agents reach this server):";
const CLUSTER: &str = "Kubernetes API (agent tokens, leases):";
const TLS: &str = "TLS of every listener:";
const LISTEN: &str = "Health, metrics, profiling:";
const FLOWS: &str = "Dials and flows:";

pub(super) fn program() -> Program<Options> {
    let mut flags = upstream();
    flags.extend(konduit_flags!());
    flags.extend(log_flags!());
    Program {
        name: "proxy-server",
        role: "server",
        about: "Konduit's Konnectivity server: takes the API server's connections and hands them to agents.",
        flags,
    }
}

fn upstream() -> Vec<Flag<Options>> {
    let mut warn = flag!(FLOWS, "warn-on-channel-limit", warn_on_channel_limit, "Without effect.");
    warn.hidden = true;
    warn.deprecated = Some("it has no effect.");
    vec![
        flag!(FRONTEND, "mode", mode, "Protocol of the frontend: grpc or http-connect."),
        flag!(FRONTEND, "uds-name", uds_name, "Serve the frontend on this Unix socket; empty means TCP."),
        flag!(
            FRONTEND,
            "delete-existing-uds-file",
            delete_existing_uds_file,
            "Replace a socket that already has the name; any other file there is left alone, and refused."
        ),
        flag!(FRONTEND, "server-port", server_port, "TCP port of the frontend; 0 with --uds-name."),
        flag!(
            FRONTEND,
            "server-bind-address",
            server_bind_address,
            "Address of the frontend; empty means all."
        ),
        flag!(FRONTEND, "server-cert", server_cert, "Certificate of the TCP frontend."),
        flag!(FRONTEND, "server-key", server_key, "Key of the TCP frontend."),
        flag!(
            FRONTEND,
            "server-ca-cert",
            server_ca_cert,
            "CAs that the API server's client certificate must chain to; needed without --uds-name."
        ),
        flag!(
            FRONTEND,
            "frontend-keepalive-time",
            frontend_keepalive_time,
            "Idle time after which a gRPC frontend connection is pinged."
        )
        .none_below_zero(),
        flag!(AGENTS, "agent-port", agent_port, "TCP port for agents."),
        flag!(AGENTS, "agent-bind-address", agent_bind_address, "Address for agents; empty means all."),
        flag!(AGENTS, "cluster-cert", cluster_cert, "Certificate shown to agents."),
        flag!(AGENTS, "cluster-key", cluster_key, "Key of that certificate."),
        flag!(
            AGENTS,
            "cluster-ca-cert",
            cluster_ca_cert,
            "CAs that an agent's client certificate must chain to; empty asks for none."
        ),
        flag!(
            AGENTS,
            "keepalive-time",
            keepalive_time,
            "Idle time after which an agent's connection is pinged: 5s at the most, before a balancer forgets it."
        )
        .none_below_zero(),
        flag!(
            AGENTS,
            "server-id",
            server_id,
            "Unique id of this server; also from the environment variable PROXY_SERVER_ID, else generated."
        ),
        flag!(AGENTS, "server-count", server_count, "How many servers there are; told to agents."),
        flag!(CLUSTER, "agent-namespace", agent_namespace, "Namespace that an agent's token must be of."),
        flag!(
            CLUSTER,
            "agent-service-account",
            agent_service_account,
            "Service account that an agent's token must be of."
        ),
        flag!(CLUSTER, "authentication-audience", authentication_audience, "Audience of an agent's token."),
        flag!(CLUSTER, "kubeconfig", kubeconfig, "How to reach the Kubernetes API; empty means in-cluster."),
        flag!(
            CLUSTER,
            "kubeconfig-qps",
            kubeconfig_qps,
            "Most requests per second to the Kubernetes API; 0 means 5."
        ),
        flag!(
            CLUSTER,
            "kubeconfig-burst",
            kubeconfig_burst,
            "Most requests at once to the Kubernetes API; 0 means 10."
        ),
        flag!(
            CLUSTER,
            "kube-api-content-type",
            kube_api_content_type,
            "Accepted; Konduit speaks JSON with the Kubernetes API, which every server understands."
        )
        .powerless(),
        flag!(
            CLUSTER,
            "enable-lease-controller",
            enable_lease_controller,
            "Publish a lease for this server and collect expired ones, so that agents can count servers."
        ),
        flag!(CLUSTER, "lease-namespace", lease_namespace, "Namespace of the leases."),
        flag!(CLUSTER, "lease-label", lease_label, "Labels of the leases, as key=value separated by commas."),
        flag!(
            TLS,
            "tls-min-version",
            tls_min_version,
            "VersionTLS10 to VersionTLS13; empty and anything below VersionTLS12 mean VersionTLS12."
        ),
        flag!(
            TLS,
            "cipher-suites",
            cipher_suites,
            "Cipher suites for TLS 1.2, by Go's names, separated by commas; empty means all safe ones."
        ),
        flag!(LISTEN, "health-port", health_port, "Port of /healthz, /readyz and /metrics."),
        flag!(LISTEN, "health-bind-address", health_bind_address, "Its address; empty means all."),
        flag!(LISTEN, "admin-port", admin_port, "Port of /metrics and /debug/pprof."),
        flag!(LISTEN, "admin-bind-address", admin_bind_address, "Its address; empty means all."),
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
            "proxy-strategies",
            proxy_strategies,
            "How an agent is chosen, in order, separated by commas: default, destHost, defaultRoute, and Konduit's own \
             nodeLocal: an address of a node or of its pods, by Node objects where the Kubernetes API can be asked \
             and as agents name them (ipv4=, ipv6=, host=, cidr=), is served by an agent of that node or refused; \
             other addresses go to the next strategy."
        ),
        flag!(
            FLOWS,
            "backend-dial-timeout",
            backend_dial_timeout,
            "How long a dial may take, from its agent being picked to its answer; 0 means no limit."
        ),
        flag!(
            FLOWS,
            "graceful-shutdown-timeout",
            graceful_shutdown_timeout,
            "How long established flows may go on after the first signal; 0 ends them at once."
        ),
        flag!(
            FLOWS,
            "xfr-channel-size",
            xfr_channel_size,
            "Accepted; Konduit bounds queues by bytes, see --mux-flow-buffer."
        )
        .powerless(),
        warn,
    ]
}
