//! The live flows of this process. An entry is a guard: it counts and logs the end once, however the flow ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Direction, Ending, Engine, Meter, Path};

/// A live flow, as an operator sees it.
#[derive(Debug)]
pub struct Flow {
    /// Unique in this process.
    pub number: u64,
    /// `host:port`, as it was asked for.
    pub target: String,
    /// At the server: the agent's id. At the agent: the server's id.
    pub peer: String,
    pub path: Path,
    pub meter: Arc<Meter>,
    pub since: Instant,
}

/// How ended flows ended, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Both directions ended cleanly.
    Clean,
    /// An end aborted, or the kernel refused.
    Aborted,
    /// We ended it.
    Cancelled,
}

impl Outcome {
    pub const ALL: [Outcome; 3] = [Outcome::Clean, Outcome::Aborted, Outcome::Cancelled];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Clean => "clean",
            Outcome::Aborted => "aborted",
            Outcome::Cancelled => "cancelled",
        }
    }

    fn of(ending: &Ending) -> Outcome {
        use super::Finish;
        match (ending.up, ending.down) {
            (Finish::Clean, Finish::Clean) => Outcome::Clean,
            (Finish::Cancelled, _) | (_, Finish::Cancelled) => Outcome::Cancelled,
            _ => Outcome::Aborted,
        }
    }
}

/// Bytes by path, direction and engine, and ended flows by path and outcome; live flows' bytes included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    bytes: [[[u64; 3]; 2]; 3],
    ended: [[u64; 3]; 3],
    pub live: [u64; 3],
}

impl Totals {
    pub fn bytes(&self, path: Path, direction: Direction, engine: Engine) -> u64 {
        self.bytes[path as usize][direction as usize][engine as usize]
    }

    pub fn ended(&self, path: Path, outcome: Outcome) -> u64 {
        self.ended[path as usize][outcome as usize]
    }

    pub fn live(&self, path: Path) -> u64 {
        self.live[path as usize]
    }

    fn fold(&mut self, path: Path, meter: &Meter) {
        for direction in [Direction::Up, Direction::Down] {
            for engine in Engine::ALL {
                let bytes = meter.by(direction, engine);
                self.bytes[path as usize][direction as usize][engine as usize] += bytes;
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    live: HashMap<u64, Arc<Flow>>,
    /// Of ended flows only.
    ended: Totals,
}

/// All live flows, and what the ended ones left. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FlowTable {
    state: Arc<Mutex<State>>,
    next: Arc<AtomicU64>,
    work: Arc<Work>,
}

/// Flows and dials under way. Telling those who wait for quiet costs more than counting, so it is done only when
/// the first piece of work begins or the last one ends.
#[derive(Debug, Default)]
struct Work {
    count: AtomicU64,
    /// Goes up after each change between none and some.
    turned: watch::Sender<u64>,
}

impl Work {
    fn is_none(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn tell(&self) {
        self.turned.send_modify(|times| *times += 1);
    }
}

/// A flow or a dial under way, for [`FlowTable::quiet_for`].
#[derive(Debug)]
pub struct Busy(Arc<Work>);

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.tell();
        }
    }
}

impl FlowTable {
    pub fn new() -> FlowTable {
        FlowTable::default()
    }

    /// Enters a flow whose dial succeeded; it leaves when the guard finishes or drops.
    pub fn open(&self, target: impl Into<String>, peer: impl Into<String>, path: Path) -> OpenFlow {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let flow = Arc::new(Flow {
            number,
            target: target.into(),
            peer: peer.into(),
            path,
            meter: Arc::default(),
            since: Instant::now(),
        });
        self.lock().live.insert(number, flow.clone());
        OpenFlow { table: self.clone(), flow, _busy: self.busy(), outcome: Outcome::Cancelled, ending: None }
    }

    /// Something is under way that is no flow yet: a dial.
    #[must_use]
    pub fn busy(&self) -> Busy {
        if self.work.count.fetch_add(1, Ordering::SeqCst) == 0 {
            self.work.tell();
        }
        Busy(self.work.clone())
    }

    /// Flows and dials that are under way.
    pub fn under_way(&self) -> u64 {
        self.work.count.load(Ordering::SeqCst)
    }

    /// Returns when there was no flow and no dial for `span` at a stretch.
    pub async fn quiet_for(&self, span: Duration) {
        let mut turned = self.work.turned.subscribe();
        loop {
            // The sender lives in `self`, so no wait can fail.
            let _ = turned.borrow_and_update();
            if !self.work.is_none() {
                let _ = turned.changed().await;
            } else if tokio::time::timeout(span, turned.changed()).await.is_err() && self.work.is_none() {
                return;
            }
        }
    }

    /// The live flows, oldest first.
    pub fn live(&self) -> Vec<Arc<Flow>> {
        let mut flows: Vec<_> = self.lock().live.values().cloned().collect();
        flows.sort_by_key(|flow| flow.number);
        flows
    }

