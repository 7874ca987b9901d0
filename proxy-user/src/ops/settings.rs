//! What new flows obey, and who may lower it in a running process: the flag, a watched file, the operator.
//! The lowest of the three is in force.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::flags::{EngineChoice, LanesMode, Value};
use super::log;
use super::metrics::KonduitMetrics;

/// How often the watched file is read. A mounted ConfigMap is swapped about once a minute at most.
const POLL: Duration = Duration::from_secs(2);
/// Bytes of a wrong line that are told whole: the file may be anything.
const QUOTED: usize = 80;

/// The values that new flows obey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InForce {
    pub engine: EngineChoice,
    pub lanes: LanesMode,
}

/// Who set a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    Flag,
    File,
    Operator,
}

impl Layer {
    const ALL: [Layer; 3] = [Layer::Flag, Layer::File, Layer::Operator];

    pub fn name(self) -> &'static str {
        match self {
            Layer::Flag => "flag",
            Layer::File => "file",
            Layer::Operator => "operator",
        }
    }
}

/// A setting that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    #[error("{0:?} is no setting; write engine=auto|sockmap|splice|copy or lanes=always|auto|off")]
    Unknown(String),
    #[error("{name}: {why}")]
    Value { name: &'static str, why: String },
    #[error("{name}={value} is more than the {by} allows ({name}={allowed}); it can only be lowered here")]
    Raised { name: &'static str, value: String, allowed: String, by: &'static str },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Engine(EngineChoice),
    Lanes(LanesMode),
}

impl Setting {
    fn parse(text: &str) -> Result<Setting, SettingError> {
        let unknown = || SettingError::Unknown(log::within(QUOTED, text).into_owned());
        let (name, value) = text.split_once('=').ok_or_else(unknown)?;
        let value = log::within(QUOTED, value.trim());
        match name.trim() {
            "engine" => {
                let mut engine = EngineChoice::Auto;
                let set = engine.set(&value, true);
                set.map_err(|why| SettingError::Value { name: "engine", why: why.text() })?;
                Ok(Setting::Engine(engine))
            }
            "lanes" => {
                let mut lanes = LanesMode::Auto;
                let set = lanes.set(&value, true);
                set.map_err(|why| SettingError::Value { name: "lanes", why: why.text() })?;
                Ok(Setting::Lanes(lanes))
            }
            _ => Err(unknown()),
        }
    }
}

fn engine_rank(engine: EngineChoice) -> u8 {
    match engine {
        EngineChoice::Auto => 3,
        EngineChoice::Sockmap => 2,
        EngineChoice::Splice => 1,
        EngineChoice::Copy => 0,
    }
}

fn lanes_rank(lanes: LanesMode) -> u8 {
    match lanes {
        LanesMode::Always => 2,
        LanesMode::Auto => 1,
        LanesMode::Off => 0,
    }
}

/// One value per layer, by [`Layer::ALL`]'s order.
#[derive(Debug)]
struct State {
    engine: [EngineChoice; 3],
    lanes: [LanesMode; 3],
}

impl State {
    fn engine(&self) -> (EngineChoice, Layer) {
        let layers = self.engine.into_iter().zip(Layer::ALL);
        layers.min_by_key(|(engine, _)| engine_rank(*engine)).unwrap_or((EngineChoice::Auto, Layer::Flag))
    }

    fn lanes(&self) -> (LanesMode, Layer) {
        let layers = self.lanes.into_iter().zip(Layer::ALL);
        layers.min_by_key(|(lanes, _)| lanes_rank(*lanes)).unwrap_or((LanesMode::Auto, Layer::Flag))
    }

    fn in_force(&self) -> InForce {
        InForce { engine: self.engine().0, lanes: self.lanes().0 }
    }
}

/// The settings of a running process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Live {
    state: Arc<Mutex<State>>,
    tell: Arc<watch::Sender<InForce>>,
    metrics: KonduitMetrics,
}

impl Live {
    /// `engine` and `lanes` as the flags say.
    pub fn new(engine: EngineChoice, lanes: LanesMode, metrics: KonduitMetrics) -> Live {
        let state = State {
            engine: [engine, EngineChoice::Auto, EngineChoice::Auto],
            lanes: [lanes, LanesMode::Always, LanesMode::Always],
        };
        let live = Live {
            tell: Arc::new(watch::Sender::new(state.in_force())),
            state: Arc::new(Mutex::new(state)),
            metrics,
        };
        live.metrics.in_force("engine", &engine.show(), Layer::Flag.name());
        live.metrics.in_force("lanes", &lanes.show(), Layer::Flag.name());
        live
    }

