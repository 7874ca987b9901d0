//! A redirect queues without bound (2.9 GB in 4 s were seen): the verdict must count the destination's unsent
//! bytes right, which also proves the offsets that were read from the kernel's BTF.

use super::rig::{Rig, until};
use super::{Doubt, Sockmap};
use crate::splice::kernel::{Mode, sock};

const LIMIT: u32 = 256 << 10;
/// More than all queues of the rig together hold.
const OFFER: u64 = 64 << 20;
/// The largest segment that one verdict sees, and some of the destination's own send queue.
const SLACK: u64 = 256 << 10;

pub(super) fn check(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut rig = Rig::tcp()?;
    sock::force_send_buffer(&rig.destination, 4 << 20).map_err(Doubt::io("enlarging a send buffer"))?;
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, LIMIT)?;
    // Nobody reads: everything fills up, and then nothing may move any more.
    let mut before = u64::MAX;
    until("the stalled flow to come to rest", || {
        rig.offer(OFFER)?;
        let sent = rig.sent;
        Ok(std::mem::replace(&mut before, sent) == sent && mapped.mode() == Mode::Pass)
    })?;
    let unsent = mapped.unsent(&rig.destination).map_err(Doubt::io("asking the destination"))?;
    let bounds = u64::from(LIMIT) / 2..=u64::from(LIMIT) + SLACK;
    if !bounds.contains(&unsent) {
        return Err(Doubt::Saw(format!("{unsent} bytes wait unsent where {LIMIT} may")));
    }
    if rig.sent == OFFER {
        return Err(Doubt::Saw("a flow without a reader took everything".to_owned()));
    }
    let end = rig.sent;
    rig.run(&mapped, end, true)?;
    match mapped.counts() {
        counts if counts.gaps > 0 => Err(Doubt::Saw(format!("{} gaps in a stream without any", counts.gaps))),
        counts if counts.delivered() != end => {
            Err(Doubt::Saw(format!("{} bytes counted of {end}", counts.delivered())))
        }
        _ => Ok(()),
    }
}
