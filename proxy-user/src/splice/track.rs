//! One direction with its bytes: does what [`Direction`] asks for, on real sockets.

use std::time::Instant;

use bytes::{Buf, Bytes};
use rustix::io::Errno;

use super::Plain;
use super::direction::{Act, Direction, Event};
use super::policy::{COPY_QUANTUM, GREETING_WAIT};
use super::sock::finish_of;
use super::worker::Turn;
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
}

impl Track {
    pub(super) fn new(side: flow::Direction, greeting: Bytes, early: Bytes) -> Track {
        let direction = Direction::new(!greeting.is_empty(), early.len());
        Track { direction, side, greeting, greeted: None, waiting: early }
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
        let mut quantum = COPY_QUANTUM;
        loop {
            match self.direction.next() {
                Act::Rest => return (Pause::Idle(None), None),
                Act::Recv if quantum == 0 => return (Pause::Hungry, None),
                Act::Recv => {
                    let room = quantum.min(turn.scratch.len());
                    match from.recv(&mut turn.scratch[..room]) {
                        Ok(0) => self.direction.step(Event::Eof),
                        Ok(bytes) => {
                            quantum -= bytes;
                            self.direction.step(Event::Took(bytes));
                            // A short read empties a stream socket; its next byte raises an edge again. Its end
                            // may have come along, which raises none.
                            if bytes < room && !self.direction.source_may_end() {
                                self.direction.step(Event::Empty);
                            }
                            let sent = to.send(&turn.scratch[..bytes]);
                            let sent = match self.gave(sent, bytes, meter) {
                                Ok(sent) => sent,
                                Err(finish) => return (Pause::Idle(None), Some(finish)),
                            };
                            if sent < bytes {
                                self.waiting = Bytes::copy_from_slice(&turn.scratch[sent..bytes]);
                            }
                        }
                        Err(Errno::AGAIN) => self.direction.step(Event::Empty),
                        Err(error) => self.direction.step(Event::SourceBroke(finish_of(error))),
                    }
                }
                Act::Send => {
                    let sent = to.send(&self.waiting);
                    match self.gave(sent, self.waiting.len(), meter) {
                        Ok(sent) => self.waiting.advance(sent),
                        Err(finish) => return (Pause::Idle(None), Some(finish)),
                    }
                    if self.waiting.is_empty() {
                        self.waiting = Bytes::new();
                    }
                }
                Act::Greet => {
                    if let Err(finish) = self.greet(to, turn.now) {
                        return (Pause::Idle(None), Some(finish));
                    }
                }
                Act::Settle => match self.settled(to, turn.now) {
                    None => self.direction.step(Event::Settled),
                    Some(until) => return (Pause::Idle(Some(until)), None),
                },
                Act::Shut => {
                    if self.direction.source_end() == Some(Finish::Clean) && to.end_writing().is_err() {
                        self.direction.step(Event::DestinationBroke(Finish::Aborted));
                        return (Pause::Idle(None), Some(Finish::Aborted));
                    }
                    self.direction.step(Event::Shut);
                }
                Act::TakePipe | Act::Fill | Act::Drain | Act::GivePipe => {
                    self.direction.step(Event::NoPipe);
                }
            }
        }
    }

    /// Books what a send of `wanted` bytes achieved.
    fn gave(
        &mut self,
        sent: rustix::io::Result<usize>,
        wanted: usize,
        meter: &Meter,
    ) -> Result<usize, Finish> {
        let sent = match sent {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(error) => {
                let finish = finish_of(error);
                self.direction.step(Event::DestinationBroke(finish));
                return Err(finish);
            }
        };
        meter.add(self.side, Engine::Copy, sent as u64);
        self.direction.step(Event::Gave(sent));
        if sent < wanted {
            self.direction.step(Event::Full);
        }
        Ok(sent)
    }

    fn greet(&mut self, to: &Plain, now: Instant) -> Result<(), Finish> {
        match to.send(&self.greeting) {
            Ok(sent) => {
                self.greeting.advance(sent);
                self.greeted = Some(now);
                self.direction.step(Event::Greeted { all: self.greeting.is_empty() });
                Ok(())
            }
            Err(Errno::AGAIN) => {
                self.direction.step(Event::Full);
                Ok(())
            }
            Err(error) => {
                let finish = finish_of(error);
                self.direction.step(Event::DestinationBroke(finish));
                Err(finish)
            }
        }
    }

    /// Until when to wait for the peer to read the greeting; `None`: go on. Only a Unix socket tells.
    fn settled(&self, to: &Plain, now: Instant) -> Option<Instant> {
        let until = self.greeted? + GREETING_WAIT;
        let unread = to.is_unix() && now < until && to.unacknowledged().is_ok_and(|bytes| bytes > 0);
        unread.then_some(until)
    }
}
