//! An engine thread: one epoll, the flows it owns, one turn each.
//!
//! Sockets are registered edge-triggered, for what their flow can do something about. Flows with new events go first and
//! get one quantum; a flow that has more queues behind them and one of those runs between two looks at epoll.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use slab::Slab;

use super::SpliceError;
use super::busy::BusyPoll;
use super::crew::{Crew, Role};
use super::inbox::{Command, Inbox};
use super::pair::{Next, Pair, earlier};
use super::pipe::Pool;
use super::policy::{BULK_REST, BUSY_POLL_MOST, COPY_QUANTUM, COPY_QUANTUM_OF_BULK, WATCH_EVERY};
use super::slice;
use super::sockmap::KernelMap;
use super::stats::Stats;
use crate::net::seldom::Seldom;

/// What a flow needs of its thread for one turn.
pub(super) struct Turn<'a> {
    pub(super) now: Instant,
    /// As large as what one direction may copy in a turn. Shared by all flows of the thread: a flow holds no buffer while
    /// nothing of it waits.
    pub(super) scratch: &'a mut [u8],
    pub(super) pipes: &'a Pool,
    pub(super) map: Option<&'a Arc<KernelMap>>,
    pub(super) stats: &'a Stats,
    pub(super) crew: &'a Crew,
}

impl<'a> Turn<'a> {
    fn new(now: Instant, scratch: &'a mut [u8], crew: &'a Crew) -> Turn<'a> {
        Turn { now, scratch, pipes: &crew.pipes, map: crew.map.as_ref(), stats: &crew.stats, crew }
    }
}

/// Where a flow stands in the run queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Parked,
    Fresh,
    Hungry,
}

struct Seat {
    pair: Box<Pair>,
    place: Place,
    /// Tells a timer of this flow from one of an earlier flow with the same key.
    serial: u64,
    /// The timer that is set; the others in the queue are of the past.
    wake: Option<Instant>,
    /// When the flow asked to be woken; not before `wake`.
    due: Instant,
    /// The thread for its kind had no room for it; it is asked again then.
    stays_until: Option<Instant>,
    /// What epoll was asked to tell about each side.
    interest: [EventFlags; 2],
}

pub(super) struct Worker {
    index: usize,
    epoll: rustix::fd::OwnedFd,
    crew: Arc<Crew>,
    seats: Slab<Seat>,
    fresh: VecDeque<usize>,
    hungry: VecDeque<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    serial: u64,
    scratch: Vec<u8>,
    /// When the watchdog's next round is due; none while no flow is mapped.
    watch: Option<Instant>,
    busy: BusyPoll,
}

/// The eventfd's and the kernel's events' places in epoll's data; flows have `key << 1 | side`.
const INBOX: u64 = u64::MAX;
const OVERFLOWS: u64 = u64::MAX - 1;

impl Worker {
    pub(super) fn new(index: usize, crew: Arc<Crew>) -> Result<Worker, SpliceError> {
        let poll_error = |error: rustix::io::Errno| SpliceError::Poll(error.into());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(poll_error)?;
        epoll::add(&epoll, crew.inbox(index), EventData::new_u64(INBOX), EventFlags::IN)
            .map_err(poll_error)?;
        // One thread hears of all overflows and tells the owners.
        if let Some(map) = crew.map.as_ref().filter(|_| index == 0) {
            map.sockmap()
                .with_events_fd(|fd| epoll::add(&epoll, fd, EventData::new_u64(OVERFLOWS), EventFlags::IN))
                .map_err(poll_error)?;
        }
        let quantum = match crew.role(index) {
            Role::Quick => COPY_QUANTUM,
            Role::Bulk => COPY_QUANTUM_OF_BULK,
        };
        Ok(Worker {
            index,
            epoll,
            crew,
            seats: Slab::new(),
            fresh: VecDeque::new(),
            hungry: VecDeque::new(),
            timers: BinaryHeap::new(),
            serial: 0,
            scratch: vec![0; quantum],
            watch: None,
            busy: BusyPoll::default(),
        })
    }

