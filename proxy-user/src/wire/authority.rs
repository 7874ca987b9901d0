//! Makes the bytes of an HTTP/2 client acceptable to a server that insists on a well-formed `:authority`.
//!
//! Go's gRPC clients on a Unix socket send the socket's path as `:authority`, percent-encoded or raw, and h2
//! answers that with PROTOCOL_ERROR. The rewriter decodes every header block, puts a clean authority in, and
//! encodes the block anew as literals without indexing, for which the server's decoder needs no state.
//! Everything else goes on as it is; DATA is never held.

use bytes::{BufMut, BytesMut};

use super::hpack::{Decoder, Field};

/// What every request's `:authority` becomes. Nothing here looks at it.
const AUTHORITY: &[u8] = b"localhost";

/// What every HTTP/2 client says first.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
/// SETTINGS_MAX_FRAME_SIZE: never raised by us, so no peer may send more.
const FRAME_LIMIT: usize = 16_384;
/// One header block, coded as well as decoded. As grpc-go's server.
pub const BLOCK_LIMIT: usize = 16 << 20;
/// CONTINUATION frames of one block: a full block in full frames, twice.
const CONTINUATION_LIMIT: usize = 2 * BLOCK_LIMIT / FRAME_LIMIT;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Rewrites one direction of one connection: client to server, from its first byte to its last.
#[derive(Debug)]
pub struct Rewriter {
    decoder: Decoder,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Bytes that go on untouched: the preface, or a frame that is no header.
    Pass { left: usize },
    /// Between two frames; the bytes of the next head seen so far.
    Head { seen: [u8; HEAD], have: usize, block: Option<Block> },
    /// Inside a frame that carries part of a block.
    Fragment { left: usize, payload: Vec<u8>, flags: u8, block: Block },
    /// The peer broke the protocol; the server is being told in its own words.
    Broken,
}

/// A header block under way.
#[derive(Debug)]
struct Block {
    stream: u32,
    end_stream: bool,
    continuations: usize,
    coded: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn parse(bytes: &[u8; HEAD]) -> Head {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *bytes;
        Head {
            length: u32::from_be_bytes([0, l2, l1, l0]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s3, s2, s1, s0]) & 0x7fff_ffff,
        }
    }

    fn put(self, out: &mut BytesMut) {
        out.put_uint(self.length as u64, 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u32(self.stream);
    }

    fn is_header(self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION)
    }
}

impl Default for Rewriter {
    fn default() -> Rewriter {
        Rewriter { decoder: Decoder::default(), state: State::Pass { left: PREFACE.len() } }
    }
}

const fn boundary(block: Option<Block>) -> State {
    State::Head { seen: [0; HEAD], have: 0, block }
}

