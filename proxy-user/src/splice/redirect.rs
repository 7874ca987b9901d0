//! A track while its direction is in the kernel's map: enter, look, let the backlog pass, pass, return, leave,
//! check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Plain;
use super::conserve::{Stage, Violation};
use super::direction::{Event, Mover};
use super::kernel::{MapRefused, Mode};
use super::policy::{
    BACKLOG_LOOK, LAG_BOUND, LAG_LOOK, STAY_OUT_LEAST, STAY_OUT_MOST, STAY_SHORT, STAY_WORTH,
};
use super::sock::finish_of;
use super::sockmap::{InMap, book, consumed};
use super::stats::{Fallback, Stats};
use super::track::{Link, Lost, Track};
use super::worker::Turn;
use crate::flow::Finish;

/// Bytes of a Unix source that nobody redirects and nobody counts, from one look to the next: the peer's shutdown took
/// the socket out of its map. One look is no proof, since bytes lie unread for an instant before each verdict.
#[derive(Debug, Default)]
struct Unread(Option<u64>);

impl Unread {
    /// `seen`: what the verdict had seen when bytes were found unread. Returns it once it is the same as before.
    fn look(&mut self, seen: Option<u64>) -> Option<u64> {
        let before = std::mem::replace(&mut self.0, seen);
        seen.filter(|_| before == seen)
    }
}

/// What a mapped direction remembers beside its counts.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// In the map since.
    entered: Option<Instant>,
    /// Its destination had the limit waiting in this stay.
    full: bool,
    /// How long the last look at a backlog that does not go was put off.
    backlog: Duration,
    /// The source said "no more" while passed bytes were on their way, since.
    lagging: Option<Instant>,
    /// The watchdog found its counts to be wrong, and said so.
    caught: bool,
    /// Asked to leave.
    leaving: bool,
    /// Out of the map again, and for how long at the least.
    stay_out: Duration,
    out_until: Option<Instant>,
    unread: Unread,
    /// The socket is in no map any more: its bytes are read as of any other. The verdict had seen so many, and sees
    /// no other.
    evicted: Option<u64>,
}

impl Track {
    /// Wants to enter the map, or may soon; then the accounts of both directions must be opened first.
    pub(super) fn wants_map(&self) -> bool {
        self.direction.wanted() == Mover::Sockmap
    }

    /// Left the map a moment ago.
    pub(super) fn stays_out(&self, now: Instant) -> bool {
        self.times.out_until.is_some_and(|until| now < until)
    }

    /// Notes where the source's count of received bytes stands, while it can be told from outside.
    pub(super) fn open_account(&mut self, from: &Plain) {
        if self.origin.is_none() && !from.is_unix() {
            self.origin = consumed(from).ok().map(|bytes| bytes.saturating_sub(self.taken));
        }
    }

    pub(super) fn promote(&mut self, link: &Link<'_>, turn: &mut Turn<'_>) -> Result<(), Lost> {
        let Some(map) = turn.map.filter(|map| map.takes(link.from)) else {
            return self.step(Event::NotPromoted);
        };
        // A source that is silent because its brake closed a moment ago says nothing of its destination.
        if !link.from.is_unix() && map.is_crowded(link.to, link.grant) {
            self.times.out_until = Some(turn.now + STAY_OUT_LEAST);
            return self.step(Event::NotPromoted);
        }
        match InMap::enter(
            map,
            link.from,
            link.to,
            link.control,
            link.grant,
            self.origin.map(|origin| origin + self.taken),
            self.engine,
        ) {
            Ok(in_map) => {
                self.in_map = Some(in_map);
                self.times.entered = Some(turn.now);
                turn.stats.add(&turn.stats.promotions, 1);
                self.step(Event::Promoted)?;
                self.notice(link, turn);
                Ok(())
            }
            Err(refused) => {
                book(turn.stats, &refused);
                self.refused = true;
                // Bytes were read around the verdict: their order is not known any more.
                if let MapRefused::BytesWaiting(_) = refused {
                    self.direction.step(Event::SourceBroke(Finish::Failed(libc::EPROTO)));
                }
                self.step(Event::NotPromoted)
            }
        }
    }

    /// Books what the kernel moved, and hears of an overflow.
    pub(super) fn notice(&mut self, link: &Link<'_>, turn: &Turn<'_>) {
        let Some(in_map) = &mut self.in_map else { return };
        in_map.book(self.side, link.meter, turn.stats);
        if !self.direction.is_redirecting() {
            return;
        }
        // Asked in this order, since whoever leaves says so before it passes.
        let passes = in_map.mapped().mode() == Mode::Pass;
        if in_map.mapped().has_left() {
            self.direction.step(Event::Left);
        } else if passes {
            self.direction.step(Event::Overflowed);
        }
        let full = in_map.was_full();
        if full && !std::mem::replace(&mut self.times.full, true) {
            turn.stats.fell_back(Fallback::Overflow);
        }
        if !self.times.leaving && (full || in_map.mapped().is_to_leave()) {
            self.rate.surge(turn.now);
            self.ask_to_leave();
        }
    }

