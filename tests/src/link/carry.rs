//! One direction of the link: reads packets, holds each until it is due, writes it on the other side.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};

use super::overlap::Overlapper;
use super::segments::{self, Wire};
use super::{Counts, Nature};

/// A packet that would wait longer for its turn is dropped, as a router with a full queue does.
const LONGEST_QUEUE: Duration = Duration::from_millis(40);
const LATE: Duration = Duration::from_millis(1);
/// Bytes read at a time, so that what is due does not wait for what comes.
const BATCH: usize = 128 << 10;

pub(super) struct Way {
    from: Arc<OwnedFd>,
    to: Arc<OwnedFd>,
    nature: Nature,
    counts: Arc<Counts>,
    cut: Arc<AtomicBool>,
    stop: Arc<OwnedFd>,
    overlapper: Overlapper,
    /// By time, then by number, so that equal times keep their order.
    waiting: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    offloads: bool,
    number: u64,
    /// When the wire has sent what it was given.
    free: Instant,
    dice: u64,
}

impl Way {
    pub(super) fn new(
        from: Arc<OwnedFd>,
        to: Arc<OwnedFd>,
        nature: Nature,
        counts: Arc<Counts>,
        cut: Arc<AtomicBool>,
        stop: Arc<OwnedFd>,
        seed: u64,
    ) -> Way {
        let overlapper = Overlapper::default();
        let free = Instant::now();
        let offloads = nature.offloads();
        Way {
            from,
            to,
            nature,
            counts,
            cut,
            stop,
            overlapper,
            waiting: BinaryHeap::new(),
            offloads,
            number: 0,
            free,
            dice: seed,
        }
    }

    pub(super) fn run(mut self) {
        let mut buffer = vec![0; segments::LONGEST];
        loop {
            let patience = self.waiting.peek().map(|Reverse((due, ..))| {
                let left = due.saturating_duration_since(Instant::now());
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
            });
            let mut fds = [PollFd::new(&*self.from, PollFlags::IN), PollFd::new(&*self.stop, PollFlags::IN)];
            match poll(&mut fds, patience.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            if !fds[1].revents().is_empty() {
                return;
            }
            let mut taken = 0;
            while taken < BATCH
                && let Ok(length) = read(&*self.from, &mut buffer)
            {
                self.take(&buffer[..length]);
                taken += length;
            }
            self.deliver();
        }
    }

    fn take(&mut self, packet: &[u8]) {
        let wire = self.on_wire(packet);
        if self.cut.load(Ordering::Relaxed) || self.strikes(self.nature.lose_one_in) {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let now = Instant::now();
        if self.free.saturating_duration_since(now) > LONGEST_QUEUE {
            self.counts.overrun.fetch_add(wire.packets, Ordering::Relaxed);
            return;
        }
        let nanos = wire.bytes * 8 * 1_000_000_000 / self.nature.rate;
        self.free = self.free.max(now) + Duration::from_nanos(nanos);
        let mut due = self.free + self.nature.delay;
        if self.strikes(self.nature.delay_one_in) {
            self.counts.late.fetch_add(1, Ordering::Relaxed);
            due += LATE;
        }
        self.number += 1;
        self.waiting.push(Reverse((due, self.number, packet.to_vec())));
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self.waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, packet))) = self.waiting.pop() else { return };
            let strikes = self.strikes(self.nature.overlap_one_in);
            let merged = match self.nature.overlap_one_in {
                Some(_) => self.overlapper.see(&packet, strikes),
                None => None,
            };
            if merged.is_some() {
                self.counts.overlapped.fetch_add(1, Ordering::Relaxed);
            }
            // A full device drops, as links do.
            let _ = write(&*self.to, merged.as_deref().unwrap_or(&packet));
            self.counts.carried.fetch_add(self.on_wire(&packet).packets, Ordering::Relaxed);
        }
    }

    fn on_wire(&self, packet: &[u8]) -> Wire {
        match self.offloads {
            true => Wire::of_offloaded(packet),
            false => Wire { packets: 1, bytes: packet.len() as u64 },
        }
    }

    fn strikes(&mut self, one_in: Option<u64>) -> bool {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        one_in.is_some_and(|one_in| self.dice.is_multiple_of(one_in))
    }
}