impl Rewriter {
    /// How many of the leading `bytes` may stay where they are. The caller gives the others to
    /// [`Rewriter::feed`] before any further byte.
    pub fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        loop {
            match &mut self.state {
                State::Pass { left } => {
                    let step = (*left).min(bytes.len() - passed);
                    *left -= step;
                    passed += step;
                    if *left > 0 {
                        return passed;
                    }
                    self.state = boundary(None);
                }
                State::Head { have: 0, block: None, .. } => {
                    let Some(head) = bytes[passed..].first_chunk().map(Head::parse) else { return passed };
                    if head.is_header() {
                        return passed;
                    }
                    passed += HEAD;
                    self.state = State::Pass { left: head.length };
                }
                _ => return passed,
            }
        }
    }

    /// Takes all of `bytes` and appends what goes on instead of them to `out`.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while !bytes.is_empty() {
            bytes = match std::mem::replace(&mut self.state, State::Broken) {
                State::Pass { left } => {
                    let (these, rest) = bytes.split_at(left.min(bytes.len()));
                    out.extend_from_slice(these);
                    let left = left - these.len();
                    self.state = if left > 0 { State::Pass { left } } else { boundary(None) };
                    rest
                }
                State::Head { mut seen, have, block } => {
                    let (these, rest) = bytes.split_at((HEAD - have).min(bytes.len()));
                    seen[have..have + these.len()].copy_from_slice(these);
                    let have = have + these.len();
                    if have < HEAD {
                        self.state = State::Head { seen, have, block };
                    } else {
                        self.begin(Head::parse(&seen), block, out);
                    }
                    rest
                }
                State::Fragment { left, mut payload, flags, block } => {
                    let (these, rest) = bytes.split_at(left.min(bytes.len()));
                    payload.extend_from_slice(these);
                    let left = left - these.len();
                    if left > 0 {
                        self.state = State::Fragment { left, payload, flags, block };
                    } else {
                        self.fragment(&payload, flags, block, out);
                    }
                    rest
                }
                State::Broken => return,
            };
        }
    }

    /// Whether the peer broke the protocol: nothing it sends goes on any more.
    pub fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
    }

    fn begin(&mut self, head: Head, block: Option<Block>, out: &mut BytesMut) {
        let block = match (head.kind, block) {
            (HEADERS, None) => Block {
                stream: head.stream,
                end_stream: head.flags & END_STREAM != 0,
                continuations: 0,
                coded: Vec::new(),
            },
            (CONTINUATION, Some(mut block)) if block.stream == head.stream => {
                block.continuations += 1;
                block
            }
            (HEADERS | CONTINUATION, _) | (_, Some(_)) => return self.refuse(PROTOCOL_ERROR, out),
            (_, None) => {
                head.put(out);
                self.state = if head.length > 0 { State::Pass { left: head.length } } else { boundary(None) };
                return;
            }
        };
        if head.length > FRAME_LIMIT
            || block.continuations > CONTINUATION_LIMIT
            || block.coded.len() + head.length > BLOCK_LIMIT
        {
            return self.refuse(PROTOCOL_ERROR, out);
        }
        // A CONTINUATION has neither padding nor priority, whatever bits it sets.
        let flags = if head.kind == HEADERS { head.flags } else { head.flags & END_HEADERS };
        if head.length == 0 {
            return self.fragment(&[], flags, block, out);
        }
        self.state =
            State::Fragment { left: head.length, payload: Vec::with_capacity(head.length), flags, block };
    }

    fn fragment(&mut self, payload: &[u8], flags: u8, mut block: Block, out: &mut BytesMut) {
        let Some(fragment) = without_padding(payload, flags) else { return self.refuse(PROTOCOL_ERROR, out) };
        block.coded.extend_from_slice(fragment);
        if flags & END_HEADERS == 0 {
            self.state = boundary(Some(block));
            return;
        }
        let mut literals = BytesMut::with_capacity(2 * block.coded.len() + 64);
        if self.decoder.decode(&block.coded, BLOCK_LIMIT, |field| put_literal(field, &mut literals)).is_err()
        {
            return self.refuse(COMPRESSION_ERROR, out);
        }
        put_block(&literals, block.stream, block.end_stream, out);
        self.state = boundary(None);
    }

    /// Tells the server what happened in its own language: a frame that every HTTP/2 implementation answers
    /// with GOAWAY and that code.
    fn refuse(&mut self, code: (Head, &[u8]), out: &mut BytesMut) {
        code.0.put(out);
        out.extend_from_slice(code.1);
        self.state = State::Broken;
    }
}

/// A block that names table entry 0.
const COMPRESSION_ERROR: (Head, &[u8]) =
    (Head { length: 1, kind: HEADERS, flags: END_HEADERS | END_STREAM, stream: 0x7fff_ffff }, &[0x80]);
/// A CONTINUATION of nothing.
const PROTOCOL_ERROR: (Head, &[u8]) =
    (Head { length: 0, kind: CONTINUATION, flags: END_HEADERS, stream: 0x7fff_ffff }, &[]);

fn without_padding(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let mut rest = payload;
    let mut padding = 0;
    if flags & PADDED != 0 {
        let (length, after) = rest.split_first()?;
        (padding, rest) = (usize::from(*length), after);
    }
    if flags & PRIORITY != 0 {
        rest = rest.split_at_checked(5)?.1;
    }
    rest.get(..rest.len().checked_sub(padding)?)
}

fn put_literal(field: Field<'_>, out: &mut BytesMut) {
    let value = if field.name == b":authority" { AUTHORITY } else { field.value };
    out.put_u8(if field.sensitive { 0x10 } else { 0x00 });
    put_string(field.name, out);
    put_string(value, out);
}

fn put_string(text: &[u8], out: &mut BytesMut) {
    match u8::try_from(text.len()) {
        Ok(short) if short < 0x7f => out.put_u8(short),
        _ => {
            out.put_u8(0x7f);
            let mut rest = text.len() - 0x7f;
            while rest >= 0x80 {
                out.put_u8(rest as u8 | 0x80);
                rest >>= 7;
            }
            out.put_u8(rest as u8);
        }
    }
    out.extend_from_slice(text);
}

fn put_block(literals: &[u8], stream: u32, end_stream: bool, out: &mut BytesMut) {
    out.reserve(literals.len() + HEAD * (1 + literals.len() / FRAME_LIMIT));
    let mut rest = literals;
    let mut kind = HEADERS;
    loop {
        let (these, after) = rest.split_at(rest.len().min(FRAME_LIMIT));
        let mut flags = if after.is_empty() { END_HEADERS } else { 0 };
        if kind == HEADERS && end_stream {
            flags |= END_STREAM;
        }
        Head { length: these.len(), kind, flags, stream }.put(out);
        out.extend_from_slice(these);
        if after.is_empty() {
            return;
        }
        (rest, kind) = (after, CONTINUATION);
    }
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
