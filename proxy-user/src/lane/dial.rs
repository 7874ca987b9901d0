//! The server's dial on a lane: warm, or opened for it by the agent; else on the mux.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;

use tokio::select;
use tokio::time::timeout;

use super::carrier::Lane;
use super::message::{TalkError, hear, pb, say};
use super::pool::{Pool, Waiting};
use super::server::StreamLanes;
use crate::flow::{DialError, DialReason, Path};
use crate::splice::End;
use pb::lane_message::What;

/// Warm lanes tried for one dial before it goes over the control stream.
const ATTEMPTS: u32 = 2;

/// Where a dial ended up.
pub enum Dialled<M> {
    Lane(End, Path),
    /// What the dial over the control stream gave, and why it went there.
    Mux(M, Fallback),
}

/// Why a flow travels as packets and not on a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This server has its lanes off, by flag or for now.
    LanesOff,
    /// The agent offered no lanes: an upstream one, or one with its lanes off.
    PeerWithoutLanes,
    /// As many dials wait for a lane as may.
    TooManyWaiting,
    /// No lane was warm, and dials come faster than lanes are worth opening.
    ManyDials,
    /// The agent was asked to answer on a lane and did not; its own counters say why.
    AnsweredByAgent,
}

impl Fallback {
    pub const ALL: [Fallback; 5] = [
        Fallback::LanesOff,
        Fallback::PeerWithoutLanes,
        Fallback::TooManyWaiting,
        Fallback::ManyDials,
        Fallback::AnsweredByAgent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Fallback::LanesOff => "lanes_off",
            Fallback::PeerWithoutLanes => "peer_without_lanes",
            Fallback::TooManyWaiting => "too_many_waiting",
            Fallback::ManyDials => "many_dials",
            Fallback::AnsweredByAgent => "answered_by_agent",
        }
    }
}

/// How a dial on a warm lane ended, short of success.
enum Warm {
    /// The target did not answer; the lane is as good as before.
    Failed(DialError),
    /// The lane is gone; nothing was joined on it.
    Lost(TalkError),
    /// The control stream ended meanwhile.
    Ended,
}

impl StreamLanes {
    /// Dials `address` by the best way there is. `on_mux` dials over the control stream: with the number under
    /// which the agent may answer on a lane, or 0 for the mux only. Its future is dropped when a lane carried
    /// the answer; until then the agent may fall back to it.
    ///
    /// Dropping the future abandons the dial.
    ///
    /// # Errors
    /// What the agent says of the target, or that the control stream ended.
    pub async fn dial<M, F>(
        &self,
        protocol: &str,
        address: &str,
        on_mux: impl FnOnce(u64) -> F,
    ) -> Result<Dialled<M>, DialError>
    where
        F: Future<Output = Result<M, DialError>>,
    {
        if self.pool.shared.off.load(Ordering::Relaxed) {
            return on_mux(0).await.map(|answer| Dialled::Mux(answer, Fallback::LanesOff));
        }
        let counters = &self.pool.shared.counters;
        let number = self.pool.shared.number();
        for attempt in 1..=ATTEMPTS {
            let Some(mut lane) = self.pool.take() else { break };
            let dial = pb::Dial { number, attempt, protocol: protocol.into(), address: address.into() };
            match on_warm(&self.pool, &mut lane, dial).await {
                Ok(()) => {
                    counters.on_warm();
                    let (end, path) = lane.into_end(self.pool.clone());
                    return Ok(Dialled::Lane(end, path));
                }
                Err(Warm::Failed(error)) => {
                    lane.disengage();
                    self.pool.give_back(lane);
                    return Err(error);
                }
                Err(Warm::Lost(error)) => {
                    tracing::debug!(%error, "a lane was lost under a dial");
                    if let TalkError::Timeout(_) = error {
                        // A second lane like it would cost a second time.
                        counters.lost_in_dial();
                        self.pool.suspect(lane.heard);
                        break;
                    }
                }
                Err(Warm::Ended) => return Err(agent_lost()),
            }
            counters.lost_in_dial();
        }
        if !self.pool.affords() {
            return on_mux(0).await.map(|answer| Dialled::Mux(answer, Fallback::ManyDials));
        }
        let Some(waiting) = self.pool.wait(number) else {
            return on_mux(0).await.map(|answer| Dialled::Mux(answer, Fallback::TooManyWaiting));
        };
        self.over_control(number, waiting, on_mux(number)).await
    }

