//! A direction that passes through userspace and goes back, a hundred times, loses and repeats nothing.

use super::rig::Rig;
use super::{Doubt, Sockmap};
use crate::splice::kernel::Mode;

const TURNS: u64 = 100;
const BYTES: u64 = 5_003;

pub(super) fn check(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut rig = Rig::tcp()?;
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20)?;
    for turn in 0..TURNS {
        mapped.pass();
        rig.run(&mapped, rig.received + BYTES, turn % 2 == 0)?;
        if !mapped.try_redirect() {
            return Err(Doubt::Saw(format!("turn {turn}: all bytes forwarded, and yet no way back")));
        }
        rig.run(&mapped, rig.received + BYTES, false)?;
    }
    match (mapped.mode(), mapped.counts().redirected) {
        (Mode::Redirect, bytes) if bytes >= TURNS * BYTES => Ok(()),
        (mode, bytes) => Err(Doubt::Saw(format!("{bytes} bytes redirected, now {mode:?}"))),
    }
}
