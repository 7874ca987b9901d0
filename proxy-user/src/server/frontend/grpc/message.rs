//! What gRPC messages with packets are made of, and what is wrong with one.

use bytes::Bytes;

use crate::wire::ids::ConnId;
use crate::wire::packet::{MAX_PACKET, Packet, PacketError};

/// Compressed flag and length in front of every gRPC message.
pub(super) const PREFIX: usize = 5;
/// No DATA packet has more bytes in front of its payload: type, payload tag and length, connection id, data tag
/// and length.
pub(super) const LONGEST_HEAD: usize = PREFIX + 2 + 1 + 5 + 11 + 1 + 5;
/// `type: DATA`, then the tag of its payload.
pub(super) const DATA_TYPE: [u8; 3] = [0x08, 0x04, 0x22];

/// A stream that does not carry packets as agreed. Each has a gRPC status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("grpc: received message larger than max ({0} vs. {MAX_PACKET})")]
    TooLarge(usize),
    #[error("grpc: Decompressor is not installed for grpc-encoding")]
    Compressed,
    #[error("grpc: failed to unmarshal the received message: {0}")]
    Malformed(prost::DecodeError),
    #[error(transparent)]
    Mismatch(#[from] PacketError),
    #[error("unexpected EOF")]
    CutOff,
}

/// The status codes of gRPC that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Ok = 0,
    Canceled = 1,
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

impl Code {
    /// Go's name, as metrics have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Canceled => "Canceled",
            Code::InvalidArgument => "InvalidArgument",
            Code::ResourceExhausted => "ResourceExhausted",
            Code::Unimplemented => "Unimplemented",
            Code::Internal => "Internal",
            Code::Unavailable => "Unavailable",
        }
    }
}

impl MessageError {
    pub(super) fn code(&self) -> Code {
        match self {
            MessageError::TooLarge(_) => Code::ResourceExhausted,
            MessageError::Compressed => Code::Unimplemented,
            MessageError::Malformed(_) | MessageError::CutOff => Code::Internal,
            MessageError::Mismatch(_) => Code::InvalidArgument,
        }
    }
}

/// What comes out of a stream, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A part of a DATA packet; `first` is set on the packet's first part, which may be empty.
    Data {
        conn: ConnId,
        first: bool,
        part: Bytes,
    },
    Packet(Packet),
}

impl Item {
    /// The packet type that begins with this item.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self {
            Item::Data { first: true, .. } => Some("DATA"),
            Item::Data { first: false, .. } => None,
            Item::Packet(packet) => Some(packet.kind()),
        }
    }
}
