//! What the scenarios share: the target, the routes that run already, how long to look.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;
use proxy_tests::cpu::Whose;
use proxy_tests::load::Target;

use crate::Options;
use crate::kernel::Watch;
use crate::route::Route;
use crate::start::Starter;

pub struct Context {
    pub options: Options,
    pub target: Target,
    pub starter: Starter<'static>,
    /// Logs and sockets of what we start; kept after the end.
    pub directory: PathBuf,
    pub kernel_log: Watch,
    routes: BTreeMap<String, Rc<Route>>,
}

impl Context {
    pub fn new(options: Options, kernel_log: Watch) -> anyhow::Result<Context> {
        let target = Target::start()?;
        let directory = log_directory(&options)?;
        let starter = Starter {
            target: target.address,
            directory: directory.clone(),
            binaries: options.binaries.clone(),
            link: None,
        };
        Ok(Context { options, target, starter, directory, routes: BTreeMap::new(), kernel_log })
    }

    /// Ends all that was started.
    pub fn end(self) -> Watch {
        self.kernel_log
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
        let route = Rc::new(self.starter.start(name)?);
        self.routes.insert(name.to_owned(), route.clone());
        Ok(route)
    }
}

/// Where logs and sockets of what a run starts go.
pub fn log_directory(options: &Options) -> anyhow::Result<PathBuf> {
    let directory = options.out.join("logs");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("creating {} for results and logs", directory.display()))?;
    Ok(directory.canonicalize()?)
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
