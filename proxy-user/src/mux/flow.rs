//! The book of one flow on a link: what waits to be read, what waits to be sent, who is to be woken.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;

use super::brake::{PACE, PATIENCE, STALLED};
use super::state::{Closing, Dialect, Event, FlowState, ReadEnd, Role};
use super::window::{Overrun, ReceiveWindow, SendCredit};
use crate::splice::{Allowance, Room};

/// What one flow may have waiting to be sent before its writer waits, in bytes; less where many share the budget.
const MAX_OUTGOING: usize = 128 << 10;
/// What one packet costs at least in that account, so that a flood of tiny writes is bounded too.
const PACKET_COST: usize = 512;
/// A payload below this is copied out of the buffer it arrived in, which it would keep alive otherwise.
const SMALL: usize = 4096;
/// Small payloads behind so many others are put together: each by itself takes a hundred bytes more.
const KEPT_APART: usize = 16;

/// What is kept of a peer's last words, in bytes. They wait where no window bounds them.
const LONGEST_WORDS: usize = 4096;

pub(super) enum Out {
    Data(Bytes),
    Close(Closing),
}

pub(super) struct Flow {
    pub(super) state: FlowState,
    dialect: Dialect,
    inbox: VecDeque<Bytes>,
    /// Bytes in the inbox.
    pub(super) queued: u64,
    read_end: Option<ReadEnd>,
    window: ReceiveWindow,
    credit: SendCredit,
    outbox: VecDeque<Out>,
    outgoing: usize,
    max_outgoing: usize,
    /// Where a wider window is asked for; none of a flow that is not joined.
    more: Option<Allowance>,
    /// What waits to be read is copied, whatever its size: the buffer it arrived in holds half as much again.
    scarce: bool,
    /// Credit to be granted to the peer.
    owed: u64,
    /// The peer was told that its credit does not cover what waits.
    said_so: bool,
    /// The link has this flow in one of its queues already.
    pub(super) scheduled: bool,
    /// What the peer said when it ended the flow.
    pub(super) last_words: Box<str>,
    /// A `MuxStream` exists.
    pub(super) held: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) unwritable: Option<Waker>,
    /// When a byte was taken out of the inbox, or one came into an empty inbox.
    progressed: Instant,
    /// When [`PACE`] bytes had been taken since the time before, or the inbox was empty.
    kept_pace: Instant,
    /// Bytes taken since then.
    taken: u64,
}

impl Flow {
    pub(super) fn new(role: Role, dialect: Dialect) -> Flow {
        let now = Instant::now();
        Flow {
            state: FlowState::new(role, dialect),
            dialect,
            inbox: VecDeque::new(),
            queued: 0,
            read_end: None,
            window: ReceiveWindow::new(dialect.first_window()),
            credit: SendCredit::new(dialect.first_window()),
            outbox: VecDeque::new(),
            outgoing: 0,
            max_outgoing: MAX_OUTGOING,
            more: None,
            scarce: false,
            owed: 0,
            said_so: false,
            scheduled: false,
            last_words: Box::default(),
            held: true,
            reader: None,
            writer: None,
            unwritable: None,
            progressed: now,
            kept_pace: now,
            taken: 0,
        }
    }

    /// Nothing refers to this flow any more.
    pub(super) fn is_done(&self) -> bool {
        !self.held && self.state.is_over() && self.outbox.is_empty()
    }

    /// Keeps within this room from now on.
    pub(super) fn bound(&mut self, room: Room) {
        self.max_outgoing = room.unsent.min(MAX_OUTGOING);
        self.scarce = room.scarce;
        // Told twice it keeps the first: what was taken of that is in the window.
        self.more.get_or_insert(room.more);
        if self.dialect != Dialect::Upstream && self.state.is_reading() {
            self.owed += self.window.widen(room.receive);
        }
    }

    // Towards the local end.

    /// Queues what arrived, and says how much: nothing for a flow that reads no more.
    pub(super) fn push(&mut self, data: Bytes) -> Result<u64, Overrun> {
        let bytes = data.len() as u64;
        if self.dialect != Dialect::Upstream {
            self.window.received(bytes)?;
        }
        if bytes == 0 || !self.held || !self.state.is_reading() {
            return Ok(0);
        }
        if self.inbox.is_empty() {
            self.progressed = Instant::now();
            (self.kept_pace, self.taken) = (self.progressed, 0);
        }
        self.queued += bytes;
        self.store(data);
        wake(&mut self.reader);
        Ok(bytes)
    }

