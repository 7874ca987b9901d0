//! Packets out of gRPC messages, without putting DATA together that came in pieces.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use super::message::{DATA_TYPE, Item, LONGEST_HEAD, MessageError, PREFIX};
use crate::wire::ids::ConnId;
use crate::wire::packet::MAX_PACKET;
use crate::wire::pb;

/// Takes a stream's chunks apart.
#[derive(Debug, Default)]
pub(super) struct Parser {
    chunk: Bytes,
    state: State,
}

#[derive(Debug)]
enum State {
    /// At the start of a message, of which `seen` arrived in earlier chunks.
    Start {
        seen: BytesMut,
    },
    Data {
        conn: ConnId,
        left: usize,
    },
    /// Inside a message that is no DATA in the usual order of fields.
    Whole {
        message: BytesMut,
        left: usize,
    },
}

impl Default for State {
    fn default() -> State {
        State::Start { seen: BytesMut::new() }
    }
}

enum Head {
    Incomplete,
    Data { head: usize, conn: ConnId, payload: usize },
    Other { length: usize },
}

impl Parser {
    /// Gives the next chunk; the one before must have been used up.
    pub(super) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// The next item of the chunk; `None` when it is used up.
    pub(super) fn next(&mut self) -> Result<Option<Item>, MessageError> {
        loop {
            match &mut self.state {
                State::Start { seen } => {
                    if self.chunk.is_empty() {
                        return Ok(None);
                    }
                    let before = seen.len();
                    let head = if before == 0 {
                        parse(&self.chunk)?
                    } else {
                        let more = self.chunk.len().min(LONGEST_HEAD);
                        seen.extend_from_slice(&self.chunk[..more]);
                        let head = parse(seen)?;
                        seen.truncate(before);
                        head
                    };
                    match head {
                        Head::Incomplete => {
                            seen.extend_from_slice(&self.chunk);
                            self.chunk = Bytes::new();
                            return Ok(None);
                        }
                        Head::Data { head, conn, payload } => {
                            self.chunk.advance(head - before);
                            let part = self.chunk.split_to(payload.min(self.chunk.len()));
                            self.state = data_left(conn, payload - part.len());
                            return Ok(Some(Item::Data { conn, first: true, part }));
                        }
                        Head::Other { length } => {
                            let mut message = std::mem::take(seen);
                            self.chunk.advance(PREFIX.saturating_sub(before));
                            message.advance(PREFIX.min(before));
                            let left = length - message.len();
                            self.state = State::Whole { message, left };
                        }
                    }
                }
                State::Data { conn, left } => {
                    if self.chunk.is_empty() {
                        return Ok(None);
                    }
                    let (conn, left) = (*conn, *left);
                    let part = self.chunk.split_to(left.min(self.chunk.len()));
                    self.state = data_left(conn, left - part.len());
                    return Ok(Some(Item::Data { conn, first: false, part }));
                }
                State::Whole { message, left } => {
                    let part = self.chunk.split_to((*left).min(self.chunk.len()));
                    *left -= part.len();
                    message.extend_from_slice(&part);
                    if *left > 0 {
                        return Ok(None);
                    }
                    let message = std::mem::take(message).freeze();
                    self.state = State::default();
                    let packet = pb::Packet::decode(message).map_err(MessageError::Malformed)?;
                    return Ok(Some(Item::Packet(packet.try_into()?)));
                }
            }
        }
    }

    /// Whether a message was begun and not finished.
    pub(super) fn is_inside(&self) -> bool {
        match &self.state {
            State::Start { seen } => !seen.is_empty(),
            State::Data { .. } | State::Whole { .. } => true,
        }
    }
}

fn data_left(conn: ConnId, left: usize) -> State {
    if left == 0 { State::default() } else { State::Data { conn, left } }
}

/// Looks at the start of a message. Whatever is not DATA with its fields in the order that every known encoder
/// writes them is [`Head::Other`].
fn parse(bytes: &[u8]) -> Result<Head, MessageError> {
    let Some((prefix, mut body)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(Head::Incomplete) };
    let [flag, length @ ..] = *prefix;
    let length = u32::from_be_bytes(length) as usize;
    if flag != 0 {
        return Err(MessageError::Compressed);
    }
    if length > MAX_PACKET {
        return Err(MessageError::TooLarge(length));
    }
    let whole = body.len() >= length;
    body = &body[..length.min(body.len())];
    Ok(match data_head(body, length) {
        Some((head, conn, payload)) => Head::Data { head: PREFIX + head, conn, payload },
        None if whole || bytes.len() >= LONGEST_HEAD || !could_be_data(body) => Head::Other { length },
        None => Head::Incomplete,
    })
}