    /// The source's end counts only when every byte before it went its way.
    pub(super) fn peek(&mut self, link: &Link<'_>, turn: &Turn<'_>) -> Result<Option<Instant>, Lost> {
        let peeked = link.from.peek();
        self.notice(link, turn);
        if !self.direction.is_redirecting() {
            // An error is told once, and this look may be the one that heard it.
            if peeked.is_err_and(|error| error != rustix::io::Errno::AGAIN) {
                self.step(Event::SourceFailing)?;
            }
            return Ok(None);
        }
        match peeked {
            Ok(0) => self.step(link.source_end())?,
            // The kick of the peek gave them to the verdict; the end comes behind them.
            Ok(_) if self.direction.source_may_end() => return Ok(Some(turn.now + LAG_LOOK)),
            Ok(_) => self.step(Event::NoEnd)?,
            Err(rustix::io::Errno::AGAIN) => self.step(Event::NoEnd)?,
            Err(error) => self.step(Event::SourceBroke(finish_of(error)))?,
        }
        Ok(None)
    }

    /// Until when to wait for redirected bytes to be in the destination's queue.
    pub(super) fn backlog(&mut self, link: &Link<'_>, turn: &Turn<'_>) -> Result<Option<Instant>, Lost> {
        self.notice(link, turn);
        let Some(in_map) = &self.in_map else { return self.step(Event::BacklogGone).map(|()| None) };
        match in_map.mapped().is_drained(link.to) {
            Ok(true) => {
                self.times.backlog = Duration::ZERO;
                if self.direction.is_leaving() {
                    self.leave(link, turn)?;
                }
                self.step(Event::BacklogGone).map(|()| None)
            }
            // A reader that stalls is looked at less and less often.
            Ok(false) => {
                self.times.backlog = (self.times.backlog * 2).clamp(LAG_LOOK, BACKLOG_LOOK);
                Ok(Some(turn.now + self.times.backlog))
            }
            Err(_) => Err(Lost(Finish::Aborted)),
        }
    }

    /// A direction that turned bulky, or whose destination is full, is better moved by userspace.
    pub(super) fn ask_to_leave(&mut self) {
        if let Some(in_map) = &self.in_map
            && !std::mem::replace(&mut self.times.leaving, true)
        {
            in_map.mapped().ask_to_leave();
        }
    }

    /// One that passes leaves when it redirects again; no walk finds a source that has ended.
    pub(super) fn asks_to_leave(&self) -> bool {
        let redirects = self.in_map.is_some() && self.direction.is_redirecting();
        self.times.leaving && redirects && self.direction.source_end().is_none()
    }

    /// Lets directions out that asked; the others' owners look by themselves.
    pub(super) fn let_out(&mut self, link: &Link<'_>, turn: &Turn<'_>) {
        let Some(in_map) = self.in_map.as_ref().filter(|_| self.direction.is_redirecting()) else { return };
        for control in in_map.let_out(link.control, turn.now) {
            if !Arc::ptr_eq(&control, link.control) {
                turn.crew.look(control);
            }
        }
        self.notice(link, turn);
    }

    /// Out of the map and drained: closes the account of this stay.
    fn leave(&mut self, link: &Link<'_>, turn: &Turn<'_>) -> Result<(), Lost> {
        let Some(mut in_map) = self.in_map.take() else { return Ok(()) };
        in_map.release(link.from, link.to);
        in_map.book(self.side, link.meter, turn.stats);
        let counts = in_map.mapped().counts();
        self.taken += counts.redirected;
        let in_vain = self.times.entered.is_some_and(|at| turn.now - at < STAY_SHORT)
            || self.times.full && counts.redirected < STAY_WORTH;
        let longer = if in_vain { self.times.stay_out * 2 } else { Duration::ZERO };
        let stay_out = longer.clamp(STAY_OUT_LEAST, STAY_OUT_MOST);
        self.times = Times { stay_out, out_until: Some(turn.now + stay_out), ..Times::default() };
        turn.stats.add(&turn.stats.demotions, 1);
        if let Err(violation) = in_map.check(link.from, link.to, Stage::Left) {
            distrust(&in_map, &violation, turn.stats);
            return Err(Lost(Finish::Failed(libc::EIO)));
        }
        Ok(())
    }

