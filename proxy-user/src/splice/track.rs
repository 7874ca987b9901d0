//! One direction with its bytes: does what [`Direction`] asks for, on real sockets.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use rustix::io::Errno;

use super::budget::Grant;
use super::control::Control;
use super::direction::{Act, Direction, Event, Mover};
use super::gather::Gather;
use super::kernel::sock::{readable, tcp_info};
use super::pipe::{Pipe, Pool};
use super::policy::{GREETING_WAIT, SPLICE_QUANTUM};
use super::rate::Rate;
use super::redirect::Times;
use super::sock::{carry_one, finish_of, splice};
use super::sockmap::InMap;
use super::stats::Fallback;
use super::worker::Turn;
use super::{EngineChoice, Plain};
use crate::flow::{self, Engine, Finish, Meter};
use crate::net::sockopt::at_mark;

/// Why a track stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// Waits for an event of its sockets, or for the instant.
    Idle(Option<Instant>),
    /// Used up its quantum, has more.
    Hungry,
}

pub(super) struct Track {
    pub(super) direction: Direction,
    pub(super) side: flow::Direction,
    greeting: Bytes,
    greeted: Option<Instant>,
    /// Taken from the source by copy, not taken by the destination.
    waiting: Bytes,
    pipe: Option<Pipe>,
    pub(super) engine: EngineChoice,
    pub(super) rate: Rate,
    gather: Gather,
    /// The source has an urgent mark, or had one while the kernel moved its bytes: a short read does not mean empty.
    pub(super) marked: bool,
    /// Bytes that userspace took from the source.
    pub(super) taken: u64,
    /// The source's count of received bytes when the first of them was taken.
    pub(super) origin: Option<u64>,
    pub(super) in_map: Option<InMap>,
    pub(super) times: Times,
    /// The kernel would not take this direction: it is not asked again.
    pub(super) refused: bool,
}

/// The sockets and the ledger of a track, as its pair holds them.
pub(super) struct Link<'a> {
    pub(super) from: &'a Plain,
    pub(super) to: &'a Plain,
    pub(super) grant: Grant,
    pub(super) meter: &'a Meter,
    pub(super) control: &'a Arc<Control>,
    /// The other direction has not ended: we did not end the connection behind `from`.
    pub(super) open: bool,
}

impl Link<'_> {
    /// What it means that the source has no more. A socket tells an error once, and whoever else asked it may have heard
    /// it: the kernel, sending redirected bytes, or the look that begins a stay in its map. But only a reset closes a
    /// connection that we have not ended ourselves.
    pub(super) fn source_end(&self) -> Event {
        let closed = || tcp_info(self.from).is_ok_and(|info| info.is_closed());
        match self.open && !self.from.is_unix() && closed() {
            true => Event::SourceBroke(Finish::Aborted),
            false => Event::Eof,
        }
    }
}

/// The destination takes no byte any more.
pub(super) struct Lost(pub(super) Finish);

impl Track {
    pub(super) fn new(side: flow::Direction, greeting: Bytes, early: Bytes, engine: EngineChoice) -> Track {
        Track {
            direction: Direction::new(!greeting.is_empty(), early.len()),
            side,
            greeting,
            greeted: None,
            waiting: early,
            pipe: None,
            engine,
            rate: Rate::new(Instant::now()),
            gather: Gather::default(),
            marked: false,
            taken: 0,
            origin: None,
            in_map: None,
            times: Times::default(),
            refused: false,
        }
    }

    pub(super) fn rate(&self) -> &Rate {
        &self.rate
    }

    /// The destination was not invited to speak yet.
    pub(super) fn greets(&self) -> bool {
        !self.greeting.is_empty()
    }

    pub(super) fn finish(&self) -> Option<Finish> {
        self.direction.finish()
    }

