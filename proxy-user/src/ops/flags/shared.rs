//! The flags that both binaries have: ours for lanes, mux and engine, and klog's.

use std::time::Duration;

use super::{ByteSize, Refusal, Value, checked, choice};
use crate::ops::log::verbosity;
pub use crate::splice::EngineChoice;

/// `--lanes`: whether flows may have a TCP connection of their own between server and agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LanesMode {
    /// Every flow asks for one.
    Always,
    /// As `Always`, but dials that come faster than lanes are worth opening go to the mux at once.
    #[default]
    Auto,
    Off,
}
choice!(LanesMode, "mode", "{:?} is unknown; lanes are 'auto', 'always' or 'off'", {
    "auto" => LanesMode::Auto,
    "always" => LanesMode::Always,
    "off" => LanesMode::Off,
});

/// `--lane-security`: what becomes of a lane's TLS after the join. Both ends must allow a mode; the stricter wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LaneSecurity {
    #[default]
    Encrypt,
    Raw,
}
choice!(LaneSecurity, "mode", "{:?} is unknown; a lane's security is 'encrypt' or 'raw'", {
    "encrypt" => LaneSecurity::Encrypt,
    "raw" => LaneSecurity::Raw,
});

choice!(EngineChoice, "engine", "{:?} is unknown; the engine is 'auto', 'sockmap', 'splice' or 'copy'", {
    "auto" => EngineChoice::Auto,
    "sockmap" => EngineChoice::Sockmap,
    "splice" => EngineChoice::Splice,
    "copy" => EngineChoice::Copy,
});

/// Lanes, as one end wants them.
#[derive(Debug, Clone)]
pub struct LaneOptions {
    pub mode: LanesMode,
    pub security: LaneSecurity,
    /// How long a dial waits for its lane after the target answered, before it runs on the mux for good.
    pub wait: Duration,
    /// How often an idle lane is pinged inside TLS.
    pub ping: Duration,
    /// Ceiling over all lanes of this process; derived from the fd limit when absent.
    pub max: Option<u32>,
}

impl Default for LaneOptions {
    fn default() -> LaneOptions {
        LaneOptions {
            mode: LanesMode::Auto,
            security: LaneSecurity::Encrypt,
            wait: Duration::from_millis(250),
            ping: Duration::from_secs(20),
            max: None,
        }
    }
}

/// The splice engine and its bounds.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub engine: EngineChoice,
    /// Bytes that may wait inside this process's flows, all together; derived from the memory limit when absent.
    pub buffer_budget: Option<ByteSize>,
    /// Ceiling of one flow's send buffer.
    pub flow_buffer_max: ByteSize,
    /// Whether an engine thread may wait awake for an event that is near.
    pub busy_poll: bool,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            engine: EngineChoice::Auto,
            buffer_budget: None,
            flow_buffer_max: ByteSize::mib(16),
            busy_poll: true,
        }
    }
}

/// Bounds of flows that travel as packets.
#[derive(Debug, Clone)]
pub struct MuxOptions {
    /// Bytes one flow may queue towards an end that does not read.
    pub flow_buffer: ByteSize,
    /// Bytes all flows of the process may queue; derived from the memory limit when absent.
    pub buffer: Option<ByteSize>,
}

impl Default for MuxOptions {
    fn default() -> MuxOptions {
        MuxOptions { flow_buffer: ByteSize::mib(4), buffer: None }
    }
}

/// A klog severity, for `--stderrthreshold`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Severity {
    #[default]
    Info,
    Warning,
    Error,
    Fatal,
}
/// As klog: a name in whatever case, or any number; beyond either end it means the same as that end.
impl Value for Severity {
    fn kind(&self) -> &'static str {
        "severity"
    }

    fn set(&mut self, text: &str, _first: bool) -> Result<(), Refusal> {
        let all = [Severity::Info, Severity::Warning, Severity::Error, Severity::Fatal];
        let named =
            ["INFO", "WARNING", "ERROR", "FATAL"].iter().position(|name| text.eq_ignore_ascii_case(name));
        let numbered = || Some(text.parse::<i32>().ok()?.clamp(0, 3).unsigned_abs() as usize);
        let at = named.or_else(numbered);
        let at = at.ok_or_else(|| {
            format!("{text:?} is unknown; a severity is INFO, WARNING, ERROR, FATAL or 0 to 3")
        })?;
        *self = all[at];
        Ok(())
    }

    fn show(&self) -> String {
        (*self as i32).to_string()
    }
}

