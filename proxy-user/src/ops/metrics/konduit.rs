//! Our own metrics, the same in both binaries.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Error, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use super::GaugeGuard;
use super::make::Maker;
use crate::flow::{Direction, Engine, FlowTable, Outcome, Path, Totals};

const DIAL: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 12.5];

/// Why a flow was not carried by the best means there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// The peer speaks upstream's protocol only.
    PeerWithoutLanes,
    /// `--lanes=off` at either end.
    LanesOff,
    /// No lane arrived within `--lane-wait`.
    LaneLate,
    /// Lanes towards this peer keep failing.
    LanesFailing,
    /// Too many dials wait for lanes.
    TooManyWaiting,
    /// The ceiling of lanes was reached.
    LaneLimit,
    /// A lane did not acknowledge its dial in time.
    LaneSilent,
}

impl Fallback {
    pub const ALL: [Fallback; 7] = [
        Fallback::PeerWithoutLanes,
        Fallback::LanesOff,
        Fallback::LaneLate,
        Fallback::LanesFailing,
        Fallback::TooManyWaiting,
        Fallback::LaneLimit,
        Fallback::LaneSilent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fallback::PeerWithoutLanes => "peer_without_lanes",
            Fallback::LanesOff => "lanes_off",
            Fallback::LaneLate => "lane_late",
            Fallback::LanesFailing => "lanes_failing",
            Fallback::TooManyWaiting => "too_many_waiting",
            Fallback::LaneLimit => "lane_limit",
            Fallback::LaneSilent => "lane_silent",
        }
    }
}

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LaneState {
    Opening,
    Idle,
    InUse,
}

impl LaneState {
    pub fn name(self) -> &'static str {
        match self {
            LaneState::Opening => "opening",
            LaneState::Idle => "idle",
            LaneState::InUse => "in_use",
        }
    }
}

/// What Konduit adds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KonduitMetrics {
    dials: HistogramVec,
    fallbacks: IntCounterVec,
    proven: IntGaugeVec,
    in_force: IntGaugeVec,
    lanes: IntGaugeVec,
    lanes_asked: IntCounter,
    lanes_ended: IntCounterVec,
    lanes_landed: IntCounterVec,
    lane_handshakes: IntCounterVec,
    queued: IntGaugeVec,
    mux_pauses: IntCounter,
    flow_ends: IntCounterVec,
    log_lines_lost: IntCounter,
}

impl KonduitMetrics {
    pub(super) fn new(registry: &Registry, flows: &FlowTable) -> Result<KonduitMetrics, Error> {
        let make = Maker { registry, prefix: "konduit_" };
        registry.register(Box::new(FlowCollector::new(flows.clone())?))?;
        Ok(KonduitMetrics {
            dials: make.histogram_vec(
                "dial_seconds",
                "Latency of successful dials, by path.",
                &["path"],
                &DIAL,
            )?,
            fallbacks: make.counter_vec(
                "fallbacks_total",
                "Flows that a lesser means carried than the best there is, by reason.",
                &["reason"],
            )?,
            proven: make.gauge_vec(
                "engine_proven",
                "1 where the start-up self-test proved the engine on this machine.",
                &["engine"],
            )?,
            in_force: make.gauge_vec(
                "in_force",
                "1 for the setting that new flows obey, and why it is in force.",
                &["setting", "value", "why"],
            )?,
            lanes: make.gauge_vec("lanes", "Lanes that this process holds, by state.", &["state"])?,
            lanes_asked: make.counter("lanes_asked_total", "Lanes that the server asked for.")?,
            lanes_ended: make.counter_vec(
                "lanes_ended_total",
                "Lanes that ended, by reason.",
                &["reason"],
            )?,
            lanes_landed: make.counter_vec(
                "lanes_landed_total",
                "Where opened lanes landed: the server they were for, and the one that answered.",
                &["wanted", "reached"],
            )?,
            lane_handshakes: make.counter_vec(
                "lane_handshakes_total",
                "TLS handshakes of lanes, full or resumed.",
                &["kind"],
            )?,
            queued: make.gauge_vec(
                "queued_bytes",
                "Bytes that wait inside this process, by place.",
                &["place"],
            )?,
            mux_pauses: make
                .counter("mux_pauses_total", "Times a control stream's reader paused for a full flow.")?,
            flow_ends: make.counter_vec(
                "flows_ended_by_us_total",
                "Flows that this process ended, by reason.",
                &["reason"],
            )?,
            log_lines_lost: make
                .counter("log_lines_lost_total", "Log lines dropped because nobody took them.")?,
        })
    }

    pub fn dial(&self, path: Path, took: Duration) {
        self.dials.with_label_values(&[path.name()]).observe(took.as_secs_f64());
    }

