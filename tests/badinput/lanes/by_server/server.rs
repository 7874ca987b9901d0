//! A server of a case's own, which brings a lane to its moment.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use proxy_tests::calls::Call;
use proxy_tests::targets::Target;
use proxy_user::wire::ids::DialId;
use proxy_user::wire::packet::{DialRequest, Packet};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::super::words::{self, About};
use super::super::{Heard, Lane, Word};
use super::stage::Stage;
use super::{Case, Moment};
use crate::cell::LONG;

/// A server of a case's own.
pub(super) struct Server {
    stage: Arc<Stage>,
    pub(super) case: Case,
    pub(super) call: Call,
    pub(super) about: About,
    target: Target,
    /// What has reached the target, and whether its end or an abort came behind.
    pub(super) reached: Arc<Mutex<(Vec<u8>, Option<bool>)>>,
}

/// An address where nobody listens.
pub(super) const NOWHERE: &str = "127.0.0.1:1";

impl Server {
    pub(super) async fn start(stage: Arc<Stage>, case: Case) -> Server {
        let next = tokio::time::timeout(LONG, async { stage.streams.lock().await.recv().await }).await;
        let (server, call) = next.expect("the agent stays away").unwrap();
        let dial = stage.next_dial.fetch_add(2, Ordering::Relaxed);
        let security = 1 + u64::from(case.raw);
        let about = About { server, ticket: [5; 48], security, claim: 0, dial, target: NOWHERE.to_owned() };
        let reached = Arc::new(Mutex::default());
        let target = Target::start(record(reached.clone())).await.unwrap();
        Server { stage, case, call, about, target, reached }
    }

    /// The lane that the agent opens when it hears this packet.
    async fn silent_lane(&mut self, packet: Packet) -> Lane {
        let mut lanes = self.stage.lanes.lock().await;
        self.call.say(packet);
        let lane = tokio::time::timeout(LONG, lanes.recv()).await.expect("no lane is opened").unwrap();
        let lane = Lane::new(lane.into());
        self.stage.played.lock().unwrap().push((format!("{:?}", self.case), lane.far));
        lane
    }

    async fn lane(&mut self, packet: Packet) -> Lane {
        let mut lane = self.silent_lane(packet).await;
        lane.say(&Word::ServerHello.bytes(&self.about)).await;
        assert_eq!(lane.hear().await, Some(Heard::AgentHello));
        lane
    }

    async fn warm(&mut self) -> Lane {
        self.lane(Packet::WantLanes { lanes: 1 }).await
    }

    async fn claimed(&mut self, address: String) -> Lane {
        let dial = DialId(self.about.dial as i64);
        let protocol = "tcp".to_owned();
        let request = DialRequest { dial, protocol, address, lane_dial: self.about.dial };
        self.lane(Packet::DialRequest(request)).await
    }

    pub(super) fn dial(&self, target: &str) -> Vec<u8> {
        words::dial(self.about.dial, 1, target)
    }

    /// Brings a lane to the moment.
    pub(super) async fn at(&mut self, moment: Moment) -> Lane {
        let dial = self.about.dial;
        let (target, dark) = (self.target.name(), self.stage.dark.address.to_string());
        match moment {
            Moment::Hello => self.silent_lane(Packet::WantLanes { lanes: 1 }).await,
            Moment::Warm => self.warm().await,
            Moment::Dialled | Moment::Acknowledged => {
                let mut lane = self.warm().await;
                lane.say(&self.dial(&dark)).await;
                if moment == Moment::Acknowledged {
                    assert_eq!(lane.hear().await, Some(Heard::Dialing(dial)));
                }
                lane
            }
            Moment::Again => {
                let mut lane = self.warm().await;
                lane.say(&self.dial(NOWHERE)).await;
                assert_eq!(lane.hear().await, Some(Heard::Bad(dial)));
                // A number is served once.
                self.about.dial += 1;
                lane
            }
            Moment::Flow | Moment::Ended => {
                let mut lane = self.warm().await;
                lane.say(&self.dial(&target)).await;
                assert_eq!(answer(&mut lane, dial).await, Some(Heard::Good(dial)));
                if moment == Moment::Ended {
                    lane.say(&[0, 0]).await;
                    assert_eq!(lane.flow(1).await, (Vec::new(), true));
                    self.about.dial += 1;
                }
                lane
            }
            Moment::Claimed => self.claimed(dark).await,
            Moment::Answered | Moment::Joined => {
                let mut lane = self.claimed(target).await;
                assert_eq!(lane.hear().await, Some(Heard::Good(dial)));
                if moment == Moment::Joined {
                    lane.say(&Word::Joined.bytes(&self.about)).await;
                }
                lane
            }
        }
    }
}

/// The answer to a dial, acknowledged before or not.
pub(super) async fn answer(lane: &mut Lane, dial: u64) -> Option<Heard> {
    match lane.hear().await {
        Some(Heard::Dialing(acknowledged)) if acknowledged == dial => lane.hear().await,
        heard => heard,
    }
}

/// A target that says nothing, and leaves when the other side did.
fn record(
    reached: Arc<Mutex<(Vec<u8>, Option<bool>)>>,
) -> impl Fn(TcpStream) -> futures_util::future::BoxFuture<'static, ()> {
    move |mut stream| {
        let reached = reached.clone();
        Box::pin(async move {
            loop {
                match stream.read_u8().await {
                    Ok(byte) => reached.lock().unwrap().0.push(byte),
                    Err(error) => {
                        let well = error.kind() == std::io::ErrorKind::UnexpectedEof;
                        reached.lock().unwrap().1 = Some(well);
                        return;
                    }
                }
            }
        })
    }
}
