//! The agent answers dials: on idle lanes, and on lanes of their own for those that came over the control stream.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::time::{sleep, timeout};

use super::carried::Home;
use super::carrier::{Lane, disturbed};
use super::counters::OnMux;
use super::message::{TalkError, hear, hear_whenever, pb, say};
use super::open::{AgentStream, Idle, LaneFlow};
use super::opener::Stream;
use crate::flow::{DialError, Path};
use crate::splice::End;
use pb::lane_message::What;

/// A target that answers faster than this needs no "dialing" before the answer.
const SAY_DIALING_AFTER: Duration = Duration::from_millis(250);
/// For one message to be written or, once begun, read.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// An error's text on the wire.
const MAX_TEXT: usize = 1024;

/// What became of a dial that asked for its answer on a lane.
pub enum Answered<T> {
    /// The flow is on the lane; join it.
    Lane(End, Path, T),
    /// No lane came in time: answer on the control stream, the flow stays there.
    Mux(T),
    /// The target did not answer: say so on the control stream.
    Failed(DialError),
    /// The server knows already, or gave the dial up: say nothing.
    Over,
}

impl Stream {
    /// An idle lane: answers pings and dials until one of them takes it.
    pub(super) async fn serve(self: &Arc<Self>, mut lane: Lane, _slot: Idle) {
        let silence = self.shared.config.silence;
        let mut off = pin!(self.shared.switched_off());
        loop {
            let Ok(wire) = lane.wire() else { return };
            let heard = select! {
                heard = timeout(silence, hear_whenever(wire, MESSAGE_TIMEOUT)) => heard,
                () = &mut off => return,
            };
            let heard = heard.unwrap_or(Err(TalkError::Timeout(silence)));
            match heard {
                Ok(What::Ping(_)) => {
                    if say(wire, pb::Pong {}, MESSAGE_TIMEOUT).await.is_err() {
                        return;
                    }
                }
                Ok(What::Dial(dial)) => match self.serve_dial(lane, dial).await {
                    Some(again) => lane = again,
                    None => return,
                },
                Ok(_) => return tracing::debug!(error = %TalkError::Unexpected, "closed an idle lane"),
                Err(TalkError::Refused(refusal)) => return self.refused(refusal),
                Err(error) => return tracing::debug!(%error, "an idle lane ended"),
            }
        }
    }

    /// Gives the lane back when the dial failed.
    async fn serve_dial(self: &Arc<Self>, mut lane: Lane, dial: pb::Dial) -> Option<Lane> {
        lane.engage();
        let number = dial.number;
        if !self.admit(number, dial.attempt) {
            return None;
        }
        let target = {
            let mut dialing = pin!(self.host.dial(&dial.protocol, &dial.address));
            let mut late = pin!(sleep(SAY_DIALING_AFTER));
            let mut told = false;
            loop {
                select! {
                    // A target that answers at once costs no timer.
                    biased;
                    target = &mut dialing => break target,
                    () = &mut late, if !told => {
                        told = true;
                        say(lane.wire().ok()?, pb::Dialing { number }, MESSAGE_TIMEOUT).await.ok()?;
                    }
                    () = disturbed(&mut lane) => {
                        self.shared.counters.abandoned();
                        return None;
                    }
                }
            }
        };
        match target {
            Ok(target) => {
                say(lane.wire().ok()?, good(number), MESSAGE_TIMEOUT).await.ok()?;
                let (lane, path) = lane.into_end(self.clone());
                let pb::Dial { protocol, address, .. } = dial;
                self.host.carry(LaneFlow { lane, path, target, protocol, address });
                None
            }
            Err(error) => {
                say(lane.wire().ok()?, bad(number, &error), MESSAGE_TIMEOUT).await.ok()?;
                lane.disengage();
                Some(lane)
            }
        }
    }
}

