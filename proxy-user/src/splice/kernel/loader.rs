//! Loads the object into the kernel: offsets in, programs attached, maps out.

use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use aya::maps::{HashMap, Map, MapData, RingBuf, SockHash};
use aya::programs::{Iter, SkSkb, SocketFilter};
use aya::{Btf, Ebpf, EbpfLoader};

use super::slots::Slots;
use super::{KernelError, SlotId, btf};

#[cfg(ebpf_object)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/proxy-ebpf.o")));
#[cfg(not(ebpf_object))]
const OBJECT: Option<&[u8]> = None;

/// Loaded programs and their maps; a cheap handle. Engine threads share one, the first hears its events.
///
/// Dropping the last handle (and the last [`super::Mapped`]) unloads everything.
#[derive(Clone)]
pub struct Sockmap(pub(super) Arc<Loaded>);

pub(super) struct Loaded {
    pub(super) maps: Mutex<Maps>,
    pub(super) slots: Slots,
    pub(super) brake: OwnedFd,
    events: Mutex<RingBuf<MapData>>,
    /// The verdicts are attached as long as this lives.
    programs: Mutex<Ebpf>,
}

pub(super) struct Maps {
    pub(super) tcp_sources: SockHash<MapData, u64>,
    pub(super) unix_sources: SockHash<MapData, u64>,
    pub(super) destinations: SockHash<MapData, u64>,
    pub(super) directions: HashMap<MapData, u64, u32>,
}

impl Sockmap {
    /// Loads the programs with room for `directions` mapped directions at a time (128 bytes each, and about
    /// as much again per socket).
    ///
    /// # Errors
    /// What stands in the way, and what to do about it.
    pub fn load(directions: u32) -> Result<Sockmap, KernelError> {
        let object = OBJECT.ok_or(KernelError::NoObject)?;
        let directions = directions.max(1);
        let mut programs = EbpfLoader::new()
            // No relocation of ours needs the kernel's types, and aya would parse them all.
            .btf(None)
            .override_global("OFFSETS", &btf::offsets()?, true)
            .map_max_entries("SLOTS", directions)
            .map_max_entries("DIRECTIONS", directions)
            .map_max_entries("TCP_SOURCES", directions)
            .map_max_entries("UNIX_SOURCES", directions)
            .map_max_entries("DESTINATIONS", directions)
            .load(object)
            .map_err(|error| refused("loading the eBPF maps", &error))?;
        let maps = Maps {
            tcp_sources: sockets(&mut programs, "TCP_SOURCES")?,
            unix_sources: sockets(&mut programs, "UNIX_SOURCES")?,
            destinations: sockets(&mut programs, "DESTINATIONS")?,
            directions: take(&mut programs, "DIRECTIONS")?,
        };
        attach(&mut programs, "tcp_verdict", &maps.tcp_sources)?;
        attach(&mut programs, "unix_verdict", &maps.unix_sources)?;
        load_leave(&mut programs)?;
        let brake = load_brake(&mut programs)?;
        let events = take(&mut programs, "EVENTS")?;
        let Some(Map::Array(table)) = programs.take_map("SLOTS") else {
            return Err(KernelError::Mismatch("SLOTS"));
        };
        let slots = Slots::map(table.fd().as_fd(), directions).map_err(|error| KernelError::Refused {
            what: "mapping the slot table",
            reason: error.to_string(),
        })?;
        Ok(Sockmap(Arc::new(Loaded {
            maps: Mutex::new(maps),
            slots,
            brake,
            events: Mutex::new(events),
            programs: Mutex::new(programs),
        })))
    }

