//! Ending in good order: whoever has work in hand holds a watch, and dropping it is the only way to say done.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// How long somebody who was accepted before the drain may still take to say what is wanted.
const LAST_WORDS: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Draining,
    Cut,
}

/// A trigger, and the first watch; clone the watch for every piece of work.
pub fn channel() -> (DrainTrigger, DrainWatch) {
    let (stage, watching) = watch::channel(Stage::Running);
    let (held, done) = mpsc::channel(1);
    (DrainTrigger { stage, done }, DrainWatch { stage: watching, _held: held })
}

/// Starts the drain and waits for it.
#[derive(Debug)]
pub struct DrainTrigger {
    stage: watch::Sender<Stage>,
    done: mpsc::Receiver<Infallible>,
}

/// Held by whoever has work in hand.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    stage: watch::Receiver<Stage>,
    _held: mpsc::Sender<Infallible>,
}

impl DrainTrigger {
    /// Asks everybody to come to an end.
    pub fn start(&self) {
        self.stage.send_if_modified(|stage| {
            std::mem::replace(stage, (*stage).max(Stage::Draining)) == Stage::Running
        });
    }

    /// Asks everybody to end at once.
    pub fn cut(&self) {
        self.stage.send_replace(Stage::Cut);
    }

    /// Every watch was dropped. Cancel safe.
    pub async fn drained(&mut self) {
        // Nothing can be sent: the only answer is that every sender is gone.
        let _: Option<Infallible> = self.done.recv().await;
    }

    /// Drains, for at most `limit`, then cuts. True when everybody was done before the cut.
    pub async fn drain(&mut self, limit: Duration) -> bool {
        self.start();
        let in_time = tokio::time::timeout(limit, self.drained()).await.is_ok();
        self.cut();
        in_time
    }
}

impl DrainWatch {
    pub fn is_draining(&self) -> bool {
        *self.stage.borrow() >= Stage::Draining
    }

    /// Returns when the drain began, or its trigger is gone. Cancel safe.
    pub async fn draining(&mut self) {
        let _ = self.stage.wait_for(|stage| *stage >= Stage::Draining).await;
    }

    /// Returns a second from now, once the drain began, or when work is cut off: nobody waits longer for who has not
    /// spoken yet.
    pub async fn last_words(&mut self) {
        self.draining().await;
        let _ = tokio::time::timeout(LAST_WORDS, self.cut()).await;
    }

    /// Returns when work is to be cut off, or the trigger is gone. Cancel safe.
    pub async fn cut(&mut self) {
        let _ = self.stage.wait_for(|stage| *stage == Stage::Cut).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn drained_means_that_every_watch_was_dropped() {
        let (mut trigger, watch) = channel();
        let mut other = watch.clone();
        drop(watch);
        let work = tokio::spawn(async move {
            other.draining().await;
            assert!(other.is_draining());
        });
        assert!(trigger.drain(LONG).await);
        work.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_late_is_cut() {
        let (mut trigger, mut watch) = channel();
        let work = tokio::spawn(async move { watch.cut().await });
        assert!(!trigger.drain(Duration::from_millis(5)).await);
        work.await.unwrap();
        trigger.drained().await;
    }

    #[tokio::test]
    async fn starting_after_a_cut_does_not_take_it_back() {
        let (trigger, mut watch) = channel();
        trigger.cut();
        trigger.start();
        watch.cut().await;
    }
}
