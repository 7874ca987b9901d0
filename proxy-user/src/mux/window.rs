//! Credit between our own ends: a window for each flow and direction, granted by the reader, never exceeded.

/// The window that every flow begins with, in bytes; both ends know it without saying. It is what a flow may hold of
/// the tightest budget; what a budget leaves beyond that is granted when the flow is joined.
pub const FIRST_WINDOW: u64 = 64 << 10;

/// The same in version 1 of our packets.
pub const FIRST_WINDOW_OF_1: u64 = 1 << 20;

/// The widest a window grows.
pub const MAX_WINDOW: u64 = 16 << 20;

/// What the sender of a direction may still send.
#[derive(Debug)]
pub struct SendCredit(u64);

impl SendCredit {
    pub fn new(first: u64) -> SendCredit {
        SendCredit(first)
    }

    pub fn grant(&mut self, bytes: u64) {
        self.0 = self.0.saturating_add(bytes);
    }

    pub fn left(&self) -> u64 {
        self.0
    }

    /// Takes `bytes` if they are covered.
    pub fn take(&mut self, bytes: u64) -> bool {
        let covered = self.0 >= bytes;
        if covered {
            self.0 -= bytes;
        }
        covered
    }
}

/// The peer sent more than it was granted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent more than its window")]
pub struct Overrun;

/// The receiving side's book: `granted + queued + read <= size`, where `read` was not granted again yet.
#[derive(Debug)]
pub struct ReceiveWindow {
    size: u64,
    granted: u64,
    queued: u64,
    /// The sender said so, and nothing was decided on it yet.
    sender_waits: bool,
}

impl ReceiveWindow {
    pub fn new(first: u64) -> ReceiveWindow {
        ReceiveWindow { size: first, granted: first, queued: 0, sender_waits: false }
    }

    /// Makes a narrower window this wide, and says how much to grant for that.
    pub fn widen(&mut self, size: u64) -> u64 {
        let more = size.min(MAX_WINDOW).saturating_sub(self.size);
        self.size += more;
        self.granted += more;
        more
    }

    /// # Errors
    /// More than was granted.
    pub fn received(&mut self, bytes: u64) -> Result<(), Overrun> {
        self.granted = self.granted.checked_sub(bytes).ok_or(Overrun)?;
        self.queued += bytes;
        Ok(())
    }

    /// Books `bytes` as read and says how much to grant: nothing, until a quarter of the window is worth a packet.
    ///
    /// A sender that waits for credit while hardly anything waits here is held back by the window alone, so the window
    /// doubles: it grows with rate × round trip, only for a reader that keeps up, and only where there is `room` for so
    /// many bytes more.
    pub fn read(&mut self, bytes: u64, room: impl FnOnce(u64) -> bool) -> Option<u64> {
        self.queued = self.queued.saturating_sub(bytes);
        if self.sender_waits && self.queued < self.size / 4 {
            self.sender_waits = false;
            let more = self.size.min(MAX_WINDOW - self.size);
            self.size += if more > 0 && room(more) { more } else { 0 };
        }
        let owed = self.size.saturating_sub(self.granted + self.queued);
        if owed < self.size / 4 {
            return None;
        }
        self.granted += owed;
        Some(owed)
    }

    #[cfg(test)]
    pub fn size(&self) -> u64 {
        self.size
    }

    #[cfg(test)]
    pub fn peer_waits(&self) -> bool {
        self.sender_waits
    }

