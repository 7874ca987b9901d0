//! What the scenarios share: the target, the routes that run already, how long to look.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use proxy_tests::cpu::Whose;
use proxy_tests::haproxy::{Haproxy, Splicing};
use proxy_tests::kernel_log::KernelLog;
use proxy_tests::konduit::{Frontend, Konduit, Lanes, Settings};
use proxy_tests::load::{Target, Way};
use proxy_tests::relay::Relay;
use proxy_tests::ssh::Ssh;
use proxy_user::splice::EngineChoice;

use crate::Options;
use crate::route::Route;

pub struct Context {
    pub options: Options,
    pub target: Target,
    /// Where the routes lead.
    address: SocketAddr,
    /// Logs and sockets of what we start; kept after the end.
    pub directory: PathBuf,
    routes: BTreeMap<String, Rc<Route>>,
    kernel_log: std::io::Result<KernelLog>,
}

impl Context {
    pub fn new(options: Options) -> anyhow::Result<Context> {
        let target = Target::start()?;
        let address = target.address;
        Context::towards(options, target, address)
    }

    /// Routes lead to `address`, where somebody else may answer.
    pub fn towards(options: Options, target: Target, address: SocketAddr) -> anyhow::Result<Context> {
        let directory = options.out.join("logs");
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("creating {} for results and logs", directory.display()))?;
        let directory = directory.canonicalize()?;
        Ok(Context {
            options,
            target,
            address,
            directory,
            routes: BTreeMap::new(),
            kernel_log: KernelLog::watch(),
        })
    }

    pub fn rounds(&self) -> usize {
        self.options.rounds.unwrap_or(if self.options.quick { 1 } else { 5 })
    }

    /// `full` in the full form, `quick` in the short one.
    pub fn choose<T>(&self, full: T, quick: T) -> T {
        if self.options.quick { quick } else { full }
    }

    /// How long bulk flows run before anybody looks: TCP's windows and our engine's choice settle.
    pub fn warm_up(&self) -> Duration {
        Duration::from_millis(self.choose(500, 300))
    }

    pub fn window(&self) -> Duration {
        Duration::from_millis(self.choose(1500, 600))
    }

    /// The routes of these names, started when they were not yet.
    pub fn routes(&mut self, names: &[impl AsRef<str>]) -> anyhow::Result<Vec<Rc<Route>>> {
        names.iter().map(|name| self.route(name.as_ref())).collect()
    }

    pub fn route(&mut self, name: &str) -> anyhow::Result<Rc<Route>> {
        if let Some(route) = self.routes.get(name) {
            return Ok(route.clone());
        }
        let route = Rc::new(self.start(name).with_context(|| format!("starting the route {name}"))?);
        self.routes.insert(name.to_owned(), route.clone());
        Ok(route)
    }

    /// Ends a route that no later scenario shares.
    pub fn end(&mut self, name: &str) {
        self.routes.remove(name);
    }

    /// A directory of its own for a route's files.
    pub fn directory(&self, route: &str) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join(route);
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    fn start(&self, name: &str) -> anyhow::Result<Route> {
        let target = self.address;
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
        let relay = Relay::start(&program, &self.directory(name)?, engine, self.address)?;
        let pages = vec![("hop 1", relay.pages[0]), ("hop 2", relay.pages[1])];
        let route = Route {
            pids: relay.pids(),
            pages,
            path: Some("join"),
            ..Route::new(name, Way::Tcp(relay.front))
        };
        Ok(route.holding(relay))
    }

    /// Our server and agent. `how` is the lanes' form (raw, encrypt, mux), then perhaps an engine: `raw-splice`.
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
            Some("mux") => Lanes::Mux,
            _ => anyhow::bail!("lanes are raw, encrypt or mux"),
        };
        let engine =
            words.next().filter(|word| EngineChoice::ALL.iter().any(|choice| choice.name() == *word));
        let settings = Settings {
            binaries: self.binaries()?,
            lanes,
            frontend,
            both: engine.map(|engine| format!("--engine={engine}")).into_iter().collect(),
            agent: agent_flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        let pair = Konduit::start(&self.directory(name)?, &settings)?;
        let (socket, target) = (pair.socket.clone(), self.address);
        let way = match frontend {
            Frontend::Connect => Way::Connect { socket, target },
            Frontend::Grpc => Way::Grpc { socket, target },
        };
        let route = Route {
            pids: pair.pids(),
            pages: vec![("server", pair.server_pages), ("agent", pair.agent_pages)],
            path: Some(lanes.path()),
            ..Route::new(name, way)
        };
        Ok(route.holding(pair))
    }

    fn binaries(&self) -> anyhow::Result<PathBuf> {
        if let Some(given) = &self.options.binaries {
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

    /// Warnings in the kernel's log since the last call; an error when it cannot be read.
    pub fn new_kernel_warnings(&mut self) -> anyhow::Result<Vec<String>> {
        match &mut self.kernel_log {
            Ok(log) => Ok(log.new_warnings()?),
            Err(error) => anyhow::bail!("the kernel log cannot be read: {error}"),
        }
    }
}

fn haproxy(
    name: &str,
    directory: &Path,
    target: std::net::SocketAddr,
    how: Splicing,
) -> anyhow::Result<Route> {
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

/// Which routes the scenarios compare.
impl Context {
    pub fn bulk_routes(&self) -> Vec<String> {
        let mut names = vec!["direct".to_owned(), "haproxy".to_owned()];
        names.extend(self.ours());
        names
    }

    /// The routes that gates are about; others of ours are shown beside them.
    pub fn ours(&self) -> Vec<String> {
        match self.options.ours.is_empty() {
            true => vec!["konduit-raw".to_owned()],
            false => self.options.ours.clone(),
        }
    }

    /// Whose CPU time a figure shows: the machine's, or on a busy one that of the load and the route.
    pub fn whose_cpu(&self, route: &Route) -> Whose {
        match self.options.noisy {
            false => Whose::Machine,
            true => Whose::Processes(route.pids.iter().copied().chain([std::process::id()]).collect()),
        }
    }

    /// Time between two looks, for sockets and windows of the last one to go away.
    pub fn settle(&self) -> Duration {
        Duration::from_millis(150)
    }
}
