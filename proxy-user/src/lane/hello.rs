//! First words on a lane: the server says who it is, the agent shows the ticket it holds for that server.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::message::{TalkError, encode, hear, pb, say};
use super::{Refusal, Ticket};
use pb::lane_message::What;

pub use crate::wire::metadata::LANE_VERSION;
/// The ALPN name of a lane.
pub const ALPN_LANE: &[u8] = b"konduit-lane/1";
/// How long either side waits for the other's next word of the hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// What may carry a flow after the join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Security {
    /// TLS goes on.
    #[default]
    Encrypt,
    /// Both sides leave TLS and go on in clear.
    Raw,
}

impl Security {
    /// What both ends allow: the stricter of the two.
    pub fn with(self, peer: Security) -> Security {
        match (self, peer) {
            (Security::Raw, Security::Raw) => Security::Raw,
            _ => Security::Encrypt,
        }
    }

    fn to_wire(self) -> i32 {
        match self {
            Security::Encrypt => pb::Security::Encrypt as i32,
            Security::Raw => pb::Security::Raw as i32,
        }
    }

    /// Whatever is not understood is the stricter one.
    fn from_wire(number: i32) -> Security {
        if number == pb::Security::Raw as i32 { Security::Raw } else { Security::Encrypt }
    }
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerWords {
    pub(super) server_id: String,
    pub(super) security: Security,
}

/// What an agent answers.
#[derive(Debug)]
pub(super) struct AgentWords {
    pub(super) stream: bytes::Bytes,
    pub(super) secret: bytes::Bytes,
    pub(super) security: Security,
    /// The dial that this lane was opened for.
    pub(super) dial: Option<u64>,
}

impl ServerWords {
    /// The server's first message.
    pub(super) fn encode(&self) -> Result<Vec<u8>, TalkError> {
        encode(pb::ServerHello {
            version: LANE_VERSION,
            server_id: self.server_id.clone(),
            security: self.security.to_wire(),
        })
    }
}

/// Server: hears the ticket, after its own first message.
pub(super) async fn hear_agent<S: AsyncRead + Unpin>(lane: &mut S) -> Result<AgentWords, TalkError> {
    match hear(lane, HELLO_TIMEOUT).await? {
        What::AgentHello(hello) => Ok(AgentWords {
            security: Security::from_wire(hello.security),
            dial: (hello.dial != 0).then_some(hello.dial),
            stream: hello.stream,
            secret: hello.secret,
        }),
        _ => Err(TalkError::Unexpected),
    }
}

/// Agent: hears which server the lane reached.
pub(super) async fn hear_server<S: AsyncRead + Unpin>(lane: &mut S) -> Result<ServerWords, TalkError> {
    match hear(lane, HELLO_TIMEOUT).await? {
        What::ServerHello(hello) if hello.version >= LANE_VERSION => {
            Ok(ServerWords { server_id: hello.server_id, security: Security::from_wire(hello.security) })
        }
        _ => Err(TalkError::Unexpected),
    }
}

/// Agent: shows the ticket for the server that the lane reached.
pub(super) async fn show<S: AsyncWrite + Unpin>(
    lane: &mut S,
    ticket: &Ticket,
    security: Security,
    dial: Option<u64>,
) -> Result<(), TalkError> {
    let hello = pb::AgentHello {
        stream: bytes::Bytes::copy_from_slice(ticket.stream.as_bytes()),
        secret: bytes::Bytes::copy_from_slice(&ticket.secret),
        security: security.to_wire(),
        dial: dial.unwrap_or(0),
    };
    say(lane, hello, HELLO_TIMEOUT).await
}

impl From<Refusal> for pb::Refused {
    fn from(refusal: Refusal) -> pb::Refused {
        let refusal = match refusal {
            Refusal::UnknownStream => pb::Refusal::UnknownStream,
            Refusal::WrongSecret => pb::Refusal::WrongSecret,
            Refusal::EndedStream => pb::Refusal::EndedStream,
            Refusal::OtherCertificate => pb::Refusal::OtherCertificate,
            Refusal::OtherServer => pb::Refusal::OtherServer,
            Refusal::TooManyLanes => pb::Refusal::TooManyLanes,
            Refusal::TooManyFailures => pb::Refusal::TooManyFailures,
            Refusal::NotWanted => pb::Refusal::NotWanted,
            Refusal::NoSuchDial => pb::Refusal::NoSuchDial,
        };
        pb::Refused { refusal: refusal as i32 }
    }
}

impl From<pb::Refusal> for Refusal {
    fn from(refusal: pb::Refusal) -> Refusal {
        match refusal {
            pb::Refusal::Unspecified | pb::Refusal::UnknownStream => Refusal::UnknownStream,
            pb::Refusal::WrongSecret => Refusal::WrongSecret,
            pb::Refusal::EndedStream => Refusal::EndedStream,
            pb::Refusal::OtherCertificate => Refusal::OtherCertificate,
            pb::Refusal::OtherServer => Refusal::OtherServer,
            pb::Refusal::TooManyLanes => Refusal::TooManyLanes,
            pb::Refusal::TooManyFailures => Refusal::TooManyFailures,
            pb::Refusal::NotWanted => Refusal::NotWanted,
            pb::Refusal::NoSuchDial => Refusal::NoSuchDial,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::lane::ticket::Book;

    #[tokio::test]
    async fn the_server_speaks_first_and_hears_the_ticket() {
        let ticket = Book::new().unwrap().issue(None, Arc::new(())).unwrap();
        let (mut near, mut far) = tokio::io::duplex(4096);
        let words = ServerWords { server_id: "server-a".into(), security: Security::Raw };
        let agent = async {
            let heard = hear_server(&mut near).await.unwrap();
            show(&mut near, &ticket, Security::Encrypt, Some(5)).await.unwrap();
            heard
        };
        far.write_all(&words.encode().unwrap()).await.unwrap();
        let (heard, answered) = tokio::join!(agent, hear_agent(&mut far));
        let answered = answered.unwrap();
        assert_eq!(heard, words);
        assert_eq!(answered.stream, ticket.stream.as_bytes());
        assert_eq!(answered.secret, ticket.secret.as_slice());
        assert_eq!((answered.security, answered.dial), (Security::Encrypt, Some(5)));
    }

    #[tokio::test]
    async fn other_words_in_their_place_end_the_lane() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        say(&mut near, pb::Ping {}, HELLO_TIMEOUT).await.unwrap();
        assert!(matches!(hear_agent(&mut far).await, Err(TalkError::Unexpected)));
    }

    #[test]
    fn raw_needs_both_ends_and_refusals_keep_their_reason() {
        assert_eq!(Security::Raw.with(Security::Raw), Security::Raw);
        assert_eq!(Security::Raw.with(Security::Encrypt), Security::Encrypt);
        assert_eq!(Security::Encrypt.with(Security::Raw), Security::Encrypt);
        assert_eq!(Security::from_wire(77), Security::Encrypt);
        for refusal in Refusal::ALL {
            let wire = pb::Refused::from(refusal);
            assert_eq!(Refusal::from(wire.refusal()), refusal);
        }
    }
}
