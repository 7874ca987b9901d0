//! Packets into one HTTP/2 stream.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::SendStream;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::encode::{DATA_OVERHEAD, encode, encode_data};
use super::message::{Code, MessageError};
use crate::flow::{DialError, DialReason};
use crate::ops::metrics::{DialFailure, Segment, ServerMetrics};
use crate::wire::ids::{ConnId, DialId};
use crate::wire::packet::{DialResponse, Packet};

/// Answers to what belongs to no flow go past flow control, so a client that makes us give more than this loses its
/// call.
const MAX_STRAYS: usize = 4096;
/// A DATA message with this payload fills four frames of 16 KiB.
const MAX_PAYLOAD: usize = 4 * 16_384 - DATA_OVERHEAD;

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The sending half of a `Proxy` stream. Dropped before [`Sender::finish`], the stream is reset.
pub(super) struct Sender {
    stream: SendStream<Bytes>,
    metrics: ServerMetrics,
    /// Since when DATA waits for the client's window.
    waiting: Option<Instant>,
    strays: usize,
}

impl Sender {
    pub(super) fn new(stream: SendStream<Bytes>, metrics: ServerMetrics) -> Sender {
        Sender { stream, metrics, waiting: None, strays: 0 }
    }

    pub(super) fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }

    /// Queues a packet at once, past flow control: packets other than DATA are few and small. A stream that is over
    /// takes none, which is counted; receiving says so.
    pub(super) fn say(&mut self, packet: Packet) {
        let kind = packet.kind();
        let answers = matches!(&packet, Packet::DialResponse(response) if response.outcome.is_ok());
        self.metrics.packet(Segment::ToClient, kind);
        if self.stream.send_data(encode(packet), false).is_err() {
            self.metrics.stream_error(Segment::ToClient, Code::Canceled.name(), kind);
            if answers {
                self.metrics.dial_failed(DialFailure::SendResponse);
            }
        }
    }

    /// As [`Sender::say`], of what an agent said. It waits for nobody, as upstream's of small packets does not.
    pub(super) fn relay(&mut self, packet: Packet) {
        let since = Instant::now();
        self.say(packet);
        self.metrics.frontend_write(since.elapsed());
    }

    pub(super) fn close_response(&mut self, conn: ConnId, error: &str) {
        self.say(Packet::CloseResponse { conn, error: error.into() });
    }

    /// Counts a packet that belonged to no flow; `false` when it was one too many.
    pub(super) fn bears_stray(&mut self) -> bool {
        self.strays += 1;
        self.strays <= MAX_STRAYS
    }

    /// A call carries one dial at a time and one flow. Upstream would take a second one and send both flows' bytes on
    /// this stream; its clients open a stream for each dial.
    pub(super) fn refuse_dial(&mut self, dial: DialId) {
        let text = "this stream carries another dial already";
        let outcome = Err(DialError::new(DialReason::Other, text));
        self.say(Packet::DialResponse(DialResponse { dial, outcome }));
    }

    /// Sends the first of `bytes`, as many as the client's windows allow.
    pub(super) fn poll_data(
        &mut self,
        context: &mut Context<'_>,
        conn: ConnId,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let wanted = bytes.len().min(MAX_PAYLOAD);
        self.stream.reserve_capacity(wanted + DATA_OVERHEAD);
        let room = loop {
            match self.stream.capacity().checked_sub(DATA_OVERHEAD) {
                None | Some(0) => {}
                Some(room) => break room,
            }
            match ready!(self.stream.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        };
        let length = wanted.min(room);
        let message = encode_data(conn, &bytes[..length]);
        self.waiting = None;
        self.metrics.packet(Segment::ToClient, "DATA");
        self.metrics.frontend_write(since.elapsed());
        match self.stream.send_data(message, false) {
            Ok(()) => Poll::Ready(Ok(length)),
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Ready when the client reset the stream, or its connection is gone.
    pub(super) fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(context).map(|_| ())
    }

    /// Ends the stream with OK.
    pub(super) fn finish(&mut self) {
        let _ = self.stream.send_trailers(status(Code::Ok, ""));
    }

    /// Ends the stream with an error that says what was wrong with what the client sent.
    pub(super) fn fail(&mut self, error: &MessageError) {
        let _ = self.stream.send_trailers(status(error.code(), &error.to_string()));
    }
}

/// The trailers (or, without messages, the headers) that end a call.
pub(super) fn status(code: Code, message: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(GRPC_STATUS, HeaderValue::from(code as u16));
    if !message.is_empty() {
        // Printable ASCII goes as it is, but for the sign that introduces the others.
        let mut coded = String::with_capacity(message.len());
        for byte in message.bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => coded.push(char::from(byte)),
                _ => coded.push_str(&format!("%{byte:02X}")),
            }
        }
        if let Ok(value) = HeaderValue::from_str(&coded) {
            headers.insert(GRPC_MESSAGE, value);
        }
    }
    headers
}