    /// Lets the kernel move the bytes again; until when to wait if it may not yet.
    pub(super) fn resume(&mut self, link: &Link<'_>, turn: &Turn<'_>) -> Result<Option<Instant>, Lost> {
        let Some(in_map) = &self.in_map else { return self.step(Event::NotResumed).map(|()| None) };
        if self.times.evicted.is_some() {
            return self.step(Event::NotResumed).map(|()| None);
        }
        // It was let out in the instant in which it was taken for overflowed: no verdict will pass or redirect again.
        if in_map.mapped().has_left() {
            return self.step(Event::Left).map(|()| None);
        }
        if in_map.mapped().waiting() > 0 {
            let dry = !self.direction.is_readable();
            self.step(Event::NotResumed)?;
            // A kernel worker still holds passed bytes: read again soon, no edge may come for them.
            return if dry { self.lag(turn.now).map(Some) } else { Ok(None) };
        }
        self.times.lagging = None;
        if !in_map.mapped().try_redirect() {
            self.step(Event::NotResumed)?;
            self.step(Event::Readable)?;
            return Ok(None);
        }
        self.step(Event::Resumed)?;
        self.notice(link, turn);
        if self.times.leaving {
            self.let_out(link, turn);
        }
        Ok(None)
    }

    /// Whether the source's end must wait for passed bytes, and until when.
    pub(super) fn waits_for_passed(&mut self, now: Instant) -> Result<Option<Instant>, Lost> {
        let waiting = self.in_map.as_ref().is_some_and(|in_map| in_map.mapped().waiting() > 0);
        if !waiting || self.times.evicted.is_some() {
            return Ok(None);
        }
        self.lag(now).map(Some)
    }

    /// Passed bytes are on their way through the kernel; they do not take long, or are lost.
    fn lag(&mut self, now: Instant) -> Result<Instant, Lost> {
        let since = *self.times.lagging.get_or_insert(now);
        if now.saturating_duration_since(since) > LAG_BOUND {
            self.direction.step(Event::SourceBroke(Finish::Failed(libc::EIO)));
            return Ok(now);
        }
        self.direction.step(Event::Readable);
        Ok(now + LAG_LOOK)
    }

    pub(super) fn forwarded(&mut self, bytes: usize) {
        self.times.lagging = None;
        if let Some(in_map) = &self.in_map {
            in_map.mapped().add_forwarded(bytes as u64);
        }
    }

    /// The watchdog's look; false when the kernel's counts contradict each other.
    pub(super) fn watch(&mut self, link: &Link<'_>, turn: &Turn<'_>) -> bool {
        self.notice(link, turn);
        let Some(in_map) = &self.in_map else { return true };
        in_map.follow_budget();
        if let Err(violation) = in_map.check(link.from, link.to, Stage::Moving) {
            distrust(in_map, &violation, turn.stats);
            self.times.caught = true;
            return false;
        }
        if let Some(before) = self.times.evicted {
            return before == in_map.seen();
        }
        if link.from.is_unix() && self.direction.is_redirecting() {
            let unread = super::kernel::sock::readable(link.from).is_ok_and(|bytes| bytes > 0);
            self.times.evicted = self.times.unread.look(unread.then(|| in_map.seen()));
            if self.times.evicted.is_some() {
                turn.stats.fell_back(Fallback::Evicted);
                self.direction.step(Event::Overflowed);
            }
        }
        true
    }

    /// The last look at a direction that ended; false when the kernel's counts contradict each other.
    pub(super) fn settle_accounts(&mut self, link: &Link<'_>, stats: &Stats) -> bool {
        let Some(in_map) = &mut self.in_map else { return true };
        in_map.book(self.side, link.meter, stats);
        if let Some(before) = self.times.evicted {
            return before == in_map.seen();
        }
        if self.times.caught {
            return false;
        }
        let clean = self.direction.finish() == Some(Finish::Clean);
        let stage = if clean { Stage::Ended } else { Stage::Moving };
        let Err(violation) = in_map.check(link.from, link.to, stage) else { return true };
        distrust(in_map, &violation, stats);
        false
    }
}

fn distrust(in_map: &InMap, violation: &Violation, stats: &Stats) {
    stats.add(&stats.violations, 1);
    let counts = in_map.mapped().counts();
    tracing::error!(
        %violation,
        redirected = counts.redirected,
        passed = counts.passed,
        forwarded = counts.forwarded,
        trimmed = counts.trimmed,
        overflows = counts.overflows,
        strays = counts.strays,
        "sockmap cannot be trusted on this kernel; new flows use splice(2) and copy"
    );
    in_map.distrust();
}

#[cfg(test)]
mod tests {
    use super::Unread;

    #[test]
    fn only_what_stays_unread_while_no_verdict_runs_was_evicted() {
        let mut unread = Unread::default();
        for (seen, evicted) in
            [(Some(10), None), (None, None), (Some(10), None), (Some(30), None), (Some(30), Some(30))]
        {
            assert_eq!(unread.look(seen), evicted, "{seen:?}");
        }
    }
}
