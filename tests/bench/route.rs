//! One way from client to target, with the processes that carry it and the pages that tell how.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use proxy_tests::load::Way;
use proxy_tests::scrape::Page;

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
