//! Our own two hops: `proxy-server` and `proxy-agent` as processes, over loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;

use crate::certs::Certs;
use crate::child::Child;
use crate::link::{self, Link};
use crate::{ports, scrape};

/// What flows travel on between server and agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lanes {
    Raw,
    Encrypt,
    /// Clear lanes, or packets where dials come faster than lanes are worth opening.
    Auto,
    /// Lanes off: packets on the control stream.
    Mux,
}

impl Lanes {
    /// The path label that flows must be counted under, where it is not the server's choice.
    pub fn path(self) -> Option<&'static str> {
        match self {
            Lanes::Raw => Some("lane-raw"),
            Lanes::Encrypt => Some("lane-encrypt"),
            Lanes::Auto => None,
            Lanes::Mux => Some("mux"),
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Lanes::Raw => &["--lanes=always", "--lane-security=raw"],
            Lanes::Encrypt => &["--lanes=always", "--lane-security=encrypt"],
            Lanes::Auto => &["--lanes=auto", "--lane-security=raw"],
            Lanes::Mux => &["--lanes=off"],
        }
    }
}

/// The protocol of the frontend's Unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frontend {
    Connect,
    Grpc,
}

#[derive(Debug, Clone)]
pub struct Settings {
    /// Where proxy-server and proxy-agent are.
    pub binaries: PathBuf,
    pub lanes: Lanes,
    pub frontend: Frontend,
    /// More flags, for both.
    pub both: Vec<String>,
    pub agent: Vec<String>,
}

/// The directory of this build's own binaries, made up to date once.
pub fn binaries() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

/// A test runs from `target/<profile>/deps/`, or from `target/<profile>/` as a tool.
fn build() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let parents = own.ancestors().skip(1);
    let directory =
        parents.take(2).find(|path| !path.ends_with("deps")).context("where are the binaries?")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).args([
        "build",
        "--quiet",
        "-p",
        "proxy-user",
    ]);
    cargo.args(["--bins", "--target-dir"]).arg(directory.parent().context("no target directory")?);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.output().context("running cargo")?;
    anyhow::ensure!(built.status.success(), "building: {}", String::from_utf8_lossy(&built.stderr));
    Ok(directory.to_owned())
}

/// A running pair.
pub struct Konduit {
    pub socket: PathBuf,
    pub server_pages: SocketAddr,
    pub agent_pages: SocketAddr,
    pub server_admin: SocketAddr,
    pub agent_admin: SocketAddr,
    pub server_operator: PathBuf,
    pub agent_operator: PathBuf,
    pub server: Child,
    pub agent: Child,
}

impl Konduit {
    /// Starts both and waits until the server has its agent. With a link the agent is on its far side, and the
    /// caller, with the server, on the near one.
    pub fn start(directory: &Path, settings: &Settings, link: Option<&Link>) -> anyhow::Result<Konduit> {
        let [near, far] = match link {
            Some(_) => [link::NEAR, link::FAR],
            None => [Ipv4Addr::LOCALHOST; 2],
        };
        let certs = Certs::new(directory, "konduit")?;
        let cluster = certs.server("cluster", &[&near.to_string(), "localhost"])?;
        let client = certs.client("agent", "system:konnectivity-agent", None)?;
        let [agent_port, server_health, server_admin, agent_health, agent_admin] = ports::free()?;
        let socket = directory.join("konnectivity.socket");
        let server_operator = directory.join("server-operator.socket");
        let agent_operator = directory.join("agent-operator.socket");
        let frontend = match settings.frontend {
            Frontend::Connect => "http-connect",
            Frontend::Grpc => "grpc",
        };
        let mut server = command(settings, "proxy-server");
        server.args([
            format!("--mode={frontend}"),
            format!("--uds-name={}", socket.display()),
            "--delete-existing-uds-file".to_owned(),
            "--server-port=0".to_owned(),
            "--server-id=bench".to_owned(),
            format!("--agent-bind-address={near}"),
            format!("--agent-port={agent_port}"),
            format!("--cluster-cert={}", cluster.cert.display()),
            format!("--cluster-key={}", cluster.key.display()),
            format!("--cluster-ca-cert={}", certs.ca().display()),
            format!("--health-port={server_health}"),
            format!("--admin-port={server_admin}"),
            format!("--operator-socket={}", server_operator.display()),
        ]);
        let mut server = Child::start("server", directory, &mut server)?;
        if ports::wait_unix(&socket, Duration::from_secs(60)).is_err() {
            server.check()?;
            anyhow::bail!("proxy-server does not listen at {}:\n{}", socket.display(), server.last_words());
        }
        let mut agent = command(settings, "proxy-agent");
        agent.args(&settings.agent).args([
            format!("--proxy-server-host={near}"),
            format!("--proxy-server-port={agent_port}"),
            format!("--ca-cert={}", certs.ca().display()),
            format!("--agent-cert={}", client.cert.display()),
            format!("--agent-key={}", client.key.display()),
            "--agent-id=bench".to_owned(),
            format!("--health-server-host={far}"),
            format!("--health-server-port={agent_health}"),
            format!("--admin-server-port={agent_admin}"),
            format!("--operator-socket={}", agent_operator.display()),
        ]);
        let agent = link::on_far_side(link, || Child::start("agent", directory, &mut agent))?;
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut pair = Konduit {
            socket,
            server_pages: local(server_health),
            agent_pages: SocketAddr::from((far, agent_health)),
            server_admin: local(server_admin),
            agent_admin: local(agent_admin),
            server_operator,
            agent_operator,
            server,
            agent,
        };
        pair.wait_ready()?;
        Ok(pair)
    }

    pub fn pids(&self) -> Vec<u32> {
        vec![self.server.pid(), self.agent.pid()]
    }

    /// An error when one of the two has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        self.server.check().and(self.agent.check())
    }

    fn wait_ready(&mut self) -> anyhow::Result<()> {
        let pages = self.server_pages;
        let ready = || scrape::http_get(pages, "/readyz").is_ok();
        if let Err(error) = ports::wait(Duration::from_secs(60), "an agent at the server", ready) {
            self.check()?;
            return Err(error).with_context(|| {
                format!("server:\n{}\nagent:\n{}", self.server.last_words(), self.agent.last_words())
            });
        }
        Ok(())
    }
}

fn command(settings: &Settings, name: &str) -> Command {
    let mut command = Command::new(settings.binaries.join(name));
    command.args(settings.lanes.flags()).args(&settings.both);
    command
}
