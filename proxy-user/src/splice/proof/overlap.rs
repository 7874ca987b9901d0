//! A retransmission that overlaps what was consumed reaches the verdict whole (still so in 6.18): the verdict
//! must cut off what it has seen. Without that, 1 flow in 40 was corrupt under memory pressure.
//!
//! The segment is made with TCP_REPAIR: the client's socket is taken off its connection and put back with an
//! older sequence number, so that its next bytes repeat some. That needs CAP_NET_ADMIN, which redirecting needs
//! too; where it cannot be done the check counts as not passed, since the fault it looks for corrupts silently.
//!
//! `unsafe`: socket options that no safe wrapper offers.
#![allow(unsafe_code)]

use std::io;
use std::mem::size_of;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

use super::rig::{Rig, pair, until};
use super::{Doubt, Sockmap};
use crate::splice::kernel::sock;

const BEFORE: u64 = 50_000;
const OVERLAP: u32 = 801;
const AFTER: u64 = 30_000;

const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_REPAIR_WINDOW: i32 = 29;
const OFF_WITHOUT_PROBE: i32 = -1;
const RECV_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;
const OPTION_MSS: u32 = 2;
const OPTION_WINDOW_SCALE: u32 = 3;
/// A segment large enough for everything sent here: the overlap lies inside one.
const MSS: u32 = 65_483;

pub(super) fn check(sockmap: &Sockmap) -> Result<(), Doubt> {
    let mut rig = Rig::tcp()?;
    let mapped = sockmap.map_tcp(&rig.source, &rig.destination, 1 << 20)?;
    rig.run(&mapped, BEFORE, true)?;
    until("the client's bytes to be acknowledged", || {
        Ok(sock::unacknowledged(&rig.client).map_err(Doubt::io("asking the client"))? == 0)
    })?;
    let (stand_in, _) = pair()?;
    let client = std::mem::replace(&mut rig.client, stand_in);
    rig.client = rewind(client, OVERLAP).map_err(Doubt::io("making an overlapping segment"))?;
    rig.sent -= u64::from(OVERLAP);
    rig.run(&mapped, BEFORE + AFTER, true)?;
    match mapped.counts().trimmed {
        0 => Err(Doubt::Saw("the overlapping segment never came; nothing is known".to_owned())),
        _ => rig.run(&mapped, BEFORE + 2 * AFTER, true),
    }
}

/// The same connection on a new socket whose next byte is `bytes` before the old one's.
fn rewind(client: TcpStream, bytes: u32) -> io::Result<TcpStream> {
    let (local, remote) = (client.local_addr()?, client.peer_addr()?);
    let scales = sock::tcp_info(&client)?.window_scales;
    set(&client, TCP_REPAIR, &1)?;
    let mut window = [0u32; 5];
    get(&client, TCP_REPAIR_WINDOW, &mut window)?;
    let sent = sequence(&client, SEND_QUEUE)?;
    let received = sequence(&client, RECV_QUEUE)?;
    // Closed in repair, a socket says nothing to its peer.
    drop(client);
    let fresh = Socket::new(Domain::for_address(remote), Type::STREAM, None)?;
    set(&fresh, TCP_REPAIR, &1)?;
    fresh.bind(&local.into())?;
    set_sequence(&fresh, SEND_QUEUE, sent.wrapping_sub(bytes))?;
    set_sequence(&fresh, RECV_QUEUE, received)?;
    fresh.connect(&remote.into())?;
    let scale = u32::from(scales.0) | u32::from(scales.1) << 16;
    set(&fresh, TCP_REPAIR_OPTIONS, &[[OPTION_MSS, MSS], [OPTION_WINDOW_SCALE, scale]])?;
    set(&fresh, TCP_REPAIR_WINDOW, &window)?;
    set(&fresh, TCP_REPAIR, &OFF_WITHOUT_PROBE)?;
    fresh.set_tcp_nodelay(true)?;
    fresh.set_nonblocking(true)?;
    Ok(fresh.into())
}

fn sequence(socket: &impl AsRawFd, queue: i32) -> io::Result<u32> {
    let mut value = 0u32;
    set(socket, TCP_REPAIR_QUEUE, &queue)?;
    get(socket, TCP_QUEUE_SEQ, &mut value)?;
    Ok(value)
}

fn set_sequence(socket: &impl AsRawFd, queue: i32, value: u32) -> io::Result<()> {
    set(socket, TCP_REPAIR_QUEUE, &queue)?;
    set(socket, TCP_QUEUE_SEQ, &value)
}

fn set<T>(socket: &impl AsRawFd, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads the value's own size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get<T>(socket: &impl AsRawFd, name: i32, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most the value's own size; callers pass integers, valid for any bits.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
