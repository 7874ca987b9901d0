//! Packets into gRPC messages.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::message::{DATA_TYPE, LONGEST_HEAD, PREFIX};
use crate::wire::ids::ConnId;
use crate::wire::packet::Packet;

/// Bytes of a message around `payload` bytes of DATA: at most this many.
pub(super) const DATA_OVERHEAD: usize = LONGEST_HEAD;

/// One gRPC message with a DATA packet.
pub(super) fn encode_data(conn: ConnId, payload: &[u8]) -> Bytes {
    let conn_length = varint_length(conn.0 as u64);
    let inner = 1 + conn_length + 1 + varint_length(payload.len() as u64) + payload.len();
    let length = DATA_TYPE.len() + varint_length(inner as u64) + inner;
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    out.put_slice(&DATA_TYPE);
    put_varint(inner as u64, &mut out);
    out.put_u8(0x08);
    put_varint(conn.0 as u64, &mut out);
    out.put_u8(0x1a);
    put_varint(payload.len() as u64, &mut out);
    out.put_slice(payload);
    out.freeze()
}

/// One gRPC message with any packet. API servers know nothing of ours.
pub(super) fn encode(packet: Packet) -> Bytes {
    let packet = packet.for_upstream();
    let length = packet.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    packet.encode_raw(&mut out);
    out.freeze()
}

fn varint_length(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint(mut value: u64, out: &mut BytesMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}
