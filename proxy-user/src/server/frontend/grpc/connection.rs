//! One HTTP/2 connection of an API server.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Handshake};
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};

use super::adapter::CleanAuthority;
use super::stream::{self, Backend};
use crate::ops::drain::DrainWatch;
use crate::wire::authority::BLOCK_LIMIT;

/// TLS, preface and settings of an accepted connection, as upstream.
const HANDSHAKE: Duration = Duration::from_secs(120);
/// How long a keepalive ping may go unanswered and, over TCP, any byte unacknowledged; as upstream.
pub(super) const SILENCE: Duration = Duration::from_secs(20);
/// How often a client is asked for a sign of life while the server drains: only the GOAWAY's answer ends a connection.
const DRAINING_KEEPALIVE: Duration = Duration::from_secs(5);
/// How long a connection whose calls are cut off goes on, so that their clients hear of it: some round trips, on a
/// machine that is busy.
const LAST_PACKETS: Duration = Duration::from_secs(1);
/// What a client may send on one stream before the target took it.
const STREAM_WINDOW: u32 = 1 << 20;
/// Never the brake: a stalled stream would starve its neighbours.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// What may lie in one stream's send queue, besides what the client's window allows.
const SEND_BUFFER: usize = 256 << 10;
/// Streams that a client may have reset before they were looked at; a Go client cancels dials in bursts.
const PENDING_RESETS: usize = 4096;

fn settings() -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(BLOCK_LIMIT as u32)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(None);
    builder
}

/// Why a connection ended, when its client did not simply leave.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("no HTTP/2 handshake within {HANDSHAKE:?}")]
    Handshake,
    #[error("no HTTP/2 handshake before this server left")]
    Leaving,
    #[error("a keepalive ping went unanswered for {SILENCE:?}")]
    Silent,
    #[error("HTTP/2: {0}")]
    Http(#[from] h2::Error),
}

impl ConnectionError {
    /// The client closed while something was still to be written, as one does that gave its dial up: no fault of either.
    pub(super) fn is_peer_gone(&self) -> bool {
        let ConnectionError::Http(error) = self else { return false };
        let kind = error.get_io().map(std::io::Error::kind);
        matches!(kind, Some(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset))
    }
}

/// Serves a connection until its client leaves, or work is cut off and its calls have said so. They run in tasks of
/// their own, which outlive it for as long as their flows take to notice. `first` hears of the first one.
pub(super) async fn serve<B: Backend>(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    keepalive: Duration,
    backend: Arc<B>,
    mut drain: DrainWatch,
    first: impl FnOnce(),
) -> Result<(), ConnectionError> {
    let mut first = Some(first);
    let handshake: Handshake<_, Bytes> = settings().handshake(CleanAuthority::new(socket));
    let shaken = tokio::select! {
        shaken = handshake => shaken.map_err(ConnectionError::Http),
        () = tokio::time::sleep(HANDSHAKE) => Err(ConnectionError::Handshake),
        () = drain.last_words() => Err(ConnectionError::Leaving),
    };
    let mut connection = shaken.inspect_err(|error| {
        if !error.is_peer_gone() {
            backend.metrics().konduit.refused("frontend", "preface");
        }
    })?;
    let ping_pong = connection.ping_pong();
    let watch = watch(ping_pong, keepalive, drain.clone());
    tokio::pin!(watch);
    let mut cut = drain.clone();
    let mut draining = false;
    loop {
        tokio::select! {
            call = connection.accept() => {
                let Some(call) = call else { return Ok(()) };
                let (request, respond) = call?;
                if let Some(first) = first.take() {
                    first();
                }
                tokio::spawn(stream::serve(request, respond, backend.clone(), cut.clone()));
            }
            error = &mut watch => return Err(error),
            () = drain.draining(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = cut.cut() => break,
        }
    }
    if !draining {
        connection.graceful_shutdown();
    }
    // Whoever calls now is turned away.
    let gone = async { while let Some(Ok(_)) = connection.accept().await {} };
    let _ = tokio::time::timeout(LAST_PACKETS, gone).await;
    Ok(())
}

/// Resolves when a ping found nobody.
async fn watch(
    ping_pong: Option<PingPong>,
    mut keepalive: Duration,
    mut drain: DrainWatch,
) -> ConnectionError {
    let Some(mut ping_pong) = ping_pong else { return std::future::pending().await };
    let mut draining = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(keepalive) => {}
            () = drain.draining(), if !draining => {
                (draining, keepalive) = (true, keepalive.min(DRAINING_KEEPALIVE));
            }
        }
        match tokio::time::timeout(SILENCE, ping_pong.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return ConnectionError::Http(error),
            Err(_) => return ConnectionError::Silent,
        }
    }
}
