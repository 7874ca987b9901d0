//! One flow on an engine thread: two plain sockets, one track each way, and the way it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use tokio::sync::oneshot;

use super::Plain;
use super::budget::Grant;
use super::control::Control;
use super::direction::Event;
use super::pipe::Pool;
use super::policy::ABORT_WAIT;
use super::stats::Stats;
use super::track::{Link, Pause, Track};
use super::worker::Turn;
use crate::flow::{Direction, Ending, Finish, Meter};

/// What the worker does with a pair after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Waits for an event, or for the instant.
    Idle(Option<Instant>),
    Hungry,
    Over,
}

/// Between the last byte and the reset: the peers acknowledge what came before it.
#[derive(Debug, Clone, Copy)]
struct Parting {
    until: Instant,
    again: Duration,
}

/// Side 0 is the client's, side 1 the target's; track `t` reads side `t` and writes the other one.
pub(super) struct Pair {
    ends: [Plain; 2],
    tracks: [Track; 2],
    grant: Grant,
    broken: [bool; 2],
    begun: bool,
    /// The kernel miscounted: the flow ends as failed.
    violated: bool,
    parting: Option<Parting>,
    /// The client on a Unix socket closed both directions.
    orphaned: bool,
    /// Nothing moves that must: since when, and the count then.
    stall: Option<(Instant, u64)>,
    meter: Arc<Meter>,
    control: Arc<Control>,
    report: oneshot::Sender<Ending>,
}

impl Pair {
    pub(super) fn new(
        ends: [Plain; 2],
        tracks: [Track; 2],
        grant: Grant,
        meter: Arc<Meter>,
        control: Arc<Control>,
        report: oneshot::Sender<Ending>,
    ) -> Pair {
        Pair {
            ends,
            tracks,
            grant,
            broken: [false; 2],
            begun: false,
            violated: false,
            parting: None,
            orphaned: false,
            stall: None,
            meter,
            control,
            report,
        }
    }

    pub(super) fn end(&self, side: usize) -> &Plain {
        &self.ends[side]
    }

    pub(super) fn grant(&self) -> Grant {
        self.grant
    }