    fn store(&mut self, data: Bytes) {
        if data.len() >= SMALL {
            let data = if self.scarce { Bytes::copy_from_slice(&data) } else { data };
            return self.inbox.push_back(data);
        }
        let joins = self.inbox.len() > KEPT_APART && self.inbox.back().is_some_and(|last| last.len() < SMALL);
        let last = if joins { self.inbox.pop_back() } else { None };
        // Ours alone, since it was copied.
        let mut last = last.and_then(|last| last.try_into_mut().ok()).unwrap_or_default();
        last.extend_from_slice(&data);
        self.inbox.push_back(last.freeze());
    }

    /// The next packet's bytes, at most `max` of them; `Err` when reading has ended.
    pub(super) fn pop(&mut self, max: usize) -> Result<Option<Bytes>, ReadEnd> {
        let Some(front) = self.inbox.front_mut() else {
            return self.read_end.map_or(Ok(None), Err);
        };
        let data = if front.len() > max { front.split_to(max) } else { std::mem::take(front) };
        if front.is_empty() {
            self.inbox.pop_front();
        }
        self.queued -= data.len() as u64;
        self.progressed = Instant::now();
        self.taken += data.len() as u64;
        if self.taken >= PACE {
            (self.kept_pace, self.taken) = (self.progressed, 0);
        }
        if self.dialect != Dialect::Upstream && self.state.is_reading() {
            let room = |bytes| self.more.as_mut().is_some_and(|more| more.take(bytes));
            self.owed += self.window.read(data.len() as u64, room).unwrap_or(0);
        }
        if self.inbox.is_empty() && self.inbox.capacity() > 64 {
            self.inbox = VecDeque::new();
        }
        self.give_room_back();
        Ok(Some(data))
    }

    /// Everything came and was read: others may have what this flow's window took.
    fn give_room_back(&mut self) {
        if self.inbox.is_empty() && !self.state.is_reading() {
            self.more = None;
        }
    }

    /// Forgets what waits to be read, and says how much that was. Nothing more will be read.
    pub(super) fn discard(&mut self) -> u64 {
        self.inbox = VecDeque::new();
        self.more = None;
        std::mem::take(&mut self.queued)
    }

    /// The whole inbox was read and writing has ended from the peer's side.
    pub(super) fn is_unwritable(&self) -> bool {
        self.inbox.is_empty() && self.read_end.is_some() && !self.state.is_writing()
    }

