//! A FIN must not poison the destination: the other direction of the flow lives on.

use std::net::Shutdown;

use super::rig::{Rig, Source as _, until};
use super::{Doubt, Sockmap};
use crate::splice::kernel::sock;

const LENGTH: u64 = 300_000;

pub(super) fn check(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut up = Rig::tcp()?;
    // The same four sockets the other way round.
    let clone = |socket: &std::net::TcpStream| socket.try_clone().map_err(Doubt::io("cloning a socket"));
    let mut down = Rig::tcp()?;
    down.client = clone(&up.target)?;
    down.source = clone(&up.destination)?;
    down.destination = clone(&up.source)?;
    down.target = clone(&up.client)?;
    let up_mapped = sockmap.map_tcp(&up.source, &up.destination, 1 << 20)?;
    let down_mapped = sockmap.map_tcp(&down.source, &down.destination, 1 << 20)?;
    up.run(&up_mapped, LENGTH, true)?;
    down.run(&down_mapped, LENGTH, true)?;
    up.client.end().map_err(Doubt::io("half-closing"))?;
    until("the end of the client's stream", || {
        sock::kick(&up.source).map_err(Doubt::io("looking for the end"))
    })?;
    down.run(&down_mapped, 2 * LENGTH, true)?;
    if !up_mapped.is_drained(&up.destination).map_err(Doubt::io("asking the destination"))? {
        return Err(Doubt::Saw("bytes of the ended direction never left".to_owned()));
    }
    up.destination.shutdown(Shutdown::Write).map_err(Doubt::io("passing the end on"))?;
    until("the end at the target", || up.take())?;
    down.run(&down_mapped, 3 * LENGTH, true)?;
    for socket in [&up.source, &up.destination] {
        if let Some(error) = socket.take_error().map_err(Doubt::io("asking for a pending error"))? {
            return Err(Doubt::Saw(format!("a clean half-close left an error on a socket: {error}")));
        }
    }
    Ok(())
}
