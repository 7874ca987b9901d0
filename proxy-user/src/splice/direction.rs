//! One direction of a flow as a pure state machine: no socket, no clock, no buffer, only their sizes.
//!
//! [`Direction::next`] says what to do, the caller does it and reports the outcome to [`Direction::step`]. The
//! order of bytes rests on four rules kept here:
//! 1. nothing is taken from the source while bytes wait in userspace or in the pipe;
//! 2. a mover changes only when both are empty, and a direction enters the map only after its source was read
//!    until it had no more;
//! 3. after an overflow nothing passed is forwarded before everything redirected is in the destination's own
//!    queue, asked anew each time;
//! 4. the end is passed on after the last byte, whoever moved it.

use crate::flow::Finish;

/// Who moves the bytes of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mover {
    Copy,
    Splice,
    Sockmap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Our own bytes go first; they are not the flow's.
    Greet,
    /// The destination must have read the greeting.
    Settle,
    Copy,
    Splice,
    /// Mapped: the kernel moves the bytes.
    Redirect,
    /// Mapped, overflowed: redirected bytes are on their way, newer ones wait at the source.
    Backlog,
    /// Mapped: what the kernel passes is copied.
    Pass,
    /// Out of the map again: redirected bytes are on their way, newer ones wait at the source.
    Leave,
    Done(Finish),
}

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing until an event.
    Rest,
    /// Write the greeting on.
    Greet,
    /// See whether the destination has read the greeting.
    Settle,
    /// Read from the source into the buffer.
    Recv,
    /// Write the buffer to the destination.
    Send,
    /// Get a pipe from the pool.
    TakePipe,
    /// Move bytes from the source into the pipe.
    Fill,
    /// Move bytes from the pipe to the destination.
    Drain,
    /// Give the pipe back.
    GivePipe,
    /// Put the direction into the kernel's map.
    Promote,
    /// See whether the source's end is the next thing in its queue.
    Peek,
    /// See whether everything redirected is in the destination's own queue.
    Backlog,
    /// Let the kernel move the bytes again, if nothing passed waits.
    Resume,
    /// End the destination's stream.
    Shut,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Readable,
    Writable,
    Greeted {
        all: bool,
    },
    Settled,
    /// Bytes came out of the source, into the buffer or the pipe.
    Took(usize),
    /// Bytes went to the destination.
    Gave(usize),
    /// The source has no more for now.
    Empty,
    /// The destination takes no more for now.
    Full,
    /// The source's stream ended, and no byte of it waits anywhere but in the buffer or the pipe.
    Eof,
    /// The source will never give another byte.
    SourceBroke(Finish),
    /// The destination will never take another byte.
    DestinationBroke(Finish),
    /// The source failed; what it still holds is read first, then its end is an abort.
    SourceFailing,
    /// The source's stream will end after what it still holds.
    SourceEnding,
    Want(Mover),
    /// The direction went quiet: its pipe is better used by another one.
    Quiet,
    PipeTaken,
    NoPipe,
    PipeGiven,
    Promoted,
    NotPromoted,
    /// The source is out of the map at an exact byte.
    Left,
    /// The kernel passes bytes since now.
    Overflowed,
    /// Everything redirected is in the destination's queue.
    BacklogGone,
    Resumed,
    NotResumed,
    /// A peek found no end.
    NoEnd,
    Shut,
    /// Ended from outside.
    Cancel,
}

#[derive(Debug)]
pub(super) struct Direction {
    phase: Phase,
    /// The source's end, once it is the next thing to pass on.
    ended: Option<Finish>,
    failing: bool,
    /// The peer said that its stream ends (RDHUP); the end itself comes after what is queued.
    ending: bool,
    readable: bool,
    writable: bool,
    /// Bytes taken and not given, in the buffer or in the pipe.
    held: usize,
    has_pipe: bool,
    want: Mover,
    quiet: bool,
    /// Mapped, and something may be seen at the source.
    look: bool,
    /// Mapped, passing, and everything passed may have been forwarded.
    resume: bool,
}

impl Direction {
    /// A direction whose sockets are believed ready; `early` bytes are in the buffer already.
    pub(super) fn new(greeting: bool, early: usize) -> Direction {
        Direction {
            phase: if greeting { Phase::Greet } else { Phase::Copy },
            ended: None,
            failing: false,
            ending: false,
            readable: true,
            writable: true,
            held: early,
            has_pipe: false,
            want: Mover::Copy,
            quiet: false,
            look: false,
            resume: false,
        }
    }

    pub(super) fn finish(&self) -> Option<Finish> {
        match self.phase {
            Phase::Done(finish) => Some(finish),
            _ => None,
        }
    }

    pub(super) fn mover(&self) -> Mover {
        match self.phase {
            Phase::Splice => Mover::Splice,
            Phase::Redirect | Phase::Backlog | Phase::Pass | Phase::Leave => Mover::Sockmap,
            Phase::Greet | Phase::Settle | Phase::Copy | Phase::Done(_) => Mover::Copy,
        }
    }

    /// The mover that the policy asks for.
    pub(super) fn wanted(&self) -> Mover {
        self.want
    }

    /// Out of the map, with redirected bytes still on their way.
    pub(super) fn is_leaving(&self) -> bool {
        self.phase == Phase::Leave
    }

