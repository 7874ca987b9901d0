//! Kernels from about 6.5 to mid-2025 sent parts of a segment twice when the destination's buffer was full.

use super::rig::{Rig, until};
use super::{Doubt, Sockmap};

const LENGTH: u64 = 768 << 10;

pub(super) fn check(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut rig = Rig::tcp()?;
    rig.narrow(8 << 10)?;
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20)?;
    let mut before = u64::MAX;
    until("the buffers to fill", || {
        rig.offer(LENGTH)?;
        let sent = rig.sent;
        Ok(std::mem::replace(&mut before, sent) == sent)
    })?;
    rig.run(&mapped, LENGTH, true)
}