impl AgentStream {
    /// Answers a dial that came over the control stream and asked for its answer on a lane: `dial` goes to the
    /// target while a lane is opened. Dropping the future abandons both.
    pub async fn answer<T>(
        &self,
        number: u64,
        dial: impl Future<Output = Result<T, DialError>>,
    ) -> Answered<T> {
        let stream = &self.stream;
        stream.admit(number, u32::MAX);
        let mut pending = Pending { stream, number, lane: stream.pend(number) };
        let opened = stream.open(1);
        let mut dial = pin!(dial);
        let lane = select! {
            target = &mut dial => match target {
                Err(error) => return Answered::Failed(error),
                Ok(target) => {
                    if let Err(why) = opened {
                        return pending.on_mux(target, why);
                    }
                    match timeout(stream.shared.config.wait, &mut pending.lane).await {
                        Ok(Ok(lane)) => return stream.good(lane, number, target).await,
                        Ok(Err(_)) => return pending.on_mux(target, OnMux::Lost),
                        Err(_) => return pending.on_mux(target, OnMux::Late),
                    }
                }
            },
            lane = &mut pending.lane => lane,
        };
        let Ok(mut lane) = lane else {
            return match dial.await {
                Ok(target) => pending.on_mux(target, OnMux::Lost),
                Err(error) => Answered::Failed(error),
            };
        };
        lane.engage();
        let heard = async { hear_whenever(lane.wire()?, MESSAGE_TIMEOUT).await };
        let target = select! {
            target = &mut dial => target,
            heard = heard => {
                // The server refused the lane or gave up the dial, or the lane broke.
                if let Err(TalkError::Refused(refusal)) = heard {
                    stream.refused(refusal);
                }
                drop(lane);
                match dial.await {
                    Ok(target) => return pending.on_mux(target, OnMux::Lost),
                    Err(error) => return Answered::Failed(error),
                }
            }
        };
        match target {
            Ok(target) => stream.good(lane, number, target).await,
            Err(error) => stream.bad(lane, number, error).await,
        }
    }
}

impl Stream {
    async fn good<T>(self: &Arc<Self>, mut lane: Lane, number: u64, target: T) -> Answered<T> {
        lane.engage();
        let joined = async {
            let wire = lane.wire()?;
            say(wire, good(number), MESSAGE_TIMEOUT).await?;
            match hear(wire, MESSAGE_TIMEOUT).await? {
                What::Joined(joined) if joined.number == number => Ok(()),
                _ => Err(TalkError::Unexpected),
            }
        };
        let ended = match joined.await {
            Ok(()) => {
                let (lane, path) = lane.into_end(self.clone());
                return Answered::Lane(lane, path, target);
            }
            Err(error) => error,
        };
        tracing::debug!(error = %ended, "a lane was lost before it carried its flow");
        if let TalkError::Refused(refusal) = ended {
            self.refused(refusal);
        }
        self.shared.counters.on_mux(OnMux::Lost);
        Answered::Mux(target)
    }

    async fn bad<T>(self: &Arc<Self>, mut lane: Lane, number: u64, error: DialError) -> Answered<T> {
        let told = match lane.wire() {
            Ok(wire) => say(wire, bad(number, &error), MESSAGE_TIMEOUT).await.is_ok(),
            Err(_) => false,
        };
        if !told {
            return Answered::Failed(error);
        }
        // Its answer is said: a reset could destroy it.
        lane.disengage();
        self.clone().take_back(lane);
        Answered::Over
    }
}

impl Home for Stream {
    /// Serves on, on a lane that has no dial any more, if there is room for one more idle lane.
    fn take_back(self: Arc<Self>, lane: Lane) {
        let Some(slot) = self.shared.slot() else { return };
        if self.ended.is_cancelled() {
            return;
        }
        // Without a runtime the process ends, and the lane with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let ended = self.ended.clone();
            runtime.spawn(ended.run_until_cancelled_owned(async move { self.serve(lane, slot).await }));
        }
    }
}

/// A dial that waits for its lane; dropping it withdraws it.
struct Pending<'a> {
    stream: &'a Stream,
    number: u64,
    lane: tokio::sync::oneshot::Receiver<Lane>,
}

impl Pending<'_> {
    fn on_mux<T>(&self, target: T, why: OnMux) -> Answered<T> {
        self.stream.shared.counters.on_mux(why);
        Answered::Mux(target)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.stream.unpend(self.number);
    }
}

fn good(number: u64) -> pb::Answer {
    pb::Answer { number, reason: 0, error: String::new() }
}

fn bad(number: u64, error: &DialError) -> pb::Answer {
    let mut text = error.text.clone();
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    pb::Answer { number, reason: error.reason as u32, error: text }
}
