//! Packets out of one HTTP/2 stream.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use h2::RecvStream;

use super::message::{Item, MessageError, Parser};

/// The receiving half of a `Proxy` stream.
///
/// A chunk's flow-control capacity is given back when the next one is asked for: by then everything in it was
/// handed over, so what the client may send in advance is one window, whoever stalls behind us.
pub(super) struct Receiver {
    stream: RecvStream,
    parser: Parser,
    unreleased: usize,
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
    pub(super) fn new(stream: RecvStream) -> Receiver {
        Receiver { stream, parser: Parser::default(), unreleased: 0 }
    }

    pub(super) fn poll_item(&mut self, context: &mut Context<'_>) -> Poll<Result<Item, Ended>> {
        loop {
            if let Some(item) = self.parser.next().map_err(Ended::Broken)? {
                return Poll::Ready(Ok(item));
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
                Some(Err(_)) => return Poll::Ready(Err(Ended::Reset)),
                None if self.parser.is_inside() => return Poll::Ready(Err(Ended::Reset)),
                None => return Poll::Ready(Err(Ended::Half)),
            }
        }
    }

    pub(super) async fn item(&mut self) -> Result<Item, Ended> {
        poll_fn(|context| self.poll_item(context)).await
    }
}