    pub fn now(&self) -> InForce {
        *self.tell.borrow()
    }

    /// Tells of every change.
    pub fn watch(&self) -> watch::Receiver<InForce> {
        self.tell.subscribe()
    }

    /// Tells of what is in force, now and at every change, until dropped.
    pub async fn each(self, tell: impl Fn(InForce)) {
        let mut changes = self.watch();
        loop {
            let now = *changes.borrow_and_update();
            tell(now);
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The operator's words, such as `engine=splice`: all of them or, if one is not taken, none. `auto`, for lanes
    /// the value of the flag, takes an earlier word back.
    pub fn set<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<(), SettingError> {
        let settings = words.into_iter().map(Setting::parse).collect::<Result<Vec<_>, _>>()?;
        self.change(|state| {
            let layer = Layer::Operator as usize;
            let (mut new_engine, mut new_lanes) = (state.engine[layer], state.lanes[layer]);
            for setting in settings {
                match setting {
                    Setting::Engine(engine) => {
                        let flag = state.engine[0];
                        if engine != EngineChoice::Auto && engine_rank(engine) > engine_rank(flag) {
                            return Err(raised("engine", engine.show(), flag.show()));
                        }
                        new_engine = engine;
                    }
                    Setting::Lanes(lanes) => {
                        let flag = state.lanes[0];
                        if lanes == LanesMode::Always && lanes_rank(lanes) > lanes_rank(flag) {
                            return Err(raised("lanes", lanes.show(), flag.show()));
                        }
                        new_lanes = lanes;
                    }
                }
            }
            (state.engine[layer], state.lanes[layer]) = (new_engine, new_lanes);
            Ok(())
        })
    }

    /// The watched file's whole word; what it does not name is not limited by it. A line that cannot be read
    /// leaves everything as it was.
    pub fn file(&self, text: &str) -> Result<(), SettingError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let settings = lines.map(Setting::parse).collect::<Result<Vec<_>, _>>()?;
        self.change(|state| {
            let layer = Layer::File as usize;
            (state.engine[layer], state.lanes[layer]) = (EngineChoice::Auto, LanesMode::Always);
            for setting in settings {
                match setting {
                    Setting::Engine(engine) => state.engine[layer] = engine,
                    Setting::Lanes(lanes) => state.lanes[layer] = lanes,
                }
            }
            Ok(())
        })
    }

    fn change(
        &self,
        change: impl FnOnce(&mut State) -> Result<(), SettingError>,
    ) -> Result<(), SettingError> {
        let mut state = self.lock();
        let (engine, lanes) = (state.engine(), state.lanes());
        change(&mut state)?;
        self.show("engine", engine, state.engine());
        self.show("lanes", lanes, state.lanes());
        let now = state.in_force();
        self.tell.send_if_modified(|before| std::mem::replace(before, now) != now);
        Ok(())
    }

    fn show<V: Value + PartialEq>(&self, name: &'static str, before: (V, Layer), now: (V, Layer)) {
        if before != now {
            self.metrics.out_of_force(name, &before.0.show(), before.1.name());
            self.metrics.in_force(name, &now.0.show(), now.1.name());
            tracing::info!(
                setting = name,
                value = now.0.show(),
                by = now.1.name(),
                "New flows obey another setting"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Live {
    /// `engine=splice (operator), lanes=auto (flag)`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        let ((engine, by), (lanes, lanes_by)) = (state.engine(), state.lanes());
        let (engine, lanes) = (engine.show(), lanes.show());
        write!(out, "engine={engine} ({}), lanes={lanes} ({})", by.name(), lanes_by.name())
    }
}

fn raised(name: &'static str, value: String, allowed: String) -> SettingError {
    SettingError::Raised { name, value, allowed, by: Layer::Flag.name() }
}

/// Obeys the file at `path` until dropped. A file that is not there limits nothing.
pub async fn watch_file(path: PathBuf, live: Live) {
    let (mut seen, mut broken) = (None, None::<String>);
    let mut tick = tokio::time::interval(POLL);
    loop {
        tick.tick().await;
        let text = match tokio::fs::read_to_string(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            // In the middle of a swap, or broken: what it said last still holds.
            Err(error) => {
                if broken.replace(error.to_string()).is_none_or(|before| before != error.to_string()) {
                    tracing::warn!(
                        file = %path.display(), %error,
                        "The live settings cannot be read; what they said last holds"
                    );
                }
                continue;
            }
        };
        broken = None;
        if seen.as_ref() == Some(&text) {
            continue;
        }
        if let Err(error) = live.file(&text) {
            tracing::warn!(file = %path.display(), %error, "The live settings are not taken");
        }
        seen = Some(text);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::flow::FlowTable;
    use crate::ops::metrics::ServerMetrics;

    fn live(engine: EngineChoice) -> (Live, Registry) {
        let metrics = ServerMetrics::new(&FlowTable::new()).unwrap();
        (Live::new(engine, LanesMode::Auto, metrics.konduit.clone()), metrics.registry().clone())
    }

    #[test]
    fn the_lowest_word_is_in_force_and_can_be_taken_back() {
        let (live, registry) = live(EngineChoice::Auto);
        let watch = live.watch();
        live.file("# fleet\nengine=splice\nlanes = off\n").unwrap();
        assert_eq!(live.now(), InForce { engine: EngineChoice::Splice, lanes: LanesMode::Off });
        live.set(["engine=copy"]).unwrap();
        assert_eq!(watch.borrow().engine, EngineChoice::Copy);
        assert_eq!(live.to_string(), "engine=copy (operator), lanes=off (file)");
        live.set(["engine=auto"]).unwrap();
        assert_eq!(live.now().engine, EngineChoice::Splice);
        live.file("").unwrap();
        assert_eq!(live.now(), InForce { engine: EngineChoice::Auto, lanes: LanesMode::Auto });
        let text = String::from_utf8(crate::ops::metrics::encode(&registry).unwrap()).unwrap();
        let shown: Vec<&str> = text.lines().filter(|line| line.starts_with("konduit_in_force{")).collect();
        assert_eq!(
            shown,
            [
                "konduit_in_force{by=\"flag\",setting=\"engine\",value=\"auto\"} 1",
                "konduit_in_force{by=\"flag\",setting=\"lanes\",value=\"auto\"} 1",
            ]
        );
    }

    #[test]
    fn of_several_words_all_are_taken_or_none() {
        let (live, _) = live(EngineChoice::Auto);
        assert!(live.set(["lanes=off", "engine=warp"]).is_err());
        assert_eq!(live.now(), InForce { engine: EngineChoice::Auto, lanes: LanesMode::Auto });
        live.set(["lanes=off", "engine=copy"]).unwrap();
        assert_eq!(live.now(), InForce { engine: EngineChoice::Copy, lanes: LanesMode::Off });
    }

    #[test]
    fn nobody_raises_what_the_flag_limits() {
        let (live, _) = live(EngineChoice::Splice);
        assert!(matches!(live.set(["engine=sockmap"]), Err(SettingError::Raised { .. })));
        live.file("engine=sockmap").unwrap();
        assert_eq!(live.now().engine, EngineChoice::Splice);
        assert!(matches!(live.set(["lanes=always"]), Err(SettingError::Raised { .. })));
        live.file("lanes=always").unwrap();
        assert_eq!(live.now().lanes, LanesMode::Auto);
    }

    #[test]
    fn lanes_that_the_flag_wants_always_can_be_lowered_and_taken_back() {
        let metrics = ServerMetrics::new(&FlowTable::new()).unwrap();
        let live = Live::new(EngineChoice::Auto, LanesMode::Always, metrics.konduit.clone());
        assert_eq!(live.now().lanes, LanesMode::Always);
        live.set(["lanes=auto"]).unwrap();
        live.file("lanes=off").unwrap();
        assert_eq!(live.now().lanes, LanesMode::Off);
        live.file("").unwrap();
        assert_eq!(live.to_string(), "engine=auto (flag), lanes=auto (operator)");
        live.set(["lanes=always"]).unwrap();
        assert_eq!(live.now().lanes, LanesMode::Always);
    }

    #[test]
    fn nonsense_changes_nothing() {
        let (live, _) = live(EngineChoice::Auto);
        live.file("engine=copy").unwrap();
        for text in ["engine", "engine=fast", "lanes=", "speed=11"] {
            assert!(live.set([text]).is_err(), "{text}");
            assert!(live.file(&format!("lanes=off\n{text}")).is_err(), "{text}");
        }
        assert_eq!(live.now(), InForce { engine: EngineChoice::Copy, lanes: LanesMode::Auto });
    }

    /// Somebody names a file that is anything else.
    #[test]
    fn a_long_line_is_not_told_whole() {
        let (live, _) = live(EngineChoice::Auto);
        let junk = "x".repeat(16 << 10);
        for text in [junk.clone(), format!("engine={junk}"), format!("lanes={junk}"), format!("{junk}=1")] {
            let told = live.file(&text).unwrap_err().to_string();
            assert!(told.len() < 200 && told.contains("xxx… (163"), "{told}");
        }
    }
}