    /// Moves bytes until it has to wait or its quantum is used up. An error of the destination comes back, since
    /// it is the other direction's source that failed.
    pub(super) fn run(&mut self, link: &Link<'_>, turn: &mut Turn<'_>) -> (Pause, Option<Finish>) {
        self.notice(link, turn);
        if self.asks_to_leave() {
            self.let_out(link, turn);
        }
        if self.gather.deadline().is_some_and(|at| turn.now >= at) {
            self.direction.step(Event::Readable);
        }
        let mut quantum = match self.direction.mover() {
            Mover::Copy | Mover::Sockmap => turn.scratch.len(),
            Mover::Splice => SPLICE_QUANTUM,
        };
        loop {
            // What an act returns beside its error is until when there is nothing more to do.
            let done = match self.direction.next() {
                Act::Rest => return (Pause::Idle(self.wakes(turn.now)), None),
                Act::Recv | Act::Fill if quantum == 0 => return (Pause::Hungry, None),
                Act::Recv => self.recv(link, turn, &mut quantum),
                Act::Fill => self.fill(link, turn.now, &mut quantum).map(|()| None),
                Act::Drain => self.drain(link).map(|()| None),
                Act::Send => self.send(link).map(|()| None),
                Act::TakePipe => self.take_pipe(turn).map(|()| None),
                Act::GivePipe => self.give_pipe(link, turn).map(|()| None),
                Act::Greet => self.greet(link.to, turn.now).map(|()| None),
                Act::Settle => self.settle(link.to, turn.now),
                Act::Promote => self.promote(link, turn).map(|()| None),
                Act::Peek => self.peek(link, turn),
                Act::Backlog => self.backlog(link, turn),
                Act::Resume => self.resume(link, turn),
                Act::Shut => self.shut(link.to).map(|()| None),
            };
            match done {
                Ok(None) => {}
                Ok(Some(until)) => return (Pause::Idle(Some(until)), None),
                Err(Lost(finish)) => {
                    self.direction.step(Event::DestinationBroke(finish));
                    self.leave_pipe(turn.pipes);
                    return (Pause::Idle(None), Some(finish));
                }
            }
        }
    }

    /// Which mover the engine in force and the rate ask for.
    pub(super) fn choose(&mut self, link: &Link<'_>, turn: &Turn<'_>) {
        let bulk = self.rate.is_bulk(turn.now);
        let want = match self.engine {
            EngineChoice::Copy => Mover::Copy,
            EngineChoice::Splice => Mover::Splice,
            EngineChoice::Sockmap if self.is_mappable(link, turn) => Mover::Sockmap,
            // A Unix writer goes on as soon as its bytes are copied. Over two hops one upload was slower by a sixth
            // when it was spliced, by a third when it was mapped.
            EngineChoice::Auto | EngineChoice::Sockmap if bulk && !link.from.is_unix() => Mover::Splice,
            EngineChoice::Auto
                if self.rate.is_calm(turn.now, turn.crew.calm_after) && self.is_mappable(link, turn) =>
            {
                Mover::Sockmap
            }
            EngineChoice::Auto | EngineChoice::Sockmap => Mover::Copy,
        };
        self.direction.step(Event::Want(want));
        if bulk && self.engine == EngineChoice::Auto && !link.from.is_unix() {
            self.ask_to_leave();
        }
        if self.pipe.is_some() && self.rate.rests_at().is_none_or(|at| turn.now >= at) {
            self.direction.step(Event::Quiet);
        }
    }

    /// TCP to TCP at any time. A Unix source enters before its first byte or never, a Unix destination never: a
    /// half-close of its peer would destroy what the kernel holds for it.
    fn is_mappable(&self, link: &Link<'_>, turn: &Turn<'_>) -> bool {
        let tcp = !link.from.is_unix() && !link.to.is_unix();
        tcp && !self.refused && !self.stays_out(turn.now) && turn.map.is_some_and(|map| map.takes(link.from))
    }

    /// Maps a Unix source, where that was asked for, before anything invites its peer to speak. One that spoke already
    /// may speak on while it enters, and its bytes would pass the verdict by.
    pub(super) fn enter_early(&mut self, link: &Link<'_>, turn: &mut Turn<'_>) -> Result<(), Lost> {
        let possible =
            link.from.is_unix() && !link.to.is_unix() && turn.map.is_some_and(|map| map.takes(link.from));
        if !possible || self.engine != EngineChoice::Sockmap {
            return Ok(());
        }
        let quiet = readable(link.from).is_ok_and(|bytes| bytes == 0);
        if self.direction.next() == Act::Recv && quiet { self.promote(link, turn) } else { Ok(()) }
    }

