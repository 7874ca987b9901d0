//! What a stalled reader does not take must be kept out, whole and in order, and the direction must be able to leave at
//! once: passing instead closes the window too, but nothing that passes can leave.

use super::rig::{Rig, until};
use super::{Doubt, Sockmap};
use crate::splice::kernel::Mode;
use crate::splice::kernel::sock;

const LIMIT: u32 = 256 << 10;
/// More than all queues of the rig together hold.
const OFFER: u64 = 64 << 20;
/// What the verdict takes of bytes that were let in before, in limits.
const BOUND: u64 = 4;

pub(super) fn check(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut rig = Rig::tcp()?;
    sock::force_send_buffer(&rig.destination, 4 << 20).map_err(Doubt::io("enlarging a send buffer"))?;
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, LIMIT)?;
    mapped.brake(&rig.source).map_err(Doubt::io("attaching a filter to a socket"))?;
    let mut before = u64::MAX;
    until("the stalled flow to come to rest", || {
        rig.offer(OFFER)?;
        let sent = rig.sent;
        Ok(std::mem::replace(&mut before, sent) == sent && mapped.counts().overflows > 0)
    })?;
    let unsent = mapped.unsent(&rig.destination).map_err(Doubt::io("asking the destination"))?;
    if mapped.mode() != Mode::Redirect || unsent > BOUND * u64::from(LIMIT) {
        let mode = mapped.mode();
        return Err(Doubt::Saw(format!("{unsent} bytes wait unsent where {LIMIT} may, in {mode:?}")));
    }
    mapped.ask_to_leave();
    sockmap.leave().map_err(|error| Doubt::Saw(error.to_string()))?;
    if !mapped.has_left() {
        return Err(Doubt::Saw("a direction that redirects did not leave when it was let".to_owned()));
    }
    let end = rig.sent;
    rig.run(&mapped, end, false)
}
