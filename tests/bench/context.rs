//! What the scenarios share: the target, the routes that run already, how long to look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use proxy_tests::haproxy::{Haproxy, Splicing};
use proxy_tests::kernel_log::KernelLog;
use proxy_tests::load::{Target, Way};

use crate::Options;
use crate::route::Route;

pub struct Context {
    pub options: Options,
    pub target: Target,
    /// Logs and sockets of what we start; kept after the end.
    pub directory: PathBuf,
    routes: BTreeMap<String, Rc<Route>>,
    kernel_log: std::io::Result<KernelLog>,
}

impl Context {
    pub fn new(options: Options) -> anyhow::Result<Context> {
        let directory = options.out.join("logs");
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("creating {} for results and logs", directory.display()))?;
        let directory = directory.canonicalize()?;
        Ok(Context {
            options,
            target: Target::start()?,
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
    pub fn routes(&mut self, names: &[&str]) -> anyhow::Result<Vec<Rc<Route>>> {
        names.iter().map(|name| self.route(name)).collect()
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
        let target = self.target.address;
        match name {
            "direct" => Ok(Route::new(name, Way::Tcp(target))),
            "haproxy" => haproxy(name, &self.directory(name)?, target, Splicing::Stock),
            "haproxy-splice" => haproxy(name, &self.directory(name)?, target, Splicing::Auto),
            _ => anyhow::bail!("there is no route of that name"),
        }
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
    pub fn bulk_routes(&self) -> Vec<&'static str> {
        let mut names = vec!["direct", "haproxy"];
        names.extend(self.ours());
        names
    }

    /// The routes that gates are about.
    pub fn ours(&self) -> Vec<&'static str> {
        vec![]
    }

    pub fn churn_routes(&self) -> Vec<&'static str> {
        self.bulk_routes()
    }

    /// Our routes with short flows, and what share of HAProxy's rate each has to reach.
    pub fn churn_gates(&self) -> Vec<(&'static str, f64)> {
        vec![]
    }

    /// Time between two looks, for sockets and windows of the last one to go away.
    pub fn settle(&self) -> Duration {
        Duration::from_millis(150)
    }
}