    /// When to look for gathered bytes, to give the pipe back, or to ask again to leave the map, if nothing moves until
    /// then. A time that has passed is none: then bytes wait in the pipe for the destination.
    fn wakes(&self, now: Instant) -> Option<Instant> {
        if let Some(in_map) = self.in_map.as_ref().filter(|_| self.asks_to_leave()) {
            return Some(in_map.leaves_at(now));
        }
        let gathered = self.gather.deadline().filter(|_| !self.direction.is_readable());
        let rests = self.pipe.as_ref().and_then(|_| self.rate.rests_at());
        gathered.or(rests).filter(|at| *at > now)
    }

    pub(super) fn step(&mut self, event: Event) -> Result<(), Lost> {
        self.direction.step(event);
        Ok(())
    }

    fn recv(
        &mut self,
        link: &Link<'_>,
        turn: &mut Turn<'_>,
        quantum: &mut usize,
    ) -> Result<Option<Instant>, Lost> {
        let room = (*quantum).min(turn.scratch.len()).min(link.grant.in_hand());
        let bytes = match link.from.recv(&mut turn.scratch[..room]) {
            Ok(0) => return self.ended(link.source_end(), turn.now),
            Ok(bytes) => bytes,
            Err(Errno::AGAIN) => return self.step(Event::Empty).map(|()| None),
            Err(error) => return self.ended(Event::SourceBroke(finish_of(error)), turn.now),
        };
        *quantum -= bytes;
        self.taken += bytes as u64;
        self.rate.note(turn.now, bytes);
        self.direction.step(Event::Took(bytes));
        // A short read empties a stream socket, its next byte raises an edge again. Its end may have come along,
        // which raises none; and a mapped socket has a second queue behind the first.
        if bytes < room && self.is_emptied_by_a_short_read() && self.in_map.is_none() {
            self.direction.step(Event::Empty);
        }
        let sent = self.gave(
            link.to.send_within(link.grant, &turn.scratch[..bytes]),
            bytes,
            Engine::Copy,
            link.meter,
        )?;
        if sent < bytes {
            self.waiting = Bytes::copy_from_slice(&turn.scratch[sent..bytes]);
        }
        Ok(None)
    }

    /// The source's end, unless passed bytes before it are still on their way.
    fn ended(&mut self, end: Event, now: Instant) -> Result<Option<Instant>, Lost> {
        if let Some(until) = self.waits_for_passed(now)? {
            // An error is told once; what is read after it must not look like a clean end.
            if end != Event::Eof {
                self.direction.step(Event::SourceFailing);
            }
            return Ok(Some(until));
        }
        self.step(end).map(|()| None)
    }

    fn is_emptied_by_a_short_read(&self) -> bool {
        !self.direction.source_may_end() && !self.marked
    }

    fn send(&mut self, link: &Link<'_>) -> Result<(), Lost> {
        let sent = self.gave(
            link.to.send_within(link.grant, &self.waiting),
            self.waiting.len(),
            Engine::Copy,
            link.meter,
        )?;
        self.waiting.advance(sent);
        if self.waiting.is_empty() {
            self.waiting = Bytes::new();
        }
        Ok(())
    }

    fn take_pipe(&mut self, turn: &mut Turn<'_>) -> Result<(), Lost> {
        self.pipe = turn.pipes.take();
        if self.pipe.is_none() {
            turn.stats.fell_back(Fallback::NoPipe);
        }
        self.direction.step(if self.pipe.is_some() { Event::PipeTaken } else { Event::NoPipe });
        Ok(())
    }

    fn give_pipe(&mut self, link: &Link<'_>, turn: &mut Turn<'_>) -> Result<(), Lost> {
        self.gather.disarm(link.from);
        if self.finish().is_some_and(|finish| finish != Finish::Clean) {
            self.leave_pipe(turn.pipes);
        }
        if let Some(pipe) = self.pipe.take() {
            turn.pipes.give(pipe);
        }
        self.step(Event::PipeGiven)
    }

    /// The direction is over: whatever the pipe still holds goes with it.
    pub(super) fn leave_pipe(&mut self, pipes: &Pool) {
        if let Some(pipe) = self.pipe.take() {
            pipes.scrap(pipe);
            self.direction.step(Event::PipeGiven);
        }
    }

