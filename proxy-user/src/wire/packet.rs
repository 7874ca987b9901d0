//! One packet of a control stream or a gRPC frontend stream, checked: its type and its payload belong together.

use bytes::Bytes;

use super::ids::{ConnId, DialId};
use super::pb::{self, PacketType, packet::Payload};
use crate::flow::{DialError, DialReason};

/// The most bytes a serialized packet may have; upstream's peers end the stream beyond it.
pub const MAX_PACKET: usize = 4 << 20;

/// The most flow bytes that are put into one packet.
pub const MAX_DATA: usize = 32 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    DialRequest(DialRequest),
    DialResponse(DialResponse),
    Data {
        conn: ConnId,
        data: Bytes,
    },
    CloseRequest {
        conn: ConnId,
    },
    CloseResponse {
        conn: ConnId,
        error: String,
    },
    CloseDial {
        dial: DialId,
    },
    Drain,
    /// Ours: the receiver may send `bytes` more of this flow; with 0 the sender says that it lacks such a grant.
    Window {
        conn: ConnId,
        bytes: u64,
    },
    /// Ours: the sender's direction of the flow ended cleanly.
    Fin {
        conn: ConnId,
    },
    /// Ours: the flow was aborted.
    Reset {
        conn: ConnId,
        reason: String,
    },
    /// Ours, server to agent: open this many lanes more.
    WantLanes {
        lanes: u32,
    },
    /// A type of a later version; to be ignored.
    Unknown(i32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialRequest {
    pub dial: DialId,
    pub protocol: String,
    pub address: String,
    /// Ours: answer on a lane with this number; 0 means answer on this stream.
    pub lane_dial: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialResponse {
    pub dial: DialId,
    pub outcome: Result<Answer, DialError>,
}

/// How a dial succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The flow runs on this stream under this id.
    Here(ConnId),
    /// The flow was joined on the lane that the request asked for.
    OnLane,
}

/// A packet whose payload is not the one its type announces. Upstream's processes panic on these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a packet of type {kind} came without its payload; the peer is broken, its stream ends")]
pub struct PacketError {
    pub kind: &'static str,
}

impl Packet {
    /// The enum name that metrics use as `packet_type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Packet::DialRequest(_) => "DIAL_REQ",
            Packet::DialResponse(_) => "DIAL_RSP",
            Packet::Data { .. } => "DATA",
            Packet::CloseRequest { .. } => "CLOSE_REQ",
            Packet::CloseResponse { .. } => "CLOSE_RSP",
            Packet::CloseDial { .. } => "DIAL_CLS",
            Packet::Drain => "DRAIN",
            Packet::Window { .. } => "WINDOW",
            Packet::Fin { .. } => "FIN",
            Packet::Reset { .. } => "RESET",
            Packet::WantLanes { .. } => "WANT_LANES",
            Packet::Unknown(_) => "UNKNOWN",
        }
    }

    /// Without the field of ours that goes to whoever is answered, for peers that never offered to read such.
    pub fn for_upstream(self) -> pb::Packet {
        let mut packet = pb::Packet::from(self);
        if let Some(Payload::DialResponse(response)) = &mut packet.payload {
            response.reason = 0;
        }
        packet
    }
}

impl TryFrom<pb::Packet> for Packet {
    type Error = PacketError;

