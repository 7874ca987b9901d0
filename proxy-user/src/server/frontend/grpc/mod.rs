//! The gRPC frontend: `ProxyService.Proxy` for API servers.
//!
//! Served on h2 itself: a stream is a flow, its HTTP/2 windows are its flow control, and DATA goes between
//! packets and the other end without a queue of its own.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use self::stream::Backend;
use super::places::Places;
use super::stranger::Stranger;
use crate::flow::DialError;
use crate::net::listener::{Accepted, TcpListener};
use crate::net::sockopt;
use crate::net::tls::ServerEndpoint;
use crate::net::uds::UdsListener;
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::ServerMetrics;
use crate::server::dial::{Dial, Dialer, Opened, Via};
use crate::splice::End;
use crate::wire::packet::DialRequest;

mod adapter;
mod connection;
mod encode;
mod flow;
mod message;
mod packets;
mod parse;
mod receive;
mod send;
mod stream;

/// Serves API servers on a Unix socket until drained.
pub(super) async fn serve_unix<B: Backend>(
    listener: UdsListener,
    keepalive: Duration,
    backend: Arc<B>,
    places: Places,
    mut drain: DrainWatch,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.draining() => return,
        };
        let Some(stranger) = places.admit() else { continue };
        tokio::spawn(serve_stranger(accepted, keepalive, backend.clone(), stranger, drain.clone()));
    }
}

/// Serves API servers on a TCP port, over TLS with client certificates, until drained.
pub(super) async fn serve_tls<B: Backend>(
    listener: TcpListener,
    tls: ServerEndpoint,
    keepalive: Duration,
    backend: Arc<B>,
    places: Places,
    mut drain: DrainWatch,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.draining() => return,
        };
        let Some(stranger) = places.admit() else { continue };
        let (tls, backend, drain) = (tls.clone(), backend.clone(), drain.clone());
        tokio::spawn(async move {
            let shaken = super::shake(stranger, &tls, accepted, drain.clone(), backend.metrics()).await;
            if let Some((_place, accepted)) = shaken {
                // A socket that is gone already says so when read.
                let _ = sockopt::set_user_timeout(accepted.stream.get_ref().0, connection::SILENCE);
                serve(accepted, keepalive, backend, drain, || {}).await;
            }
        });
    }
}

/// Serves a client that nothing is known of: until its first call its place may go to another.
async fn serve_stranger<S: AsyncRead + AsyncWrite + Unpin, B: Backend>(
    accepted: Accepted<S>,
    keepalive: Duration,
    backend: Arc<B>,
    stranger: Stranger,
    drain: DrainWatch,
) {
    let metrics = backend.metrics().clone();
    let (calls, called) = oneshot::channel();
    let first = || {
        // It is listened to for as long as this runs.
        let _ = calls.send(());
    };
    let mut serving = pin!(serve(accepted, keepalive, backend, drain.clone(), first));
    let called = async {
        tokio::select! {
            () = &mut serving => false,
            called = called => called.is_ok(),
        }
    };
    match stranger.shake(called, drain).await {
        Ok((_place, true)) => serving.await,
        Ok((_, false)) => {}
        Err(why) => metrics.konduit.refused("frontend", why.reason("preface")),
    }
}

/// `first` hears of the client's first call.
async fn serve<S: AsyncRead + AsyncWrite + Unpin, B: Backend>(
    accepted: Accepted<S>,
    keepalive: Duration,
    backend: Arc<B>,
    drain: DrainWatch,
    first: impl FnOnce(),
) {
    let remote = accepted.remote;
    if let Err(error) = connection::serve(accepted.stream, keepalive, backend, drain, first).await {
        if error.is_peer_gone() {
            tracing::debug!(%remote, %error, "A frontend's client left");
        } else {
            tracing::info!(%remote, %error, "frontend connection ended");
        }
    }
}

impl Backend for Dialer {
    type Opened = Opened;

    async fn dial(&self, request: &DialRequest) -> Result<Opened, DialError> {
        let (protocol, target) = (request.protocol.clone(), request.address.clone());
        Dialer::dial(self, Dial { via: Via::Grpc, protocol, target }).await
    }

    fn answers_close(opened: &Opened) -> bool {
        opened.end.answers_close()
    }

    async fn join(&self, client: End, opened: Opened) {
        Dialer::join(self, client, opened).await;
    }

    fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }
}

#[cfg(test)]
mod tests;
