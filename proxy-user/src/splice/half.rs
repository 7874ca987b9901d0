//! One direction of the copy on tokio.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use super::EngineChoice;
use super::direction::Event;
use super::policy::{GREETING_WAIT, HELD_MOST, STREAM_BUFFER_FIRST, STREAM_BUFFER_LEAST, STREAM_BUFFER_MOST};
use super::stream::finish_of;
use super::tokio_end::TokioEnd;
use super::track::Track;
use crate::flow::{self, Engine, Finish, Meter};

/// The end that failed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    Source,
    Destination,
}

#[derive(Debug)]
enum Phase {
    Greet(Bytes),
    /// Over TLS the greeting is a record of its own, flushed before bytes follow.
    Greeted,
    Early(Bytes),
    Move,
    /// The source ended; its last bytes were written, the end was not passed on yet.
    Shut,
    Done(Finish),
}

/// A Unix peer has until then to read its greeting before bytes follow.
struct Settling {
    until: Instant,
    look: Option<Pin<Box<Sleep>>>,
}

thread_local! {
    /// The buffer that a resting flow gave back last: a short flow takes and returns one for each message.
    static SPARE: Cell<BytesMut> = Cell::default();
}

pub(super) struct Half {
    side: flow::Direction,
    phase: Phase,
    settling: Option<Settling>,
    early: Bytes,
    buffer: BytesMut,
    /// How much of the buffer was written.
    written: usize,
    /// The size of the next buffer: doubled when one was filled, halved when the source went quiet with less
    /// than a quarter of it used.
    size: usize,
    /// No buffer is smaller.
    least: usize,
    /// No buffer is larger.
    most: usize,
    /// The most that lay in the buffer since the source was quiet.
    used: usize,
    /// Something was read and written since the source was quiet.
    unflushed: bool,
    /// What a flow may hold is too little to be left to the kernel, or to lie here meanwhile.
    scarce: bool,
    /// The destination takes no more for now.
    held_up: bool,
    source: Option<Finish>,
    failing: bool,
}

impl Half {
    pub(super) fn new(
        side: flow::Direction,
        greeting: Bytes,
        early: Bytes,
        most: usize,
        scarce: bool,
    ) -> Half {
        let least = most.clamp(STREAM_BUFFER_LEAST, STREAM_BUFFER_FIRST);
        Half {
            side,
            phase: Phase::Greet(greeting),
            settling: None,
            early,
            buffer: BytesMut::new(),
            written: 0,
            size: least,
            least,
            most: most.clamp(least, STREAM_BUFFER_MOST),
            used: 0,
            unflushed: false,
            scarce,
            held_up: false,
            source: None,
            failing: false,
        }
    }

    pub(super) fn finish(&self) -> Option<Finish> {
        match self.phase {
            Phase::Done(finish) => Some(finish),
            _ => None,
        }
    }

    /// It has bytes that the destination does not take.
    pub(super) fn is_held_up(&self) -> bool {
        match self.phase {
            Phase::Move => self.held_up || self.written < self.buffer.len(),
            Phase::Done(_) => false,
            _ => true,
        }
    }

    /// Whether an engine thread can go on from here: nothing failed, and the greeting was read.
    pub(super) fn can_go_on(&self, to: &TokioEnd) -> bool {
        match self.phase {
            Phase::Move if self.source.is_none() && !self.failing => match self.settling {
                Some(Settling { until, .. }) => Instant::now() >= until || to.unacknowledged() == 0,
                None => true,
            },
            Phase::Done(finish) => finish == Finish::Clean,
            _ => false,
        }
    }

    /// What has not begun or [`Half::can_go_on`] says yes to, for an engine thread. Bytes that were read and not
    /// written come along.
    pub(super) fn into_track(self, engine: EngineChoice) -> Track {
        let over = self.finish().is_some();
        let greeting = match self.phase {
            Phase::Greet(greeting) => greeting,
            _ => Bytes::new(),
        };
        // A copy, since the buffer is larger and would live as long as the flow.
        let waiting = [&self.early, &self.buffer[self.written..]].concat();
        let mut track = Track::new(self.side, greeting, waiting.into(), engine);
        if over {
            track.direction.step(Event::Eof);
            track.direction.step(Event::Shut);
        }
        track
    }