    /// Runs until the inbox says stop; the flows that are left then, here or on their way here, are cancelled.
    pub(super) fn run(mut self) {
        if self.crew.role(self.index) == Role::Quick
            && let Err(error) = slice::shorten()
        {
            tracing::debug!(%error, "An engine thread keeps the scheduler's usual time slice");
        }
        let mut events = Vec::with_capacity(256);
        while !self.inbox().is_stopped() {
            self.wait(&mut events);
            let mut called = false;
            for event in events.drain(..) {
                match event.data.u64() {
                    INBOX => called = true,
                    OVERFLOWS => self.crew.tell_overflows(),
                    data => self.note((data >> 1) as usize, (data & 1) as usize, event.flags),
                }
            }
            // After the events: a key is not given to a new flow while an event of the old one may wait.
            if called {
                self.obey();
            }
            self.ring_timers();
            self.watch();
            while let Some(key) = self.fresh.pop_front() {
                self.turn(key);
            }
            if let Some(key) = self.hungry.pop_front() {
                self.turn(key);
            }
        }
        let waiting = self.inbox().close().into_iter().filter_map(|command| match command {
            Command::Adopt(pair) => Some(pair),
            Command::Look(_) => None,
        });
        for pair in self.seats.drain().map(|seat| seat.pair).chain(waiting) {
            pair.control().cancel();
            let grant = pair.grant();
            pair.close(&self.crew.pipes, &self.crew.stats);
            self.crew.left(grant);
        }
    }

    fn inbox(&self) -> &Inbox {
        self.crew.inbox(self.index)
    }

    /// Makes the first timer one that counts: forgets those of the past, and sets those anew whose flow wants to
    /// be woken later by now, as one does whose deadline moves on with every byte.
    fn settle_timers(&mut self) {
        while let Some(mut first) = self.timers.peek_mut() {
            let Reverse((at, key, serial)) = *first;
            let seat = self.seats.get_mut(key).filter(|seat| seat.serial == serial && seat.wake == Some(at));
            match seat {
                Some(seat) if seat.due > at => {
                    seat.wake = Some(seat.due);
                    *first = Reverse((seat.due, key, serial));
                }
                Some(_) => return,
                None => drop(PeekMut::pop(first)),
            }
        }
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>) {
        self.settle_timers();
        if !self.hungry.is_empty() {
            return self.poll(events, Some(Duration::ZERO));
        }
        let began = Instant::now();
        if let Some(_awake) = self.busy.begin(&self.crew.wakefulness) {
            self.crew.stats.add(&self.crew.stats.busy_polls, 1);
            while events.is_empty() && began.elapsed() < BUSY_POLL_MOST {
                // Whoever is waited for may need this CPU.
                std::thread::yield_now();
                self.poll(events, Some(Duration::ZERO));
            }
        }
        if events.is_empty() {
            let timer = earlier(self.timers.peek().map(|Reverse((at, ..))| *at), self.watch);
            self.poll(events, timer.map(|at| at.saturating_duration_since(Instant::now())));
        }
        if self.crew.role(self.index) == Role::Quick {
            self.busy.note(began.elapsed());
        }
    }

