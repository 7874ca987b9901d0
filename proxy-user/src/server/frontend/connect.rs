//! The http-connect frontend: reads a CONNECT, dials, answers, and hands both ends on.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

use super::places::Place;
use super::stranger::Stranger;
use super::tls::TlsEnd;
use crate::net::sockopt;
use crate::ops::drain::DrainWatch;
use crate::server::dial::{Dial, Dialer, Via};
use crate::splice::{End, Watched};
use crate::wire::connect::{ESTABLISHED, Head, MAX_HEAD, dial_failed, refused};

/// A head that is not complete by then is given up, as upstream has it.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A head's first bytes are looked at as they come: what is no HTTP at all need not end a line.
const EAGER: usize = 1024;
/// A head beyond this many bytes is rare: few may be read at a time, which together hold no more than 32 MiB.
const LONG: usize = 16 << 10;
static LONG_HEADS: Semaphore = Semaphore::const_new(32);
/// What a client may send before its dial was answered.
const MAX_EARLY: usize = 64 << 10;
/// How long a client may take to read why it was refused.
const GOODBYE: Duration = Duration::from_secs(5);

/// A client's connection before its flow is joined.
pub trait Client: AsyncRead + AsyncWrite + Unpin + Send + Sized {
    /// It closed its side: whether it is gone altogether, or only sends no more.
    fn is_gone(&self) -> bool;

    /// As one side of a join.
    fn into_end(self) -> io::Result<End>;
}

impl Client for UnixStream {
    fn is_gone(&self) -> bool {
        sockopt::hung_up(self).closed
    }

    fn into_end(self) -> io::Result<End> {
        Ok(End::watched(Watched::Unix(self)))
    }
}

impl Client for TlsStream<TcpStream> {
    /// Over TLS a client that has nothing more to say before its dial is answered is taken to have left, as upstream
    /// has it.
    fn is_gone(&self) -> bool {
        true
    }

    fn into_end(self) -> io::Result<End> {
        Ok(End::stream(TlsEnd::new(self.into())))
    }
}

/// Serves a client that showed who it is.
pub(super) async fn serve(
    mut client: impl Client,
    dialer: Arc<Dialer>,
    head_timeout: Duration,
    place: Place,
    drain: DrainWatch,
) {
    let _open = dialer.metrics.http_connection();
    let timeout = patience(head_timeout, place.is_refused());
    match hear(&mut client, timeout, drain).await {
        Some(heard) => answer(client, heard, dialer, place).await,
        None => dialer.metrics.konduit.refused("frontend", "head"),
    }
}

/// Serves a client that nothing is known of: until it asks for a target its place may go to another.
pub(super) async fn serve_stranger(
    mut client: impl Client,
    dialer: Arc<Dialer>,
    head_timeout: Duration,
    stranger: Stranger,
    drain: DrainWatch,
) {
    let _open = dialer.metrics.http_connection();
    let timeout = patience(head_timeout, stranger.is_refused());
    match stranger.shake(hear(&mut client, timeout, drain.clone()), drain).await {
        Ok((place, Some(heard))) => answer(client, heard, dialer, place).await,
        Ok((_, None)) => dialer.metrics.konduit.refused("frontend", "head"),
        Err(why) => dialer.metrics.konduit.refused("frontend", why.reason("head")),
    }
}

/// Without room a client is only heard to be told so.
fn patience(head_timeout: Duration, refused: bool) -> Duration {
    if refused { GOODBYE } else { head_timeout }
}

/// What a client asks for, and what came behind that.
struct Heard {
    head: Head,
    buffer: BytesMut,
}

/// `None`: the client left, or its head did not come within `timeout`. Silence does not hold up the `drain`.
async fn hear(client: &mut impl Client, timeout: Duration, mut drain: DrainWatch) -> Option<Heard> {
    let mut buffer = BytesMut::with_capacity(1024);
    let head = tokio::select! {
        // Most heads are there already, and cost no timer then.
        biased;
        head = read_head(client, &mut buffer, &LONG_HEADS) => head.ok()?,
        () = sleep(timeout) => return None,
        () = drain.last_words() => return None,
    };
    Some(Heard { head, buffer })
}

