//! One direction of a flow as a pure state machine: no socket, no clock, no buffer, only their sizes.
//!
//! [`Direction::next`] says what to do, the caller does it and reports the outcome to [`Direction::step`]. The
//! order of bytes rests on two rules kept here: nothing is taken from the source while bytes wait in userspace
//! or in the pipe, and a mover changes only when both are empty.

use crate::flow::Finish;

/// Who moves the bytes of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mover {
    Copy,
    Splice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Our own bytes go first; they are not the flow's.
    Greet,
    /// The destination must have read the greeting.
    Settle,
    Move(Mover),
    Done(Finish),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Open,
    Ended(Finish),
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
    /// The source's stream ended.
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
    Shut,
    /// Ended from outside.
    Cancel,
}

#[derive(Debug)]
pub(super) struct Direction {
    phase: Phase,
    source: Source,
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
}

impl Direction {
    /// A direction whose sockets are believed ready; `early` bytes are in the buffer already.
    pub(super) fn new(greeting: bool, early: usize) -> Direction {
        Direction {
            phase: if greeting { Phase::Greet } else { Phase::Move(Mover::Copy) },
            source: Source::Open,
            failing: false,
            ending: false,
            readable: true,
            writable: true,
            held: early,
            has_pipe: false,
            want: Mover::Copy,
            quiet: false,
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
            Phase::Move(mover) => mover,
            _ => Mover::Copy,
        }
    }

    /// Bytes taken from the source that the destination has not got.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn next(&self) -> Act {
        match self.phase {
            Phase::Done(_) if self.has_pipe => Act::GivePipe,
            Phase::Done(_) => Act::Rest,
            Phase::Greet => self.if_writable(Act::Greet),
            Phase::Settle => Act::Settle,
            Phase::Move(mover) => self.next_move(mover),
        }
    }

    fn next_move(&self, mover: Mover) -> Act {
        match (mover, self.held) {
            (Mover::Copy, 1..) => self.if_writable(Act::Send),
            (Mover::Splice, 1..) => self.if_writable(Act::Drain),
            (_, 0) if self.source != Source::Open => Act::Shut,
            (Mover::Copy, 0) if self.want == Mover::Splice && self.readable => Act::TakePipe,
            (Mover::Splice, 0) if self.quiet || self.want == Mover::Copy => Act::GivePipe,
            _ if !(self.readable && self.writable) => Act::Rest,
            (Mover::Copy, 0) => Act::Recv,
            (Mover::Splice, 0) => Act::Fill,
        }
    }

    fn if_writable(&self, act: Act) -> Act {
        if self.writable { act } else { Act::Rest }
    }

    pub(super) fn step(&mut self, event: Event) {
        if let (Phase::Done(_), false) = (self.phase, event == Event::PipeGiven) {
            return;
        }
        match event {
            Event::Readable => self.readable = true,
            Event::Writable => self.writable = true,
            Event::Greeted { all: true } => self.phase = Phase::Settle,
            Event::Greeted { all: false } | Event::Full => self.writable = false,
            Event::Settled => self.phase = Phase::Move(Mover::Copy),
            Event::Took(bytes) => self.held += bytes,
            Event::Gave(bytes) => self.held = self.held.saturating_sub(bytes),
            Event::Empty => self.readable = false,
            Event::Eof if self.failing => self.source = Source::Ended(Finish::Aborted),
            Event::Eof => self.source = Source::Ended(Finish::Clean),
            Event::SourceBroke(finish) => self.source = Source::Ended(finish),
            Event::DestinationBroke(finish) => self.done(finish),
            Event::SourceFailing => {
                self.failing = true;
                self.readable = true;
            }
            Event::SourceEnding => {
                self.ending = true;
                self.readable = true;
            }
            Event::Want(mover) => self.want = mover,
            Event::Quiet => self.quiet = self.has_pipe,
            Event::PipeTaken => {
                self.has_pipe = true;
                self.phase = Phase::Move(Mover::Splice);
            }
            Event::NoPipe => self.want = Mover::Copy,
            Event::PipeGiven => {
                self.has_pipe = false;
                self.quiet = false;
                if self.finish().is_none() {
                    self.phase = Phase::Move(Mover::Copy);
                }
            }
            Event::Shut => match self.source {
                Source::Ended(finish) => self.done(finish),
                Source::Open => self.done(Finish::Cancelled),
            },
            Event::Cancel => self.done(Finish::Cancelled),
        }
    }

    /// The source is dead; what it held is still on its way.
    pub(super) fn is_failing(&self) -> bool {
        self.failing || matches!(self.source, Source::Ended(Finish::Aborted | Finish::Failed(_)))
    }

    /// The source has an end (or an error) queued behind its bytes: a short read does not mean empty.
    pub(super) fn source_may_end(&self) -> bool {
        self.ending || self.failing
    }

    /// The source's end, once known: what [`Act::Shut`] has to pass on.
    pub(super) fn source_end(&self) -> Option<Finish> {
        match self.source {
            Source::Ended(finish) => Some(finish),
            Source::Open => None,
        }
    }

    fn done(&mut self, finish: Finish) {
        self.phase = Phase::Done(finish);
        self.held = 0;
    }
}
