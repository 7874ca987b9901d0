//! A redirect queues without bound (2.9 GB in 4 s were seen): the verdict must count the destination's unsent
//! bytes right, which also proves the offsets that were read from the kernel's BTF. What a stalled reader does not take
//! must be kept out, whole and in order, and the direction must be able to leave at once.
//!
//! With a brake, as in earnest: passing with a full receive buffer is where the kernel miscounts a socket's memory.

use super::rig::{Rig, until};
use super::{Doubt, Sockmap};
use crate::splice::kernel::{Limits, Mode, sock};

const LIMIT: u32 = 256 << 10;
/// More than all queues of the rig together hold.
const OFFER: u64 = 64 << 20;
/// One finds the direction; the kernel's own walk may miss a socket while others come and go.
const WALKS: u32 = 10;

pub(super) fn check(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut rig = Rig::tcp()?;
    sock::force_send_buffer(&rig.destination, 4 << 20).map_err(Doubt::io("enlarging a send buffer"))?;
    let limits = Limits { closes: LIMIT, ..Limits::from(LIMIT) };
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, limits)?;
    // Nobody reads: everything fills up, and then nothing may move any more.
    let mut before = u64::MAX;
    until("the stalled flow to come to rest", || {
        rig.offer(OFFER)?;
        let sent = rig.sent;
        Ok(std::mem::replace(&mut before, sent) == sent && mapped.counts().overflows > 0)
    })?;
    let unsent = mapped.unsent(&rig.destination).map_err(Doubt::io("asking the destination"))?;
    let bounds = u64::from(LIMIT) / 2..=OFFER / 8;
    if !bounds.contains(&unsent) || mapped.mode() != Mode::Redirect {
        let mode = mapped.mode();
        return Err(Doubt::Saw(format!("{unsent} bytes wait unsent where {LIMIT} may, in {mode:?}")));
    }
    if rig.sent == OFFER {
        return Err(Doubt::Saw("a flow without a reader took everything".to_owned()));
    }
    mapped.ask_to_leave();
    for _ in 0..WALKS {
        sockmap.leave().map_err(|error| Doubt::Saw(error.to_string()))?;
        if mapped.has_left() {
            break;
        }
    }
    if !mapped.has_left() {
        return Err(Doubt::Saw("a direction that redirects did not leave when it was let".to_owned()));
    }
    let end = rig.sent;
    rig.run(&mapped, end, false)?;
    match mapped.counts() {
        counts if counts.gaps > 0 => Err(Doubt::Saw(format!("{} gaps in a stream without any", counts.gaps))),
        counts if counts.delivered() != end => {
            Err(Doubt::Saw(format!("{} bytes counted of {end}", counts.delivered())))
        }
        _ => Ok(()),
    }
}
