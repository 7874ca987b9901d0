//! The bytes of one HTTP/2 connection with one `Proxy` stream, seen by its client.

use std::path::Path;

use bytes::{BufMut, BytesMut};

const STREAM: u32 = 1;
const FRAME: usize = 16_384;
const HEAD: usize = 9;

pub(super) const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

/// What the server's bytes mean.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The window that new streams begin with, where it was said.
    Settings(Option<u32>),
    Ping([u8; 8]),
    Window {
        stream: u32,
        more: u32,
    },
    /// The flow's id, or why there is none.
    Dialled(Result<u64, String>),
    /// The flow or its stream ended.
    Closed,
    /// Bytes of the flow, or nothing that matters.
    Other,
}

fn head(length: usize, kind: u8, flags: u8, stream: u32, out: &mut BytesMut) {
    out.put_uint(length as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
}

/// Preface, settings, windows and the request's headers as grpc-go sends them to a Unix socket.
pub(super) fn opening(socket: &Path, advance: u32) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    head(6, 4, 0, 0, &mut out);
    out.put_u16(4);
    out.put_u32(advance);
    head(4, 8, 0, 0, &mut out);
    out.put_u32(advance);
    let authority = socket.to_string_lossy().replace('/', "%2F");
    let mut block = BytesMut::new();
    // Indexed: POST, http. Literals with indexing: path, authority, content-type, te.
    block.put_slice(&[0x83, 0x86]);
    for (name, value) in [
        (&[0x44][..], "/ProxyService/Proxy"),
        (&[0x41], authority.as_str()),
        (&[0x5f], "application/grpc"),
        (b"\x40\x02te", "trailers"),
    ] {
        block.put_slice(name);
        block.put_u8(value.len() as u8);
        block.put_slice(value.as_bytes());
    }
    head(block.len(), 1, 0x4, STREAM, &mut out);
    out.put_slice(&block);
    out.to_vec()
}

fn varint(mut value: u64, out: &mut BytesMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// One message in as many DATA frames as it takes.
pub(super) struct Frames {
    pub(super) bytes: Vec<u8>,
    /// What flow control counts of them.
    pub(super) counted: u32,
}

fn message(kind: u8, tag: u8, payload: &[u8]) -> Frames {
    let mut body = BytesMut::with_capacity(payload.len() + 16);
    if kind != 0 {
        body.put_slice(&[0x08, kind]);
    }
    body.put_u8(tag);
    varint(payload.len() as u64, &mut body);
    body.put_slice(payload);
    let mut whole = BytesMut::with_capacity(body.len() + 5);
    whole.put_u8(0);
    whole.put_u32(body.len() as u32);
    whole.put_slice(&body);
    let mut out = BytesMut::with_capacity(whole.len() + HEAD * 3);
    for frame in whole.chunks(FRAME) {
        head(frame.len(), 0, 0, STREAM, &mut out);
        out.put_slice(frame);
    }
    Frames { bytes: out.to_vec(), counted: whole.len() as u32 }
}

pub(super) fn dial_request(address: &str, random: u64) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_slice(b"\x0a\x03tcp\x12");
    varint(address.len() as u64, &mut out);
    out.put_slice(address.as_bytes());
    out.put_u8(0x18);
    varint(random, &mut out);
    message(0, 0x12, &out).bytes
}

pub(super) fn data(conn: u64, payload: &[u8]) -> Frames {
    let mut out = BytesMut::with_capacity(payload.len() + 16);
    out.put_u8(0x08);
    varint(conn, &mut out);
    out.put_u8(0x1a);
    varint(payload.len() as u64, &mut out);
    out.put_slice(payload);
    message(4, 0x22, &out)
}

pub(super) fn close_request(conn: u64) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u8(0x08);
    varint(conn, &mut out);
    message(2, 0x2a, &out).bytes
}

pub(super) fn window_updates(more: u32) -> Vec<u8> {
    let mut out = BytesMut::new();
    for stream in [0, STREAM] {
        head(4, 8, 0, stream, &mut out);
        out.put_u32(more);
    }
    out.to_vec()
}

pub(super) fn pong(payload: [u8; 8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    head(8, 6, 1, 0, &mut out);
    out.put_slice(&payload);
    out.to_vec()
}

/// What may be sent.
#[derive(Debug)]
pub(super) struct Windows {
    connection: i64,
    stream: i64,
    initial: i64,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows { connection: 65_535, stream: 65_535, initial: 65_535 }
    }
}

impl Windows {
    pub(super) fn initial(&mut self, initial: Option<u32>) {
        if let Some(initial) = initial {
            self.stream += i64::from(initial) - self.initial;
            self.initial = i64::from(initial);
        }
    }

    pub(super) fn more(&mut self, stream: u32, more: u32) {
        let window = if stream == 0 { &mut self.connection } else { &mut self.stream };
        *window += i64::from(more);
    }

    pub(super) fn take(&mut self, bytes: u32) -> bool {
        let bytes = i64::from(bytes);
        let enough = self.connection >= bytes && self.stream >= bytes;
        if enough {
            self.connection -= bytes;
            self.stream -= bytes;
        }
        enough
    }
}

