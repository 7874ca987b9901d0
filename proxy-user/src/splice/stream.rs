//! The copy on tokio, for joins in which an end is no plain socket, and for the begin of others.
//!
//! One future moves both directions. A direction reads until the source has no more or its buffer is full, then
//! writes in one piece: a TLS end turns large writes into full records, and a read of one record at a time would
//! cost a write per 16 KiB. A buffer exists only while bytes move.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::Splicer;
use super::brief::{self, Begin, Brief};
use super::crew::Share;
use super::half::{Half, Lost};
use super::policy::{ABORT_WAIT, LOOK_AFTER};
use super::tokio_end::{TokioEnd, Unjoined};
use crate::flow::{Direction, Ending, Finish, Meter};

/// Wakes the copy to end it.
#[derive(Debug, Default)]
pub(super) struct StreamCancel {
    cancelled: AtomicBool,
    waker: AtomicWaker,
}

impl StreamCancel {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn poll(&self, context: &mut Context<'_>) -> bool {
        self.waker.register(context.waker());
        self.cancelled.load(Ordering::Acquire)
    }
}

/// Why a copy stopped.
enum Stop {
    Over,
    Cancelled,
    /// It is for an engine thread to go on.
    Lasting,
}

/// Copies until both directions ended; aborts both ends unless both ended cleanly. With a splicer the ends are clear
/// sockets, or get to be, and a flow that turns out to be no short one is left to that.
pub(super) async fn join(
    ends: [Unjoined; 2],
    [up, down]: [Half; 2],
    share: Share,
    meter: Arc<Meter>,
    cancel: Arc<StreamCancel>,
    lasting: Option<(Splicer, Begin)>,
) -> Ending {
    let (splicer, begin) = lasting.unzip();
    let (brief, forced) = match begin {
        Some(Begin::Brief(brief)) => (Some(brief), None),
        Some(Begin::Forced(until)) => (None, Some(until)),
        None => (None, None),
    };
    let [left, right] = ends;
    let (left, right) = match (left.begin(&share), right.begin(&share)) {
        (Ok(left), Ok(right)) => (left, right),
        (left, right) => {
            let mut finish = Finish::Aborted;
            for end in [left, right] {
                match end {
                    Ok(mut end) => end.abort_with(""),
                    Err(error) => finish = finish_of(&error),
                }
            }
            return ending(&meter, finish, finish);
        }
    };
    let mut running = Running(Some(Copy {
        brief,
        forced,
        ends: [left, right],
        halves: [up, down],
        broken: [false; 2],
        look: None,
        orphan_after: share.orphan_after(),
        stall: None,
        clean: false,
        cut: false,
    }));
    let stop = poll_fn(|context| match &mut running.0 {
        _ if cancel.poll(context) => Poll::Ready(Stop::Cancelled),
        Some(copy) => copy.poll(context, &meter),
        None => Poll::Ready(Stop::Over),
    })
    .await;
    if let (Stop::Lasting, Some(splicer)) = (&stop, splicer)
        && let Some(Copy { ends, halves, .. }) = running.0.take()
    {
        drop(share);
        return brief::go_on(&splicer, ends, halves, &meter, &cancel).await.unwrap_or_else(|| lost(&meter));
    }
    let Some(copy) = &mut running.0 else { return lost(&meter) };
    let finish = |half: &Half| half.finish().unwrap_or(Finish::Cancelled);
    let (up, down) = (finish(&copy.halves[0]), finish(&copy.halves[1]));
    copy.clean = up == Finish::Clean && down == Finish::Clean;
    if (!copy.clean || copy.cut) && matches!(stop, Stop::Over) {
        copy.part().await;
    }
    drop(running);
    drop(share);
    ending(&meter, up, down)
}

fn ending(meter: &Meter, up: Finish, down: Finish) -> Ending {
    Ending { up, down, up_bytes: meter.total(Direction::Up), down_bytes: meter.total(Direction::Down) }
}

fn lost(meter: &Meter) -> Ending {
    ending(meter, Finish::Aborted, Finish::Aborted)
}

/// A copy that is an abort for both peers when it is dropped before it ended cleanly. Empty once another goes on.
struct Running(Option<Copy>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(copy) = self.0.as_mut().filter(|copy| !copy.clean) {
            let [left, right] = &mut copy.ends;
            let (of_left, of_right) = (left.last_words(), right.last_words());
            left.abort_with(&of_right);
            right.abort_with(&of_left);
        }
    }
}

