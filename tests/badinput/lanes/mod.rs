//! Every word of a lane at every moment, whole, in halves and with more behind it, from a played agent and from a
//! played server. The cases are no matter of chance: one that fails names itself, and comes again with the next run.

mod by_agent;
mod by_server;
mod lane;
mod words;

use std::fmt::Debug;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use self::lane::{Lane, Socket};
use self::words::{Heard, Word};
use crate::cell::LONG;

/// Cases under way at a time.
const AT_ONCE: usize = 32;

/// How a word is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Whole,
    /// With [`GLUED`] behind it, in the same record.
    Glued,
    /// Then nothing.
    Half,
    /// Then the lane's good end.
    HalfThenEnd,
    HalfThenReset,
}

impl Shape {
    const ALL: [Shape; 5] =
        [Shape::Whole, Shape::Glued, Shape::Half, Shape::HalfThenEnd, Shape::HalfThenReset];

    fn is_half(self) -> bool {
        !matches!(self, Shape::Whole | Shape::Glued)
    }
}

/// A frame of the flow, where one may begin, and no word.
const GLUED: &[u8] = b"\0\x05glued";

/// What is said, and how; `first`: in place of a hello, where all kinds of them are.
fn sayings(first: bool) -> Vec<(Word, Shape)> {
    let mut sayings = Vec::new();
    for shape in Shape::ALL {
        let words = Word::ALL.into_iter().filter(|word| first || !word.is_odd_hello());
        sayings
            .extend(words.filter(|word| !shape.is_half() || !word.is_whole_only()).map(|word| (word, shape)));
    }
    sayings
}

/// Until no process holds any of these.
async fn all_closed(played: &Mutex<Vec<(String, Socket)>>) {
    let began = Instant::now();
    loop {
        {
            let mut sockets = played.lock().unwrap();
            Socket::retain_held(&mut sockets);
            let Some(first) = sockets.first() else { return };
            assert!(began.elapsed() < LONG, "{} lanes are left, first {first:?}", sockets.len());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs each case, many at a time, and fails with the names of those that did.
pub(crate) async fn each<C, F>(cases: Vec<C>, run: impl Fn(C) -> F)
where
    C: Debug + Copy,
    F: Future<Output = ()> + Send + 'static,
{
    let began = Instant::now();
    let count = cases.len();
    let runs = futures_util::stream::iter(cases).map(|case| {
        let run = tokio::spawn(run(case));
        async move { run.await.err().map(|error| format!("{case:?}: {error}")) }
    });
    let failed: Vec<String> = runs.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    assert!(failed.is_empty(), "{} of {count} cases failed:\n{}", failed.len(), failed.join("\n"));
    eprintln!("{count} cases in {:?}", began.elapsed());
}

/// What a word is, said where a flow runs in frames: the bytes that reach the flow's other end, and what follows.
#[derive(Debug, PartialEq, Eq)]
struct Carried {
    bytes: Vec<u8>,
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The flow goes on.
    More,
    /// This direction ended well.
    End,
    Abort,
}

/// The most that a frame may carry: with its length it fills a TLS record.
const MAX_FRAME: usize = (1 << 14) - 2;

impl Carried {
    /// A lane that is `raw` has its flow leave TLS: nothing may stand behind the last frame in its record.
    fn of(said: &[u8], shape: Shape, raw: bool) -> Carried {
        let (mut rest, mut bytes) = (said, Vec::new());
        let cut = match shape {
            Shape::HalfThenEnd | Shape::HalfThenReset => Then::Abort,
            Shape::Whole | Shape::Glued | Shape::Half => Then::More,
        };
        let then = loop {
            let Some((head, after)) = rest.split_first_chunk() else { break cut };
            match usize::from(u16::from_be_bytes(*head)) {
                0 => break Then::End,
                0xffff if raw => break Then::Abort,
                0xffff => {
                    bytes.extend_from_slice(after);
                    break match cut {
                        // TLS' goodbye is the flow's end from here on.
                        Then::Abort if shape == Shape::HalfThenEnd => Then::End,
                        cut => cut,
                    };
                }
                length if length > MAX_FRAME => break Then::Abort,
                length => {
                    let (frame, after) = after.split_at(length.min(after.len()));
                    bytes.extend_from_slice(frame);
                    rest = after;
                }
            }
        };
        Carried { bytes, then }
    }
}
