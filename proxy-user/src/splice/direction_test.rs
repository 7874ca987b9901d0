//! Every interleaving of one direction against a small model of the kernel: bytes are numbers, and the
//! destination must see 0, 1, 2, … and then the end.

use proptest::prelude::*;

use super::*;

/// What happens around the direction, between two of its turns.
#[derive(Debug, Clone)]
enum Outside {
    /// The source's peer sends so many bytes.
    Arrive(usize),
    /// The destination's peer reads: room for so many bytes more.
    Room(usize),
    /// The kernel's worker moves redirected bytes on.
    Worker(usize),
    /// Passed bytes become readable.
    Settle,
    /// The next arriving bytes find the limit reached.
    Limit,
    Want(u8),
    Quiet,
    /// The direction asks to leave the map.
    Leave,
    Pipes(bool),
    /// So many acts in the next turn.
    Turn(usize),
}

fn outside() -> impl Strategy<Value = Outside> {
    prop_oneof![
        4 => (1usize..50).prop_map(Outside::Arrive),
        3 => (1usize..60).prop_map(Outside::Room),
        3 => (1usize..60).prop_map(Outside::Worker),
        2 => Just(Outside::Settle),
        1 => Just(Outside::Limit),
        3 => (0u8..3).prop_map(Outside::Want),
        1 => Just(Outside::Quiet),
        1 => Just(Outside::Leave),
        1 => any::<bool>().prop_map(Outside::Pipes),
        6 => (1usize..12).prop_map(Outside::Turn),
    ]
}

/// A run of numbered bytes: from, to (exclusive).
type Run = (u64, u64);

#[derive(Default)]
struct World {
    sent: u64,
    /// In the source's receive queue.
    queue: Vec<Run>,
    /// Passed by the verdict, not yet readable.
    lagging: Vec<Run>,
    /// Redirected, not yet in the destination's queue.
    backlog: Vec<Run>,
    held: Vec<Run>,
    room: usize,
    received: u64,
    mapped: bool,
    passing: bool,
    limit: bool,
    leave: bool,
    passed: u64,
    forwarded: u64,
    pipes: bool,
    piped: bool,
    over: Option<Finish>,
    shut: bool,
}

/// Cuts up to `most` bytes off the front.
fn cut(runs: &mut Vec<Run>, most: usize) -> Option<Run> {
    let (from, to) = *runs.first()?;
    let end = to.min(from.saturating_add(most as u64));
    if end == to {
        runs.remove(0);
    } else {
        runs[0].0 = end;
    }
    Some((from, end))
}

impl World {
    fn arrive(&mut self, bytes: usize) {
        let run = (self.sent, self.sent + bytes as u64);
        self.sent = run.1;
        match (self.mapped, self.passing, self.limit) {
            (false, ..) => self.queue.push(run),
            (true, false, false) => self.backlog.push(run),
            (true, ..) => {
                self.passing = true;
                self.limit = false;
                self.passed += bytes as u64;
                self.lagging.push(run);
            }
        }
    }

    fn deliver(&mut self, run: Run) {
        assert_eq!(run.0, self.received, "bytes arrive in order, once");
        assert!(!self.shut, "no byte after the end");
        self.received = run.1;
    }

    fn worker(&mut self, most: usize) {
        if let Some(run) = cut(&mut self.backlog, most) {
            self.deliver(run);
        }
    }

    fn settle(&mut self) {
        self.queue.append(&mut self.lagging);
    }

    /// What a read finds when the queue is empty.
    fn source_end(&self) -> Event {
        match self.over {
            None => Event::Empty,
            Some(_) if !self.lagging.is_empty() => Event::Empty,
            Some(Finish::Clean) => Event::Eof,
            Some(finish) => Event::SourceBroke(finish),
        }
    }