    pub fn fallback(&self, why: Fallback) {
        self.fallbacks.with_label_values(&[why.name()]).inc();
    }

    /// A fallback inside an engine, or of another area: any fixed reason.
    pub fn fallback_named(&self, why: &'static str) {
        self.fallbacks.with_label_values(&[why]).inc();
    }

    pub fn proven(&self, engine: Engine, proven: bool) {
        self.proven.with_label_values(&[engine.name()]).set(i64::from(proven));
    }

    /// `setting` (`engine`, `lanes`, `lane-security`) now has `value`, for this reason (`flag`, `operator`, …).
    pub fn in_force(&self, setting: &'static str, value: &str, why: &str, former: Option<(&str, &str)>) {
        if let Some((value, why)) = former {
            // Absent already when this is the first value.
            let _ = self.in_force.remove_label_values(&[setting, value, why]);
        }
        self.in_force.with_label_values(&[setting, value, why]).set(1);
    }

    #[must_use]
    pub fn lane(&self, state: LaneState) -> GaugeGuard {
        GaugeGuard::new(&self.lanes.with_label_values(&[state.name()]))
    }

    pub fn lanes_asked(&self, count: u64) {
        self.lanes_asked.inc_by(count);
    }

    pub fn lane_ended(&self, reason: &'static str) {
        self.lanes_ended.with_label_values(&[reason]).inc();
    }

    pub fn lane_landed(&self, wanted: &str, reached: &str) {
        self.lanes_landed.with_label_values(&[wanted, reached]).inc();
    }

    pub fn lane_handshake(&self, resumed: bool) {
        self.lane_handshakes.with_label_values(&[if resumed { "resumed" } else { "full" }]).inc();
    }

    /// Bytes that wait in `place` (`mux`, `engine`).
    pub fn queued(&self, place: &'static str, bytes: u64) {
        self.queued.with_label_values(&[place]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    pub fn mux_paused(&self) {
        self.mux_pauses.inc();
    }

    /// We ended a flow for this fixed reason (`stalled`, `mux_budget`, `conservation`, …).
    pub fn flow_ended_by_us(&self, reason: &'static str) {
        self.flow_ends.with_label_values(&[reason]).inc();
    }

    /// The counter that the log's writer moves.
    pub fn log_lines_lost(&self) -> IntCounter {
        self.log_lines_lost.clone()
    }
}

/// Reads the flow table at each scrape: a byte of a live flow counts as soon as it was moved.
struct FlowCollector {
    flows: FlowTable,
    descs: Vec<Desc>,
}

struct FlowFamilies {
    bytes: IntCounterVec,
    live: IntGaugeVec,
    ended: IntCounterVec,
}

impl FlowFamilies {
    fn new() -> Result<FlowFamilies, Error> {
        let bytes =
            Opts::new("konduit_bytes_total", "Bytes of flows handed over, by path, direction and engine.");
        let live = Opts::new("konduit_flows", "Flows that live, by path.");
        let ended = Opts::new("konduit_flows_total", "Flows that ended, by path and outcome.");
        Ok(FlowFamilies {
            bytes: IntCounterVec::new(bytes, &["path", "direction", "engine"])?,
            live: IntGaugeVec::new(live, &["path"])?,
            ended: IntCounterVec::new(ended, &["path", "outcome"])?,
        })
    }

    fn fill(&self, totals: &Totals) {
        for path in Path::ALL {
            let live = i64::try_from(totals.live(path)).unwrap_or(i64::MAX);
            self.live.with_label_values(&[path.name()]).set(live);
            for outcome in Outcome::ALL {
                self.ended
                    .with_label_values(&[path.name(), outcome.name()])
                    .inc_by(totals.ended(path, outcome));
            }
            for (direction, name) in [(Direction::Up, "to_target"), (Direction::Down, "to_client")] {
                for engine in Engine::ALL {
                    let bytes = totals.bytes(path, direction, engine);
                    self.bytes.with_label_values(&[path.name(), name, engine.name()]).inc_by(bytes);
                }
            }
        }
    }
}

impl FlowCollector {
    fn new(flows: FlowTable) -> Result<FlowCollector, Error> {
        let families = FlowFamilies::new()?;
        let descs = [families.bytes.desc(), families.live.desc(), families.ended.desc()];
        Ok(FlowCollector { flows, descs: descs.concat().into_iter().cloned().collect() })
    }
}

impl Collector for FlowCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(families) = FlowFamilies::new() else { return Vec::new() };
        families.fill(&self.flows.totals());
        [families.bytes.collect(), families.live.collect(), families.ended.collect()].concat()
    }
}
