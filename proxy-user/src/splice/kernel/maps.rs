//! Mapped directions: sockets in and out of the kernel's maps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::maps::MapError;
use proxy_ebpf::PASS;

use super::loader::{Loaded, Sockmap};
use super::{Counts, Limits, MapRefused, Mode, SlotId, sock};

/// One direction in the kernel's hands. Dropping it takes both sockets out of their maps (rule 7 of the
/// [module](super)) and frees the slot; the sockets may have been closed before.
pub struct Mapped {
    owner: Arc<Loaded>,
    slot: u32,
    source: u64,
    destination: u64,
    kind: Kind,
    /// [`sock::enqueued`] of the destination when the direction entered.
    enqueued: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Unix,
}

impl Sockmap {
    /// Maps TCP → TCP. Rule 1 of the [module](super) says what must hold before. A source that gets a brake keeps its
    /// filter until [`sock::detach_filter`]; where the kernel attaches none, bytes pass at the limit.
    ///
    /// # Errors
    /// Why this direction stays where it is; nothing was changed.
    pub fn map_tcp(
        &self,
        source: impl AsFd,
        destination: impl AsFd,
        limits: impl Into<Limits>,
    ) -> Result<Mapped, MapRefused> {
        let info = sock::tcp_info(&source).map_err(MapRefused::socket("reading the source's state"))?;
        if !info.is_established() {
            return Err(MapRefused::NotEstablished);
        }
        let limits = self.brake(&source, limits.into());
        let mapped = Mapped::enter(self, Kind::Tcp, &source, &destination, limits);
        let mapped = mapped.inspect_err(|_| {
            // None is there if there was to be none.
            let _ = sock::detach_filter(&source);
        })?;
        // A pending error of the source is the flow's business, which sees that the connection is closed.
        let _ = sock::kick(&source);
        Ok(mapped)
    }

    /// Before the first verdict, which may find the limit waiting. A filter without a slot takes everything.
    fn brake(&self, source: &impl AsFd, limits: Limits) -> Limits {
        if limits.closes == 0 {
            return limits;
        }
        match sock::attach_filter(source, self.0.brake.as_fd()) {
            Ok(()) => limits,
            Err(error) => {
                tracing::debug!(%error, "no brake for a source; what its destination cannot take will pass");
                Limits { closes: 0, ..limits }
            }
        }
    }

    /// Maps Unix → TCP. There is no limit: the sender is throttled by its own send buffer. The source's
    /// queue must be empty, so do this before anything invites the peer to speak.
    ///
    /// # Errors
    /// Why this direction stays where it is. After [`MapRefused::BytesWaiting`] the socket may have passed a
    /// verdict between insertion and removal: end the flow. After any other nothing was changed.
    pub fn map_unix(&self, source: impl AsFd, destination: impl AsFd) -> Result<Mapped, MapRefused> {
        let mapped = Mapped::enter(self, Kind::Unix, &source, &destination, Limits::from(0))?;
        match sock::readable(&source).map_err(MapRefused::socket("reading the Unix socket's queue"))? {
            0 => Ok(mapped),
            bytes => Err(MapRefused::BytesWaiting(bytes)),
        }
    }

    /// Whether the direction at this place waits to be let out, and can be.
    pub fn waits_to_leave(&self, slot: SlotId) -> bool {
        let slots = &self.0.slots;
        slots.leave(slot.0).load(Ordering::Acquire) != 0
            && slots.left(slot.0).load(Ordering::Acquire) == 0
            && slots.state(slot.0).load(Ordering::Acquire) & PASS == 0
    }
}