    /// Reads what a peer says before its flow begins here. Ready when there is no room for more, or no more.
    pub(super) fn poll_hold(&mut self, context: &mut Context<'_>, from: &mut TokioEnd) -> Poll<()> {
        self.size = HELD_MOST;
        if self.fill(context, from) { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Bytes that were read from the source behind those of the buffer.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The source is dead: what it still gives is read, then its end is an abort.
    pub(super) fn source_failing(&mut self) {
        self.failing = true;
    }

    pub(super) fn destination_broke(&mut self, finish: Finish) {
        if self.finish().is_none() {
            self.phase = Phase::Done(finish);
            self.buffer = BytesMut::new();
        }
    }

    /// The destination's peer closed both directions and its own is over: so is this one, cleanly unless bytes
    /// are left that nobody takes.
    pub(super) fn end_with_the_other(&mut self) {
        let nothing_left = self.written == self.buffer.len()
            && !self.held_up
            && matches!(self.phase, Phase::Move | Phase::Shut);
        self.destination_broke(if nothing_left { Finish::Clean } else { Finish::Aborted });
    }

    /// Moves until both ends make it wait; says which end was lost, if one was.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut TokioEnd,
        to: &mut TokioEnd,
        meter: &Meter,
    ) -> Option<Lost> {
        let moved = self.advance(context, from, to, meter);
        let failed = match moved {
            Poll::Pending => None,
            Poll::Ready(Ok(())) => {
                // A destination that broke says nothing of its source, which may have ended cleanly before.
                return self.source_is_lost();
            }
            Poll::Ready(Err(finish)) => Some(finish),
        };
        if let Some(finish) = failed {
            self.destination_broke(finish);
            return Some(Lost::Destination);
        }
        // The source is lost at once for the other direction, even while its last bytes wait here.
        self.source_is_lost()
    }

    fn source_is_lost(&self) -> Option<Lost> {
        matches!(self.source, Some(Finish::Aborted | Finish::Failed(_))).then_some(Lost::Source)
    }

    /// Ready when the direction ended; an error is the destination's.
    fn advance(
        &mut self,
        context: &mut Context<'_>,
        from: &mut TokioEnd,
        to: &mut TokioEnd,
        meter: &Meter,
    ) -> Poll<Result<(), Finish>> {
        loop {
            match &mut self.phase {
                Phase::Done(_) => return Poll::Ready(Ok(())),
                Phase::Greet(greeting) if greeting.is_empty() => {
                    self.phase = Phase::Early(std::mem::take(&mut self.early));
                }
                Phase::Greet(greeting) => {
                    let sent = step(to.poll_write(context, greeting))?;
                    let Poll::Ready(sent) = sent else { return Poll::Pending };
                    greeting.advance(sent);
                    if greeting.is_empty() {
                        self.phase = Phase::Greeted;
                        let until = Instant::now() + GREETING_WAIT;
                        self.settling = to.is_unix().then_some(Settling { until, look: None });
                    }
                }
                Phase::Greeted => {
                    let Poll::Ready(()) = step(to.poll_flush(context))? else { return Poll::Pending };
                    self.phase = Phase::Early(std::mem::take(&mut self.early));
                }
                Phase::Early(early) if early.is_empty() => self.phase = Phase::Move,
                Phase::Early(early) => {
                    ready!(poll_settled(&mut self.settling, context, to));
                    let Poll::Ready(sent) = step(to.poll_write(context, early))? else {
                        return Poll::Pending;
                    };
                    early.advance(sent);
                    self.unflushed = true;
                    meter.add(self.side, Engine::Copy, sent as u64);
                }
                Phase::Move => {
                    ready!(self.poll_room(context, to));
                    let waits = self.fill(context, from);
                    if self.written == self.buffer.len() {
                        self.buffer.clear();
                        self.written = 0;
                        match (waits, self.source) {
                            (_, Some(_)) => {
                                self.rest();
                                self.phase = Phase::Shut;
                            }
                            (true, None) => {
                                self.rest();
                                if self.unflushed {
                                    from.look_past_mark();
                                }
                                return self.flush(context, to);
                            }
                            (false, None) => {}
                        }
                        continue;
                    }
                    ready!(poll_settled(&mut self.settling, context, to));
                    let sent = step(to.poll_write(context, &self.buffer[self.written..]))?;
                    let Poll::Ready(sent) = sent else { return Poll::Pending };
                    self.written += sent;
                    self.unflushed = true;
                    meter.add(self.side, Engine::Copy, sent as u64);
                }
                Phase::Shut => {
                    let finish = self.source.unwrap_or(Finish::Cancelled);
                    let shut = match finish {
                        Finish::Clean => to.poll_shutdown(context),
                        _ => to.poll_flush(context),
                    };
                    let Poll::Ready(()) = step(shut)? else { return Poll::Pending };
                    self.phase = Phase::Done(finish);
                }
            }
        }
    }

    /// Ready when a scarce flow may read and write on. While it may not, nothing is read, and no buffer is held that is
    /// empty.
    fn poll_room(&mut self, context: &mut Context<'_>, to: &mut TokioEnd) -> Poll<()> {
        let empty = self.written == self.buffer.len();
        let over = empty && self.source.is_some();
        self.held_up = self.scarce && !over && to.poll_room(context).is_pending();
        if !self.held_up {
            return Poll::Ready(());
        }
        if empty {
            self.buffer.clear();
            self.written = 0;
            self.rest();
        }
        Poll::Pending
    }

    /// Reads until the buffer is full or the source waits (then true) or ended. Never behind unwritten bytes.
    fn fill(&mut self, context: &mut Context<'_>, from: &mut TokioEnd) -> bool {
        if self.written > 0 || self.source.is_some() {
            return false;
        }
        if self.buffer.capacity() == 0 && self.size == STREAM_BUFFER_FIRST {
            self.buffer = SPARE.take();
        }
        self.buffer.reserve(self.size.saturating_sub(self.buffer.len()));
        while self.buffer.len() < self.size {
            self.used = self.used.max(self.buffer.len());
            match poll_read_buf(Pin::new(&mut *from), context, &mut self.buffer) {
                Poll::Ready(Ok(0)) if self.failing => self.source = Some(Finish::Aborted),
                Poll::Ready(Ok(0)) => self.source = Some(Finish::Clean),
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => self.source = Some(finish_of(&error)),
                Poll::Pending => return true,
            }
            return false;
        }
        self.used = self.size;
        self.size = (self.size * 2).min(self.most);
        false
    }

    /// The source is quiet: a resting flow holds no buffer.
    fn rest(&mut self) {
        if self.used < self.size / 4 {
            self.size = (self.size / 2).max(self.least);
        }
        self.used = 0;
        let spare = std::mem::take(&mut self.buffer);
        if spare.capacity() == STREAM_BUFFER_FIRST {
            SPARE.set(spare);
        }
    }

    fn flush(&mut self, context: &mut Context<'_>, to: &mut TokioEnd) -> Poll<Result<(), Finish>> {
        if self.unflushed && step(to.poll_flush(context))?.is_ready() {
            self.unflushed = false;
        }
        Poll::Pending
    }
}

/// Ready once a Unix peer has read its greeting, or had the time to; asked only when bytes are to follow.
fn poll_settled(settling: &mut Option<Settling>, context: &mut Context<'_>, to: &TokioEnd) -> Poll<()> {
    let Some(Settling { until, look }) = settling else { return Poll::Ready(()) };
    while to.unacknowledged() > 0 && Instant::now() < *until {
        let again = Instant::now() + GREETING_WAIT / 50;
        let timer = look.get_or_insert_with(|| Box::pin(sleep_until(again)));
        ready!(timer.as_mut().poll(context));
        timer.as_mut().reset(again);
    }
    *settling = None;
    Poll::Ready(())
}

/// The poll's value, with its error as what it says about the destination.
fn step<T>(polled: Poll<std::io::Result<T>>) -> Result<Poll<T>, Finish> {
    match polled {
        Poll::Ready(Ok(value)) => Ok(Poll::Ready(value)),
        Poll::Ready(Err(error)) => Err(finish_of(&error)),
        Poll::Pending => Ok(Poll::Pending),
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use std::io::Write;

    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;

    /// A client that half-closed is no dead client: the answer's last bytes are still for it.
    #[tokio::test]
    async fn a_broken_destination_says_nothing_of_a_source_that_ended_cleanly() {
        let end = || TokioEnd::Unix(UnixStream::pair().unwrap().0);
        let (mut from, mut to) = (end(), end());
        let mut half = Half::new(flow::Direction::Up, Bytes::new(), Bytes::new(), 1 << 16, false);
        half.source = Some(Finish::Clean);
        half.destination_broke(Finish::Aborted);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(half.poll(&mut context, &mut from, &mut to, &Meter::default()), None);
        half.source = Some(Finish::Aborted);
        let lost = half.poll(&mut context, &mut from, &mut to, &Meter::default());
        assert_eq!(lost, Some(Lost::Source));
    }

    /// What waits at a destination that nobody reads: at most half of the limit, and one buffer that was let in then.
    /// Meanwhile no buffer is held, and the source is not read.
    #[tokio::test]
    async fn a_scarce_direction_holds_nothing_in_front_of_a_destination_that_takes_nothing() {
        const LIMIT: u32 = 16 << 10;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&to).set_tcp_notsent_lowat(LIMIT).unwrap();
        let (from, sender) = UnixStream::pair().unwrap();
        let mut sender = sender.into_std().unwrap();
        let (from, mut to) = (&mut TokioEnd::Unix(from), TokioEnd::Tcp(to));
        let mut half = Half::new(flow::Direction::Down, Bytes::new(), Bytes::new(), 0, true);
        let meter = Meter::default();
        let mut quiet = 0;
        while quiet < 20 {
            let before = meter.total(flow::Direction::Down);
            while sender.write(&[7; 64 << 10]).is_ok() {}
            std::future::poll_fn(|context| Poll::Ready(half.poll(context, from, &mut to, &meter))).await;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            quiet = if meter.total(flow::Direction::Down) == before { quiet + 1 } else { 0 };
        }
        assert!(half.is_held_up());
        assert_eq!(half.buffer.capacity(), 0);
        let unsent = meter.total(flow::Direction::Down) - rustix::io::ioctl_fionread(&peer).unwrap();
        assert!(unsent <= u64::from(LIMIT / 2) + STREAM_BUFFER_LEAST as u64, "{unsent} bytes wait");
    }
}
