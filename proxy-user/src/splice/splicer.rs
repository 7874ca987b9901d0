//! The handle that everybody else knows: starts the threads, joins ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::control::Control;
use super::half::Half;
use super::inbox::Inbox;
use super::join::Join;
use super::pair::Pair;
use super::stream::{self, StreamCancel};
use super::tokio_end::Unjoined;
use super::track::Track;
use super::worker::Worker;
use super::{End, EndIo, Plain, SpliceConfig, SpliceError};
use crate::flow::{Direction, Meter};

/// The engine threads; they stop with their last handle (a splicer or a join).
pub(super) struct Threads {
    inboxes: Vec<Arc<Inbox>>,
    next: AtomicUsize,
}

impl Threads {
    pub(super) fn inbox(&self, index: usize) -> &Inbox {
        &self.inboxes[index % self.inboxes.len()]
    }

    fn start(count: usize) -> Result<Threads, SpliceError> {
        let mut threads = Threads { inboxes: Vec::new(), next: AtomicUsize::new(0) };
        for index in 0..count {
            let inbox = Arc::new(Inbox::new()?);
            let worker = Worker::new(index, inbox.clone())?;
            threads.inboxes.push(inbox);
            std::thread::Builder::new()
                .name(format!("splice-{index}"))
                .spawn(move || worker.run())
                .map_err(SpliceError::Thread)?;
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.inboxes.iter().for_each(|inbox| inbox.stop());
    }
}

/// Joins ends. Cheap to clone.
#[derive(Clone)]
pub struct Splicer {
    threads: Arc<Threads>,
}

impl Splicer {
    /// Starts the engine threads.
    ///
    /// # Errors
    /// When the process may not have one more thread, epoll instance or eventfd.
    pub fn start(config: SpliceConfig) -> Result<Splicer, SpliceError> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if config.threads == 0 { cpus.div_ceil(2).min(8) } else { config.threads };
        Ok(Splicer { threads: Arc::new(Threads::start(count)?) })
    }

    /// Joins the client's side `left` and the target's side `right`, and counts into `meter`.
    ///
    /// Two plain sockets go to an engine thread. With a [`FlowStream`](super::FlowStream) the returned future
    /// itself copies, so it must be polled on a tokio runtime.
    pub fn join(&self, left: End, right: End, meter: Arc<Meter>) -> Join {
        match (left.io, right.io) {
            (EndIo::Plain(client), EndIo::Plain(target)) => {
                let up = Track::new(Direction::Up, right.greeting, left.early);
                let down = Track::new(Direction::Down, left.greeting, right.early);
                self.join_plain([client, target], [up, down], meter)
            }
            (client, target) => {
                let cancel = Arc::new(StreamCancel::default());
                let up = Half::new(Direction::Up, right.greeting, left.early);
                let down = Half::new(Direction::Down, left.greeting, right.early);
                let ends = [Unjoined::new(client), Unjoined::new(target)];
                let copy = stream::join(ends, [up, down], meter.clone(), cancel.clone());
                Join::on_tokio(Box::pin(copy) as Pin<Box<_>>, cancel, meter)
            }
        }
    }

    fn join_plain(&self, ends: [Plain; 2], tracks: [Track; 2], meter: Arc<Meter>) -> Join {
        let (report, ending) = oneshot::channel();
        let control = Arc::new(Control::default());
        let index = self.threads.next.fetch_add(1, Ordering::Relaxed) % self.threads.inboxes.len();
        control.set_owner(index);
        for end in &ends {
            // A socket whose peer is gone refuses these; reading it says so in order.
            let _ = end.prepare();
        }
        let pair = Pair::new(ends, tracks, meter.clone(), control.clone(), report);
        if let Err(pair) = self.threads.inbox(index).adopt(Box::new(pair)) {
            // Thousands of new flows wait for the thread: refuse this one rather than queue without bound.
            pair.close();
        }
        Join::on_thread(ending, control, self.threads.clone(), meter)
    }
}
