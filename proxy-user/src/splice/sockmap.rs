//! The kernel's map as the engine uses it: who is in, how much may wait, whom an overflow concerns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proxy_ebpf::LET_IN;
use socket2::SockRef;

use super::budget::Grant;
use super::conserve::{self, Stage, Violation};
use super::control::Control;
use super::haste::Haste;
use super::kernel::{Counts, Limits, MapRefused, Mapped, SlotId, Sockmap, sock};
use super::policy::{
    CLOSES_MOST, LAG_LOOK, LEAVE_AGAIN, LEAVE_EVERY, LIMIT_LEAST, LIMIT_MOST, UNSENT_OF_UNIX,
};
use super::stats::{Fallback, Stats};
use super::trust::Trust;
use super::{EngineChoice, Plain, Proven};
use crate::flow::{Direction, Engine, Meter};

/// The kernel refused to walk over the sockets, for want of descriptors or memory.
struct CannotLeave;

/// Loaded programs, shared by all engine threads.
pub(super) struct KernelMap {
    sockmap: Sockmap,
    /// Whose flow a slot belongs to: overflow events name slots.
    owners: Mutex<HashMap<SlotId, Arc<Control>>>,
    leavers: Mutex<Leavers>,
    proven: Proven,
    trust: Trust,
    budget: u64,
    flow_most: u64,
}

/// Flows with a direction that wants to leave, and the last walk that let some.
#[derive(Default)]
struct Leavers {
    asked: Vec<Arc<Control>>,
    walk: Option<Walk>,
}

/// The kernel's last one over its sockets.
struct Walk {
    at: Instant,
    took: Duration,
    failed: bool,
}

impl Walk {
    /// Walks take a tenth of the time at the most, however many sockets there are.
    fn next(&self) -> Instant {
        self.at + if self.failed { LEAVE_AGAIN } else { LEAVE_EVERY.max(10 * self.took) }
    }
}

impl KernelMap {
    pub(super) fn new(
        sockmap: Sockmap,
        proven: Proven,
        trust: Trust,
        budget: u64,
        flow_most: u64,
    ) -> KernelMap {
        KernelMap {
            sockmap,
            owners: Mutex::new(HashMap::new()),
            leavers: Mutex::default(),
            proven,
            trust,
            budget,
            flow_most,
        }
    }

    pub(super) fn sockmap(&self) -> &Sockmap {
        &self.sockmap
    }

    /// Whether directions from such a source may enter: that was proven, and the kernel was not caught at a wrong count
    /// since.
    pub(super) fn takes(&self, from: &Plain) -> bool {
        let proven = if from.is_unix() { self.proven.sockmap_unix } else { self.proven.sockmap_tcp };
        proven && !self.trust.is_lost()
    }

    /// What may wait unsent for one direction, by its share of the budget.
    fn limits(&self, grant: Grant) -> Limits {
        let share = (self.budget / u64::from(self.sockmap.mapped().max(1))).max(LIMIT_LEAST);
        let limit = (share.min(LIMIT_MOST) as u32).min(grant.redirected());
        Limits {
            limit,
            half: false,
            closes: if grant.is_bounded() { limit } else { share.min(CLOSES_MOST) as u32 },
        }
    }

    /// Half of what may wait unsent at the destination waits there already.
    pub(super) fn is_crowded(&self, to: &Plain, grant: Grant) -> bool {
        sock::tcp_info(to).is_ok_and(|info| info.notsent >= self.limits(grant).limit / 2)
    }

    /// The flows whose directions fill up, are full, turned to passing or were let out since the last call. Who is to
    /// leave is let out right here: its owner may be busy, and a fast peer sends some MiB within a millisecond.
    pub(super) fn overflowed(&self, now: Instant) -> Vec<Arc<Control>> {
        let mut slots = Vec::new();
        // Who waits no more does not begin again without an event.
        let mut out = 0;
        let mut any_waits = || {
            slots.extend(std::iter::from_fn(|| self.sockmap.next_event()));
            out += slots[out..].iter().take_while(|slot| !self.sockmap.waits_to_leave(**slot)).count();
            out < slots.len()
        };
        let mut let_out = match any_waits() {
            // Where the kernel refuses, each owner does what is left to do.
            true => self.walk(None, now, || !any_waits()).unwrap_or_default(),
            false => Vec::new(),
        };
        let owners = self.owners();
        let_out.extend(slots.iter().filter_map(|slot| owners.get(slot).cloned()));
        drop(owners);
        // Who left has sent an event before, as a rule.
        let_out.sort_unstable_by_key(Arc::as_ptr);
        let_out.dedup_by(|one, other| Arc::ptr_eq(one, other));
        let_out
    }