checked!(
    /// `--vmodule`.
    Modules, verbosity::check
);

checked!(
    /// `--log-backtrace-at`.
    TraceLocation, trace_location
);

/// klog's grammar and words.
fn trace_location(text: &str) -> Result<(), String> {
    let syntax = || "syntax error: expect file.go:234".to_owned();
    if text.is_empty() {
        return Ok(());
    }
    let (file, line) = text.split_once(':').ok_or_else(syntax)?;
    let line: i64 = line.parse().map_err(|_| syntax())?;
    match file.contains('.') {
        false => Err(syntax()),
        true if line <= 0 => Err("negative or zero value for level".to_owned()),
        true => Ok(()),
    }
}

/// klog's flags.
#[derive(Debug, Clone)]
pub struct LogOptions {
    pub add_dir_header: bool,
    pub also_to_stderr: bool,
    pub also_to_stderr_threshold: Severity,
    pub backtrace_at: TraceLocation,
    pub dir: String,
    pub file: String,
    /// Megabytes after which the file starts over; 0 = never.
    pub file_max_size: u64,
    pub legacy_stderr_threshold: bool,
    pub to_stderr: bool,
    pub one_output: bool,
    pub skip_headers: bool,
    pub skip_log_headers: bool,
    pub stderr_threshold: Severity,
    pub v: i32,
    pub vmodule: Modules,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            add_dir_header: false,
            also_to_stderr: false,
            also_to_stderr_threshold: Severity::Info,
            backtrace_at: TraceLocation::default(),
            dir: String::new(),
            file: String::new(),
            file_max_size: 1800,
            legacy_stderr_threshold: true,
            to_stderr: true,
            one_output: false,
            skip_headers: false,
            skip_log_headers: false,
            stderr_threshold: Severity::Error,
            v: 4,
            vmodule: Modules::default(),
        }
    }
}

pub(crate) const LANE_GROUP: &str =
    "Konduit: lanes (one TCP connection per flow, when both ends are Konduit):";
pub(crate) const ENGINE_GROUP: &str = "Konduit: engine and memory:";
pub(crate) const OPERATE_GROUP: &str = "Konduit: operating:";
pub(crate) const LOG_GROUP: &str = "Logging (klog):";

/// The rows for the fields `lanes`, `splice`, `mux`, `operator_socket` and `live_settings`.
macro_rules! konduit_flags {
    () => {{
        use $crate::ops::flags::{ENGINE_GROUP, LANE_GROUP, OPERATE_GROUP};
        vec![
            flag!(LANE_GROUP, "lanes", lanes.mode,
                "auto: flows get a TCP connection of their own where both ends are Konduit, so that a stalled flow \
                 stalls nobody else; a short flow's lane serves the next one, and of dials to one agent that find \
                 none ready all but 25 a second travel as packets on the control stream. always: a lane is opened \
                 for each of them (the server decides; the same as auto on an agent). off: every flow travels as \
                 packets, as upstream's do."),
            flag!(LANE_GROUP, "lane-security", lanes.security,
                "encrypt: the flow's bytes stay inside TLS 1.3; raw: both ends leave TLS after the authenticated \
                 hello, so that the kernel can move the bytes. Set raw at both ends, and only where the network \
                 between them is trusted or already encrypted; the stricter end wins."),
            flag!(LANE_GROUP, "lane-wait", lanes.wait,
                "How long the agent waits for a dial's lane after the target answered, before the flow runs as packets."),
            flag!(LANE_GROUP, "lane-ping", lanes.ping, "How often the server pings an idle lane."),
            flag!(LANE_GROUP, "lanes-max", lanes.max,
                "Most lanes this process keeps open without a flow on them, never fewer than 8; auto is a quarter of the \
                 limit of open files. Lanes with a flow count as flows do."),
            flag!(ENGINE_GROUP, "engine", splice.engine,
                "Highest engine that may move bytes: sockmap (in the kernel, by redirect), splice (in the kernel, \
                 by pipe pages) or copy (in userspace). auto uses each where the start-up self-test proved it and \
                 where it is best; any other has every flow on a raw lane from its first byte, which costs the dial \
                 a round trip of the lane, and the lane. Can be lowered in a running process, see `set`."),
            flag!(ENGINE_GROUP, "buffer-budget", splice.buffer_budget,
                "Bytes that may wait inside the flows of this process, all together. A flow gets a part of what is left \
                 when it begins, never less than 96 KiB in each direction, 64 KiB of them as its receive buffer, or as \
                 its window where it travels on packets; more flows than one to 192 KiB that stall both ways exceed \
                 the budget. auto is a quarter of the container's memory limit, else 1/16 of the machine's memory."),
            flag!(ENGINE_GROUP, "flow-buffer-max", splice.flow_buffer_max,
                "Ceiling of one flow's send buffer; not an allocation."),
            flag!(ENGINE_GROUP, "busy-poll", splice.busy_poll,
                "While a flow's bytes go to and fro within 100 µs, look for the next awake for up to 50 µs instead of \
                 sleeping: shorter round trips where both ends are near, for up to one CPU. One thread at a time does, \
                 and none where the process may use only one CPU."),
            flag!(ENGINE_GROUP, "mux-flow-buffer", mux.flow_buffer,
                "Bytes one flow that travels as packets may queue towards an end that does not read."),
            flag!(ENGINE_GROUP, "mux-buffer", mux.buffer,
                "Bytes all flows that travel as packets may queue together where their peer is upstream's. auto is 64 MiB, \
                 a quarter of the container's memory limit at the most."),
            flag!(OPERATE_GROUP, "operator-socket", operator_socket,
                "Unix socket (mode 0600) that answers `flows`, `doctor` and `set`; empty turns it off."),
            flag!(OPERATE_GROUP, "live-settings", live_settings,
                "File with lines such as engine=splice or lanes=off that is watched and obeyed by new flows; meant \
                 for a mounted ConfigMap."),
        ]
    }};
}
pub(crate) use konduit_flags;