    pub fn len(&self) -> usize {
        self.lock().live.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn totals(&self) -> Totals {
        let state = self.lock();
        let mut totals = state.ended;
        for flow in state.live.values() {
            totals.live[flow.path as usize] += 1;
            totals.fold(flow.path, &flow.meter);
        }
        totals
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow while it lives. Dropped without [`OpenFlow::finish`] it counts as cancelled by us.
#[derive(Debug)]
pub struct OpenFlow {
    table: FlowTable,
    flow: Arc<Flow>,
    _busy: Busy,
    outcome: Outcome,
    ending: Option<Ending>,
}

impl OpenFlow {
    pub fn meter(&self) -> Arc<Meter> {
        self.flow.meter.clone()
    }

    pub fn flow(&self) -> &Flow {
        &self.flow
    }

    /// How long the flow has lived.
    pub fn age(&self) -> Duration {
        self.flow.since.elapsed()
    }

    /// The flow ended by itself.
    pub fn finish(mut self, ending: Ending) {
        self.outcome = Outcome::of(&ending);
        self.ending = Some(ending);
    }
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        let flow = &self.flow;
        {
            let mut state = self.table.lock();
            state.live.remove(&flow.number);
            state.ended.fold(flow.path, &flow.meter);
            state.ended.ended[flow.path as usize][self.outcome as usize] += 1;
        }
        let (up, down) = match self.ending {
            Some(ending) => (format!("{:?}", ending.up), format!("{:?}", ending.down)),
            None => ("Cancelled".to_owned(), "Cancelled".to_owned()),
        };
        tracing::debug!(
            flow = flow.number,
            target_address = flow.target,
            peer = flow.peer,
            path = flow.path.name(),
            engines = %engines(&flow.meter),
            to_target = flow.meter.total(Direction::Up),
            to_client = flow.meter.total(Direction::Down),
            seconds = format_args!("{:.3}", flow.since.elapsed().as_secs_f64()),
            up,
            down,
            "Flow ended"
        );
    }
}

/// The engines that moved bytes of a flow, as `to-target/to-client`: `copy+splice/splice`.
pub fn engines(meter: &Meter) -> String {
    let used = |direction| {
        let names =
            Engine::ALL.into_iter().filter(|engine| meter.by(direction, *engine) > 0).map(Engine::name);
        let names: Vec<_> = names.collect();
        if names.is_empty() { "-".to_owned() } else { names.join("+") }
    };
    format!("{}/{}", used(Direction::Up), used(Direction::Down))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Finish;

    #[test]
    fn bytes_are_counted_once_while_a_flow_lives_and_after() {
        let table = FlowTable::new();
        let open = table.open("10.0.0.1:10250", "agent", Path::LaneRaw);
        open.meter().add(Direction::Up, Engine::Splice, 5);
        let during = table.totals();
        assert_eq!(during.bytes(Path::LaneRaw, Direction::Up, Engine::Splice), 5);
        assert_eq!((during.live(Path::LaneRaw), table.len()), (1, 1));
        open.finish(Ending { up: Finish::Clean, down: Finish::Clean, up_bytes: 5, down_bytes: 0 });
        let after = table.totals();
        assert_eq!(after.bytes(Path::LaneRaw, Direction::Up, Engine::Splice), 5);
        assert_eq!((after.live(Path::LaneRaw), after.ended(Path::LaneRaw, Outcome::Clean)), (0, 1));
    }

    #[test]
    fn a_dropped_flow_leaves_and_counts_as_cancelled() {
        let table = FlowTable::new();
        drop(table.open("a:1", "agent", Path::Mux));
        assert!(table.is_empty());
        assert_eq!(table.totals().ended(Path::Mux, Outcome::Cancelled), 1);
    }

    #[tokio::test]
    async fn quiet_means_neither_flow_nor_dial_for_a_while() {
        let table = FlowTable::new();
        let dial = table.busy();
        let flow = table.open("a:1", "agent", Path::Mux);
        let quiet = table.quiet_for(Duration::from_millis(1));
        tokio::pin!(quiet);
        let soon = Duration::from_millis(30);
        assert!(tokio::time::timeout(soon, &mut quiet).await.is_err());
        drop(flow);
        assert!(tokio::time::timeout(soon, &mut quiet).await.is_err());
        drop(dial);
        quiet.await;
    }

    #[test]
    fn an_abort_on_either_side_is_no_clean_end() {
        for (up, down, outcome) in [
            (Finish::Clean, Finish::Aborted, Outcome::Aborted),
            (Finish::Failed(5), Finish::Clean, Outcome::Aborted),
            (Finish::Aborted, Finish::Cancelled, Outcome::Cancelled),
        ] {
            assert_eq!(Outcome::of(&Ending { up, down, up_bytes: 0, down_bytes: 0 }), outcome);
        }
    }
}
