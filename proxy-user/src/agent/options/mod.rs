//! What a proxy-agent is told on its command line.

mod table;
mod validate;

use std::time::Duration;

use crate::agent::control::HELLO;
use crate::kube::selector;
use crate::ops::flags::{
    EngineOptions, Invocation, LaneOptions, LogOptions, MuxOptions, OptionsError, Parsed, Port, checked,
    choice, parse,
};
use crate::ops::version;

/// How the counts of servers from leases and from server responses are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerCountSource {
    #[default]
    Default,
    Max,
}
choice!(ServerCountSource, "source", "--server-count-source must be one of '', 'default', 'max', got {}", {
    "default" => ServerCountSource::Default,
    "max" => ServerCountSource::Max,
    "" => ServerCountSource::Default,
});

checked!(
    /// `--lease-label-selector`.
    Selector, selector::check
);

/// Upstream's flags, then ours. Empty strings mean "not given", as upstream has it.
#[derive(Debug, Clone)]
pub struct Options {
    pub agent_cert: String,
    pub agent_key: String,
    pub ca_cert: String,
    pub proxy_server_host: String,
    pub proxy_server_port: Port,
    pub alpn_proto: Vec<String>,
    /// Empty = all interfaces.
    pub health_server_host: String,
    pub health_server_port: Port,
    /// Empty = all interfaces.
    pub admin_bind_address: String,
    pub admin_server_port: Port,
    pub enable_profiling: bool,
    pub enable_contention_profiling: bool,
    pub agent_id: String,
    /// URL query text, as it goes into the metadata.
    pub agent_identifiers: String,
    pub sync_interval: Duration,
    pub sync_interval_cap: Duration,
    pub probe_interval: Duration,
    pub keepalive_time: Duration,
    pub service_account_token_path: String,
    pub warn_on_channel_limit: bool,
    pub sync_forever: bool,
    pub xfr_channel_size: i64,
    pub count_server_leases: bool,
    pub lease_namespace: String,
    pub lease_label_selector: Selector,
    pub server_count_source: ServerCountSource,
    pub kubeconfig: String,
    pub kube_api_content_type: String,
    /// Not a flag: how long a server may take to answer a new control stream.
    pub hello_timeout: Duration,

    /// After the first signal: exit when there was no flow and no dial for this long.
    pub drain_quiet: Duration,
    /// After the first signal: exit at the latest after this long.
    pub drain_timeout: Option<Duration>,
    pub lanes: LaneOptions,
    pub splice: EngineOptions,
    pub mux: MuxOptions,
    /// Empty = off.
    pub operator_socket: String,
    /// Empty = none.
    pub live_settings: String,
    pub log: LogOptions,
    /// Sentences for the log at start: deprecated flags, flags without effect.
    pub warnings: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            agent_cert: String::new(),
            agent_key: String::new(),
            ca_cert: String::new(),
            proxy_server_host: "127.0.0.1".to_owned(),
            proxy_server_port: Port(8091),
            alpn_proto: Vec::new(),
            health_server_host: String::new(),
            health_server_port: Port(8093),
            admin_bind_address: "127.0.0.1".to_owned(),
            admin_server_port: Port(8094),
            enable_profiling: false,
            enable_contention_profiling: false,
            agent_id: uuid::Uuid::new_v4().to_string(),
            agent_identifiers: String::new(),
            sync_interval: Duration::from_secs(1),
            sync_interval_cap: Duration::from_secs(10),
            probe_interval: Duration::from_secs(1),
            keepalive_time: Duration::from_secs(3600),
            service_account_token_path: String::new(),
            warn_on_channel_limit: false,
            sync_forever: false,
            xfr_channel_size: 150,
            count_server_leases: false,
            lease_namespace: "kube-system".to_owned(),
            lease_label_selector: Selector("k8s-app=konnectivity-server".to_owned()),
            server_count_source: ServerCountSource::Default,
            kubeconfig: String::new(),
            kube_api_content_type: "application/vnd.kubernetes.protobuf".to_owned(),
            hello_timeout: HELLO,
            drain_quiet: Duration::from_secs(10),
            drain_timeout: None,
            lanes: LaneOptions::default(),
            splice: EngineOptions::default(),
            mux: MuxOptions::default(),
            operator_socket: "/run/konduit/proxy-agent.sock".to_owned(),
            live_settings: String::new(),
            log: LogOptions::default(),
            warnings: Vec::new(),
        }
    }
}

impl Options {
    /// Reads the arguments after the binary's name; `env` looks up an environment variable.
    pub fn parse(
        args: &[String],
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Invocation<Options>, OptionsError> {
        if matches!(args.first().map(String::as_str), Some("flows" | "doctor" | "set")) {
            return Ok(Invocation::Ask(args.to_vec()));
        }
        let mut options = Options::default();
        if let Some(id) = env("PROXY_AGENT_ID").filter(|id| !id.is_empty()) {
            options.agent_id = id;
        }
        let program = table::program();
        match parse(&program, &mut options, args, &version::text(program.name)) {
            Parsed::Print(text) => Ok(Invocation::Print(text)),
            Parsed::Flags { mistakes, warnings } => {
                options.warnings = warnings;
                let found = validate::finish(&mut options);
                mistakes.and(found, &program)?;
                Ok(Invocation::Run(Box::new(options)))
            }
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod upstream_tests;