    /// The kernel moves the bytes: nobody in userspace wants to hear of them.
    pub(super) fn is_redirecting(&self) -> bool {
        self.phase == Phase::Redirect
    }

    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }

    /// The destination took no more when it was last asked.
    pub(super) fn is_blocked(&self) -> bool {
        !self.writable
    }

    /// Bytes taken from the source that the destination has not got.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// The source is dead; what it held is still on its way.
    pub(super) fn is_failing(&self) -> bool {
        self.failing || self.ended.is_some_and(|finish| finish != Finish::Clean)
    }

    /// The source has an end (or an error) queued behind its bytes: a short read does not mean empty.
    pub(super) fn source_may_end(&self) -> bool {
        self.ending || self.failing
    }

    /// The source's end, once known: what [`Act::Shut`] has to pass on.
    pub(super) fn source_end(&self) -> Option<Finish> {
        self.ended
    }

    pub(super) fn next(&self) -> Act {
        match self.phase {
            Phase::Done(_) if self.has_pipe => Act::GivePipe,
            Phase::Done(_) => Act::Rest,
            Phase::Greet => self.if_writable(Act::Greet),
            Phase::Settle => Act::Settle,
            Phase::Copy | Phase::Pass if self.held > 0 => self.if_writable(Act::Send),
            Phase::Splice if self.held > 0 => self.if_writable(Act::Drain),
            Phase::Copy | Phase::Splice | Phase::Pass if self.ended.is_some() => Act::Shut,
            Phase::Copy => self.next_copy(),
            Phase::Splice if self.quiet || self.want != Mover::Splice => Act::GivePipe,
            Phase::Splice => self.if_ready(Act::Fill),
            Phase::Redirect if self.ended.is_some() => Act::Backlog,
            Phase::Redirect if self.look => Act::Peek,
            Phase::Redirect => Act::Rest,
            Phase::Backlog | Phase::Leave => Act::Backlog,
            Phase::Pass if self.resume => Act::Resume,
            Phase::Pass => self.if_ready(Act::Recv),
        }
    }

    fn next_copy(&self) -> Act {
        let empty = !self.readable;
        match self.want {
            Mover::Splice if !empty => Act::TakePipe,
            Mover::Sockmap if empty && !self.source_may_end() => Act::Promote,
            _ => self.if_ready(Act::Recv),
        }
    }

    fn if_writable(&self, act: Act) -> Act {
        if self.writable { act } else { Act::Rest }
    }

    fn if_ready(&self, act: Act) -> Act {
        if self.readable { self.if_writable(act) } else { Act::Rest }
    }

    pub(super) fn step(&mut self, event: Event) {
        if self.finish().is_some() && event != Event::PipeGiven {
            return;
        }
        match event {
            Event::Readable => self.readable(),
            Event::Writable => self.writable = true,
            Event::Greeted { all: true } => self.phase = Phase::Settle,
            Event::Greeted { all: false } | Event::Full => self.writable = false,
            Event::Settled => self.phase = Phase::Copy,
            Event::Took(bytes) => self.held += bytes,
            Event::Gave(bytes) => {
                self.held = self.held.saturating_sub(bytes);
                self.resume = self.phase == Phase::Pass && self.held == 0;
            }
            Event::Empty => {
                self.readable = false;
                self.resume = self.phase == Phase::Pass;
            }
            Event::Eof if self.failing => self.ended = Some(Finish::Aborted),
            Event::Eof => self.ended = Some(Finish::Clean),
            Event::SourceBroke(finish) => self.ended = Some(finish),
            Event::DestinationBroke(finish) => self.done(finish),
            Event::SourceFailing => {
                self.failing = true;
                self.readable();
            }
            Event::SourceEnding => {
                self.ending = true;
                self.readable();
            }
            Event::Want(mover) => self.want = mover,
            Event::Quiet => self.quiet = self.has_pipe,
            Event::PipeTaken => {
                self.has_pipe = true;
                self.phase = Phase::Splice;
            }
            Event::NoPipe | Event::NotPromoted => self.want = Mover::Copy,
            Event::PipeGiven => {
                self.has_pipe = false;
                self.quiet = false;
                if self.phase == Phase::Splice {
                    self.phase = Phase::Copy;
                }
            }
            // What came in between is seen by a look.
            Event::Promoted => {
                self.phase = Phase::Redirect;
                self.look = true;
            }
            Event::Left => self.left(),
            Event::Overflowed if self.phase == Phase::Redirect => self.phase = Phase::Backlog,
            Event::Overflowed => {}
            Event::BacklogGone => self.backlog_gone(),
            Event::Resumed => {
                self.phase = Phase::Redirect;
                self.resume = false;
                self.look = true;
            }
            Event::NotResumed => self.resume = false,
            Event::NoEnd => self.look = false,
            Event::Shut => self.done(self.ended.unwrap_or(Finish::Cancelled)),
            Event::Cancel => self.done(Finish::Cancelled),
        }
    }

    fn readable(&mut self) {
        self.readable = true;
        self.look = true;
    }

    /// Only while redirecting, or with nothing in hand: then every passed byte was forwarded.
    fn left(&mut self) {
        if self.phase == Phase::Redirect || self.phase == Phase::Pass && self.held == 0 {
            self.phase = Phase::Leave;
            self.resume = false;
            self.ended = None;
        }
    }

    fn backlog_gone(&mut self) {
        match (self.phase, self.ended) {
            // Nothing was passed: the end is next.
            (Phase::Redirect, Some(_)) => self.phase = Phase::Copy,
            (Phase::Backlog | Phase::Leave, _) => {
                self.phase = if self.phase == Phase::Leave { Phase::Copy } else { Phase::Pass };
                self.readable = true;
                self.writable = true;
                // An end seen before the overflow was known is not yet the next thing.
                self.ended = None;
            }
            _ => {}
        }
    }

    fn done(&mut self, finish: Finish) {
        self.phase = Phase::Done(finish);
        self.held = 0;
    }
}

#[cfg(test)]
#[path = "direction_test.rs"]
mod tests;