    /// The peer aborted, or the stream was lost, whether or not that was read.
    pub(super) fn is_reset(&self) -> bool {
        self.read_end == Some(ReadEnd::Reset)
    }

    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.progressed) >= STALLED
    }

    /// The reader takes too little to make all others wait for it.
    pub(super) fn is_too_slow(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.kept_pace) >= PATIENCE
    }

    /// Forgets what waits to be read and aborts; the reader learns it even when the peer had closed cleanly.
    /// Says how much was forgotten.
    pub(super) fn give_up(&mut self) -> u64 {
        let bytes = self.discard();
        self.step(Event::Abort);
        self.read_end = Some(ReadEnd::Reset);
        wake(&mut self.reader);
        wake(&mut self.unwritable);
        bytes
    }

    // Towards the peer.

    pub(super) fn has_room(&self) -> bool {
        self.outgoing < self.max_outgoing
    }

    pub(super) fn queue(&mut self, data: Bytes) {
        self.outgoing += data.len().max(PACKET_COST);
        self.outbox.push_back(Out::Data(data));
    }

    /// The peer lets us send `bytes` more; with none it says that it waits for as much itself.
    pub(super) fn grant(&mut self, bytes: u64) {
        if bytes > 0 {
            self.credit.grant(bytes);
            self.said_so = false;
        } else if self.dialect != Dialect::Upstream && self.state.is_reading() {
            let room = |bytes| self.more.as_mut().is_some_and(|more| more.take(bytes));
            self.owed += self.window.sender_waits(room).unwrap_or(0);
        }
    }

    /// Bytes wait that no credit covers.
    fn lacks_credit(&self) -> bool {
        let bytes = match self.outbox.front() {
            Some(Out::Data(data)) => data.len() as u64,
            _ => 0,
        };
        self.dialect != Dialect::Upstream && self.credit.left() < bytes
    }

    /// Something can be sent now.
    pub(super) fn is_sendable(&self) -> bool {
        let lacks_credit = self.lacks_credit();
        self.owed > 0 || lacks_credit && !self.said_so || !lacks_credit && !self.outbox.is_empty()
    }

    pub(super) fn has_unsent_data(&self) -> bool {
        matches!(self.outbox.front(), Some(Out::Data(_)))
    }

    /// What a window packet is to say: bytes that the peer may send, or by 0 that we lack them ourselves.
    pub(super) fn take_grant(&mut self) -> Option<u64> {
        let says_so = self.lacks_credit() && !self.said_so;
        self.said_so |= says_so && self.owed == 0;
        let owed = std::mem::take(&mut self.owed);
        (owed > 0 || says_so).then_some(owed)
    }

    /// The width of the peer's window.
    #[cfg(test)]
    pub(super) fn window_size(&self) -> u64 {
        self.window.size()
    }

    /// The peer said that it has more to send than its window lets it.
    #[cfg(test)]
    pub(super) fn peer_waits(&self) -> bool {
        self.window.peer_waits()
    }

    pub(super) fn take_out(&mut self) -> Option<Out> {
        if let Some(Out::Data(data)) = self.outbox.front() {
            let bytes = data.len();
            if self.dialect != Dialect::Upstream && !self.credit.take(bytes as u64) {
                return None;
            }
            self.outgoing -= bytes.max(PACKET_COST);
        }
        let out = self.outbox.pop_front();
        if self.has_room() {
            wake(&mut self.writer);
        }
        out
    }

    /// Bytes that wait to be sent, each packet's cost included.
    pub(super) fn outgoing(&self) -> u64 {
        self.outgoing as u64
    }

    // Ends.

    /// What the peer did, and what it said about it. The first words count, and none of a flow that is over.
    pub(super) fn told(&mut self, event: Event, words: &str) {
        if self.last_words.is_empty() && !self.state.is_over() {
            self.last_words = words[..words.floor_char_boundary(LONGEST_WORDS)].into();
        }
        self.step(event);
    }

    pub(super) fn step(&mut self, event: Event) {
        let step = self.state.step(event);
        if matches!(event, Event::PeerReset | Event::PeerGone) {
            // Whatever ended before: nobody takes what waits here.
            self.outbox.clear();
            self.outgoing = 0;
        }
        if let Some(end) = step.read {
            self.read_end = Some(end);
            self.owed = 0;
            self.give_room_back();
        }
        let peer_is_deaf = step.broken && step.send.is_none();
        // A reset waits for the bytes before it only when the peer has room for them.
        let too_much = step.send == Some(Closing::Reset) && self.outgoing as u64 > self.credit.left();
        if peer_is_deaf || too_much {
            self.outbox.retain(|out| matches!(out, Out::Close(_)));
            self.outgoing = 0;
        }
        if let Some(closing) = step.send {
            self.outbox.push_back(Out::Close(closing));
        }
        if step.read.is_some() || step.broken {
            wake(&mut self.reader);
            wake(&mut self.writer);
            wake(&mut self.unwritable);
        }
    }

    /// The control stream is gone: nothing more will be sent.
    pub(super) fn lost(&mut self) {
        self.step(Event::PeerGone);
        self.outbox = VecDeque::new();
        (self.outgoing, self.owed) = (0, 0);
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: usize = crate::mux::window::FIRST_WINDOW as usize;

    /// The packets of one message of the stream share its buffer, which is larger than what one of them says.
    #[test]
    fn what_waits_in_a_scarce_flow_keeps_no_buffer_of_others_alive() {
        struct Buffer(std::sync::Arc<Vec<u8>>);
        impl AsRef<[u8]> for Buffer {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        for (budget, kept) in [(0, false), (1 << 30, true)] {
            let mut flow = Flow::new(Role::Acceptor, Dialect::OURS);
            flow.bound(Room::alone(budget));
            let bytes = std::sync::Arc::new(vec![7; 48 << 10]);
            flow.push(Bytes::from_owner(Buffer(bytes.clone())).slice(..32 << 10)).unwrap();
            assert_eq!(std::sync::Arc::strong_count(&bytes) > 1, kept, "budget {budget}");
            assert_eq!(flow.pop(usize::MAX).unwrap().unwrap(), vec![7; 32 << 10]);
        }
    }

    /// The size of each of many payloads, and the places that they take at the most.
    #[test]
    fn many_small_payloads_take_few_places_and_keep_their_order() {
        for (size, places) in [(1, 32), (25, 32), (1000, 40), (SMALL, FIRST / SMALL)] {
            let mut flow = Flow::new(Role::Acceptor, Dialect::OURS);
            let bytes: Vec<u8> = (0..FIRST).map(|at| (at % 251) as u8).collect();
            for payload in bytes.chunks(size) {
                flow.push(Bytes::copy_from_slice(payload)).unwrap();
            }
            assert!(flow.inbox.len() <= places, "{size}: {}", flow.inbox.len());
            let mut read = Vec::new();
            while let Ok(Some(data)) = flow.pop(usize::MAX) {
                read.extend_from_slice(&data);
            }
            assert!(read == bytes, "{size}");
        }
    }
}