    fn try_from(packet: pb::Packet) -> Result<Packet, PacketError> {
        let Ok(kind) = PacketType::try_from(packet.r#type) else { return Ok(Packet::Unknown(packet.r#type)) };
        Ok(match (kind, packet.payload) {
            (PacketType::Drain, _) => Packet::Drain,
            (PacketType::DialReq, Some(Payload::DialRequest(p))) => Packet::DialRequest(DialRequest {
                dial: DialId(p.random),
                protocol: p.protocol,
                address: p.address,
                lane_dial: p.lane_dial,
            }),
            (PacketType::DialRsp, Some(Payload::DialResponse(p))) => {
                let outcome = match (p.error.is_empty(), p.on_lane) {
                    (true, true) => Ok(Answer::OnLane),
                    (true, false) => Ok(Answer::Here(ConnId(p.connect_id))),
                    (false, _) => Err(DialError::from_peer(p.reason, p.error)),
                };
                Packet::DialResponse(DialResponse { dial: DialId(p.random), outcome })
            }
            (PacketType::Data, Some(Payload::Data(p))) => {
                Packet::Data { conn: ConnId(p.connect_id), data: p.data }
            }
            (PacketType::CloseReq, Some(Payload::CloseRequest(p))) => {
                Packet::CloseRequest { conn: ConnId(p.connect_id) }
            }
            (PacketType::CloseRsp, Some(Payload::CloseResponse(p))) => {
                Packet::CloseResponse { conn: ConnId(p.connect_id), error: p.error }
            }
            (PacketType::DialCls, Some(Payload::CloseDial(p))) => {
                Packet::CloseDial { dial: DialId(p.random) }
            }
            (PacketType::Window, Some(Payload::Window(p))) => {
                Packet::Window { conn: ConnId(p.connect_id), bytes: p.bytes }
            }
            (PacketType::Fin, Some(Payload::Fin(p))) => Packet::Fin { conn: ConnId(p.connect_id) },
            (PacketType::Reset, Some(Payload::Reset(p))) => {
                Packet::Reset { conn: ConnId(p.connect_id), reason: p.reason }
            }
            (PacketType::WantLanes, Some(Payload::WantLanes(p))) => Packet::WantLanes { lanes: p.lanes },
            (kind, _) => return Err(PacketError { kind: kind.as_str_name() }),
        })
    }
}

impl From<Packet> for pb::Packet {
    fn from(packet: Packet) -> pb::Packet {
        let (kind, payload) = match packet {
            Packet::DialRequest(p) => (
                PacketType::DialReq,
                Payload::DialRequest(pb::DialRequest {
                    protocol: p.protocol,
                    address: p.address,
                    random: p.dial.0,
                    lane_dial: p.lane_dial,
                }),
            ),
            Packet::DialResponse(p) => (PacketType::DialRsp, Payload::DialResponse(p.into())),
            Packet::Data { conn, data } => {
                (PacketType::Data, Payload::Data(pb::Data { connect_id: conn.0, error: String::new(), data }))
            }
            Packet::CloseRequest { conn } => {
                (PacketType::CloseReq, Payload::CloseRequest(pb::CloseRequest { connect_id: conn.0 }))
            }
            Packet::CloseResponse { conn, error } => (
                PacketType::CloseRsp,
                Payload::CloseResponse(pb::CloseResponse { error, connect_id: conn.0 }),
            ),
            Packet::CloseDial { dial } => {
                (PacketType::DialCls, Payload::CloseDial(pb::CloseDial { random: dial.0 }))
            }
            Packet::Drain => (PacketType::Drain, Payload::Drain(pb::Drain {})),
            Packet::Window { conn, bytes } => {
                (PacketType::Window, Payload::Window(pb::Window { connect_id: conn.0, bytes }))
            }
            Packet::Fin { conn } => (PacketType::Fin, Payload::Fin(pb::Fin { connect_id: conn.0 })),
            Packet::Reset { conn, reason } => {
                (PacketType::Reset, Payload::Reset(pb::Reset { connect_id: conn.0, reason }))
            }
            Packet::WantLanes { lanes } => {
                (PacketType::WantLanes, Payload::WantLanes(pb::WantLanes { lanes }))
            }
            Packet::Unknown(kind) => return pb::Packet { r#type: kind, payload: None },
        };
        pb::Packet { r#type: kind as i32, payload: Some(payload) }
    }
}

impl From<DialResponse> for pb::DialResponse {
    fn from(response: DialResponse) -> pb::DialResponse {
        let random = response.dial.0;
        let base = pb::DialResponse { random, ..Default::default() };
        match response.outcome {
            Ok(Answer::Here(conn)) => pb::DialResponse { connect_id: conn.0, ..base },
            Ok(Answer::OnLane) => pb::DialResponse { on_lane: true, ..base },
            Err(error) => pb::DialResponse { reason: error.reason as u32, error: error.text, ..base },
        }
    }
}

impl DialError {
    /// A failure as a peer told it: our own peers give the reason, upstream's only words.
    fn from_peer(reason: u32, text: String) -> DialError {
        match reason {
            0 => DialError { reason: DialReason::from_text(&text), text },
            number => DialError { reason: DialReason::from_wire(number), text },
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn round_trip(packet: Packet) {
        let bytes = pb::Packet::from(packet.clone()).encode_to_vec();
        let decoded = pb::Packet::decode(bytes.as_slice()).unwrap();
        assert_eq!(Packet::try_from(decoded), Ok(packet));
    }

    #[test]
    fn every_packet_survives_the_wire() {
        let conn = ConnId(7);
        round_trip(Packet::DialRequest(DialRequest {
            dial: DialId(3),
            protocol: "tcp".into(),
            address: "10.0.0.1:80".into(),
            lane_dial: 9,
        }));
        round_trip(Packet::DialResponse(DialResponse { dial: DialId(3), outcome: Ok(Answer::Here(conn)) }));
        round_trip(Packet::DialResponse(DialResponse { dial: DialId(3), outcome: Ok(Answer::OnLane) }));
        round_trip(Packet::DialResponse(DialResponse {
            dial: DialId(3),
            outcome: Err(DialError::new(
                DialReason::Refused,
                "dial tcp 10.0.0.1:80: connect: connection refused",
            )),
        }));
        round_trip(Packet::Data { conn, data: Bytes::from_static(b"abc") });
        round_trip(Packet::CloseRequest { conn });
        round_trip(Packet::CloseResponse { conn, error: "gone".into() });
        round_trip(Packet::CloseDial { dial: DialId(3) });
        round_trip(Packet::Drain);
        round_trip(Packet::Window { conn, bytes: 1 << 20 });
        round_trip(Packet::Fin { conn });
        round_trip(Packet::Reset { conn, reason: "x".into() });
        round_trip(Packet::WantLanes { lanes: 4 });
    }

    /// As protobuf-go would write it: nothing but upstream's fields.
    #[test]
    fn upstream_is_told_of_a_failed_dial_in_its_own_fields() {
        let failed = Err(DialError::new(DialReason::Refused, "no"));
        let response = Packet::DialResponse(DialResponse { dial: DialId(3), outcome: failed });
        let bytes = [0x08, 0x01, 0x1a, 0x06, 0x0a, 0x02, b'n', b'o', 0x18, 0x03];
        assert_eq!(response.clone().for_upstream().encode_to_vec(), bytes);
        assert_ne!(pb::Packet::from(response).encode_to_vec(), bytes);
    }

    #[test]
    fn drain_has_upstreams_bytes() {
        assert_eq!(pb::Packet::from(Packet::Drain).encode_to_vec(), [0x08, 0x06, 0x42, 0x00]);
    }

    #[test]
    fn an_empty_message_is_an_error_and_not_a_dial() {
        let decoded = pb::Packet::decode(&[][..]).unwrap();
        assert_eq!(Packet::try_from(decoded), Err(PacketError { kind: "DIAL_REQ" }));
    }

    #[test]
    fn a_payload_of_another_type_is_an_error() {
        let mut packet = pb::Packet::from(Packet::Fin { conn: ConnId(1) });
        packet.r#type = PacketType::Data as i32;
        assert_eq!(Packet::try_from(packet), Err(PacketError { kind: "DATA" }));
    }

    #[test]
    fn a_later_versions_type_is_left_alone() {
        assert_eq!(Packet::try_from(pb::Packet { r#type: 77, payload: None }), Ok(Packet::Unknown(77)));
    }
}
