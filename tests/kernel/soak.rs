//! Many flows at once, each with its own dice: sizes, limits, stalls, turns, leaving and entering, every way
//! to end. KONDUIT_SOAK_SECONDS makes it longer than the few seconds of an ordinary run.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use proxy_tests::kernel_log::KernelLog;
use proxy_user::net::sockopt;
use proxy_user::splice::kernel::{Mapped, Mode, Sockmap};

use crate::rig::{Rig, byte, sockmap};

const THREADS: u64 = 4;

/// xorshift: no more is asked of it than to differ.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

struct Flow<'a> {
    rig: Rig,
    sockmap: &'a Sockmap,
    mapped: Option<Mapped>,
    limit: u32,
    sent: u64,
    received: u64,
    pending: Vec<u8>,
    buffer: Vec<u8>,
}

impl<'a> Flow<'a> {
    fn new(sockmap: &'a Sockmap, dice: &mut Dice) -> io::Result<Flow<'a>> {
        let rig = Rig::tcp()?;
        for socket in [&rig.client, &rig.target] {
            socket.set_nonblocking(true)?;
        }
        if dice.one_in(3) {
            let bytes = 4096 << dice.below(6) as usize;
            rustix::net::sockopt::set_socket_send_buffer_size(&rig.destination, bytes)?;
        }
        let limit = 16_384 << dice.below(8);
        let buffer = vec![0; 1 + dice.below(200_000) as usize];
        Ok(Flow { rig, sockmap, mapped: None, limit, sent: 0, received: 0, pending: Vec::new(), buffer })
    }

    fn offer(&mut self, end: u64) -> io::Result<()> {
        let chunk: Vec<u8> = (self.sent..end.min(self.sent + self.buffer.len() as u64)).map(byte).collect();
        self.sent += ready((!chunk.is_empty()).then(|| self.rig.client.write(&chunk)))? as u64;
        Ok(())
    }

    fn take(&mut self) -> io::Result<()> {
        let count = ready(Some(self.rig.target.read(&mut self.buffer)))?;
        let from = self.received;
        if let Some(bad) = (0..count).find(|at| self.buffer[*at] != byte(from + *at as u64)) {
            let mapped = &self.mapped;
            return Err(io::Error::other(format!("wrong byte at {}: {mapped:?}", from + bad as u64)));
        }
        self.received += count as u64;
        Ok(())
    }

    /// Source to destination by userspace. `true` when nothing is under way in userspace.
    fn forward(&mut self) -> io::Result<bool> {
        if self.pending.is_empty() {
            let count = ready(Some(self.rig.source.read(&mut self.buffer)))?;
            self.pending.extend_from_slice(&self.buffer[..count]);
        }
        let written = ready((!self.pending.is_empty()).then(|| self.rig.destination.write(&self.pending)))?;
        self.pending.drain(..written);
        if let Some(mapped) = &self.mapped {
            mapped.add_forwarded(written as u64);
        }
        Ok(self.pending.is_empty())
    }

    fn step(&mut self, dice: &mut Dice) -> io::Result<()> {
        let Some(mapped) = &self.mapped else {
            if self.forward()? && dice.one_in(4) {
                self.mapped = self.sockmap.map_tcp(&self.rig.source, &self.rig.destination, self.limit).ok();
            }
            return Ok(());
        };
        let drained = mapped.is_drained(&self.rig.destination)?;
        if mapped.has_left() {
            if drained {
                self.mapped = None;
            }
            return Ok(());
        }
        match dice.below(200) {
            0 => mapped.pass(),
            1 => mapped.ask_to_leave(),
            2 => drop(self.sockmap.leave().map_err(io::Error::other)?),
            _ => {}
        }
        if mapped.mode() == Mode::Pass && drained && self.forward()? && !dice.one_in(3) {
            self.mapped.as_ref().map(Mapped::try_redirect);
        }
        Ok(())
    }
}

/// 0 for "not now" and for no call at all; an error says what it is.
fn ready(result: Option<io::Result<usize>>) -> io::Result<usize> {
    match result {
        None => Ok(0),
        Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Some(result) => result,
    }
}

/// One flow from start to end; the bytes that were compared.
fn run(sockmap: &Sockmap, dice: &mut Dice) -> io::Result<u64> {
    let mut flow = Flow::new(sockmap, dice)?;
    let size = 10 + dice.below(13);
    let length = dice.below(1 << size);
    let stop = if dice.one_in(4) { dice.below(length + 1) } else { length };
    let mut stalled = 0;
    let mut progress = (0, Instant::now());
    while flow.received < stop {
        flow.offer(length)?;
        flow.step(dice)?;
        stalled = if dice.one_in(2_000) { dice.below(3_000) } else { stalled.max(1) - 1 };
        if stalled == 0 {
            flow.take()?;
        }
        if flow.received > progress.0 {
            progress = (flow.received, Instant::now());
        }
        if progress.1.elapsed() > Duration::from_secs(20) {
            let at = (flow.sent, flow.received, length);
            return Err(io::Error::other(format!("no progress at {at:?}: {:?}", flow.mapped)));
        }
        if dice.one_in(50) {
            thread::yield_now();
        }
    }
    let counts = flow.mapped.as_ref().map(Mapped::counts).unwrap_or_default();
    if counts.gaps > 0 {
        return Err(io::Error::other(format!("gaps: {counts:?}")));
    }
    end(flow, dice)
}

/// The sockets and their place in the maps go in any order, by FIN or by RST.
fn end(flow: Flow<'_>, dice: &mut Dice) -> io::Result<u64> {
    let Rig { client, source, destination, target } = flow.rig;
    let mut sockets: Vec<TcpStream> = vec![client, source, destination, target];
    let mut mapped = flow.mapped;
    while !sockets.is_empty() {
        if dice.one_in(4) {
            mapped = None;
        }
        let socket = sockets.swap_remove(dice.below(sockets.len() as u64) as usize);
        match dice.below(3) {
            0 => sockopt::reset_on_close(&socket)?,
            1 => drop(socket.shutdown(Shutdown::Write)),
            _ => {}
        }
    }
    drop(mapped);
    Ok(flow.received)
}

#[test]
fn random_flows_lose_and_repeat_nothing() {
    let Some(sockmap) = sockmap() else { return };
    let seconds = std::env::var("KONDUIT_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let mut log = KernelLog::watch().unwrap();
    let (flows, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
    let until = Instant::now() + Duration::from_secs(seconds);
    let seed = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()) << 32;
    thread::scope(|scope| {
        for thread in 1..=THREADS {
            let (sockmap, flows, bytes) = (&sockmap, &flows, &bytes);
            scope.spawn(move || {
                let mut dice = Dice(seed ^ thread.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                while Instant::now() < until {
                    let compared = run(sockmap, &mut dice).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
                    flows.fetch_add(1, Ordering::Relaxed);
                    bytes.fetch_add(compared, Ordering::Relaxed);
                }
            });
        }
    });
    eprintln!("{} flows, {} bytes compared", flows.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
    assert_eq!(log.new_warnings().unwrap(), Vec::<String>::new());
    assert!(flows.load(Ordering::Relaxed) > 10);
}