struct Copy {
    /// None of a flow that is tokio's for good.
    brief: Option<Brief>,
    /// Until when a forced engine is waited for.
    forced: Option<Pin<Box<tokio::time::Sleep>>>,
    ends: [TokioEnd; 2],
    halves: [Half; 2],
    broken: [bool; 2],
    look: Option<Look>,
    orphan_after: Duration,
    /// A failed source whose bytes nobody takes: until when, and the count then.
    stall: Option<(Pin<Box<tokio::time::Sleep>>, u64)>,
    /// Whatever does not end cleanly, a dropped join included, is an abort for both peers.
    clean: bool,
    /// A direction was ended because the other one is over: its source goes on, so its close may be a reset.
    cut: bool,
}

/// When the peers are looked after next, and since when the count is what it is.
struct Look {
    timer: Pin<Box<tokio::time::Sleep>>,
    since: Instant,
    moved: u64,
}

impl Copy {
    /// Ready when both directions ended, or are to go on elsewhere.
    fn poll(&mut self, context: &mut Context<'_>, meter: &Meter) -> Poll<Stop> {
        if self.forced.is_some() {
            if ready!(self.poll_clear(context)) {
                return Poll::Ready(Stop::Lasting);
            }
            self.forced = None;
        }
        let mut again = true;
        while std::mem::take(&mut again) {
            for t in 0..2 {
                let [left, right] = &mut self.ends;
                let (from, to) = if t == 0 { (left, right) } else { (right, left) };
                let lost = match self.halves[t].poll(context, from, to, meter) {
                    Some(Lost::Source) => t,
                    Some(Lost::Destination) => 1 - t,
                    None => continue,
                };
                again |= self.side_broke(lost);
            }
        }
        for side in 0..2 {
            let over = self.halves[side].finish().is_some() && self.halves[1 - side].finish().is_none();
            if over && self.ends[side].poll_unwritable(context).is_ready() {
                self.halves[1 - side].end_with_the_other();
                self.cut = true;
            }
        }
        if self.halves.iter().all(|half| half.finish().is_some()) {
            return Poll::Ready(Stop::Over);
        }
        if self.poll_brief(context, meter).is_ready() {
            return Poll::Ready(Stop::Lasting);
        }
        if self.poll_peers(context, meter).is_pending() {
            ready!(self.poll_stall(context, meter));
        }
        self.halves.iter_mut().for_each(|half| half.destination_broke(Finish::Aborted));
        Poll::Ready(Stop::Over)
    }