    fn fill(&mut self, link: &Link<'_>, now: Instant, quantum: &mut usize) -> Result<(), Lost> {
        let Some(pipe) = &self.pipe else { return self.step(Event::PipeGiven) };
        // The pipe is empty here, so EAGAIN speaks of the source.
        let most = (*quantum).min(link.grant.in_hand());
        let mut taken = splice(link.from, &pipe.write, most);
        // It stops at an urgent mark for good, and says there what it says of an empty source, or of one that ended.
        let perhaps = taken == Ok(0) || self.marked && taken == Err(Errno::AGAIN);
        if perhaps && at_mark(link.from) {
            taken = carry_one(link.from, &pipe.write);
        }
        match taken {
            Ok(0) => self.step(link.source_end()),
            Ok(bytes) => {
                *quantum -= bytes;
                self.taken += bytes as u64;
                self.rate.note(now, bytes);
                self.gather.took(bytes);
                self.direction.step(Event::Took(bytes));
                if bytes < most && self.gather.is_sated() && self.is_emptied_by_a_short_read() {
                    return self.emptied(link, now);
                }
                Ok(())
            }
            Err(Errno::AGAIN) => self.emptied(link, now),
            Err(error) => self.step(Event::SourceBroke(finish_of(error))),
        }
    }

    /// The source has no more for the pipe.
    fn emptied(&mut self, link: &Link<'_>, now: Instant) -> Result<(), Lost> {
        if !link.grant.is_bounded() {
            self.gather.emptied(link.from, self.rate.speed(), now);
        }
        self.step(Event::Empty)
    }

    fn drain(&mut self, link: &Link<'_>) -> Result<(), Lost> {
        let Some(pipe) = &self.pipe else { return self.step(Event::PipeGiven) };
        if link.to.is_sated(link.grant) {
            return self.step(Event::Full);
        }
        let held = self.direction.held();
        match splice(&pipe.read, link.to, held) {
            Err(Errno::AGAIN) => self.step(Event::Full),
            // Less than asked for is no sign of a full socket here: it may be the end of a page run.
            Ok(bytes) => self.gave(Ok(bytes), bytes, Engine::Splice, link.meter).map(|_| ()),
            Err(error) => Err(Lost(finish_of(error))),
        }
    }

    fn shut(&mut self, to: &Plain) -> Result<(), Lost> {
        if self.direction.source_end() == Some(Finish::Clean) {
            to.end_writing().map_err(|_| Lost(Finish::Aborted))?;
        }
        self.step(Event::Shut)
    }

    /// Books what a send of `wanted` bytes achieved.
    fn gave(
        &mut self,
        sent: rustix::io::Result<usize>,
        wanted: usize,
        engine: Engine,
        meter: &Meter,
    ) -> Result<usize, Lost> {
        let sent = match sent {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(error) => return Err(Lost(finish_of(error))),
        };
        meter.add(self.side, engine, sent as u64);
        self.forwarded(sent);
        self.direction.step(Event::Gave(sent));
        if sent < wanted {
            self.direction.step(Event::Full);
        }
        Ok(sent)
    }

    fn greet(&mut self, to: &Plain, now: Instant) -> Result<(), Lost> {
        match to.send(&self.greeting) {
            Ok(sent) => {
                self.greeting.advance(sent);
                self.greeted = Some(now);
                self.step(Event::Greeted { all: self.greeting.is_empty() })
            }
            Err(Errno::AGAIN) => self.step(Event::Full),
            Err(error) => Err(Lost(finish_of(error))),
        }
    }

    /// Waits for the peer to read the greeting. Only a Unix socket tells.
    fn settle(&mut self, to: &Plain, now: Instant) -> Result<Option<Instant>, Lost> {
        let until = self.greeted.map_or(now, |at| at + GREETING_WAIT);
        if to.is_unix() && now < until && to.unacknowledged().is_ok_and(|bytes| bytes > 0) {
            return Ok(Some(until.min(now + GREETING_WAIT / 50)));
        }
        self.step(Event::Settled).map(|()| None)
    }
}
