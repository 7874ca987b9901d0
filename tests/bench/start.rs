//! Starts routes by their names.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use proxy_tests::haproxy::{Haproxy, Splicing};
use proxy_tests::konduit::{Frontend, Konduit, Lanes, Settings};
use proxy_tests::link::Link;
use proxy_tests::load::Way;
use proxy_tests::relay::Relay;
use proxy_tests::ssh::Ssh;
use proxy_user::flow::Engine;
use proxy_user::splice::EngineChoice;

use crate::route::Route;

/// What all routes of a run have in common.
pub struct Starter<'link> {
    /// Where the routes lead.
    pub target: SocketAddr,
    /// Logs and sockets of what is started.
    pub directory: PathBuf,
    /// Where proxy-server and proxy-agent are, if not beside this program.
    pub binaries: Option<PathBuf>,
    /// The second hop is on the far side of this link; who starts routes must be on the near side.
    pub link: Option<&'link Link>,
}

impl Starter<'_> {
    /// Starts the route of this name and waits until it can be used.
    pub fn start(&self, name: &str) -> anyhow::Result<Route> {
        self.begin(name).with_context(|| format!("starting the route {name}"))
    }

    fn begin(&self, name: &str) -> anyhow::Result<Route> {
        let target = self.target;
        match name {
            "direct" => Ok(Route::new(name, Way::Tcp(target))),
            "haproxy" => haproxy(name, &self.directory(name)?, target, Splicing::Stock),
            "haproxy-splice" => haproxy(name, &self.directory(name)?, target, Splicing::Auto),
            "ssh" => {
                anyhow::ensure!(Ssh::installed(), "sshd is not installed; `apt-get install openssh-server`");
                let ssh = Ssh::start(&self.directory(name)?, target)?;
                Ok(Route { pids: ssh.pids(), ..Route::new(name, Way::Tcp(ssh.front)) }.holding(ssh))
            }
            _ => match name.split_once('-') {
                Some(("join", engine)) => self.start_join(name, engine),
                Some(("konduit", how)) => match how.strip_prefix("grpc-") {
                    Some(how) => self.start_konduit_on(Frontend::Grpc, name, how, &[]),
                    None => self.start_konduit(name, how, &[]),
                },
                _ => anyhow::bail!("there is no route of that name"),
            },
        }
    }

    /// Two hops that are nothing but the splice engine.
    fn start_join(&self, name: &str, engine: &str) -> anyhow::Result<Route> {
        let program = std::env::current_exe()?;
        let relay = Relay::start(&program, &self.directory(name)?, engine, self.target, self.link)?;
        let pages = vec![("hop 1", relay.pages[0]), ("hop 2", relay.pages[1])];
        let route = Route {
            pids: relay.pids(),
            pages,
            path: Some("join"),
            engine: forced(engine),
            mappable: if may_map(engine) { vec!["hop 1", "hop 2"] } else { Vec::new() },
            ..Route::new(name, Way::Tcp(relay.front))
        };
        Ok(route.holding(relay))
    }

    /// Our server and agent. `how` is the lanes' form (raw, encrypt, auto, mux), then perhaps an engine: `raw-splice`.
    pub fn start_konduit(&self, name: &str, how: &str, agent_flags: &[&str]) -> anyhow::Result<Route> {
        self.start_konduit_on(Frontend::Connect, name, how, agent_flags)
    }

    fn start_konduit_on(
        &self,
        frontend: Frontend,
        name: &str,
        how: &str,
        agent_flags: &[&str],
    ) -> anyhow::Result<Route> {
        let mut words = how.split('-');
        let lanes = match words.next() {
            Some("raw") => Lanes::Raw,
            Some("encrypt") => Lanes::Encrypt,
            Some("auto") => Lanes::Auto,
            Some("mux") => Lanes::Mux,
            _ => anyhow::bail!("lanes are raw, encrypt, auto or mux"),
        };
        let engine =
            words.next().filter(|word| EngineChoice::ALL.iter().any(|choice| choice.name() == *word));
        // A packet of a handshake that is lost comes again after a fifth of a second or more, and where one path was
        // asked for, a machine that is busy must not send a flow by another.
        let patient = self.link.is_some() || lanes.path().is_some();
        let patience = patient.then(|| "--lane-wait=10s".to_owned());
        let settings = Settings {
            binaries: self.find_binaries()?,
            lanes,
            frontend,
            both: engine.map(|engine| format!("--engine={engine}")).into_iter().chain(patience).collect(),
            agent: agent_flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        // The agent's hop; the server's is a Unix socket's.
        let clear = lanes == Lanes::Raw && frontend == Frontend::Connect;
        let mappable = if clear && engine.is_none_or(may_map) { vec!["agent"] } else { Vec::new() };
        let pair = Konduit::start(&self.directory(name)?, &settings, self.link)?;
        let (socket, target) = (pair.socket.clone(), self.target);
        let way = match frontend {
            Frontend::Connect => Way::Connect { socket, target },
            Frontend::Grpc => Way::Grpc { socket, target },
        };
        let route = Route {
            pids: pair.pids(),
            pages: vec![("server", pair.server_pages), ("agent", pair.agent_pages)],
            path: lanes.path(),
            // Other lanes are TLS or packets, and so is gRPC: no engine moves those.
            engine: engine.filter(|_| clear).and_then(forced),
            mappable,
            ..Route::new(name, way)
        };
        Ok(route.holding(pair))
    }

    fn find_binaries(&self) -> anyhow::Result<PathBuf> {
        if let Some(given) = &self.binaries {
            return Ok(given.clone());
        }
        let beside = std::env::current_exe()?.parent().map(Path::to_owned).unwrap_or_default();
        anyhow::ensure!(
            beside.join("proxy-agent").exists(),
            "no proxy-agent in {}; build it, or name its directory with --binaries",
            beside.display()
        );
        Ok(beside)
    }

    /// A directory of its own for a route's files.
    fn directory(&self, route: &str) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join(route);
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }
}

/// The engine of that name; none for `auto`.
fn forced(name: &str) -> Option<Engine> {
    Engine::ALL.into_iter().find(|engine| engine.name() == name)
}

/// Whether an engine of that name may give a flow to the kernel.
fn may_map(name: &str) -> bool {
    [EngineChoice::Auto, EngineChoice::Sockmap].iter().any(|choice| choice.name() == name)
}

fn haproxy(name: &str, directory: &Path, target: SocketAddr, how: Splicing) -> anyhow::Result<Route> {
    anyhow::ensure!(Haproxy::installed(), "HAProxy is not installed; `apt-get install haproxy`");
    let both = Haproxy::start(directory, target, how)?;
    Ok(Route { pids: both.pids(), ..Route::new(name, Way::Tcp(both.front)) }.holding(both))
}

impl Route {
    pub fn holding(mut self, what: impl std::any::Any) -> Route {
        self.held.push(Box::new(what));
        self
    }
}