impl Mapped {
    fn enter(
        sockmap: &Sockmap,
        kind: Kind,
        source: &impl AsFd,
        destination: &impl AsFd,
        limits: Limits,
    ) -> Result<Mapped, MapRefused> {
        let owner = sockmap.0.clone();
        let info =
            sock::tcp_info(destination).map_err(MapRefused::socket("reading the destination's state"))?;
        if !info.is_established() {
            return Err(MapRefused::NotEstablished);
        }
        let source_cookie =
            sock::cookie(source).map_err(MapRefused::socket("reading the source's cookie"))?;
        let destination_cookie =
            sock::cookie(destination).map_err(MapRefused::socket("reading the destination's cookie"))?;
        let enqueued =
            sock::enqueued(destination).map_err(MapRefused::socket("reading the destination's queue"))?;
        let slot = owner.slots.take().ok_or(MapRefused::NoSlot(owner.slots.count()))?;
        owner.slots.destination(slot).store(destination_cookie, Ordering::Relaxed);
        owner.slots.eager(slot).store(u32::from(limits.half), Ordering::Relaxed);
        owner.slots.closes(slot).store(limits.closes, Ordering::Relaxed);
        owner.slots.limit(slot).store(u64::from(limits.limit), Ordering::Release);
        // From here on Drop undoes whatever was done.
        let mapped =
            Mapped { owner, slot, source: source_cookie, destination: destination_cookie, kind, enqueued };
        mapped.insert(source, destination)?;
        Ok(mapped)
    }

    /// Destination first, so that the first verdict finds it.
    fn insert(&self, source: &impl AsFd, destination: &impl AsFd) -> Result<(), MapRefused> {
        let mut maps = self.owner.maps();
        let destination = destination.as_fd().as_raw_fd();
        let source = source.as_fd().as_raw_fd();
        maps.destinations.insert(self.destination, destination, 0).map_err(inserting("the destination"))?;
        maps.directions.insert(self.source, self.slot, 0).map_err(inserting("the direction"))?;
        match self.kind {
            Kind::Tcp => maps.tcp_sources.insert(self.source, source, 0),
            Kind::Unix => maps.unix_sources.insert(self.source, source, 0),
        }
        .map_err(inserting("the source"))
    }

    /// The place whose number [`Sockmap::next_event`] gives.
    pub fn slot(&self) -> SlotId {
        SlotId(self.slot)
    }

    pub fn mode(&self) -> Mode {
        match self.owner.slots.state(self.slot).load(Ordering::Acquire) & PASS {
            0 => Mode::Redirect,
            _ => Mode::Pass,
        }
    }

    pub fn counts(&self) -> Counts {
        let slot = self.owner.slots.read(self.slot);
        Counts {
            redirected: slot.redirected,
            passed: slot.state >> 1,
            forwarded: slot.forwarded,
            trimmed: slot.trimmed,
            peak: slot.peak,
            overflows: slot.overflows,
            strays: slot.strays,
            gaps: slot.gaps,
        }
    }

    /// Bytes passed and not yet forwarded. 0 while [`Mode::Redirect`].
    pub fn waiting(&self) -> u64 {
        let passed = self.owner.slots.state(self.slot).load(Ordering::Acquire) >> 1;
        passed.saturating_sub(self.owner.slots.forwarded(self.slot).load(Ordering::Relaxed))
    }

    /// Tells the verdict that `bytes` of the passed ones were written to the destination.
    pub fn add_forwarded(&self, bytes: u64) {
        self.owner.slots.forwarded(self.slot).fetch_add(bytes, Ordering::AcqRel);
    }

    /// Back from [`Mode::Pass`] to [`Mode::Redirect`]; `true` when redirecting now. Fails while passed bytes
    /// are not forwarded.
    pub fn try_redirect(&self) -> bool {
        // No verdict closes the brake while bytes pass; the next one that redirects looks whether it must.
        self.owner.slots.full(self.slot).store(0, Ordering::Release);
        let forwarded = self.owner.slots.forwarded(self.slot).load(Ordering::Acquire);
        let state = self.owner.slots.state(self.slot);
        let expected = forwarded << 1 | PASS;
        match state.compare_exchange(expected, forwarded << 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(current) => current & PASS == 0,
        }
    }

