//! Connections that hold a descriptor and have yet to say what for: there are only so many, and for one too many the
//! one that was silent longest makes room.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The newcomers of one listener. Clones share them.
#[derive(Clone)]
pub(crate) struct Newcomers {
    most: usize,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    next: u64,
    /// Who may have to make room, longest silent first.
    silent: BTreeMap<u64, CancellationToken>,
    busy: usize,
}

/// A connection's place, left when dropped.
pub(crate) struct Newcomer {
    turn: AtomicU64,
    lost: CancellationToken,
    all: Newcomers,
}

/// Its connection makes no room for others while this lives, and is the last to do so afterwards.
pub(crate) struct Busy<'a> {
    newcomer: &'a Newcomer,
    /// It had its place still.
    held: bool,
}

impl Newcomers {
    /// Room for so many at a time.
    pub(crate) fn new(most: usize) -> Newcomers {
        Newcomers { most, queue: Arc::default() }
    }

    /// `None`: there is no room, and everybody else is busy.
    pub(crate) async fn admit(&self) -> Option<Newcomer> {
        let lost = CancellationToken::new();
        let (turn, oldest) = self.queue().admit(self.most, &lost)?;
        let newcomer = Newcomer { turn: AtomicU64::new(turn), lost, all: self.clone() };
        if let Some(oldest) = oldest {
            oldest.cancel();
            // Its descriptor is wanted for the next one: whoever has it runs first.
            tokio::task::yield_now().await;
        }
        Some(newcomer)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// The newcomer's turn, and who makes room for it.
    fn admit(
        &mut self,
        most: usize,
        newcomer: &CancellationToken,
    ) -> Option<(u64, Option<CancellationToken>)> {
        let full = self.silent.len() + self.busy >= most;
        let oldest = if full { Some(self.silent.pop_first()?.1) } else { None };
        Some((self.append(newcomer.clone()), oldest))
    }

    fn append(&mut self, newcomer: CancellationToken) -> u64 {
        self.next += 1;
        self.silent.insert(self.next, newcomer);
        self.next
    }
}

impl Newcomer {
    /// Resolves when the place went to another.
    pub(crate) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    pub(crate) fn busy(&self) -> Busy<'_> {
        let mut queue = self.all.queue();
        let held = queue.silent.remove(&self.turn.load(Ordering::Relaxed)).is_some();
        queue.busy += usize::from(held);
        Busy { newcomer: self, held }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        if self.held {
            let mut queue = self.newcomer.all.queue();
            queue.busy -= 1;
            let turn = queue.append(self.newcomer.lost.clone());
            self.newcomer.turn.store(turn, Ordering::Relaxed);
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.all.queue().silent.remove(&self.turn.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_silent_makes_room_and_who_is_busy_does_not() {
        let newcomers = Newcomers::new(2);
        let first = newcomers.admit().await.unwrap();
        let second = newcomers.admit().await.unwrap();
        let asks = first.busy();
        let third = newcomers.admit().await.unwrap();
        second.lost().await;
        let also_asks = third.busy();
        assert!(newcomers.admit().await.is_none());
        // Whoever asked last is silent for the shortest time.
        drop(also_asks);
        drop(asks);
        let _fourth = newcomers.admit().await.unwrap();
        third.lost().await;
        assert!(!first.lost.is_cancelled());
    }

    #[tokio::test]
    async fn who_leaves_gives_its_place_back_once() {
        let newcomers = Newcomers::new(1);
        let lost = newcomers.admit().await.unwrap();
        let kept = newcomers.admit().await.unwrap();
        // Too late: it counts for nothing, busy or not.
        drop(lost.busy());
        drop(lost);
        assert!(!kept.lost.is_cancelled());
        drop(kept);
        assert!(newcomers.queue().silent.is_empty() && newcomers.queue().busy == 0);
    }
}
