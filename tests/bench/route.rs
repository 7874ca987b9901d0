//! One way from client to target, with the processes that carry it and the pages that tell how.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use proxy_tests::load::Way;
use proxy_tests::runner::ABILITIES;
use proxy_tests::scrape::Page;
use proxy_user::flow::Engine;

/// A running way to the target. Its processes end with it.
pub struct Route {
    pub name: String,
    pub way: Way,
    /// The processes in the middle.
    pub pids: Vec<u32>,
    /// Metrics pages, by the hop's name.
    pub pages: Vec<(&'static str, SocketAddr)>,
    /// The path that every byte has to take, where we asked for one.
    pub path: Option<&'static str>,
    /// The engine that every hop was told to use, where we told one.
    pub engine: Option<Engine>,
    /// What must stay alive.
    pub held: Vec<Box<dyn Any>>,
}

/// Bytes by hop, path and engine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shares(BTreeMap<(&'static str, String, String), f64>);

impl Route {
    pub fn new(name: &str, way: Way) -> Route {
        Route {
            name: name.to_owned(),
            way,
            pids: Vec::new(),
            pages: Vec::new(),
            path: None,
            engine: None,
            held: Vec::new(),
        }
    }

    /// Bytes so far, of finished and of live flows.
    pub fn shares(&self) -> anyhow::Result<Shares> {
        let mut shares = Shares::default();
        for (hop, address) in &self.pages {
            for series in Page::get(*address)?.ending("konduit_bytes_total") {
                let label = |name: &str| series.labels.get(name).cloned().unwrap_or_default();
                *shares.0.entry((*hop, label("path"), label("engine"))).or_default() += series.value;
            }
        }
        Ok(shares)
    }

    /// Why this machine has not the engine that was asked for.
    pub fn unproven(&self) -> Option<&'static str> {
        match self.engine? {
            Engine::Copy => None,
            Engine::Splice => ABILITIES.splice.why_not(),
            Engine::Sockmap => ABILITIES.sockmap_tcp.why_not().or(ABILITIES.sockmap_unix.why_not()),
        }
    }

    /// Flows that have ended so far, by path, as the first hop says.
    pub fn flows(&self) -> anyhow::Result<BTreeMap<String, f64>> {
        match self.pages.first() {
            Some((_, address)) => Ok(Page::get(*address)?.by("konduit_flows_total", "path")),
            None => Ok(BTreeMap::new()),
        }
    }

    /// An error when bytes went by another path than asked.
    pub fn check_path(&self, moved: &Shares) -> anyhow::Result<()> {
        let Some(asked) = self.path else { return Ok(()) };
        let elsewhere: f64 =
            moved.0.iter().filter(|((_, path, _), _)| path != asked).map(|(_, bytes)| bytes).sum();
        anyhow::ensure!(elsewhere == 0.0, "{}: asked for {asked}, but: {}", self.name, moved.in_words());
        anyhow::ensure!(
            moved.0.values().sum::<f64>() > 0.0,
            "{}: no byte was counted on {asked}; the flows went elsewhere",
            self.name
        );
        Ok(())
    }

    /// An error when a hop moved nothing by the engine that was asked for, or something by a higher one. A lower one
    /// may have a share: before a lane leaves TLS, and where the higher one does not fit.
    pub fn check_engine(&self, moved: &Shares) -> anyhow::Result<()> {
        self.check_hops(moved, self.pages.len())
    }

    /// As [`Route::check_engine`], for a load that may not fit the engine at every hop: one is enough.
    pub fn check_engine_somewhere(&self, moved: &Shares) -> anyhow::Result<()> {
        self.check_hops(moved, 1)
    }

    fn check_hops(&self, moved: &Shares, least: usize) -> anyhow::Result<()> {
        let Some(asked) = self.engine else { return Ok(()) };
        let mut without = Vec::new();
        for (hop, _) in &self.pages {
            let by = |engine: Engine| moved.of_engine(hop, engine.name());
            if by(asked) == 0.0 {
                without.push(*hop);
            }
            let above = Engine::ALL.into_iter().skip_while(|engine| *engine != asked).skip(1);
            let above: Vec<_> = above.filter(|engine| by(*engine) > 0.0).map(Engine::name).collect();
            anyhow::ensure!(
                above.is_empty(),
                "{}: {hop} was to use nothing above {}, but: {}",
                self.name,
                asked.name(),
                moved.in_words()
            );
        }
        anyhow::ensure!(
            self.pages.len() - without.len() >= least,
            "{}: {} moved no byte by {}, but: {}",
            self.name,
            without.join(" and "),
            asked.name(),
            moved.in_words()
        );
        Ok(())
    }
}