    fn act(&mut self, direction: &mut Direction, act: Act) {
        let event = match act {
            Act::Rest | Act::Greet | Act::Settle => unreachable!("{act:?}"),
            Act::Recv | Act::Fill => {
                assert!(self.held.is_empty(), "nothing is taken while bytes wait");
                assert_eq!(act == Act::Fill, self.piped);
                match cut(&mut self.queue, 16) {
                    Some(run) => {
                        self.held.push(run);
                        Event::Took((run.1 - run.0) as usize)
                    }
                    None => self.source_end(),
                }
            }
            Act::Send | Act::Drain => {
                assert!(self.backlog.is_empty(), "redirected bytes come first");
                if self.room == 0 {
                    Event::Full
                } else {
                    let run = cut(&mut self.held, self.room.min(10)).expect("held bytes");
                    let bytes = (run.1 - run.0) as usize;
                    self.room -= bytes;
                    self.deliver(run);
                    if self.mapped {
                        self.forwarded += bytes as u64;
                    }
                    Event::Gave(bytes)
                }
            }
            Act::TakePipe if self.pipes => {
                self.piped = true;
                Event::PipeTaken
            }
            Act::TakePipe => Event::NoPipe,
            Act::GivePipe => {
                assert!(self.held.is_empty(), "a pipe goes back empty");
                self.piped = false;
                Event::PipeGiven
            }
            Act::Promote => {
                assert!(self.held.is_empty() && !self.piped && self.backlog.is_empty());
                self.mapped = true;
                (self.passed, self.forwarded) = (0, 0);
                self.passing = false;
                // The kick: what arrived since the last read is redirected.
                self.backlog.append(&mut self.queue);
                Event::Promoted
            }
            Act::Peek => match self.queue.is_empty() {
                true if self.over.is_some() && !self.passing => self.source_end(),
                _ => Event::NoEnd,
            },
            Act::Backlog if self.backlog.is_empty() => Event::BacklogGone,
            Act::Backlog => {
                self.worker(usize::MAX);
                return;
            }
            Act::Resume if self.passed == self.forwarded && self.held.is_empty() => {
                self.passing = false;
                Event::Resumed
            }
            Act::Resume => Event::NotResumed,
            Act::Shut => {
                assert!(self.backlog.is_empty(), "the end comes after redirected bytes");
                self.shut = true;
                Event::Shut
            }
        };
        direction.step(event);
    }

    /// What the caller does at the begin of a turn.
    fn notice(&mut self, direction: &mut Direction) {
        if self.mapped && self.passing {
            direction.step(Event::Overflowed);
        }
        if self.leave && self.mapped && !self.passing {
            self.mapped = false;
            self.leave = false;
            direction.step(Event::Left);
        }
        if !self.queue.is_empty() || self.over.is_some() {
            direction.step(Event::Readable);
        }
        if self.room > 0 {
            direction.step(Event::Writable);
        }
    }

    fn turn(&mut self, direction: &mut Direction, acts: usize) {
        self.notice(direction);
        for _ in 0..acts {
            match direction.next() {
                Act::Rest => return,
                act => self.act(direction, act),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn bytes_arrive_once_in_order_and_then_the_end(
        script in prop::collection::vec(outside(), 1..80),
        clean in any::<bool>(),
    ) {
        let mut direction = Direction::new(false, 0);
        let mut world = World { pipes: true, ..World::default() };
        for step in script {
            match step {
                Outside::Arrive(bytes) => world.arrive(bytes),
                Outside::Room(bytes) => world.room += bytes,
                Outside::Worker(most) => world.worker(most),
                Outside::Settle => world.settle(),
                Outside::Limit => world.limit = true,
                Outside::Want(0) => direction.step(Event::Want(Mover::Copy)),
                Outside::Want(1) => direction.step(Event::Want(Mover::Splice)),
                Outside::Want(_) => direction.step(Event::Want(Mover::Sockmap)),
                Outside::Leave => world.leave = world.mapped,
                Outside::Quiet => direction.step(Event::Quiet),
                Outside::Pipes(pipes) => world.pipes = pipes,
                Outside::Turn(acts) => world.turn(&mut direction, acts),
            }
        }
        let end = if clean { Finish::Clean } else { Finish::Aborted };
        world.over = Some(end);
        direction.step(if clean { Event::SourceEnding } else { Event::SourceFailing });
        for _ in 0..400 {
            world.room += 50;
            world.settle();
            world.turn(&mut direction, 20);
            if direction.finish().is_some() && direction.next() == Act::Rest {
                break;
            }
        }
        prop_assert_eq!(direction.finish(), Some(end));
        prop_assert_eq!(world.received, world.sent, "every byte before the end arrives");
        prop_assert!(world.shut && !world.piped);
    }

    #[test]
    fn a_lost_destination_ends_a_direction_wherever_it_is(script in prop::collection::vec(outside(), 1..40)) {
        let mut direction = Direction::new(false, 0);
        let mut world = World { pipes: true, ..World::default() };
        for step in script {
            match step {
                Outside::Arrive(bytes) => world.arrive(bytes),
                Outside::Want(_) => direction.step(Event::Want(Mover::Splice)),
                Outside::Turn(acts) => world.turn(&mut direction, acts),
                _ => {}
            }
        }
        direction.step(Event::DestinationBroke(Finish::Aborted));
        prop_assert_eq!(direction.finish(), Some(Finish::Aborted));
        prop_assert_eq!(direction.next(), if world.piped { Act::GivePipe } else { Act::Rest });
        direction.step(Event::PipeGiven);
        for event in [Event::Readable, Event::Writable, Event::Want(Mover::Sockmap), Event::Cancel] {
            direction.step(event);
            prop_assert_eq!(direction.next(), Act::Rest, "what is over stays over");
        }
        prop_assert_eq!(direction.finish(), Some(Finish::Aborted));
    }
}
