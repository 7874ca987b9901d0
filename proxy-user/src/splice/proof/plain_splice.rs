//! splice(2) between two sockets through a pipe, alone and on a socket that is a redirect's destination.

use std::net::TcpStream;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};

use super::rig::{Rig, until};
use super::{Doubt, Sockmap};

const LENGTH: u64 = 1 << 20;
const CHUNK: usize = 64 << 10;

pub(super) fn check() -> Result<(), Doubt> {
    let mut rig = Rig::tcp()?;
    move_all(&mut rig, LENGTH)
}

/// Upwards redirected, downwards spliced, on the same sockets.
pub(super) fn check_beside_redirect(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut up = Rig::tcp()?;
    let clone = |socket: &TcpStream| socket.try_clone().map_err(Doubt::io("cloning a socket"));
    let mut down = Rig::tcp()?;
    down.client = clone(&up.target)?;
    down.source = clone(&up.destination)?;
    down.destination = clone(&up.source)?;
    down.target = clone(&up.client)?;
    let mapped = sockmap.map_tcp(&up.source, &up.destination, 1 << 20)?;
    for round in 1..=4 {
        up.run(&mapped, round * 50_000, true)?;
        move_all(&mut down, round * LENGTH / 4)?;
    }
    Ok(())
}

fn move_all(rig: &mut Rig<TcpStream>, end: u64) -> Result<(), Doubt> {
    let (out, into) =
        pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).map_err(|error| io("making a pipe", error))?;
    let mut held = 0;
    until("spliced bytes", || {
        rig.offer(end)?;
        held += step(&rig.source, &into)?;
        while held > 0 {
            match step(&out, &rig.destination)? {
                0 => break,
                count => held -= count,
            }
        }
        rig.take()?;
        Ok(rig.received >= end)
    })
}

fn step(from: impl AsFd, to: impl AsFd) -> Result<usize, Doubt> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    match splice(from, None, to, None, CHUNK, flags) {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(io("splicing", error)),
    }
}

fn io(doing: &'static str, error: Errno) -> Doubt {
    Doubt::io(doing)(error.into())
}