    fn poll(&self, events: &mut Vec<epoll::Event>, patience: Option<Duration>) {
        // A wait in whole milliseconds would end too early and spin; epoll_pwait2 may be missing, so round up.
        let patience = patience.map(|time| {
            let millis = time.as_micros().div_ceil(1000).min(60_000) as i64;
            Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 }
        });
        // EINTR leaves the list empty, which is a turn without events.
        let _ = epoll::wait(&self.epoll, spare_capacity(events), patience.as_ref());
    }

    fn note(&mut self, key: usize, side: usize, flags: EventFlags) {
        let Some(seat) = self.seats.get_mut(key) else { return };
        seat.pair.note(side, flags);
        if seat.place == Place::Parked {
            seat.place = Place::Fresh;
            self.fresh.push_back(key);
        }
    }

    fn obey(&mut self) {
        for command in self.inbox().take() {
            match command {
                Command::Adopt(pair) => self.adopt(pair, None),
                Command::Look(control) => {
                    let key = control.key();
                    if self.seats.get(key).is_some_and(|seat| Arc::ptr_eq(seat.pair.control(), &control)) {
                        self.freshen(key);
                    }
                }
            }
        }
        if self.inbox().take_sweep() {
            for key in self.seats.iter().map(|(key, _)| key).collect::<Vec<_>>() {
                self.freshen(key);
            }
        }
    }

    fn adopt(&mut self, pair: Box<Pair>, stays_until: Option<Instant>) {
        self.serial += 1;
        let interest = [pair.interest(0), pair.interest(1)];
        let seat = Seat {
            pair,
            place: Place::Fresh,
            serial: self.serial,
            wake: None,
            due: Instant::now(),
            stays_until,
            interest,
        };
        let key = self.seats.insert(seat);
        let pair = &self.seats[key].pair;
        pair.control().set_key(key);
        pair.control().set_owner(self.index);
        let added = (0..2).try_for_each(|side| {
            let data = EventData::new_u64((key as u64) << 1 | side as u64);
            epoll::add(&self.epoll, pair.end(side), data, interest[side])
        });
        if let Err(error) = added {
            static SAID: Seldom = Seldom::new(Duration::from_secs(10));
            if SAID.take(Instant::now()) {
                tracing::warn!(
                    %error,
                    "Ended a flow that no engine thread can watch: raise this machine's limit (sysctl \
                     fs.epoll.max_user_watches), or give it more memory"
                );
            }
            pair.control().cancel();
        }
        self.fresh.push_back(key);
    }

    fn freshen(&mut self, key: usize) {
        if let Some(seat) = self.seats.get_mut(key)
            && seat.place == Place::Parked
        {
            seat.place = Place::Fresh;
            self.fresh.push_back(key);
        }
    }

    fn ring_timers(&mut self) {
        let now = Instant::now();
        loop {
            self.settle_timers();
            let Some(Reverse((at, key, _))) = self.timers.peek().copied().filter(|first| first.0.0 <= now)
            else {
                return;
            };
            self.timers.pop();
            if let Some(seat) = self.seats.get_mut(key) {
                debug_assert_eq!(seat.wake, Some(at));
                seat.wake = None;
                self.freshen(key);
            }
        }
    }

    /// The watchdog's round: mapped flows do nothing in userspace that could notice anything.
    fn watch(&mut self) {
        let now = Instant::now();
        if self.watch.is_none_or(|at| now < at) {
            return;
        }
        self.watch = None;
        let turn = Turn::new(now, &mut self.scratch, &self.crew);
        for (key, seat) in self.seats.iter_mut().filter(|(_, seat)| seat.pair.is_mapped()) {
            self.watch = Some(now + WATCH_EVERY);
            if seat.pair.watch(&turn) && seat.place == Place::Parked {
                seat.place = Place::Fresh;
                self.fresh.push_back(key);
            }
        }
    }

    fn turn(&mut self, key: usize) {
        let Some(seat) = self.seats.get_mut(key) else { return };
        seat.place = Place::Parked;
        let now = Instant::now();
        let mut turn = Turn::new(now, &mut self.scratch, &self.crew);
        let next = seat.pair.run(&mut turn);
        if self.watch.is_none() && seat.pair.is_mapped() {
            self.watch = Some(now + WATCH_EVERY);
        }
        for side in 0..2 {
            let interest = seat.pair.interest(side);
            if interest != seat.interest[side] {
                seat.interest[side] = interest;
                let data = EventData::new_u64((key as u64) << 1 | side as u64);
                // Changing a watch needs no memory; a closed socket has none to change.
                let _ = epoll::modify(&self.epoll, seat.pair.end(side), data, interest);
            }
        }
        let moves = match self.crew.role(self.index) {
            Role::Quick => seat.pair.is_bulk(now),
            Role::Bulk => seat.pair.rests_at().is_none_or(|at| now >= at + BULK_REST),
        };
        match next {
            Next::Over => {
                let seat = self.seats.remove(key);
                self.crew.left(seat.pair.grant());
                seat.pair.close(&self.crew.pipes, &self.crew.stats);
            }
            _ if moves && seat.stays_until.is_none_or(|until| now >= until) => self.move_away(key),
            Next::Hungry => {
                seat.place = Place::Hungry;
                self.hungry.push_back(key);
            }
            Next::Idle(at) => {
                let at = match self.crew.role(self.index) {
                    Role::Quick => at,
                    Role::Bulk => {
                        let moves = seat.pair.rests_at().map(|at| at + BULK_REST);
                        earlier(at, moves.map(|at| at.max(seat.stays_until.unwrap_or(at))))
                    }
                };
                if let Some(at) = at {
                    seat.due = at;
                    if seat.wake.is_none_or(|set| at < set) {
                        seat.wake = Some(at);
                        self.timers.push(Reverse((at, key, seat.serial)));
                    }
                }
            }
        }
    }

    /// Hands a flow whose rate changed to the thread for its kind. Edges that come meanwhile are not lost: the
    /// other epoll reports the state as it is when the sockets are added.
    fn move_away(&mut self, key: usize) {
        let seat = self.seats.remove(key);
        for side in 0..2 {
            // A failure leaves a stale watch whose events find no seat.
            let _ = epoll::delete(&self.epoll, seat.pair.end(side));
        }
        if let Err(pair) = self.crew.hand(self.crew.counterpart(self.index), seat.pair) {
            self.adopt(pair, Some(Instant::now() + BULK_REST));
        }
    }
}