    /// Lets directions out that are to leave and can, once in a while at most: the kernel walks over all TCP sockets, or
    /// until it is `enough` if no flow had to wait for this walk. The flows that asked are to look whether they are out, and
    /// those that are; none when the kernel refused, now or a moment ago.
    fn walk(
        &self,
        asks: Option<&Arc<Control>>,
        now: Instant,
        mut enough: impl FnMut() -> bool,
    ) -> Result<Vec<Arc<Control>>, CannotLeave> {
        let mut leavers = self.leavers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(walk) = leavers.walk.as_ref().filter(|walk| now < walk.next()) {
            if walk.failed {
                return Err(CannotLeave);
            }
            if let Some(asks) = asks
                && !leavers.asked.iter().any(|control| Arc::ptr_eq(control, asks))
            {
                leavers.asked.push(asks.clone());
            }
            return Ok(Vec::new());
        }
        let at = Instant::now();
        let alone = leavers.asked.is_empty();
        let haste = Haste::begin();
        let outcome = self.sockmap.leave_until(if alone { Some(&mut enough) } else { None });
        drop(haste);
        leavers.walk = Some(Walk { at, took: at.elapsed(), failed: outcome.is_err() });
        let left = outcome.map_err(|error| {
            tracing::warn!(%error, "no direction can leave the kernel's map now; what waits there passes through userspace");
            CannotLeave
        })?;
        let mut to_look = std::mem::take(&mut leavers.asked);
        drop(leavers);
        // Events may have been lost: whoever left hears of it in any case.
        let owners = self.owners();
        to_look.extend(left.iter().filter_map(|slot| owners.get(slot).cloned()));
        Ok(to_look)
    }

    fn walks_at(&self, now: Instant) -> Instant {
        let leavers = self.leavers.lock().unwrap_or_else(PoisonError::into_inner);
        leavers.walk.as_ref().map_or(now, Walk::next).max(now + LAG_LOOK)
    }

    /// Makes the destination's send buffer hold what may wait `unsent` beside what is in flight, and bounds what
    /// anybody may put there unsent.
    fn widen(&self, to: &Plain, unsent: u32) {
        if let Plain::Tcp(socket) = to {
            // Without the right, or on a dying socket, the kernel's own size stays: slower, not wrong.
            let _ = sock::force_send_buffer(socket, (self.flow_most / 2).min(i32::MAX as u64 / 2) as u32);
            let _ = SockRef::from(socket).set_tcp_notsent_lowat(unsent);
        }
    }

    fn owners(&self) -> std::sync::MutexGuard<'_, HashMap<SlotId, Arc<Control>>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One direction in the map.
pub(super) struct InMap {
    mapped: Mapped,
    map: Arc<KernelMap>,
    grant: Grant,
    /// What of it is in the flow's meter and the process's counters.
    booked: Counts,
    /// The source's `bytes_received` that went another way before; none for a Unix source.
    received_before: Option<u64>,
    /// What the destination's queue had accepted before.
    enqueued_before: u64,
}

impl InMap {
    /// The source was read until it had no more, nothing waits in userspace. `received_before`: what was read of
    /// a TCP source in its count of received bytes, see [`consumed`].
    pub(super) fn enter(
        map: &Arc<KernelMap>,
        from: &Plain,
        to: &Plain,
        control: &Arc<Control>,
        grant: Grant,
        received_before: Option<u64>,
        engine: EngineChoice,
    ) -> Result<InMap, MapRefused> {
        let limits = Limits { half: engine == EngineChoice::Auto, ..map.limits(grant) };
        let enqueued_before = sock::enqueued(to).map_err(refused("reading the destination's queue"))?;
        let mapped = match from {
            Plain::Tcp(socket) => {
                map.widen(to, LET_IN);
                map.sockmap.map_tcp(socket, to, limits).inspect_err(|_| narrow(to, grant))?
            }
            Plain::Unix(socket) => {
                if !grant.is_bounded() {
                    map.widen(to, UNSENT_OF_UNIX);
                }
                map.sockmap.map_unix(socket, to).inspect_err(|_| narrow(to, grant))?
            }
        };
        map.owners().insert(mapped.slot(), control.clone());
        Ok(InMap {
            mapped,
            map: map.clone(),
            grant,
            booked: Counts::default(),
            received_before,
            enqueued_before,
        })
    }

    pub(super) fn mapped(&self) -> &Mapped {
        &self.mapped
    }

    /// Books what the kernel did since the last call.
    pub(super) fn book(&mut self, side: Direction, meter: &Meter, stats: &Stats) {
        let counts = self.mapped.counts();
        // A verdict counts before it redirects, and takes back what it could not.
        let redirected = counts.redirected.saturating_sub(self.booked.redirected);
        if redirected > 0 {
            meter.add(side, Engine::Sockmap, redirected);
        }
        stats.moved_otherwise(counts.passed - self.booked.passed, counts.trimmed - self.booked.trimmed);
        self.booked = Counts { redirected: self.booked.redirected + redirected, ..counts };
    }

    /// Bytes that the verdict has seen, whatever it decided.
    pub(super) fn seen(&self) -> u64 {
        let counts = self.mapped.counts();
        counts.redirected + counts.passed
    }

    /// All that may wait unsent at the destination waited there.
    pub(super) fn was_full(&self) -> bool {
        self.mapped.counts().overflows > 0
    }