    /// The sender has more than it may send.
    pub fn sender_waits(&mut self, room: impl FnOnce(u64) -> bool) -> Option<u64> {
        self.sender_waits = true;
        self.read(0, room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = FIRST_WINDOW;

    fn always(_: u64) -> bool {
        true
    }

    #[test]
    fn a_sender_never_exceeds_what_it_was_granted() {
        let mut credit = SendCredit::new(FIRST);
        assert!(credit.take(FIRST));
        assert!(!credit.take(1));
        credit.grant(5);
        assert!(!credit.take(6) && credit.take(5));
        let mut window = ReceiveWindow::new(FIRST);
        assert_eq!(window.received(FIRST), Ok(()));
        assert_eq!(window.received(1), Err(Overrun));
    }

    #[test]
    fn grants_come_in_quarters_and_cover_what_was_read() {
        let mut window = ReceiveWindow::new(FIRST);
        window.received(FIRST / 2).unwrap();
        assert_eq!(window.read(FIRST / 4 - 1, always), None);
        assert_eq!(window.read(1, always), Some(FIRST / 4));
        assert_eq!(window.size, FIRST, "half the credit was unused");
    }

    #[test]
    fn a_window_is_widened_and_never_narrowed() {
        for (first, size, granted) in [
            (FIRST, 0, 0),
            (FIRST, FIRST, 0),
            (FIRST, 4 * FIRST, 3 * FIRST),
            (FIRST, u64::MAX, MAX_WINDOW - FIRST),
            (FIRST_WINDOW_OF_1, FIRST, 0),
        ] {
            let mut window = ReceiveWindow::new(first);
            window.received(first).unwrap();
            assert_eq!(window.widen(size), granted, "{first} to {size}");
            assert_eq!(window.received(granted), Ok(()));
            assert_eq!(window.received(1), Err(Overrun));
        }
    }

    /// Over a link with delay: all that may be sent arrives before anything is granted again, and is read packet by
    /// packet. Says how wide the window gets.
    fn width_after(rounds: usize, mut room: impl FnMut(u64) -> bool) -> u64 {
        const PACKET: u64 = crate::wire::packet::MAX_DATA as u64;
        let mut window = ReceiveWindow::new(FIRST);
        let mut credit = SendCredit::new(FIRST);
        for _ in 0..rounds {
            let mut granted = 0;
            let mut arrived = 0;
            while credit.take(PACKET) {
                window.received(PACKET).unwrap();
                arrived += PACKET;
            }
            granted += window.sender_waits(&mut room).unwrap_or(0);
            while arrived > 0 {
                arrived -= PACKET;
                granted += window.read(PACKET, &mut room).unwrap_or(0);
            }
            assert!(granted >= window.size / 2, "what was read is granted again in any case");
            credit.grant(granted);
        }
        window.size
    }

    #[test]
    fn a_window_grows_only_for_a_reader_that_keeps_up_with_a_sender_that_waits() {
        assert_eq!(width_after(40, always), MAX_WINDOW);

        let mut slow = ReceiveWindow::new(FIRST);
        slow.received(FIRST).unwrap();
        for _ in 0..10_000 {
            assert_eq!(slow.sender_waits(always), None);
            slow.read(4096, always);
            slow.received(slow.granted).unwrap();
        }
        assert_eq!(slow.size, FIRST, "its reader does not keep up");

        let mut idle = ReceiveWindow::new(FIRST);
        for _ in 0..10_000 {
            idle.received(4096).unwrap();
            idle.read(4096, always);
        }
        assert_eq!(idle.size, FIRST, "its sender never waits");
    }

    #[test]
    fn a_window_grows_as_far_as_there_is_room() {
        for (room, size) in [(0, FIRST), (FIRST - 1, FIRST), (FIRST, 2 * FIRST), (7 * FIRST, 8 * FIRST)] {
            let mut left = room;
            let width = width_after(40, |bytes| {
                let fits = bytes <= left;
                left -= if fits { bytes } else { 0 };
                fits
            });
            assert_eq!(width, size, "{room}");
        }
    }

    /// The sender's and the receiver's books agree at every moment, so a flow can never hang for lack of credit.
    #[test]
    fn nothing_is_lost_between_the_two_books() {
        let mut window = ReceiveWindow::new(FIRST);
        let mut credit = SendCredit::new(FIRST);
        let mut random = 1u64;
        for at in 0..10_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let bytes = (random >> 40) % 60_000;
            if at == 5000 {
                credit.grant(window.widen(16 * FIRST));
            }
            if random & 12 == 0 {
                credit.grant(window.sender_waits(|_| random & 2 == 0).unwrap_or(0));
            }
            if random & 1 == 0 {
                if credit.take(bytes) {
                    window.received(bytes).unwrap();
                }
            } else if let Some(grant) = window.read(bytes.min(window.queued), |_| random & 2 == 0) {
                credit.grant(grant);
            }
            assert_eq!(credit.left(), window.granted);
            assert!(window.granted + window.queued <= window.size);
        }
    }
}
