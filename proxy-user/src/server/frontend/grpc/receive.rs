//! Packets out of one HTTP/2 stream.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use h2::RecvStream;

use super::message::{Code, Item, MessageError};
use super::parse::Parser;
use crate::ops::metrics::{Segment, ServerMetrics};

/// Upstream's packet type of errors of receiving.
const UNKNOWN: &str = "Unknown";

/// The receiving half of a `Proxy` stream.
///
/// A chunk's flow-control capacity is given back when the next one is asked for: by then everything in it was
/// handed over, so what the client may send in advance is one window, whoever stalls behind us.
pub(super) struct Receiver {
    stream: RecvStream,
    metrics: ServerMetrics,
    parser: Parser,
    unreleased: usize,
    over: bool,
}

/// Why nothing more comes.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client ended its side.
    Half,
    /// The client, or its connection, broke the stream off.
    Reset,
    /// The client sends what is no packet.
    Broken(MessageError),
}

impl Receiver {
    pub(super) fn new(stream: RecvStream, metrics: ServerMetrics) -> Receiver {
        Receiver { stream, metrics, parser: Parser::default(), unreleased: 0, over: false }
    }

    pub(super) fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Result<Item, Ended>> {
        let item = ready!(self.poll_next(context));
        self.over |= item.is_err();
        Poll::Ready(item)
    }

    /// Ready when nothing more comes; what comes before is dropped.
    pub(super) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.over {
            // Whoever waits for that has no use for the reason.
            let _ = ready!(self.poll_item(context));
        }
        Poll::Ready(())
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Item, Ended>> {
        loop {
            match self.parser.next() {
                Ok(None) => {}
                Ok(Some(item)) => {
                    if let Some(kind) = item.kind() {
                        self.metrics.packet(Segment::FromClient, kind);
                    }
                    return Poll::Ready(Ok(item));
                }
                Err(error) => {
                    self.metrics.stream_error(Segment::FromClient, error.code().name(), UNKNOWN);
                    return Poll::Ready(Err(Ended::Broken(error)));
                }
            }
            let used = std::mem::take(&mut self.unreleased);
            if used > 0 {
                // Fails on a stream that is over; reading it says so.
                let _ = self.stream.flow_control().release_capacity(used);
            }
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(chunk)) => {
                    self.unreleased = chunk.len();
                    self.parser.push(chunk);
                }
                Some(Err(error)) => {
                    let code = if error.is_reset() { Code::Canceled } else { Code::Unavailable };
                    self.metrics.stream_error(Segment::FromClient, code.name(), UNKNOWN);
                    return Poll::Ready(Err(Ended::Reset));
                }
                None if self.parser.is_inside() => {
                    let error = MessageError::CutOff;
                    self.metrics.stream_error(Segment::FromClient, error.code().name(), UNKNOWN);
                    return Poll::Ready(Err(Ended::Broken(error)));
                }
                None => return Poll::Ready(Err(Ended::Half)),
            }
        }
    }

    pub(super) async fn item(&mut self) -> Result<Item, Ended> {
        poll_fn(|context| self.poll_item(context)).await
    }
}