    /// Calls `f` with a descriptor that is readable (epoll `IN`) while [`Sockmap::next_event`] has something.
    pub fn with_events_fd<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        f(self.events().as_fd())
    }

    /// The next direction that turned to [`super::Mode::Pass`] since it was last asked, or whose destination had its limit
    /// waiting, or [half](super::Limits::half) of it. Call until `None`. Many at a time may hide some.
    pub fn next_event(&self) -> Option<SlotId> {
        let mut events = self.events();
        let item = events.next()?;
        Some(SlotId(u32::from_ne_bytes(item.get(..4)?.try_into().ok()?)))
    }

    /// Takes every direction that [asked](super::Mapped::ask_to_leave) out of its map at an exact byte, where
    /// that is possible now, and names those that left. Walks over the kernel's table of TCP sockets (0.2 to 4 ms, most of
    /// it for the table's empty places), so gather wishes rather than call often.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn leave(&self) -> Result<Vec<SlotId>, KernelError> {
        self.leave_until(None)
    }

    /// The same, but ends the walk once `enough` says so, which is asked whenever one left. Others may be left in then.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn leave_until(
        &self,
        mut enough: Option<&mut dyn FnMut() -> bool>,
    ) -> Result<Vec<SlotId>, KernelError> {
        let mut programs = self.0.programs.lock().unwrap_or_else(|poison| poison.into_inner());
        let program = leave_program(&mut programs)?;
        let link = program.attach().and_then(|id| program.take_link(id));
        let link = link.map_err(|error| refused("attaching the walk over sockets", &error))?;
        let mut walk = link.into_file().map_err(|error| refused("starting the walk over sockets", &error))?;
        // The kernel walks on until it has given as many bytes as there is room for.
        let mut room = [0; 4096];
        let room = if enough.is_some() { &mut room[..size_of::<u32>()] } else { &mut room[..] };
        let mut left = Vec::new();
        loop {
            match walk.read(room) {
                Ok(0) => return Ok(left),
                Ok(bytes) => {
                    let numbers = room[..bytes].as_chunks().0.iter();
                    left.extend(numbers.map(|number| SlotId(u32::from_ne_bytes(*number))));
                    if enough.as_mut().is_some_and(|enough| enough()) {
                        return Ok(left);
                    }
                }
                // After a million sockets with nothing to tell the kernel asks to be asked again (`bpf_seq_read`).
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(refused("walking over sockets", &error)),
            }
        }
    }

    /// Directions that are mapped now.
    pub fn mapped(&self) -> u32 {
        self.0.slots.used()
    }

    /// Entries in the kernel's maps: sources (TCP and Unix), destinations, directions. For tests and the watchdog.
    pub fn entries(&self) -> [usize; 3] {
        let maps = self.0.maps();
        let sources = maps.tcp_sources.keys().count() + maps.unix_sources.keys().count();
        [sources, maps.destinations.keys().count(), maps.directions.keys().count()]
    }

    /// Entries in the kernel's maps that no direction owns, told only while none is mapped: 0 while one is, and 64 of
    /// each map at most, so that any scrape may ask.
    pub fn forgotten(&self) -> u64 {
        const MOST: usize = 64;
        let maps = self.0.maps();
        // Who enters takes a slot first and who leaves gives it back last, each with the lock in between.
        if self.mapped() > 0 {
            return 0;
        }
        let sources =
            maps.tcp_sources.keys().take(MOST).count() + maps.unix_sources.keys().take(MOST).count();
        let rest = maps.destinations.keys().take(MOST).count() + maps.directions.keys().take(MOST).count();
        (sources + rest) as u64
    }

    fn events(&self) -> MutexGuard<'_, RingBuf<MapData>> {
        self.0.events.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Loaded {
    pub(super) fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl std::fmt::Debug for Sockmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockmap").field("mapped", &self.mapped()).finish_non_exhaustive()
    }
}

fn attach(programs: &mut Ebpf, name: &'static str, map: &SockHash<MapData, u64>) -> Result<(), KernelError> {
    let program: &mut SkSkb = programs
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or(KernelError::Mismatch(name))?;
    program.load().map_err(|error| refused("loading an eBPF program", &error))?;
    program.attach(map.fd()).map_err(|error| refused("attaching an eBPF program", &error))?;
    Ok(())
}

fn leave_program(programs: &mut Ebpf) -> Result<&mut Iter, KernelError> {
    programs
        .program_mut("leave")
        .and_then(|program| program.try_into().ok())
        .ok_or(KernelError::Mismatch("the program leave"))
}

fn load_leave(programs: &mut Ebpf) -> Result<(), KernelError> {
    let types = Btf::from_sys_fs().map_err(|error| refused("reading the kernel's types", &error))?;
    leave_program(programs)?
        .load("tcp", &types)
        .map_err(|error| refused("loading the walk over sockets", &error))
}

fn load_brake(programs: &mut Ebpf) -> Result<OwnedFd, KernelError> {
    let program: &mut SocketFilter = programs
        .program_mut("brake")
        .and_then(|program| program.try_into().ok())
        .ok_or(KernelError::Mismatch("the program brake"))?;
    program.load().map_err(|error| refused("loading an eBPF program", &error))?;
    let fd = program.fd().map_err(|error| refused("loading an eBPF program", &error))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| refused("keeping an eBPF program", &error))
}

fn take<M: TryFrom<Map>>(programs: &mut Ebpf, name: &'static str) -> Result<M, KernelError> {
    programs.take_map(name).and_then(|map| M::try_from(map).ok()).ok_or(KernelError::Mismatch(name))
}

fn sockets(programs: &mut Ebpf, name: &'static str) -> Result<SockHash<MapData, u64>, KernelError> {
    take(programs, name)
}

/// EPERM anywhere below is one thing to a person: the missing right.
fn refused(what: &'static str, error: &(dyn std::error::Error + 'static)) -> KernelError {
    let mut reason = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == ErrorKind::PermissionDenied) {
            return KernelError::NotPermitted;
        }
        if !reason.is_empty() {
            reason.push_str(": ");
        }
        reason.push_str(&error.to_string());
        next = error.source();
    }
    KernelError::Refused { what, reason }
}