/// The rows for klog's flags, in the field `log`.
macro_rules! log_flags {
    () => {{
        use $crate::ops::flags::LOG_GROUP;
        let mut verbosity = flag!(
            LOG_GROUP,
            "v",
            log.v,
            "Verbosity: 0 to 3 tell what an operator acts on, 4 adds one line per flow, 5 more of the inside."
        );
        verbosity.short = Some('v');
        vec![
            verbosity,
            flag!(
                LOG_GROUP,
                "logtostderr",
                log.to_stderr,
                "Log to stderr; --log-file and --log-dir are then ignored."
            ),
            flag!(
                LOG_GROUP,
                "log-file",
                log.file,
                "Log to this file, with --logtostderr=false. One that was renamed (logrotate) is begun anew."
            ),
            flag!(
                LOG_GROUP,
                "log-file-max-size",
                log.file_max_size,
                "Megabytes after which the log file is set aside as FILE.old and begun anew; 0 means never."
            ),
            flag!(
                LOG_GROUP,
                "log-dir",
                log.dir,
                "Log to files in this directory, one for each severity, with --logtostderr=false: \
                 PROGRAM.HOST.USER.log.SEVERITY.DATE-TIME.PID, to the newest of which PROGRAM.SEVERITY leads."
            ),
            flag!(LOG_GROUP, "alsologtostderr", log.also_to_stderr, "Log to stderr as well as to the file."),
            flag!(
                LOG_GROUP,
                "alsologtostderrthreshold",
                log.also_to_stderr_threshold,
                "Lowest severity that --alsologtostderr copies to stderr."
            ),
            flag!(
                LOG_GROUP,
                "stderrthreshold",
                log.stderr_threshold,
                "Lowest severity that goes to stderr when the log goes to a file."
            ),
            flag!(
                LOG_GROUP,
                "legacy-stderr-threshold-behavior",
                log.legacy_stderr_threshold,
                "true: --stderrthreshold is ignored while --logtostderr is true; false: it always holds."
            ),
            flag!(
                LOG_GROUP,
                "skip-headers",
                log.skip_headers,
                "Leave severity, time and place out of each line."
            ),
            flag!(LOG_GROUP, "skip-log-headers", log.skip_log_headers, "Begin a log file without a header."),
            flag!(
                LOG_GROUP,
                "add-dir-header",
                log.add_dir_header,
                "Name the directory of the source file too."
            ),
            flag!(
                LOG_GROUP,
                "one-output",
                log.one_output,
                "In --log-dir, have a line in the file of its own severity alone."
            ),
            flag!(
                LOG_GROUP,
                "log-backtrace-at",
                log.backtrace_at,
                "Accepted without effect: no stack is logged."
            )
            .powerless(),
            flag!(
                LOG_GROUP,
                "vmodule",
                log.vmodule,
                "Verbosity by module, pattern=N separated by commas; patterns match Konduit's module names."
            ),
        ]
    }};
}
pub(crate) use log_flags;
