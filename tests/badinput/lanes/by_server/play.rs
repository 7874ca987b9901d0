//! A word at its moment, and what the agent makes of it.

use proxy_tests::runner::until;
use proxy_user::wire::ids::DialId;
use proxy_user::wire::packet::{Answer, DialResponse, Packet};

use super::super::lane::shaped;
use super::super::{Carried, Heard, Lane, Shape, Then, Word};
use super::server::{NOWHERE, Server, answer};
use super::{Case, Moment};

impl Server {
    pub(super) async fn play(mut self) {
        let Case { moment, word, shape, raw } = self.case;
        let dial = self.about.dial;
        let mut lane = self.at(moment).await;
        let said = word.bytes(&self.about);
        lane.say_as(&said, shape).await;
        match (moment, word, shape) {
            (Moment::Flow | Moment::Joined, ..) => {
                return self.carried(&Carried::of(&shaped(&said, shape), shape, raw)).await;
            }
            (Moment::Hello, Word::ServerHello, Shape::Whole) => {
                assert_eq!(lane.hear().await, Some(Heard::AgentHello));
                return self.serves(lane).await;
            }
            (Moment::Warm | Moment::Again | Moment::Ended, Word::Ping, Shape::Whole) => {
                assert_eq!(lane.hear().await, Some(Heard::Pong));
                return self.serves(lane).await;
            }
            (Moment::Warm | Moment::Again | Moment::Ended, Word::Dial, Shape::Whole) => {
                assert_eq!(answer(&mut lane, self.about.dial).await, Some(Heard::Bad(self.about.dial)));
                return self.serves(lane).await;
            }
            (Moment::Answered, Word::Joined, Shape::Whole | Shape::Glued) => {
                return self.carried(&Carried::of(&shaped(&[], shape), shape, raw)).await;
            }
            // Its flow goes over the control stream.
            (Moment::Answered, ..) => {
                let outcome = match self.call.hear().await {
                    Some(Packet::DialResponse(DialResponse { dial: to, outcome })) if to.0 == dial as i64 => {
                        outcome
                    }
                    other => panic!("{other:?}"),
                };
                let Ok(Answer::Here(conn)) = outcome else { panic!("{outcome:?}") };
                self.call.say(Packet::Data { conn, data: "ping".into() });
                self.carried(&Carried { bytes: b"ping".to_vec(), then: Then::More }).await;
            }
            (Moment::Claimed, ..) => self.call.say(Packet::CloseDial { dial: DialId(dial as i64) }),
            _ => {}
        }
        lane.ends().await;
    }

    /// This, and nothing else, gets to the target.
    async fn carried(&self, expected: &Carried) {
        let then = match expected.then {
            Then::More => None,
            Then::End => Some(true),
            Then::Abort => Some(false),
        };
        let what = format!("{expected:?} to reach the target");
        // What came before an abort may be lost with it.
        let fits = |bytes: &[u8]| {
            bytes == expected.bytes || then == Some(false) && expected.bytes.starts_with(bytes)
        };
        let met =
            || matches!(&*self.reached.lock().unwrap(), (bytes, ended) if fits(bytes) && *ended == then);
        until(&what, met).await.unwrap();
    }

    /// The lane is as good as before.
    async fn serves(&mut self, mut lane: Lane) {
        self.about.dial += 10_000_000;
        lane.say(&self.dial(NOWHERE)).await;
        assert_eq!(answer(&mut lane, self.about.dial).await, Some(Heard::Bad(self.about.dial)));
    }
}
