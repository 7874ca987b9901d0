//! What a proxy-server is told on its command line.

mod table;
mod validate;

use std::time::Duration;

use crate::ops::flags::{
    EngineOptions, Invocation, LaneOptions, LogOptions, MuxOptions, OptionsError, Parsed, Refusal, Value,
    choice, parse,
};
use crate::ops::version;
use crate::server::frontend::connect::HEAD_TIMEOUT;

/// The protocol that the API server speaks to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    Grpc,
    HttpConnect,
}
choice!(Mode, "mode", "mode must be set to either 'grpc' or 'http-connect' not {:?}", {
    "grpc" => Mode::Grpc,
    "http-connect" => Mode::HttpConnect,
});

/// One way to choose an agent for a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    Default,
    DestHost,
    DefaultRoute,
    /// Ours.
    NodeLocal,
}

impl Strategy {
    /// The flag's and the metric's spelling.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Default => "default",
            Strategy::DestHost => "destHost",
            Strategy::DefaultRoute => "defaultRoute",
            Strategy::NodeLocal => "nodeLocal",
        }
    }
}

/// The strategies, in the order in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strategies(pub Vec<Strategy>);

impl Value for Strategies {
    fn kind(&self) -> &'static str {
        "string"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        if text.is_empty() {
            return Err(Refusal::Invalid("ProxyStrategies cannot be empty".to_owned()));
        }
        let known = [Strategy::Default, Strategy::DestHost, Strategy::DefaultRoute, Strategy::NodeLocal];
        let names = text.split(',').filter(|name| !name.is_empty());
        let found: Result<Vec<_>, _> = names
            .map(|name| known.into_iter().find(|strategy| strategy.name() == name).ok_or(name))
            .collect();
        match found {
            Ok(list) if list.is_empty() => {
                let why = "invalid proxy strategies: proxy strategies cannot be empty";
                Err(Refusal::Invalid(why.to_owned()))
            }
            Ok(list) => {
                self.0 = list;
                Ok(())
            }
            Err(name) => {
                Err(Refusal::Invalid(format!("invalid proxy strategies: unknown proxy strategy: {name}")))
            }
        }
    }

    fn show(&self) -> String {
        format!("{:?}", self.0.iter().map(|strategy| strategy.name()).collect::<Vec<_>>().join(","))
    }
}

/// Upstream's flags, then ours. Empty strings mean "not given", as upstream has it.
#[derive(Debug, Clone)]
pub struct Options {
    pub server_cert: String,
    pub server_key: String,
    pub server_ca_cert: String,
    pub cluster_cert: String,
    pub cluster_key: String,
    pub cluster_ca_cert: String,
    pub mode: Mode,
    /// The frontend's Unix socket; empty = TCP on `server_port`.
    pub uds_name: String,
    pub delete_existing_uds_file: bool,
    pub server_port: u16,
    pub server_bind_address: String,
    pub agent_port: u16,
    pub agent_bind_address: String,
    pub admin_port: u16,
    /// Empty = all interfaces.
    pub admin_bind_address: String,
    pub health_port: u16,
    pub health_bind_address: String,
    pub keepalive_time: Duration,
    pub frontend_keepalive_time: Duration,
    pub enable_profiling: bool,
    pub enable_contention_profiling: bool,
    pub server_id: String,
    pub server_count: i64,
    pub agent_namespace: String,
    pub agent_service_account: String,
    pub authentication_audience: String,
    pub kubeconfig: String,
    pub kubeconfig_qps: f32,
    pub kubeconfig_burst: i64,
    pub kube_api_content_type: String,
    pub proxy_strategies: Strategies,
    pub xfr_channel_size: i64,
    pub cipher_suites: Vec<String>,
    /// Go's names; [`crate::net::cipher::TlsPolicy`] understands them.
    pub tls_min_version: String,
    pub enable_lease_controller: bool,
    pub lease_namespace: String,
    pub lease_label: String,
    /// Zero = upstream's abrupt stop.
    pub graceful_shutdown_timeout: Duration,
    pub backend_dial_timeout: Option<Duration>,
    pub warn_on_channel_limit: bool,
    /// Not a flag: how long an http-connect client may take for its request head.
    pub head_timeout: Duration,

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
            server_cert: String::new(),
            server_key: String::new(),
            server_ca_cert: String::new(),
            cluster_cert: String::new(),
            cluster_key: String::new(),
            cluster_ca_cert: String::new(),
            mode: Mode::Grpc,
            uds_name: String::new(),
            delete_existing_uds_file: true,
            server_port: 8090,
            server_bind_address: String::new(),
            agent_port: 8091,
            agent_bind_address: String::new(),
            admin_port: 8095,
            admin_bind_address: "127.0.0.1".to_owned(),
            health_port: 8092,
            health_bind_address: String::new(),
            keepalive_time: Duration::from_secs(3600),
            frontend_keepalive_time: Duration::from_secs(3600),
            enable_profiling: false,
            enable_contention_profiling: false,
            server_id: uuid::Uuid::new_v4().to_string(),
            server_count: 1,
            agent_namespace: String::new(),
            agent_service_account: String::new(),
            authentication_audience: String::new(),
            kubeconfig: String::new(),
            kubeconfig_qps: 0.0,
            kubeconfig_burst: 0,
            kube_api_content_type: "application/vnd.kubernetes.protobuf".to_owned(),
            proxy_strategies: Strategies(vec![Strategy::Default]),
            xfr_channel_size: 10,
            cipher_suites: Vec::new(),
            tls_min_version: String::new(),
            enable_lease_controller: false,
            lease_namespace: "kube-system".to_owned(),
            lease_label: "k8s-app=konnectivity-server".to_owned(),
            graceful_shutdown_timeout: Duration::ZERO,
            backend_dial_timeout: None,
            warn_on_channel_limit: true,
            head_timeout: HEAD_TIMEOUT,
            lanes: LaneOptions::default(),
            splice: EngineOptions::default(),
            mux: MuxOptions::default(),
            operator_socket: "/run/konduit/proxy-server.sock".to_owned(),
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
        if let Some(id) = env("PROXY_SERVER_ID").filter(|id| !id.is_empty()) {
            options.server_id = id;
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
