//! One way from client to target, with the processes that carry it and the pages that tell how.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use proxy_tests::load::Way;
use proxy_tests::runner::ABILITIES;
use proxy_tests::scrape::Page;
use proxy_user::flow::Engine;

/// Less than all: what comes before a flow is in a map, or while its reader is late.
const NEARLY_ALL: f64 = 0.9;
/// What the kernel redirected is booked once a second, when nothing wakes the flow.
const BOOKED_WITHIN: Duration = Duration::from_secs(2);

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
    /// Hops that join two clear TCP sockets and may give them to the kernel.
    pub mappable: Vec<&'static str>,
    /// What must stay alive.
    pub held: Vec<Box<dyn Any>>,
}

/// Where a forced engine must have carried bytes, and how many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Some at one hop: for loads that it has to leave, and where it does not fit at every hop.
    Somewhere,
    /// Some at every hop.
    Everywhere,
    /// Nearly all at every hop.
    NearlyAll,
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
            mappable: Vec::new(),
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

    /// The sum of a metric over all hops.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
        self.pages.iter().map(|(_, page)| Ok(Page::get(*page)?.sum(name, labels))).sum()
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
        let moved_none =
            |hop: &&str| !moved.0.iter().any(|((other, _, _), bytes)| other == hop && *bytes > 0.0);
        let without: Vec<_> = self.pages.iter().map(|(hop, _)| *hop).filter(moved_none).collect();
        anyhow::ensure!(
            without.is_empty() && !moved.0.is_empty(),
            "{}: no byte was counted on {asked} at {}; the flows went elsewhere",
            self.name,
            without.join(" and ")
        );
        Ok(())
    }

    /// What a forced engine must carry of bulk. One that outruns its reader has to leave the map, and the server's Unix
    /// socket is never written by the kernel.
    pub fn must_carry(&self) -> Carried {
        match (self.path, self.engine) {
            (Some("join"), Some(Engine::Sockmap)) => Carried::Everywhere,
            _ => self.must_carry_of_calm(),
        }
    }

    /// The same of a flow whose readers keep up.
    pub fn must_carry_of_calm(&self) -> Carried {
        if self.path == Some("join") { Carried::NearlyAll } else { Carried::Somewhere }
    }

    /// An error when a hop moved less than that by the engine that was asked for, or something by a higher one.
    pub fn check_engine(&self, moved: &Shares, must: Carried) -> anyhow::Result<()> {
        let Some(asked) = self.engine else { return Ok(()) };
        let more_than = if must == Carried::NearlyAll { NEARLY_ALL } else { 0.0 };
        let least = if must == Carried::Somewhere { 1 } else { self.pages.len() };
        let mut without = Vec::new();
        for (hop, _) in &self.pages {
            let by = |engine: Engine| moved.of_engine(hop, engine.name());
            if by(asked) <= more_than {
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
            "{}: {} moved too little by {}, which must carry {must:?}: {}",
            self.name,
            without.join(" and "),
            asked.name(),
            moved.in_words()
        );
        Ok(())
    }

    /// Whether the engine's own choice may be sockmap, on this machine.
    pub fn may_promote(&self) -> bool {
        let proven = ABILITIES.sockmap_tcp.why_not().is_none();
        self.engine.is_none() && !self.mappable.is_empty() && proven
    }

    /// An error when a hop that could give a flow to the kernel did not take it back, `before` being from
    /// [`Route::turns`].
    pub fn check_demoted_since(&self, before: [f64; 2]) -> anyhow::Result<()> {
        self.check_demoted(self.turns_since(before)?)
    }

    fn check_demoted(&self, [promoted, demoted]: [f64; 2]) -> anyhow::Result<()> {
        anyhow::ensure!(
            demoted >= self.mappable.len() as f64 || !self.may_promote(),
            "{}: the kernel kept a flow that turned bulky: {promoted} directions were given to it and {demoted} \
             taken back, on {}",
            self.name,
            self.mappable.join(" and ")
        );
        Ok(())
    }

    /// How often a direction entered the kernel's map, and left it while it went on, so far.
    pub fn turns(&self) -> anyhow::Result<[f64; 2]> {
        let of = |event| self.sum("konduit_engine_events_total", &[("event", event)]);
        Ok([of("promoted")?, of("demoted")?])
    }

    /// The same since `before`.
    pub fn turns_since(&self, before: [f64; 2]) -> anyhow::Result<[f64; 2]> {
        let now = self.turns()?;
        Ok([now[0] - before[0], now[1] - before[1]])
    }

    /// An error when a hop gave no byte since `before` to the kernel although it could.
    pub fn check_promoted_since(&self, before: &Shares) -> anyhow::Result<()> {
        let patience = Instant::now() + BOOKED_WITHIN;
        loop {
            match self.check_promoted(&self.shares()?.since(before)) {
                Err(_) if Instant::now() < patience => sleep(Duration::from_millis(50)),
                checked => return checked,
            }
        }
    }

    /// An error when a hop gave none of these bytes to the kernel although it could.
    fn check_promoted(&self, moved: &Shares) -> anyhow::Result<()> {
        let kept = |hop: &&&str| moved.of_engine(hop, Engine::Sockmap.name()) == 0.0;
        let without: Vec<_> = self.mappable.iter().filter(kept).copied().collect();
        anyhow::ensure!(
            without.is_empty() || !self.may_promote(),
            "{}: {} never gave the flow to the kernel: {}",
            self.name,
            without.join(" and "),
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
            let checked = route.check_engine(&moved(&by), Carried::Everywhere);
            assert_eq!(checked.is_ok(), sound, "{engine:?}, {by:?}: {checked:?}");
        }
        let mostly = |engine, of, rest| {
            [("hop 1", engine, of), ("hop 2", engine, of), ("hop 1", "copy", rest), ("hop 2", "copy", rest)]
        };
        let cases = [
            (Engine::Sockmap, Carried::Somewhere, vec![sockmap[0], copy[1]], true),
            (Engine::Sockmap, Carried::Somewhere, copy.to_vec(), false),
            (Engine::Splice, Carried::Somewhere, vec![splice[0], sockmap[1]], false),
            (Engine::Sockmap, Carried::NearlyAll, mostly("sockmap", 92.0, 8.0).to_vec(), true),
            (Engine::Sockmap, Carried::NearlyAll, mostly("sockmap", 88.0, 12.0).to_vec(), false),
            (Engine::Sockmap, Carried::NearlyAll, vec![sockmap[0], copy[1]], false),
            (Engine::Copy, Carried::NearlyAll, copy.to_vec(), true),
        ];
        for (engine, must, by, sound) in cases {
            route.engine = Some(engine);
            let checked = route.check_engine(&moved(&by), must);
            assert_eq!(checked.is_ok(), sound, "{engine:?}, {must:?}, {by:?}: {checked:?}");
        }
    }

    #[test]
    fn every_byte_must_have_taken_the_path_asked_for() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let on = |paths: &[&str]| {
            Shares(paths.iter().map(|path| (("agent", (*path).into(), "copy".into()), 1.0)).collect())
        };
        let pages = vec![("agent", address)];
        let asked = Route { path: Some("lane-raw"), pages, ..Route::new("konduit-raw", Way::Tcp(address)) };
        assert!(asked.check_path(&on(&["lane-raw"])).is_ok());
        for wrong in [&["lane-raw", "mux"][..], &["mux"], &[]] {
            assert!(asked.check_path(&on(wrong)).is_err(), "{wrong:?}");
        }
        // One that counted and one that did not.
        let pages = vec![("server", address), ("agent", address)];
        assert!(Route { pages, ..asked }.check_path(&on(&["lane-raw"])).is_err());
        let free = Route::new("konduit-auto", Way::Tcp(address));
        assert!(free.check_path(&on(&["lane-raw", "mux"])).is_ok() && free.check_path(&on(&[])).is_ok());
    }

    #[test]
    fn each_hop_that_can_must_have_given_bytes_to_the_kernel() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let mappable = vec!["hop 1", "hop 2"];
        let route = Route { mappable, ..Route::new("join-auto", Way::Tcp(address)) };
        let one = [("hop 1", "sockmap", 1.0), ("hop 2", "splice", 9.0)];
        let both = [("hop 1", "sockmap", 1.0), ("hop 2", "sockmap", 1.0), ("hop 2", "splice", 9.0)];
        assert!(route.check_promoted(&moved(&both)).is_ok());
        // Where sockmap was not proven it cannot be asked for.
        assert_eq!(route.check_promoted(&moved(&one)).is_err(), route.may_promote());
        assert!(route.check_demoted([4.0, 2.0]).is_ok());
        for kept in [[4.0, 0.0], [4.0, 1.0], [0.0, 0.0]] {
            assert_eq!(route.check_demoted(kept).is_err(), route.may_promote(), "{kept:?}");
        }
        let forced = Route { engine: Some(Engine::Splice), ..route };
        assert!(forced.check_demoted([0.0, 0.0]).is_ok());
        assert!(forced.check_promoted(&moved(&one)).is_ok());
    }
}