/// Takes the server's bytes apart.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// A frame that is no DATA, as far as it came; its length is in its head.
    frame: Vec<u8>,
    /// Left of the DATA frame under way.
    data: usize,
    /// The start of the message under way, until it is known what it is.
    message: Vec<u8>,
    /// Left of the DATA packet under way.
    payload: usize,
}

impl Parser {
    /// Looks at `bytes`, appends the flow's bytes among them to `flow`, and says how many were used up to the
    /// first event.
    pub(super) fn next(&mut self, bytes: &[u8], flow: &mut Vec<u8>) -> (usize, Option<Event>) {
        let mut used = 0;
        while used < bytes.len() {
            if self.data > 0 {
                let part = &bytes[used..bytes.len().min(used + self.data)];
                let (took, event) = self.data(part, flow);
                self.data -= took;
                used += took;
                match event {
                    Some(Event::Other) | None => {}
                    event => return (used, event),
                }
                continue;
            }
            let wanted = match self.frame.first_chunk::<3>() {
                Some([a, b, c]) if self.frame.len() >= HEAD => {
                    HEAD + u32::from_be_bytes([0, *a, *b, *c]) as usize
                }
                _ => HEAD,
            };
            let part = &bytes[used..bytes.len().min(used + wanted - self.frame.len())];
            self.frame.extend_from_slice(part);
            used += part.len();
            if self.frame.len() < HEAD {
                break;
            }
            let length = u32::from_be_bytes([0, self.frame[0], self.frame[1], self.frame[2]]) as usize;
            if self.frame[3] == 0 {
                self.data = length;
                let ended = self.frame[4] & 1 != 0;
                self.frame.clear();
                if ended {
                    return (used, Some(Event::Closed));
                }
            } else if self.frame.len() == HEAD + length {
                let event = control(&self.frame);
                self.frame.clear();
                return (used, Some(event));
            }
        }
        let event = if flow.is_empty() { None } else { Some(Event::Other) };
        (used, event)
    }

    fn data(&mut self, part: &[u8], flow: &mut Vec<u8>) -> (usize, Option<Event>) {
        if self.payload > 0 {
            let took = part.len().min(self.payload);
            flow.extend_from_slice(&part[..took]);
            self.payload -= took;
            return (took, Some(Event::Other));
        }
        // Byte by byte up to the payload: the start of a message is short.
        for (at, byte) in part.iter().enumerate() {
            self.message.push(*byte);
            let Some(prefix) = self.message.first_chunk::<5>() else { continue };
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            let body = &self.message[5..];
            if body.starts_with(&[0x08, 0x04])
                && let Some(payload) = data_payload(body)
            {
                self.payload = payload;
                self.message.clear();
                return (at + 1, Some(Event::Other));
            }
            if body.len() == length {
                let event = packet(body);
                self.message.clear();
                return (at + 1, Some(event));
            }
        }
        (part.len(), None)
    }
}

/// The length of a DATA packet's payload, when `body` ends right in front of it.
fn data_payload(body: &[u8]) -> Option<usize> {
    let mut rest = body.get(2..)?.strip_prefix(&[0x22])?;
    number(&mut rest)?;
    if rest.first() == Some(&0x08) {
        rest = &rest[1..];
        number(&mut rest)?;
    }
    rest = rest.strip_prefix(&[0x1a])?;
    let payload = number(&mut rest)?;
    rest.is_empty().then_some(payload as usize)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
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

fn packet(body: &[u8]) -> Event {
    match body {
        // CLOSE_RSP
        [0x08, 3, ..] => Event::Closed,
        // DIAL_RSP
        [0x08, 1, 0x1a, rest @ ..] => {
            let mut rest = rest;
            number(&mut rest);
            if let Some(text) = rest.strip_prefix(&[0x0a]) {
                let mut text = text;
                let length = number(&mut text).unwrap_or(0) as usize;
                let said = text.get(..length).unwrap_or(text);
                return Event::Dialled(Err(String::from_utf8_lossy(said).into_owned()));
            }
            let id = rest.strip_prefix(&[0x10]).and_then(|mut rest| number(&mut rest));
            Event::Dialled(id.ok_or_else(|| "DIAL_RSP without a connection id".to_owned()))
        }
        _ => Event::Other,
    }
}

fn control(frame: &[u8]) -> Event {
    let stream = u32::from_be_bytes([frame[5], frame[6], frame[7], frame[8]]);
    let payload = &frame[HEAD..];
    match (frame[3], frame[4]) {
        (4, 0) => {
            let mut windows = payload.chunks_exact(6).filter(|setting| setting[..2] == [0, 4]);
            Event::Settings(windows.next_back().map(|s| u32::from_be_bytes([s[2], s[3], s[4], s[5]])))
        }
        (6, 0) => payload.first_chunk().map_or(Event::Other, |payload| Event::Ping(*payload)),
        (8, _) => match payload.first_chunk() {
            Some(more) => Event::Window { stream, more: u32::from_be_bytes(*more) },
            None => Event::Other,
        },
        // Trailers, RST_STREAM, GOAWAY.
        (1, flags) if flags & 1 != 0 => Event::Closed,
        (3 | 7, _) => Event::Closed,
        _ => Event::Other,
    }
}