/// Serves a client to its end.
async fn answer(mut client: impl Client, heard: Heard, dialer: Arc<Dialer>, place: Place) {
    let Heard { head, buffer } = heard;
    let (target, mut buffer) = match head {
        // A head may be long, and nobody needs its room any more.
        Head::Connect { target, end } => (target, BytesMut::from(&buffer[end..])),
        other => {
            dialer.metrics.konduit.refused("frontend", "head");
            let date = httpdate::fmt_http_date(SystemTime::now());
            return say_goodbye(client, &refused(&other, &date).unwrap_or_default()).await;
        }
    };
    if place.is_refused() {
        return say_goodbye(client, &dial_failed(&dialer.exhausted())).await;
    }
    let dial = Dial { via: Via::Connect, protocol: "tcp".into(), target };
    let opened = tokio::select! {
        opened = dialer.dial(dial) => opened,
        () = left(&mut client, &mut buffer) => return,
    };
    match opened {
        Ok(opened) => {
            let Ok(end) = client.into_end() else { return };
            let end = end.with_early(buffer.freeze()).with_greeting(Bytes::from_static(ESTABLISHED));
            dialer.join(end, opened).await;
        }
        Err(error) => say_goodbye(client, &dial_failed(&error)).await,
    }
}

async fn read_head(
    client: &mut impl Client,
    buffer: &mut BytesMut,
    long_heads: &Semaphore,
) -> io::Result<Head> {
    let (mut seen, mut long) = (0, None);
    loop {
        // Each look begins anew, so a long head that comes byte by byte is looked at once a line: there are not many.
        if seen < EAGER || buffer.len() >= MAX_HEAD || buffer[seen..].contains(&b'\n') {
            match Head::parse(buffer) {
                Head::Partial => {}
                head => return Ok(head),
            }
        }
        seen = buffer.len();
        if seen > LONG && long.is_none() {
            let Ok(permit) = long_heads.try_acquire() else { return Ok(Head::TooLong) };
            long = Some(permit);
        }
        buffer.reserve(1024);
        if client.take(MAX_HEAD as u64).read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Ready when the client has gone while its dial is pending. What it sends meanwhile belongs to the flow.
async fn left(client: &mut impl Client, buffer: &mut BytesMut) {
    while buffer.len() < MAX_EARLY {
        buffer.reserve(4096);
        match client.read_buf(buffer).await {
            Ok(0) if !client.is_gone() => break,
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    pending().await
}

async fn say_goodbye(mut client: impl Client, reply: &[u8]) {
    let said = async {
        client.write_all(reply).await?;
        client.shutdown().await
    };
    // A client that does not read its answer does not get it.
    let _ = tokio::time::timeout(GOODBYE, said).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        let at = |seconds| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(1_709_210_096), "Thu, 29 Feb 2024 12:34:56 GMT");
    }

    #[tokio::test]
    async fn few_long_heads_are_read_at_a_time_and_any_number_of_short_ones() {
        let long_heads = Semaphore::new(1);
        let begin = format!("CONNECT a:80 HTTP/1.1\r\nX: {}", "y".repeat(2 * LONG));
        let head = async |said: &str| {
            let (mut far, mut near) = UnixStream::pair().unwrap();
            far.write_all(said.as_bytes()).await.unwrap();
            let read = async { read_head(&mut near, &mut BytesMut::new(), &long_heads).await.unwrap() };
            (tokio::time::timeout(Duration::from_millis(200), read).await.ok(), far)
        };
        let whole = format!("{begin}\r\n\r\n");
        {
            let (mut far, mut near) = UnixStream::pair().unwrap();
            far.write_all(begin.as_bytes()).await.unwrap();
            let mut buffer = BytesMut::new();
            let mut unfinished = std::pin::pin!(read_head(&mut near, &mut buffer, &long_heads));
            assert!(tokio::time::timeout(Duration::from_millis(200), &mut unfinished).await.is_err());
            assert_eq!(head(&whole).await.0, Some(Head::TooLong));
            let short = head("CONNECT a:80 HTTP/1.1\r\n\r\n").await.0;
            assert!(matches!(short, Some(Head::Connect { .. })), "{short:?}");
        }
        let next = head(&whole).await.0;
        assert!(matches!(next, Some(Head::Connect { .. })), "{next:?}");
    }
}