    pub(super) fn let_out(&self, asks: &Arc<Control>, now: Instant) -> Vec<Arc<Control>> {
        // Others may have asked just now, of whom somebody else will hear.
        self.map.walk(Some(asks), now, || false).unwrap_or_else(|CannotLeave| {
            self.mapped.unbrake();
            Vec::new()
        })
    }

    /// When the kernel may be asked again to let the direction out.
    pub(super) fn leaves_at(&self, now: Instant) -> Instant {
        self.map.walks_at(now)
    }

    /// Both sockets go on with a mover in userspace.
    pub(super) fn release(&self, from: &Plain, to: &Plain) {
        if let Plain::Tcp(socket) = from {
            // None is there if none could be attached.
            let _ = sock::detach_filter(socket);
        }
        narrow(to, self.grant);
    }

    pub(super) fn follow_budget(&self) {
        let Limits { limit, closes, .. } = self.map.limits(self.grant);
        self.mapped.set_limit(limit, closes);
    }

    /// Holds the map's counts against those of both sockets; what contradicts itself is asked once more.
    pub(super) fn check(&self, from: &Plain, to: &Plain, stage: Stage) -> Result<(), Violation> {
        match self.map.trust.is_lost() {
            true => self.look(from, to, stage),
            false => conserve::ask_twice(|| self.look(from, to, stage)),
        }
    }

    fn look(&self, from: &Plain, to: &Plain, stage: Stage) -> Result<(), Violation> {
        let counts = self.mapped.counts();
        // Asked after the counts: what arrives meanwhile is received, not counted.
        let (received, sent) = match self.received(from) {
            Ok(received) => (received, self.sent(to, stage)),
            // A source that does not answer is no ground for a judgement of its destination either.
            Err(_) => (None, None),
        };
        conserve::judge(&counts, received, sent, stage)
    }

    /// None for a Unix source.
    fn received(&self, from: &Plain) -> std::io::Result<Option<u64>> {
        let Some(before) = self.received_before else { return Ok(None) };
        Ok(Some(sock::tcp_info(from)?.bytes_received.saturating_sub(before)))
    }

    /// While bytes move it says nothing, and is not asked.
    fn sent(&self, to: &Plain, stage: Stage) -> Option<u64> {
        let enqueued = stage.is_drained().then(|| sock::enqueued(to))?.ok()?;
        Some(enqueued.saturating_sub(self.enqueued_before))
    }

    pub(super) fn distrust(&self) {
        self.map.trust.lose();
    }
}

fn narrow(to: &Plain, grant: Grant) {
    if let Plain::Tcp(socket) = to {
        let _ = SockRef::from(socket).set_tcp_notsent_lowat(grant.unsent());
    }
}

impl Drop for InMap {
    fn drop(&mut self) {
        self.map.owners().remove(&self.mapped.slot());
    }
}

/// Bytes of a TCP source that userspace has taken, in the count of `bytes_received`. To be asked while the socket
/// is in no map: for one that is, kernels since 6.18 say that nothing waits.
pub(super) fn consumed(source: &Plain) -> std::io::Result<u64> {
    let mut before = sock::tcp_info(source)?.bytes_received;
    loop {
        let waiting = sock::readable(source)?;
        let after = sock::tcp_info(source)?.bytes_received;
        if after == before {
            return Ok(after.saturating_sub(u64::from(waiting)));
        }
        before = after;
    }
}

fn refused(what: &'static str) -> impl FnOnce(std::io::Error) -> MapRefused {
    move |source| MapRefused::Socket { what, source }
}

/// Books why a direction stays outside.
pub(super) fn book(stats: &Stats, refused: &MapRefused) {
    stats.fell_back(match refused {
        MapRefused::NotEstablished | MapRefused::BytesWaiting(_) => Fallback::NotMappable,
        MapRefused::NoSlot(_) => Fallback::NoSlot,
        MapRefused::Socket { .. } | MapRefused::NoFeature => Fallback::MapRefused,
    });
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::sockopt;

    #[test]
    fn an_urgent_byte_hides_nothing_that_waits_from_the_account() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (source, _) = listener.accept().unwrap();
        sockopt::tune(&source).unwrap();
        let source = Plain::Tcp(source);
        sender.write_all(b"abc").unwrap();
        SockRef::from(&sender).send_out_of_band(b"!").unwrap();
        sender.write_all(b"def").unwrap();
        while sock::tcp_info(&source).unwrap().bytes_received < 7 {
            std::thread::yield_now();
        }
        assert_eq!(consumed(&source).unwrap(), 0);
        assert_eq!(source.recv(&mut [0; 7]).unwrap(), 3, "a read ends in front of it");
        assert!(sockopt::at_mark(&source));
        assert_eq!(consumed(&source).unwrap(), 3);
        assert_eq!(source.recv(&mut [0; 7]).unwrap(), 4);
        assert!(!sockopt::at_mark(&source));
        assert_eq!(consumed(&source).unwrap(), 7);
    }
}