fn could_be_data(body: &[u8]) -> bool {
    let common = body.len().min(DATA_TYPE.len());
    body[..common] == DATA_TYPE[..common]
}

fn data_head(body: &[u8], length: usize) -> Option<(usize, ConnId, usize)> {
    let mut rest = body.strip_prefix(&DATA_TYPE)?;
    let left = |rest: &[u8]| length - (body.len() - rest.len());
    if varint(&mut rest)? != left(rest) as u64 {
        return None;
    }
    let mut conn = 0;
    if left(rest) > 0 && *rest.first()? == 0x08 {
        rest = &rest[1..];
        conn = varint(&mut rest)?;
    }
    let mut payload = 0;
    if left(rest) > 0 {
        rest = rest.strip_prefix(&[0x1a])?;
        payload = usize::try_from(varint(&mut rest)?).ok()?;
    }
    (payload == left(rest)).then_some((body.len() - rest.len(), ConnId(conn as i64), payload))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::encode::{encode, encode_data};
    use super::*;
    use crate::wire::packet::Packet;

    fn items(wire: &[u8], cut: usize) -> Result<Vec<Item>, MessageError> {
        let mut parser = Parser::default();
        let mut items = Vec::new();
        for chunk in wire.chunks(cut) {
            parser.push(Bytes::copy_from_slice(chunk));
            while let Some(item) = parser.next()? {
                items.push(item);
            }
        }
        assert!(!parser.is_inside());
        Ok(items)
    }

    /// DATA put together again.
    fn packets(wire: &[u8], cut: usize) -> Vec<Packet> {
        let mut packets: Vec<Packet> = Vec::new();
        for item in items(wire, cut).unwrap() {
            match (item, packets.last_mut()) {
                (Item::Packet(packet), _) => packets.push(packet),
                (Item::Data { conn, first: true, part }, _) => {
                    packets.push(Packet::Data { conn, data: part })
                }
                (Item::Data { part, .. }, Some(Packet::Data { data, .. })) => {
                    *data = [data.as_ref(), &part].concat().into();
                }
                other => panic!("{other:?}"),
            }
        }
        packets
    }

    fn packet() -> impl Strategy<Value = Packet> {
        let data = prop::collection::vec(any::<u8>(), 0..200);
        prop_oneof![
            (any::<i64>(), data)
                .prop_map(|(conn, data)| Packet::Data { conn: ConnId(conn), data: data.into() }),
            any::<i64>().prop_map(|conn| Packet::CloseRequest { conn: ConnId(conn) }),
            (any::<i64>(), "[a-z]{0,20}")
                .prop_map(|(conn, error)| Packet::CloseResponse { conn: ConnId(conn), error }),
            Just(Packet::Drain),
        ]
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_packets(sent in prop::collection::vec(packet(), 0..8), cut in 1..60usize) {
            let wire: Vec<u8> = sent.iter().flat_map(|packet| encode(packet.clone())).collect();
            prop_assert_eq!(packets(&wire, cut), sent);
        }

        #[test]
        fn both_encoders_agree(conn in 1..i64::MAX, data in prop::collection::vec(any::<u8>(), 1..300)) {
            let packet = Packet::Data { conn: ConnId(conn), data: data.clone().into() };
            prop_assert_eq!(encode_data(ConnId(conn), &data), encode(packet));
        }

        #[test]
        fn garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..200), cut in 1..50usize) {
            let mut parser = Parser::default();
            for chunk in garbage.chunks(cut) {
                parser.push(Bytes::copy_from_slice(chunk));
                while let Ok(Some(_)) = parser.next() {}
                if parser.next().is_err() { break; }
            }
        }
    }

    #[test]
    fn data_with_fields_in_another_order_is_still_data() {
        // data before connectID, inside a payload that stands before the type.
        let body = b"\x22\x07\x1a\x03abc\x08\x05\x08\x04";
        let wire = [b"\x00\x00\x00\x00\x0b".as_slice(), body].concat();
        for cut in 1..wire.len() {
            assert_eq!(packets(&wire, cut), [Packet::Data { conn: ConnId(5), data: "abc".into() }]);
        }
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        assert_eq!(items(b"\x00\x00\x40\x00\x01", 5), Err(MessageError::TooLarge(MAX_PACKET + 1)));
        assert_eq!(items(b"\x01\x00\x00\x00\x00", 5), Err(MessageError::Compressed));
        assert!(matches!(items(b"\x00\x00\x00\x00\x00", 5), Err(MessageError::Mismatch(_))));
        assert!(matches!(items(b"\x00\x00\x00\x00\x02\xff\xff", 5), Err(MessageError::Malformed(_))));
        assert!(matches!(items(b"\x00\x00\x00\x00\x02\x08\x04", 5), Err(MessageError::Mismatch(_))));
    }
}