impl Shares {
    pub fn since(&self, before: &Shares) -> Shares {
        let grown =
            self.0.iter().map(|(key, now)| (key.clone(), now - before.0.get(key).copied().unwrap_or(0.0)));
        Shares(grown.filter(|(_, bytes)| *bytes > 0.0).collect())
    }

    pub fn add(&mut self, other: &Shares) {
        for (key, bytes) in &other.0 {
            *self.0.entry(key.clone()).or_default() += bytes;
        }
    }

    /// The share of one engine in all bytes of a hop; 0 when nothing moved.
    pub fn of_engine(&self, hop: &str, engine: &str) -> f64 {
        let sum = |fits: &dyn Fn(&str) -> bool| -> f64 {
            self.0.iter().filter(|((h, _, e), _)| *h == hop && fits(e)).map(|(_, bytes)| bytes).sum()
        };
        let all = sum(&|_| true);
        if all == 0.0 { 0.0 } else { sum(&|e| e == engine) / all }
    }

    /// `server lane-raw: splice 99 %, copy 1 %; agent …`
    pub fn in_words(&self) -> String {
        let mut hops: BTreeMap<(&str, &str), Vec<(&str, f64)>> = BTreeMap::new();
        for ((hop, path, engine), bytes) in &self.0 {
            hops.entry((*hop, path.as_str())).or_default().push((engine.as_str(), *bytes));
        }
        let all: BTreeMap<&str, f64> = hops.iter().fold(BTreeMap::new(), |mut all, ((hop, _), engines)| {
            *all.entry(*hop).or_default() += engines.iter().map(|(_, bytes)| bytes).sum::<f64>();
            all
        });
        let mut words = Vec::new();
        for ((hop, path), engines) in &mut hops {
            engines.sort_by(|a, b| b.1.total_cmp(&a.1));
            let each: Vec<String> = engines
                .iter()
                .map(|(engine, bytes)| format!("{engine} {:.0} %", 100.0 * bytes / all[hop]))
                .collect();
            words.push(format!("{hop} {path}: {}", each.join(", ")));
        }
        words.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(by: &[(&'static str, &str, f64)]) -> Shares {
        Shares(
            by.iter().map(|(hop, engine, bytes)| ((*hop, "join".into(), (*engine).into()), *bytes)).collect(),
        )
    }

    #[test]
    fn each_hop_must_have_used_the_engine_asked_for_and_none_above() {
        let pages = ["hop 1", "hop 2"].map(|hop| (hop, SocketAddr::from(([127, 0, 0, 1], 1)))).to_vec();
        let address = pages[0].1;
        let mut route = Route { pages, ..Route::new("join-x", Way::Tcp(address)) };
        let [copy, splice, sockmap] =
            Engine::ALL.map(|engine| [("hop 1", engine.name(), 1.0), ("hop 2", engine.name(), 1.0)]);
        let cases: [(Option<Engine>, Vec<_>, bool); 9] = [
            (None, vec![], true),
            (Some(Engine::Copy), copy.to_vec(), true),
            (Some(Engine::Splice), [copy, splice].concat(), true),
            (Some(Engine::Sockmap), [copy, splice, sockmap].concat(), true),
            (Some(Engine::Copy), vec![], false),
            (Some(Engine::Copy), [copy, splice].concat(), false),
            (Some(Engine::Splice), [splice, sockmap].concat(), false),
            (Some(Engine::Sockmap), [copy, splice].concat(), false),
            (Some(Engine::Sockmap), vec![sockmap[0], copy[1]], false),
        ];
        for (engine, by, sound) in cases {
            route.engine = engine;
            let checked = route.check_engine(&moved(&by));
            assert_eq!(checked.is_ok(), sound, "{engine:?}, {by:?}: {checked:?}");
        }
        route.engine = Some(Engine::Sockmap);
        assert!(route.check_engine_somewhere(&moved(&[sockmap[0], copy[1]])).is_ok());
        assert!(route.check_engine_somewhere(&moved(&copy)).is_err());
        route.engine = Some(Engine::Splice);
        assert!(route.check_engine_somewhere(&moved(&[splice[0], sockmap[1]])).is_err());
    }
}
