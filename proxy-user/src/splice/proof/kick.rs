//! Bytes that arrived before the socket entered its map stay in its receive queue (kernels before 6.4).

use super::rig::{Rig, readable, until};
use super::{Doubt, Sockmap};
use std::os::fd::AsFd;

pub(super) fn check(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut rig = Rig::tcp()?;
    rig.offer(10_000)?;
    until("bytes at the source", || Ok(readable(rig.source.as_fd())? == 10_000))?;
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20)?;
    rig.run(&mapped, 10_000, false)?;
    rig.run(&mapped, 20_000, false)?;
    match mapped.counts().redirected {
        20_000 => Ok(()),
        other => Err(Doubt::Saw(format!("{other} of 20000 bytes were redirected"))),
    }
}
