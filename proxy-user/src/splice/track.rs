//! One direction with its bytes: does what [`Direction`] asks for, on real sockets.

use std::time::Instant;

use bytes::{Buf, Bytes};
use rustix::io::Errno;

use super::direction::{Act, Direction, Event, Mover};
use super::pipe::{Pipe, Pool};
use super::policy::{COPY_QUANTUM, GREETING_WAIT, SPLICE_QUANTUM};
use super::rate::Rate;
use super::sock::{finish_of, splice};
use super::worker::Turn;
use super::{EngineChoice, Plain};
use crate::flow::{self, Engine, Finish, Meter};

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
    side: flow::Direction,
    greeting: Bytes,
    greeted: Option<Instant>,
    /// Taken from the source by copy, not taken by the destination.
    waiting: Bytes,
    pipe: Option<Pipe>,
    engine: EngineChoice,
    rate: Rate,
}

/// The destination takes no byte any more.
struct Lost(Finish);

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
        }
    }

    pub(super) fn rate(&self) -> &Rate {
        &self.rate
    }

    pub(super) fn finish(&self) -> Option<Finish> {
        self.direction.finish()
    }

    /// Moves bytes until it has to wait or its quantum is used up. An error of the destination comes back, since
    /// it is the other direction's source that failed.
    pub(super) fn run(
        &mut self,
        from: &Plain,
        to: &Plain,
        meter: &Meter,
        turn: &mut Turn<'_>,
    ) -> (Pause, Option<Finish>) {
        self.choose(turn.now);
        let mut quantum = match self.direction.mover() {
            Mover::Copy | Mover::Sockmap => COPY_QUANTUM,
            Mover::Splice => SPLICE_QUANTUM,
        };
        loop {
            let done = match self.direction.next() {
                Act::Rest => return (Pause::Idle(self.wakes()), None),
                Act::Recv | Act::Fill if quantum == 0 => return (Pause::Hungry, None),
                Act::Recv => self.recv(from, to, meter, turn, &mut quantum),
                Act::Fill => self.fill(from, turn.now, &mut quantum),
                Act::Drain => self.drain(to, meter),
                Act::Send => self.send(to, meter),
                Act::TakePipe => self.take_pipe(turn),
                Act::GivePipe => self.give_pipe(turn),
                Act::Greet => self.greet(to, turn.now),
                Act::Settle => match self.settled(to, turn.now) {
                    None => self.step(Event::Settled),
                    Some(until) => return (Pause::Idle(Some(until)), None),
                },
                Act::Shut => self.shut(to),
                Act::Promote | Act::Peek | Act::Backlog | Act::Resume => self.step(Event::NotPromoted),
            };
            if let Err(Lost(finish)) = done {
                self.direction.step(Event::DestinationBroke(finish));
                self.leave_pipe(turn.pipes);
                return (Pause::Idle(None), Some(finish));
            }
        }
    }

    /// Which mover the engine in force and the rate ask for.
    fn choose(&mut self, now: Instant) {
        let want = match self.engine {
            EngineChoice::Copy => Mover::Copy,
            EngineChoice::Splice => Mover::Splice,
            EngineChoice::Auto | EngineChoice::Sockmap if self.rate.is_bulk(now) => Mover::Splice,
            EngineChoice::Auto | EngineChoice::Sockmap => Mover::Copy,
        };
        self.direction.step(Event::Want(want));
        if self.pipe.is_some() && self.rate.rests_at().is_none_or(|at| now >= at) {
            self.direction.step(Event::Quiet);
        }
    }

    /// When the pipe is to be given back, if nothing moves until then.
    fn wakes(&self) -> Option<Instant> {
        self.pipe.as_ref().and_then(|_| self.rate.rests_at())
    }

    fn step(&mut self, event: Event) -> Result<(), Lost> {
        self.direction.step(event);
        Ok(())
    }

    fn recv(
        &mut self,
        from: &Plain,
        to: &Plain,
        meter: &Meter,
        turn: &mut Turn<'_>,
        quantum: &mut usize,
    ) -> Result<(), Lost> {
        let room = (*quantum).min(turn.scratch.len());
        let bytes = match from.recv(&mut turn.scratch[..room]) {
            Ok(0) => return self.step(Event::Eof),
            Ok(bytes) => bytes,
            Err(Errno::AGAIN) => return self.step(Event::Empty),
            Err(error) => return self.step(Event::SourceBroke(finish_of(error))),
        };
        *quantum -= bytes;
        self.rate.note(turn.now, bytes);
        self.direction.step(Event::Took(bytes));
        // A short read empties a stream socket, its next byte raises an edge again. Its end may have come along,
        // which raises none.
        if bytes < room && !self.direction.source_may_end() {
            self.direction.step(Event::Empty);
        }
        let sent = self.gave(to.send(&turn.scratch[..bytes]), bytes, Engine::Copy, meter)?;
        if sent < bytes {
            self.waiting = Bytes::copy_from_slice(&turn.scratch[sent..bytes]);
        }
        Ok(())
    }

    fn send(&mut self, to: &Plain, meter: &Meter) -> Result<(), Lost> {
        let sent = self.gave(to.send(&self.waiting), self.waiting.len(), Engine::Copy, meter)?;
        self.waiting.advance(sent);
        if self.waiting.is_empty() {
            self.waiting = Bytes::new();
        }
        Ok(())
    }

    fn take_pipe(&mut self, turn: &mut Turn<'_>) -> Result<(), Lost> {
        self.pipe = turn.pipes.take();
        self.direction.step(if self.pipe.is_some() { Event::PipeTaken } else { Event::NoPipe });
        Ok(())
    }

    fn give_pipe(&mut self, turn: &mut Turn<'_>) -> Result<(), Lost> {
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

    fn fill(&mut self, from: &Plain, now: Instant, quantum: &mut usize) -> Result<(), Lost> {
        let Some(pipe) = &self.pipe else { return self.step(Event::PipeGiven) };
        // The pipe is empty here, so EAGAIN speaks of the source.
        match splice(from, &pipe.write, *quantum) {
            Ok(0) => self.step(Event::Eof),
            Ok(bytes) => {
                *quantum -= bytes;
                self.rate.note(now, bytes);
                self.step(Event::Took(bytes))
            }
            Err(Errno::AGAIN) => self.step(Event::Empty),
            Err(error) => self.step(Event::SourceBroke(finish_of(error))),
        }
    }

    fn drain(&mut self, to: &Plain, meter: &Meter) -> Result<(), Lost> {
        let Some(pipe) = &self.pipe else { return self.step(Event::PipeGiven) };
        let held = self.direction.held();
        match splice(&pipe.read, to, held) {
            Err(Errno::AGAIN) => self.step(Event::Full),
            // Less than asked for is no sign of a full socket here: it may be the end of a page run.
            Ok(bytes) => self.gave(Ok(bytes), bytes, Engine::Splice, meter).map(|_| ()),
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

    /// Until when to wait for the peer to read the greeting; `None`: go on. Only a Unix socket tells.
    fn settled(&self, to: &Plain, now: Instant) -> Option<Instant> {
        let until = self.greeted? + GREETING_WAIT;
        let unread = to.is_unix() && now < until && to.unacknowledged().is_ok_and(|bytes| bytes > 0);
        unread.then_some(until)
    }
}