    pub(super) fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Takes what epoll said about one side.
    pub(super) fn note(&mut self, side: usize, flags: EventFlags) {
        let other = 1 - side;
        if flags.contains(EventFlags::ERR) {
            self.side_broke(side, Finish::Aborted);
        }
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP) {
            self.tracks[side].direction.step(Event::SourceEnding);
        }
        // Once we have shut our side, a peer that shuts its own looks the same, and its bytes may be on their way.
        let unfinished = self.tracks[other].finish().is_none();
        if flags.contains(EventFlags::HUP) && self.ends[side].is_unix() && unfinished {
            self.orphaned = true;
        }
        // An edge comes after every mark, so one that is not told of yet will be.
        self.tracks[side].marked = flags.contains(EventFlags::PRI);
        if flags.contains(EventFlags::IN) {
            self.tracks[side].direction.step(Event::Readable);
        }
        if flags.contains(EventFlags::OUT) {
            self.tracks[other].direction.step(Event::Writable);
        }
    }

    /// A side is dead: nothing can be written to it any more, what it still holds can be read.
    fn side_broke(&mut self, side: usize, finish: Finish) {
        self.broken[side] = true;
        self.tracks[side].direction.step(Event::SourceFailing);
        self.tracks[1 - side].direction.step(Event::DestinationBroke(finish));
    }

    fn track(&mut self, t: usize) -> (&mut Track, Link<'_>) {
        let [left, right] = &self.ends;
        let (from, to) = if t == 0 { (left, right) } else { (right, left) };
        let open = self.tracks[1 - t].finish().is_none();
        let (grant, meter, control) = (self.grant, &*self.meter, &self.control);
        (&mut self.tracks[t], Link { from, to, grant, meter, control, open })
    }

    /// What epoll should tell about one side. Readiness of a redirected direction is the kernel's business: it
    /// wakes readers after every verdict, and the gain would be gone.
    pub(super) fn interest(&self, side: usize) -> EventFlags {
        let mut flags = EventFlags::RDHUP | EventFlags::ET;
        if !self.tracks[side].direction.is_redirecting() {
            flags |= EventFlags::IN | EventFlags::PRI;
        }
        // A Unix socket tells of room with every read of its peer, TCP only when it was full.
        let towards = &self.tracks[1 - side].direction;
        if !towards.is_redirecting() && (towards.is_blocked() || !self.ends[side].is_unix()) {
            flags |= EventFlags::OUT;
        }
        flags
    }

    pub(super) fn is_mapped(&self) -> bool {
        self.tracks.iter().any(|track| track.in_map.is_some())
    }

    /// The watchdog's look at a mapped flow; true when the flow needs a turn.
    pub(super) fn watch(&mut self, turn: &Turn<'_>) -> bool {
        let mut run = false;
        for t in 0..2 {
            let (track, link) = self.track(t);
            if track.in_map.is_none() {
                continue;
            }
            let sound = track.watch(&link, turn);
            run |= !sound || !track.direction.is_redirecting() || track.asks_to_leave();
            self.violated |= !sound;
        }
        run
    }

    /// Runs both directions for a turn.
    pub(super) fn run(&mut self, turn: &mut Turn<'_>) -> Next {
        if self.control.is_cancelled() || self.violated {
            return self.cancel();
        }
        let mut hungry = false;
        let mut wake = None;
        if !std::mem::replace(&mut self.begun, true) {
            for t in 0..2 {
                // A peer that was not greeted yet does not speak yet.
                let silent = self.tracks[1 - t].greets();
                let (track, link) = self.track(t);
                if silent {
                    // What it lost is found again by the run below.
                    let _ = track.enter_early(&link, turn);
                }
            }
        }
        self.choose(turn);
        for t in 0..2 {
            let (track, link) = self.track(t);
            let (pause, lost) = track.run(&link, turn);
            if let Some(finish) = lost {
                self.side_broke(1 - t, finish);
                // The other track has ran already when this is the second one; it must read to its end now.
                hungry = true;
            }
            if let Some(Finish::Aborted | Finish::Failed(_)) = self.tracks[t].direction.source_end()
                && !self.broken[t]
            {
                self.side_broke(t, Finish::Aborted);
                hungry = true;
            }
            match pause {
                Pause::Hungry => hungry = true,
                Pause::Idle(at) => wake = earlier(wake, at),
            }
        }
        match (self.tracks[0].finish(), self.tracks[1].finish()) {
            (Some(Finish::Clean), Some(Finish::Clean)) => Next::Over,
            (Some(_), Some(_)) => self.part(turn.now),
            _ if hungry => Next::Hungry,
            _ => Next::Idle(earlier(wake, self.watch_stall(turn))),
        }
    }

    fn choose(&mut self, turn: &Turn<'_>) {
        for t in 0..2 {
            let (track, link) = self.track(t);
            track.choose(&link, turn);
        }
        if self.tracks.iter().any(Track::wants_map) {
            for t in 0..2 {
                let (track, link) = self.track(t);
                track.open_account(link.from);
            }
        }
    }

    fn cancel(&mut self) -> Next {
        if self.violated {
            self.fail(Finish::Failed(libc::EIO));
        }
        for track in &mut self.tracks {
            track.direction.step(Event::Cancel);
        }
        Next::Over
    }

    fn fail(&mut self, finish: Finish) {
        for track in &mut self.tracks {
            track.direction.step(Event::DestinationBroke(finish));
        }
    }

    /// Waits until every living peer acknowledged what it was sent: a reset would destroy it.
    fn part(&mut self, now: Instant) -> Next {
        let parting = self
            .parting
            .get_or_insert(Parting { until: now + ABORT_WAIT, again: Duration::from_micros(500) });
        let waits = (0..2)
            .any(|side| !self.broken[side] && self.ends[side].unacknowledged().is_ok_and(|bytes| bytes > 0));
        if !waits || now >= parting.until {
            return Next::Over;
        }
        parting.again = (parting.again * 2).min(Duration::from_millis(20));
        Next::Idle(Some(now + parting.again))
    }

    /// A failed source whose last bytes nobody takes holds the flow for [`ABORT_WAIT`] without progress only, a
    /// client that is gone for a little longer.
    fn watch_stall(&mut self, turn: &Turn<'_>) -> Option<Instant> {
        let failing = |track: &Track| track.finish().is_none() && track.direction.is_failing();
        let wait = match self.tracks.iter().any(failing) {
            true => ABORT_WAIT,
            false if self.orphaned => turn.crew.orphan_after,
            false => return None,
        };
        let moved = self.meter.total(Direction::Up) + self.meter.total(Direction::Down);
        let since = match self.stall {
            Some((since, before)) if before == moved => since,
            _ => turn.now,
        };
        self.stall = Some((since, moved));
        if turn.now < since + wait {
            return Some(since + wait);
        }
        self.fail(Finish::Aborted);
        Some(turn.now)
    }

    /// A direction is bulk by its rate: the flow belongs on a bulk thread.
    pub(super) fn is_bulk(&self, now: Instant) -> bool {
        self.tracks.iter().any(|track| track.rate().is_bulk(now))
    }

    /// When a bulk flow stops being one, if nothing moves until then.
    pub(super) fn rests_at(&self) -> Option<Instant> {
        self.tracks.iter().filter_map(|track| track.rate().rests_at()).max()
    }

    /// Closes both sockets and tells how the flow ended.
    pub(super) fn close(mut self, pipes: &Pool, stats: &Stats) -> Ending {
        let mut kept = true;
        for t in 0..2 {
            let (track, link) = self.track(t);
            track.leave_pipe(pipes);
            kept &= track.settle_accounts(&link, stats);
        }
        let finish = |track: &Track| match track.finish() {
            Some(Finish::Clean) if !kept => Finish::Failed(libc::EIO),
            finish => finish.unwrap_or(Finish::Cancelled),
        };
        let ending = Ending {
            up: finish(&self.tracks[0]),
            down: finish(&self.tracks[1]),
            up_bytes: self.meter.total(Direction::Up),
            down_bytes: self.meter.total(Direction::Down),
        };
        if !ending.is_clean() {
            self.ends.iter().for_each(Plain::abort_on_close);
        }
        // The kernel takes a closed socket out of its maps; leaving first could lose a byte that just arrives.
        drop(self.ends);
        drop(self.tracks);
        // Nobody waits for the ending of a join that was dropped.
        let _ = self.report.send(ending);
        ending
    }
}

pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
