//! Flows of two clear sockets while they may be short ones: they stay on tokio, where their dial was.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::Splicer;
use super::half::Half;
use super::policy::{BRIEF_BYTES, BRIEF_TIME, FORCED_WAIT};
use super::stream::{PollElapsed, StreamCancel};
use super::tokio_end::TokioEnd;
use crate::flow::{Direction, Ending, Meter};

/// How a flow begins that an engine thread goes on with.
pub(super) enum Begin {
    /// On tokio, while it may be a short one.
    Brief(Brief),
    /// Nowhere, until a forced engine can have it; this long at most.
    Forced(Pin<Box<Sleep>>),
}

impl Begin {
    pub(super) fn brief() -> Begin {
        Begin::Brief(Brief { until: Instant::now() + BRIEF_TIME, timer: None })
    }

    pub(super) fn forced() -> Begin {
        Begin::Forced(Box::pin(sleep(FORCED_WAIT)))
    }
}

/// A flow may yet be a short one.
pub(super) struct Brief {
    until: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Brief {
    fn is_fresh(&self) -> bool {
        Instant::now() < self.until
    }

    /// The flow will be looked at again soon, whatever its ends do.
    pub(super) fn is_timed(&self) -> bool {
        self.timer.is_some() && self.is_fresh()
    }

    /// Ready when the flow is no short one: at its next byte, or by a timer while a direction `waits` for its
    /// destination or is over, since an engine thread sees more of the peers then.
    pub(super) fn poll_over(&mut self, context: &mut Context<'_>, meter: &Meter, waits: bool) -> Poll<()> {
        let moved = meter.total(Direction::Up) + meter.total(Direction::Down);
        if moved >= BRIEF_BYTES || !self.is_fresh() {
            return Poll::Ready(());
        }
        if !waits {
            return Poll::Pending;
        }
        let until = self.until;
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(until))).as_mut().poll_elapsed(context)
    }
}

/// The rest of a flow, on an engine thread; none when its sockets cannot leave tokio.
pub(super) async fn go_on(
    splicer: &Splicer,
    ends: [TokioEnd; 2],
    mut halves: [Half; 2],
    meter: &Arc<Meter>,
    cancel: &StreamCancel,
) -> Option<Ending> {
    let ends = match ends.map(TokioEnd::into_plain) {
        [Some((client, from_client)), Some((target, from_target))] => {
            halves[0].append(&from_client);
            halves[1].append(&from_target);
            [client, target]
        }
        ends => {
            ends.iter().flatten().for_each(|(plain, _)| plain.abort_on_close());
            return None;
        }
    };
    let mut join = splicer.go_on(ends, halves, meter.clone());
    let ending = poll_fn(|context| {
        if cancel.poll(context) {
            join.cancel();
        }
        Pin::new(&mut join).poll(context)
    });
    Some(ending.await)
}