    /// The dial went over the control stream; the answer comes there or on a lane.
    async fn over_control<M>(
        &self,
        number: u64,
        mut waiting: Waiting,
        on_mux: impl Future<Output = Result<M, DialError>>,
    ) -> Result<Dialled<M>, DialError> {
        let counters = &self.pool.shared.counters;
        let mut on_mux = pin!(on_mux);
        let on_lane = async {
            let mut lane = waiting.lane().await?;
            match on_claimed(&self.pool, &mut lane, number).await {
                Ok(()) => Some(Ok(lane.into_end(self.pool.clone()))),
                Err(Warm::Failed(error)) => {
                    lane.disengage();
                    self.pool.give_back(lane);
                    Some(Err(error))
                }
                Err(Warm::Lost(error)) => {
                    tracing::debug!(%error, "a lane was lost before it carried its flow");
                    counters.lost_in_dial();
                    None
                }
                Err(Warm::Ended) => Some(Err(agent_lost())),
            }
        };
        let by_mux = select! {
            answered = on_lane => match answered {
                Some(Ok((end, path))) => {
                    counters.on_new();
                    return Ok(Dialled::Lane(end, path));
                }
                Some(Err(error)) => return Err(error),
                // The agent sees the same and answers on the control stream, unless it said a failure already.
                None => match timeout(self.pool.shared.config.answer, on_mux).await {
                    Ok(answered) => answered,
                    Err(_) => Err(DialError::new(DialReason::AgentTimeout, "timed out waiting for backend dial")),
                },
            },
            answered = &mut on_mux => answered,
        };
        by_mux.map(|answer| Dialled::Mux(answer, Fallback::AnsweredByAgent))
    }
}

/// Says the dial and hears its answer.
async fn on_warm(pool: &Pool, lane: &mut Lane, dial: pb::Dial) -> Result<(), Warm> {
    let config = &pool.shared.config;
    let number = dial.number;
    let wire = lane.wire().map_err(Warm::Lost)?;
    let talk = async {
        say(wire, dial, config.ack).await?;
        match hear(wire, config.ack).await? {
            What::Dialing(dialing) if dialing.number == number => hear(wire, config.answer).await,
            other => Ok(other),
        }
    };
    select! {
        heard = talk => verdict(heard, number)?,
        () = pool.ended.cancelled() => return Err(Warm::Ended),
    }
    // Not before the agent spoke: it may still have the last flow's end to read, which a reset would destroy.
    lane.engage();
    Ok(())
}

/// Hears the answer on a lane that the agent opened for the dial, and says that the flow is on it.
async fn on_claimed(pool: &Pool, lane: &mut Lane, number: u64) -> Result<(), Warm> {
    let config = &pool.shared.config;
    lane.engage();
    let wire = lane.wire().map_err(Warm::Lost)?;
    select! {
        heard = hear(wire, config.answer) => verdict(heard, number)?,
        () = pool.ended.cancelled() => return Err(Warm::Ended),
    }
    say(wire, pb::Joined { number }, config.ack).await.map_err(Warm::Lost)
}

fn verdict(heard: Result<What, TalkError>, number: u64) -> Result<(), Warm> {
    match heard {
        Ok(What::Answer(answer)) if answer.number == number => match answer.reason {
            0 => Ok(()),
            reason => Err(Warm::Failed(DialError::new(DialReason::from_wire(reason), answer.error))),
        },
        Ok(_) => Err(Warm::Lost(TalkError::Unexpected)),
        Err(error) => Err(Warm::Lost(error)),
    }
}

/// In upstream's words.
fn agent_lost() -> DialError {
    DialError::new(DialReason::AgentLost, "context canceled")
}