    /// From now on bytes pass to userspace, as if the limit had been reached; no event is sent for it. Bytes of
    /// a verdict that runs right now may still be redirected: wait for [`Mapped::is_drained`] as always.
    pub fn pass(&self) {
        self.owner.slots.state(self.slot).fetch_or(PASS, Ordering::AcqRel);
    }

    /// Whether everything redirected and forwarded so far is in the destination's own send queue, so that
    /// bytes written or a shutdown made now come after it.
    ///
    /// # Errors
    /// The errno of asking the destination.
    pub fn is_drained(&self, destination: impl AsFd) -> io::Result<bool> {
        let counts = self.counts();
        Ok(sock::enqueued(destination)?.wrapping_sub(self.enqueued) >= counts.delivered())
    }

    /// Bytes that the destination has not put into its send queue, or has there and not yet sent.
    ///
    /// # Errors
    /// The errno of asking the destination.
    pub fn unsent(&self, destination: impl AsFd) -> io::Result<u64> {
        let delivered = self.counts().delivered();
        let enqueued = sock::enqueued(&destination)?.wrapping_sub(self.enqueued);
        Ok(delivered.saturating_sub(enqueued) + u64::from(sock::tcp_info(&destination)?.notsent))
    }

    /// Whether the direction is to be let out: its limit waits, or [half](Limits::half) of it, or userspace
    /// [asked](Mapped::ask_to_leave).
    pub fn is_to_leave(&self) -> bool {
        self.owner.slots.leave(self.slot).load(Ordering::Acquire) != 0
    }

    /// Marks the direction for the next [`Sockmap::leave`]. It can leave while redirecting only: one that passes
    /// has to [turn back](Mapped::try_redirect) first.
    pub fn ask_to_leave(&self) {
        self.owner.slots.leave(self.slot).store(1, Ordering::Release);
    }

    /// Takes the brake off again, for a direction that cannot leave: at the limit bytes pass.
    pub fn unbrake(&self) {
        self.owner.slots.closes(self.slot).store(0, Ordering::Release);
    }

    /// Whether the source is out of its map: the next byte read from it follows the last one redirected or
    /// forwarded, and every mover may go on from there once [`Mapped::is_drained`].
    pub fn has_left(&self) -> bool {
        self.owner.slots.left(self.slot).load(Ordering::Acquire) != 0
    }

    /// Changes the bound on unsent bytes, and what closes the [brake](Limits::closes) of who has one; holds from the next
    /// look at the destination on.
    pub fn set_limit(&self, bytes: u32, closes: u32) {
        self.owner.slots.limit(self.slot).store(u64::from(bytes), Ordering::Release);
        let brake = self.owner.slots.closes(self.slot);
        // One that was taken off stays off.
        let _ = brake.fetch_update(Ordering::AcqRel, Ordering::Acquire, |had| (had > 0).then_some(closes));
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // Each may be gone already: the kernel takes a closed socket out of its maps by itself.
        let mut maps = self.owner.maps();
        let _ = match self.kind {
            Kind::Tcp => maps.tcp_sources.remove(&self.source),
            Kind::Unix => maps.unix_sources.remove(&self.source),
        };
        let _ = maps.directions.remove(&self.source);
        let _ = maps.destinations.remove(&self.destination);
        drop(maps);
        // An event of it may still wait to be heard.
        self.owner.slots.left(self.slot).store(1, Ordering::Release);
        self.owner.slots.give_back(self.slot);
    }
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapped")
            .field("slot", &self.slot)
            .field("mode", &self.mode())
            .field("counts", &self.counts())
            .finish()
    }
}

fn inserting(what: &'static str) -> impl FnOnce(MapError) -> MapRefused {
    move |error| {
        let source = match error {
            MapError::SyscallError(error) => error.io_error,
            other => io::Error::other(other.to_string()),
        };
        match source.raw_os_error() {
            // sock_map refuses what is no longer established.
            Some(libc::EOPNOTSUPP) => MapRefused::NotEstablished,
            _ => MapRefused::Socket { what, source },
        }
    }
}
