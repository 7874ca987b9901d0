//! Where API servers ask for flows.

pub mod connect;
pub mod grpc;
mod places;
mod socket;
mod stranger;
mod tls;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use self::places::{Place, Places};
use self::stranger::Stranger;
use super::dial::Dialer;
use super::options::{Mode, Options};
use super::{BoundFrontend, StartError, start};
use crate::net::listener::{Accepted, Remote, TcpListener};
use crate::net::seldom::Seldom;
use crate::net::tls::{ALPN_H2, ALPN_HTTP1, HandshakeError, ServerEndpoint, ServerTls, alpn_enforced};
use crate::net::uds::UdsListener;
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::ServerMetrics;

/// TLS on an accepted connection, as upstream.
const TLS_HANDSHAKE: Duration = Duration::from_secs(120);

/// The one frontend of a server, bound.
pub(super) struct Frontend {
    mode: Mode,
    listener: Listener,
    head_timeout: Duration,
}

enum Listener {
    Uds(UdsListener),
    Tls(TcpListener, ServerEndpoint),
}

impl Frontend {
    pub(super) fn bind(options: &Options) -> Result<Frontend, StartError> {
        let listener = if options.uds_name.is_empty() {
            let alpn = match options.mode {
                Mode::Grpc => ALPN_H2,
                Mode::HttpConnect => ALPN_HTTP1,
            };
            let tls = ServerTls {
                cert: options.server_cert.clone().into(),
                key: options.server_key.clone().into(),
                client_ca: start::file(&options.server_ca_cert),
                alpn: vec![alpn.to_vec()],
                require_alpn: options.mode == Mode::Grpc && alpn_enforced(),
                policy: start::policy(options)?,
            };
            let tls = tls.watch()?;
            let listener = TcpListener::bind(&options.server_bind_address, options.server_port);
            Listener::Tls(listener.map_err(StartError::Frontend)?, tls)
        } else {
            let listener = UdsListener::bind(Path::new(&options.uds_name), options.delete_existing_uds_file);
            Listener::Uds(listener.map_err(StartError::Frontend)?)
        };
        Ok(Frontend { mode: options.mode, listener, head_timeout: options.head_timeout })
    }

    pub(super) fn bound(&self) -> BoundFrontend {
        match &self.listener {
            Listener::Uds(listener) => BoundFrontend::Uds(listener.path().into()),
            Listener::Tls(listener, _) => BoundFrontend::Tcp(listener.local_addr()),
        }
    }

    /// Accepts until the drain begins; what was accepted runs on.
    pub(super) async fn serve(self, dialer: Dialer, keepalive: Duration, mut drain: DrainWatch) {
        let places = Places::new(dialer.most_flows, self.mode, dialer.metrics.clone());
        let (head_timeout, dialer) = (self.head_timeout, Arc::new(dialer));
        if let Listener::Uds(listener) = &self.listener {
            let metrics = dialer.metrics.konduit.clone();
            tokio::spawn(socket::watch(listener.claim(), metrics, socket::POLL, drain.clone()));
        }
        match (self.mode, self.listener) {
            (Mode::HttpConnect, Listener::Uds(listener)) => loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = drain.draining() => return,
                };
                let Some(stranger) = places.admit() else { continue };
                let (client, dialer, begun) = (accepted.stream, dialer.clone(), drain.clone());
                let flow = connect::serve_stranger(client, dialer, head_timeout, stranger, begun);
                until_cut(drain.clone(), flow);
            },
            (Mode::HttpConnect, Listener::Tls(listener, tls)) => loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = drain.draining() => return,
                };
                let Some(stranger) = places.admit() else { continue };
                let (tls, dialer, begun) = (tls.clone(), dialer.clone(), drain.clone());
                until_cut(drain.clone(), async move {
                    let shaken = shake(stranger, &tls, accepted, begun.clone(), &dialer.metrics).await;
                    if let Some((place, accepted)) = shaken {
                        connect::serve(accepted.stream, dialer, head_timeout, place, begun).await;
                    }
                });
            },
            (Mode::Grpc, Listener::Uds(listener)) => {
                grpc::serve_unix(listener, keepalive, dialer, places, drain).await;
            }
            (Mode::Grpc, Listener::Tls(listener, tls)) => {
                grpc::serve_tls(listener, tls, keepalive, dialer, places, drain).await;
            }
        }
    }
}

/// A client's place for good and its connection in TLS; what comes to nothing is counted and told.
async fn shake(
    stranger: Stranger,
    tls: &ServerEndpoint,
    accepted: Accepted<TcpStream>,
    drain: DrainWatch,
    metrics: &ServerMetrics,
) -> Option<(Place, Accepted<TlsStream<TcpStream>>)> {
    let remote = accepted.remote;
    match stranger.shake(tls.accept(accepted, TLS_HANDSHAKE), drain).await {
        Ok((place, Ok(accepted))) => return Some((place, accepted)),
        Ok((_, Err(error))) => {
            metrics.konduit.refused("frontend", "tls");
            tell(&remote, &error);
        }
        Err(why) => metrics.konduit.refused("frontend", why.reason("tls")),
    }
    None
}

/// Why there was no handshake with a client, once in a while: it may come back at once.
fn tell(remote: &Remote, error: &HandshakeError) {
    static SAID: Seldom = Seldom::new(Duration::from_secs(10));
    if error.is_peer_gone() {
        tracing::trace!(%remote, "Left the frontend without a TLS handshake");
    } else if SAID.take(Instant::now()) {
        tracing::warn!(%remote, %error, "Refused a frontend connection");
    }
}

/// Runs in a task of its own, at the latest until the drain cuts it.
fn until_cut(mut drain: DrainWatch, work: impl Future<Output = ()> + Send + 'static) {
    // A flow's future is kilobytes, which the task and the select would move several times over.
    let work = Box::pin(work);
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = drain.cut() => {}
        }
    });
}
