//! Credit between our own ends: a window for each flow and direction, granted by the reader, never exceeded.

/// The window that every flow begins with, in bytes; both ends know it without saying.
pub const INITIAL_WINDOW: u64 = 1 << 20;

/// The widest a window grows.
pub const MAX_WINDOW: u64 = 16 << 20;

/// What the sender of a direction may still send.
#[derive(Debug)]
pub struct SendCredit(u64);

impl Default for SendCredit {
    fn default() -> SendCredit {
        SendCredit(INITIAL_WINDOW)
    }
}

impl SendCredit {
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
}

impl Default for ReceiveWindow {
    fn default() -> ReceiveWindow {
        ReceiveWindow { size: INITIAL_WINDOW, granted: INITIAL_WINDOW, queued: 0 }
    }
}

impl ReceiveWindow {
    /// # Errors
    /// More than was granted.
    pub fn received(&mut self, bytes: u64) -> Result<(), Overrun> {
        self.granted = self.granted.checked_sub(bytes).ok_or(Overrun)?;
        self.queued += bytes;
        Ok(())
    }

    /// Books `bytes` as read and says how much to grant: nothing, until a quarter of the window is worth a packet.
    ///
    /// A sender that used nearly all its credit while hardly anything waits here is held back by the window alone,
    /// so the window doubles: it grows with rate × round trip, and only for a reader that keeps up.
    pub fn read(&mut self, bytes: u64) -> Option<u64> {
        self.queued = self.queued.saturating_sub(bytes);
        let owed = self.size.saturating_sub(self.granted + self.queued);
        if owed < self.size / 4 {
            return None;
        }
        let quarter = self.size / 4;
        let grown = if self.granted < quarter && self.queued < quarter { self.size } else { 0 };
        let grown = grown.min(MAX_WINDOW - self.size);
        self.size += grown;
        self.granted += owed + grown;
        Some(owed + grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_never_exceeds_what_it_was_granted() {
        let mut credit = SendCredit::default();
        assert!(credit.take(INITIAL_WINDOW));
        assert!(!credit.take(1));
        credit.grant(5);
        assert!(!credit.take(6) && credit.take(5));
        let mut window = ReceiveWindow::default();
        assert_eq!(window.received(INITIAL_WINDOW), Ok(()));
        assert_eq!(window.received(1), Err(Overrun));
    }

    #[test]
    fn grants_come_in_quarters_and_cover_what_was_read() {
        let mut window = ReceiveWindow::default();
        window.received(INITIAL_WINDOW / 2).unwrap();
        assert_eq!(window.read(INITIAL_WINDOW / 4 - 1), None);
        assert_eq!(window.read(1), Some(INITIAL_WINDOW / 4));
        assert_eq!(window.size, INITIAL_WINDOW, "half the credit was unused");
    }

    #[test]
    fn a_window_grows_only_for_a_reader_that_keeps_up_with_a_sender_that_waits() {
        let mut window = ReceiveWindow::default();
        let mut credit = SendCredit::default();
        for _ in 0..40 {
            let all = credit.left();
            assert!(credit.take(all));
            window.received(all).unwrap();
            if let Some(grant) = window.read(all) {
                credit.grant(grant);
            }
        }
        assert_eq!(window.size, MAX_WINDOW);
        assert_eq!(credit.left(), MAX_WINDOW);

        let mut slow = ReceiveWindow::default();
        slow.received(INITIAL_WINDOW).unwrap();
        for _ in 0..10_000 {
            slow.read(4096);
            slow.received(slow.granted.min(4096)).unwrap();
        }
        assert_eq!(slow.size, INITIAL_WINDOW);
    }

    /// The sender's and the receiver's books agree at every moment, so a flow can never hang for lack of credit.
    #[test]
    fn nothing_is_lost_between_the_two_books() {
        let mut window = ReceiveWindow::default();
        let mut credit = SendCredit::default();
        let mut random = 1u64;
        for _ in 0..10_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let bytes = (random >> 40) % 60_000;
            if random & 1 == 0 {
                if credit.take(bytes) {
                    window.received(bytes).unwrap();
                }
            } else if let Some(grant) = window.read(bytes.min(window.queued)) {
                credit.grant(grant);
            }
            assert_eq!(credit.left(), window.granted);
            assert!(window.granted + window.queued <= window.size);
        }
    }
}