    /// Before a byte is written to either end: true once a forced engine can have two clear sockets, false when it
    /// never can. What a peer says in frames is kept, since behind it comes that it has left them.
    fn poll_clear(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        for side in 0..2 {
            if self.ends[side].poll_leave(context).is_pending() {
                if self.halves[side].poll_hold(context, &mut self.ends[side]).is_pending()
                    && self
                        .forced
                        .as_mut()
                        .is_some_and(|until| until.as_mut().poll_elapsed(context).is_pending())
                {
                    return Poll::Pending;
                }
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    }

    /// Ready when the flow is no short one, and at a place from where an engine thread can go on.
    fn poll_brief(&mut self, context: &mut Context<'_>, meter: &Meter) -> Poll<()> {
        let waits = self.waits();
        let leaving = self.ends.iter().any(TokioEnd::is_leaving);
        let over = leaving
            || self.brief.as_mut().is_some_and(|brief| brief.poll_over(context, meter, waits).is_ready());
        if !over {
            return Poll::Pending;
        }
        // A peer that leaves is answered, whoever moves the bytes here.
        let left = self.ends.each_mut().map(|end| end.poll_leave(context).is_ready());
        if self.brief.is_none() || left != [true; 2] {
            return Poll::Pending;
        }
        let [left, right] = &self.ends;
        let goes_on = self.broken == [false; 2]
            && !self.cut
            && self.halves[0].can_go_on(right)
            && self.halves[1].can_go_on(left);
        if goes_on { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A direction is held up by its destination, or over.
    fn waits(&self) -> bool {
        self.halves.iter().any(|half| half.finish().is_some() || half.is_held_up())
    }

    /// A side is dead; false when that was known.
    fn side_broke(&mut self, side: usize) -> bool {
        if std::mem::replace(&mut self.broken[side], true) {
            return false;
        }
        self.halves[side].source_failing();
        self.halves[1 - side].destination_broke(Finish::Aborted);
        true
    }

    /// Looks after the peers while a direction is held up or over. Ready when the client is gone for good and
    /// nothing moves any more.
    fn poll_peers(&mut self, context: &mut Context<'_>, meter: &Meter) -> Poll<()> {
        let timed = self.brief.as_ref().is_some_and(Brief::is_timed);
        if timed || !self.waits() {
            return Poll::Pending;
        }
        let moved = meter.total(Direction::Up) + meter.total(Direction::Down);
        let every = LOOK_AFTER.min(self.orphan_after);
        let look = self.look.get_or_insert_with(|| Look {
            timer: Box::pin(tokio::time::sleep(every)),
            since: Instant::now(),
            moved,
        });
        if look.timer.as_mut().poll_elapsed(context).is_pending() {
            return Poll::Pending;
        }
        let now = Instant::now();
        look.timer.as_mut().reset(now + every);
        let _armed = look.timer.as_mut().poll_elapsed(context);
        if look.moved != moved {
            (look.since, look.moved) = (now, moved);
        }
        let since = look.since;
        // A direction that is over was shut by us, and then a half-close of the peer looks the same.
        let orphaned =
            |side: usize| self.halves[1 - side].finish().is_none() && self.ends[side].is_orphaned();
        if (0..2).any(orphaned) && now >= since + self.orphan_after {
            return Poll::Ready(());
        }
        let broken = [0, 1].map(|side| self.ends[side].poll_broken(context).is_ready());
        for side in (0..2).filter(|side| broken[*side]) {
            if self.side_broke(side) {
                context.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Ready when a side is dead and its last bytes found no taker for [`ABORT_WAIT`].
    fn poll_stall(&mut self, context: &mut Context<'_>, meter: &Meter) -> Poll<()> {
        if self.broken == [false; 2] {
            return Poll::Pending;
        }
        let moved = meter.total(Direction::Up) + meter.total(Direction::Down);
        loop {
            match &mut self.stall {
                Some((timer, before)) if *before == moved => return timer.as_mut().poll_elapsed(context),
                Some((timer, before)) => {
                    timer.as_mut().reset(Instant::now() + ABORT_WAIT);
                    *before = moved;
                }
                None => self.stall = Some((Box::pin(tokio::time::sleep(ABORT_WAIT)), moved)),
            }
        }
    }

    /// Waits until every living peer acknowledged what it was sent: a reset would destroy it.
    async fn part(&mut self) {
        let until = Instant::now() + ABORT_WAIT;
        let mut again = Duration::from_millis(1);
        while Instant::now() < until {
            let waits = (0..2).any(|side| !self.broken[side] && self.ends[side].unacknowledged() > 0);
            if !waits {
                return;
            }
            tokio::time::sleep(again).await;
            again = (again * 2).min(Duration::from_millis(20));
        }
    }
}

pub(super) trait PollElapsed {
    fn poll_elapsed(self, context: &mut Context<'_>) -> Poll<()>;
}

impl PollElapsed for Pin<&mut tokio::time::Sleep> {
    fn poll_elapsed(self, context: &mut Context<'_>) -> Poll<()> {
        std::future::Future::poll(self, context)
    }
}

/// What an error of a stream says about the direction.
pub(super) fn finish_of(error: &io::Error) -> Finish {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    match (error.kind(), error.raw_os_error()) {
        (BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof, _) => {
            Finish::Aborted
        }
        (_, Some(errno)) => Finish::Failed(errno),
        (_, None) => Finish::Aborted,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _};
    use std::net::{TcpListener, TcpStream};

    use bytes::Bytes;

    use super::*;
    use crate::splice::busy::Wakefulness;
    use crate::splice::crew::Threads;
    use crate::splice::{EndIo, Plain};

    /// As where the process may watch no more sockets: a clean end would pass for all there was.
    #[tokio::test]
    async fn a_flow_that_loses_an_end_before_it_begins_aborts_the_other() {
        let times = [Duration::from_secs(2); 2];
        let threads = Arc::new(Threads::start(1, 1 << 20, None, Wakefulness::new(false, 1), times).unwrap());
        for lost in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (socket, _) = listener.accept().unwrap();
            socket.set_nonblocking(true).unwrap();
            let mut ends = [Unjoined::new(EndIo::Plain(Plain::Tcp(socket))), Unjoined::lost()];
            ends.rotate_left(1 - lost);
            let half = |side| Half::new(side, Bytes::new(), Bytes::new(), 1 << 16, false);
            let halves = [half(Direction::Up), half(Direction::Down)];
            let share = Share::take(&threads);
            let ending = join(ends, halves, share, Arc::default(), Arc::default(), None).await;
            assert_eq!((ending.up, ending.down), (Finish::Aborted, Finish::Aborted));
            assert_eq!(
                peer.read(&mut [0]).unwrap_err().kind(),
                ErrorKind::ConnectionReset,
                "end {lost} was lost"
            );
        }
    }
}
