//! Unix → TCP: in order and once behind a small buffer, and whole when the sender closes at once.

use std::net::Shutdown;

use super::rig::{Rig, Source as _, until};
use super::{Doubt, Sockmap};
use crate::splice::kernel::sock;

const LENGTH: u64 = 256 << 10;

pub(super) fn check(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut rig = Rig::unix()?;
    rig.narrow(8 << 10)?;
    let mapped = sockmap.map_unix(&rig.source, &rig.destination)?;
    let mut before = u64::MAX;
    until("the sender to be throttled", || {
        rig.offer(LENGTH * 64)?;
        let sent = rig.sent;
        Ok(std::mem::replace(&mut before, sent) == sent)
    })?;
    if rig.sent >= LENGTH * 64 {
        return Err(Doubt::Saw("a flow without a reader took everything".to_owned()));
    }
    let end = rig.sent.max(LENGTH);
    rig.run(&mapped, end, false)?;
    match mapped.counts() {
        counts if counts.redirected == end && counts.strays == 0 => Ok(()),
        counts => Err(Doubt::Saw(format!("{} of {end} bytes were redirected", counts.redirected))),
    }
}

pub(super) fn check_end(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut rig = Rig::unix()?;
    let mapped = sockmap.map_unix(&rig.source, &rig.destination)?;
    rig.offer(100_000)?;
    let end = rig.sent;
    rig.client.end().map_err(Doubt::io("ending the Unix stream"))?;
    until("the end of the Unix stream", || {
        sock::kick(&rig.source).map_err(Doubt::io("looking for the end"))
    })?;
    until("the redirected bytes to leave", || {
        mapped.is_drained(&rig.destination).map_err(Doubt::io("asking the destination"))
    })?;
    rig.destination.shutdown(Shutdown::Write).map_err(Doubt::io("passing the end on"))?;
    until("the end at the target", || rig.take())?;
    match rig.received == end {
        true => Ok(()),
        false => Err(Doubt::Saw(format!("{} of {end} bytes arrived before the end", rig.received))),
    }
}
