//! A word at its moment, and what the server makes of it.

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::super::lane::shaped;
use super::super::{Carried, Heard, Lane, Shape, Then, Word};
use super::agent::{Agent, Late, opened, refused};
use super::{Case, Moment};
use crate::cell::LONG;
use crate::rest;

impl Agent {
    /// With another lane where a machine was too busy for one; a server that always gives up is none of its doing.
    pub(super) async fn play(mut self) {
        for _ in 0..3 {
            if self.play_once().await.is_ok() {
                return;
            }
        }
        panic!("the server never waits for what follows a dial");
    }

    async fn play_once(&mut self) -> Result<(), Late> {
        let Case { moment, word, shape, raw, .. } = self.case;
        let (mut lane, client) = self.at(moment).await?;
        let said = word.bytes(&self.about);
        lane.say_as(&said, shape).await;
        match (moment, client) {
            (Moment::Hello, _) => {
                let heard = lane.ends().await;
                let shown = matches!(word, Word::AgentHello | Word::ForgersHello) && !shape.is_half();
                // What comes last is a refusal: tag 3, two bytes, its number.
                assert_eq!(
                    heard.ends_with(&[0x1a, 2, 8, if word == Word::AgentHello { 8 } else { 2 }]),
                    shown
                );
            }
            // Nothing may come on a lane that waits: the next dial goes elsewhere.
            (_, None) => {
                let client = self.client().await;
                let request = self.asked().await;
                self.refuse(&request);
                refused(client).await;
                lane.ends().await;
            }
            (Moment::Flow | Moment::Joined, Some(client)) => {
                carried(client, &Carried::of(&shaped(&said, shape), shape, raw), shape).await;
            }
            (_, Some(client)) => self.pending(&mut lane, client).await?,
        }
        Ok(())
    }

    /// A dial waits for its answer on the lane.
    async fn pending(&mut self, lane: &mut Lane, mut client: UnixStream) -> Result<(), Late> {
        let Case { moment, word, shape, .. } = self.case;
        match (word, shape) {
            (Word::Dialing, Shape::Whole) if moment == Moment::Dialled => {
                lane.say(&Word::Bad.bytes(&self.about)).await;
                return self.in_time(refused(client)).await;
            }
            (Word::Good, Shape::Whole | Shape::Glued) => {
                if moment == Moment::Claimed {
                    assert_eq!(lane.hear().await, Some(Heard::Joined(self.about.dial)));
                }
                self.in_time(opened(&mut client)).await?;
                carried(client, &Carried::of(&shaped(&[], shape), shape, true), shape).await;
                return Ok(());
            }
            (Word::Bad, Shape::Whole | Shape::Glued) => return self.in_time(refused(client)).await,
            // Waited for, as long as a client does.
            (_, Shape::Half) if moment == Moment::Acknowledged => drop(client),
            _ => {
                let request = match self.claimed.take() {
                    Some(request) => request,
                    None => self.asked().await,
                };
                self.refuse(&request);
                refused(client).await;
            }
        }
        lane.ends().await;
        Ok(())
    }
}

async fn carried(mut client: UnixStream, expected: &Carried, shape: Shape) {
    let mut bytes = vec![0; expected.bytes.len()];
    if expected.then == Then::Abort {
        // What came before may be lost with it.
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(LONG, client.read_to_end(&mut bytes)).await;
        let _ = read.expect("the client's connection stays open");
        return assert!(expected.bytes.starts_with(&bytes), "{bytes:?} of {expected:?}");
    }
    tokio::time::timeout(LONG, client.read_exact(&mut bytes)).await.expect("no bytes").unwrap();
    assert_eq!(bytes, expected.bytes, "{shape:?}");
    if expected.then == Then::End {
        assert_eq!(rest(&mut client).await, "");
    }
}
