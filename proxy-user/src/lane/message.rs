//! Messages of a lane: two bytes of length, then prost; capped and timed.

use std::io;
use std::time::Duration;

use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use self::pb::lane_message::What;

/// What `build.rs` makes of `proto/lane.proto`; prost types stop at this module's siblings.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub(super) mod pb {
    tonic::include_proto!("konduit.lane.v1");
}

/// The largest message: a dial with a name of 255 bytes and an error text are far below it.
pub const MAX_MESSAGE: usize = 4096;

/// Why the talk on a lane ended.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    #[error("the lane's peer said nothing for {0:?}")]
    Timeout(Duration),
    #[error("the lane ended: {0}")]
    Io(#[from] io::Error),
    #[error("the lane's peer closed it")]
    Closed,
    #[error("the lane's peer sent a message of {0} bytes; at most {MAX_MESSAGE} are allowed")]
    TooLong(usize),
    #[error("the lane's peer sent bytes that are no message: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("the lane's peer said something else than the protocol allows here")]
    Unexpected,
    #[error("the server refused the lane: {0}")]
    Refused(super::Refusal),
}

impl TalkError {
    /// What the peer said is nothing that an agent says.
    pub(super) fn is_of_a_stranger(&self) -> bool {
        match self {
            TalkError::TooLong(_) | TalkError::Decode(_) | TalkError::Unexpected => true,
            TalkError::Io(error) => error.kind() == io::ErrorKind::InvalidData,
            TalkError::Timeout(_) | TalkError::Closed | TalkError::Refused(_) => false,
        }
    }
}

/// Writes one message, in a record of its own, and flushes it.
pub(super) async fn say<S: AsyncWrite + Unpin>(
    lane: &mut S,
    what: impl Into<What>,
    within: Duration,
) -> Result<(), TalkError> {
    let bytes = encode(what)?;
    let write = async {
        lane.write_all(&bytes).await?;
        lane.flush().await
    };
    timeout(within, write).await.map_err(|_| TalkError::Timeout(within))?.map_err(TalkError::Io)
}

/// One message as it is written.
pub(super) fn encode(what: impl Into<What>) -> Result<Vec<u8>, TalkError> {
    let message = pb::LaneMessage { what: Some(what.into()) };
    let length = message.encoded_len();
    let prefix =
        u16::try_from(length).ok().filter(|_| length <= MAX_MESSAGE).ok_or(TalkError::TooLong(length))?;
    let mut bytes = Vec::with_capacity(2 + length);
    bytes.extend_from_slice(&prefix.to_be_bytes());
    message.encode_raw(&mut bytes);
    Ok(bytes)
}

/// The next message. Not to be dropped half-way on a lane that is used afterwards.
pub(super) async fn hear<S: AsyncRead + Unpin>(lane: &mut S, within: Duration) -> Result<What, TalkError> {
    timeout(within, hear_in_time(lane)).await.map_err(|_| TalkError::Timeout(within))?
}

/// The next message, however long it takes to begin; once begun it must be there `within`.
pub(super) async fn hear_whenever<S: AsyncRead + Unpin>(
    lane: &mut S,
    within: Duration,
) -> Result<What, TalkError> {
    let first = lane.read_u8().await.map_err(closed)?;
    timeout(within, rest(lane, first)).await.map_err(|_| TalkError::Timeout(within))?
}

async fn hear_in_time<S: AsyncRead + Unpin>(lane: &mut S) -> Result<What, TalkError> {
    let first = lane.read_u8().await.map_err(closed)?;
    rest(lane, first).await
}

async fn rest<S: AsyncRead + Unpin>(lane: &mut S, first: u8) -> Result<What, TalkError> {
    let second = lane.read_u8().await.map_err(closed)?;
    let length = usize::from(u16::from_be_bytes([first, second]));
    if length > MAX_MESSAGE {
        return Err(TalkError::TooLong(length));
    }
    let mut body = vec![0; length];
    lane.read_exact(&mut body).await.map_err(closed)?;
    match pb::LaneMessage::decode(body.as_slice())?.what {
        Some(What::Refused(refused)) => Err(TalkError::Refused(refused.refusal().into())),
        Some(what) => Ok(what),
        None => Err(TalkError::Unexpected),
    }
}

fn closed(error: io::Error) -> TalkError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TalkError::Closed,
        _ => TalkError::Io(error),
    }
}

macro_rules! into_what {
    ($($name:ident),*) => {$(
        impl From<pb::$name> for What {
            fn from(message: pb::$name) -> What {
                What::$name(message)
            }
        }
    )*};
}
into_what!(ServerHello, AgentHello, Refused, Dial, Dialing, Answer, Joined, Ping, Pong);

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_message_arrives_byte_by_byte() {
        let (mut near, mut far) = tokio::io::duplex(1);
        let dial = pb::Dial { number: 7, attempt: 1, protocol: "tcp".into(), address: "[::1]:80".into() };
        let said = What::Dial(dial.clone());
        let (told, heard) = tokio::join!(say(&mut near, dial, SOON), hear(&mut far, SOON));
        told.unwrap();
        assert_eq!(heard.unwrap(), said);
    }

    #[tokio::test]
    async fn a_length_over_the_cap_is_refused_before_anything_is_allocated() {
        let (mut near, mut far) = tokio::io::duplex(64);
        near.write_all(&4097u16.to_be_bytes()).await.unwrap();
        assert!(matches!(hear(&mut far, SOON).await, Err(TalkError::TooLong(4097))));
        let long = pb::Answer { number: 1, reason: 1, error: "x".repeat(5000) };
        assert!(matches!(say(&mut near, long, SOON).await, Err(TalkError::TooLong(_))));
    }

    #[tokio::test]
    async fn garbage_silence_and_an_end_each_have_their_name() {
        let (mut near, mut far) = tokio::io::duplex(64);
        near.write_all(&[0, 2, 0xff, 0xff]).await.unwrap();
        assert!(matches!(hear(&mut far, SOON).await, Err(TalkError::Decode(_))));
        near.write_all(&[0, 0]).await.unwrap();
        assert!(matches!(hear(&mut far, SOON).await, Err(TalkError::Unexpected)));
        near.write_all(&[0]).await.unwrap();
        let brief = Duration::from_millis(20);
        assert!(matches!(hear_whenever(&mut far, brief).await, Err(TalkError::Timeout(_))));
        drop(near);
        assert!(matches!(hear(&mut far, SOON).await, Err(TalkError::Closed)));
    }
}
