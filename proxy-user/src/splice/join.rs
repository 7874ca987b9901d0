//! The future of a joined flow.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::control::Control;
use super::crew::Threads;
use super::stream::StreamCancel;
use crate::flow::{Direction, Ending, Finish, Meter};

/// A flow that runs. Resolves when both directions ended; dropping it cancels the flow.
#[must_use = "dropping a join cancels its flow"]
pub struct Join {
    mode: Mode,
    meter: Arc<Meter>,
}

enum Mode {
    Thread { ending: oneshot::Receiver<Ending>, canceller: Canceller },
    Stream { copy: Pin<Box<dyn Future<Output = Ending> + Send>>, canceller: Canceller },
    Over,
}

/// Ends one flow from anywhere; both peers see an abort.
#[derive(Clone)]
pub struct Canceller(Means);

#[derive(Clone)]
enum Means {
    Thread(Arc<Control>, Arc<Threads>),
    Stream(Arc<StreamCancel>),
}

impl Canceller {
    pub fn cancel(&self) {
        match &self.0 {
            Means::Thread(control, threads) => {
                control.cancel();
                threads.crew().inbox(control.owner()).look(control.clone());
            }
            Means::Stream(cancel) => cancel.cancel(),
        }
    }
}

impl Join {
    pub(super) fn on_thread(
        ending: oneshot::Receiver<Ending>,
        control: Arc<Control>,
        threads: Arc<Threads>,
        meter: Arc<Meter>,
    ) -> Join {
        let canceller = Canceller(Means::Thread(control, threads));
        Join { mode: Mode::Thread { ending, canceller }, meter }
    }

    pub(super) fn on_tokio(
        copy: Pin<Box<dyn Future<Output = Ending> + Send>>,
        cancel: Arc<StreamCancel>,
        meter: Arc<Meter>,
    ) -> Join {
        Join { mode: Mode::Stream { copy, canceller: Canceller(Means::Stream(cancel)) }, meter }
    }

    /// Ends the flow: both peers see an abort. The join still resolves, with [`Finish::Cancelled`] for each
    /// direction that had not finished.
    pub fn cancel(&self) {
        if let Some(canceller) = self.canceller() {
            canceller.cancel();
        }
    }

    /// A handle that cancels the flow while somebody else awaits it; `None` once it is over.
    pub fn canceller(&self) -> Option<Canceller> {
        match &self.mode {
            Mode::Thread { canceller, .. } | Mode::Stream { canceller, .. } => Some(canceller.clone()),
            Mode::Over => None,
        }
    }
}

impl Future for Join {
    type Output = Ending;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ending> {
        let polled = match &mut self.mode {
            Mode::Thread { ending, .. } => Pin::new(ending).poll(context).map(Result::ok),
            Mode::Stream { copy, .. } => copy.as_mut().poll(context).map(Some),
            Mode::Over => Poll::Ready(None),
        };
        polled.map(|ending| {
            self.mode = Mode::Over;
            // The thread is gone: the process is ending.
            ending.unwrap_or_else(|| Ending {
                up: Finish::Cancelled,
                down: Finish::Cancelled,
                up_bytes: self.meter.total(Direction::Up),
                down_bytes: self.meter.total(Direction::Down),
            })
        })
    }
}

impl Drop for Join {
    fn drop(&mut self) {
        self.cancel();
    }
}
