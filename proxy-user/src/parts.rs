//! What both programs are made of: each part from its flags, or the sentence why it cannot be.

use std::sync::Arc;

use crate::lane::Security;
use crate::mux::{Pool, brake::Limits};
use crate::ops::flags::{EngineOptions, LaneSecurity, MuxOptions};
use crate::ops::metrics::KonduitMetrics;
use crate::splice::proof::Abilities;
use crate::splice::{self, SpliceConfig, SpliceError, Splicer};

/// What all flows may queue as packets where memory is no matter.
const MUX_BUFFER: u64 = 64 << 20;

pub(crate) fn splicer(options: &EngineOptions, abilities: &Abilities) -> Result<Splicer, SpliceError> {
    Splicer::start(SpliceConfig {
        engine: options.engine,
        flow_buffer_max: options.flow_buffer_max.0,
        buffer_budget: options.buffer_budget.map(|budget| budget.0),
        busy_poll: options.busy_poll,
        proven: abilities.proven(),
        ..SpliceConfig::default()
    })
}

/// Shown from now on; once.
pub(crate) fn pool(options: &MuxOptions, metrics: &KonduitMetrics) -> Result<Arc<Pool>, prometheus::Error> {
    let pool = Pool::new(limits(options, splice::container_limit()));
    let shown = pool.clone();
    metrics.show_queued(move || shown.queued())?;
    Ok(pool)
}

/// What flows may queue as packets in a container of this limit; upstream's manifests give an agent 30 Mi, and one flow
/// may queue half of all.
fn limits(options: &MuxOptions, container: Option<u64>) -> Limits {
    let derived = || container.map_or(MUX_BUFFER, |limit| (limit / 4).min(MUX_BUFFER));
    let total = options.buffer.map_or_else(derived, |asked| asked.0);
    Limits { flow: options.flow_buffer.0.min(total / 2), total }
}

pub(crate) fn security(security: LaneSecurity) -> Security {
    match security {
        LaneSecurity::Encrypt => Security::Encrypt,
        LaneSecurity::Raw => Security::Raw,
    }
}

/// Raises the soft limit to the hard one and says what it is.
pub(crate) fn file_descriptors() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Refused only where the limit is as high as it may be.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let now = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(now).unwrap_or(1 << 20)
}

/// Descriptors of which lanes may take their part: four to each lane that `--lanes-max` allows, else all there are.
pub(crate) fn lane_files(max: Option<u32>) -> usize {
    max.map_or_else(file_descriptors, |max| max as usize * 4)
}

/// What the process holds whatever it serves: listeners, logs, epolls, eBPF objects, control streams.
const OWN_FILES: usize = 64;

/// Flows that this process can hold at a time: two descriptors each, of half of what there are. The rest is for idle
/// lanes (a quarter), pipes (an eighth), newcomers to the agents' port (a sixteenth) and the doors of operators.
pub(crate) fn most_flows() -> u64 {
    let files = file_descriptors();
    (files.saturating_sub(OWN_FILES).max(files / 2) as u64 / 4).max(1)
}

/// Connections at a time at each door of operators: the health port, the admin port, the operator socket.
pub(crate) fn door_connections() -> usize {
    (file_descriptors() / 64).clamp(8, 256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::flags::ByteSize;

    #[test]
    fn packets_queue_less_in_a_small_container_unless_somebody_says_otherwise() {
        let of = |asked: Option<u64>, container| {
            let options = MuxOptions { buffer: asked.map(ByteSize::mib), ..MuxOptions::default() };
            let limits = limits(&options, container);
            (limits.flow, limits.total)
        };
        const MIB: u64 = 1 << 20;
        assert_eq!(of(None, None), (4 * MIB, 64 * MIB));
        assert_eq!(of(None, Some(8 << 30)), (4 * MIB, 64 * MIB));
        assert_eq!(of(None, Some(32 * MIB)), (4 * MIB, 8 * MIB));
        assert_eq!(of(None, Some(24 * MIB)), (3 * MIB, 6 * MIB));
        assert_eq!(of(Some(64), Some(32 * MIB)), (4 * MIB, 64 * MIB));
    }
}
