//! The server's end of a new lane: hello, ticket, pool.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::Refusal;
use super::carrier::{Lane, Wire};
use super::hello::{HELLO_TIMEOUT, ServerWords, greet};
use super::message::{TalkError, pb, say};
use super::record::RecordExact;
use super::server::ServerLanes;
use crate::net::listener::{Accepted, Remote};

impl ServerLanes {
    /// Hears the hello of a connection that negotiated the lane's ALPN name and puts it where it belongs. Ends
    /// within the timeouts of the hello.
    pub async fn accept(&self, accepted: Accepted<TlsStream<RecordExact<TcpStream>>>) {
        let counters = &self.shared.counters;
        let from = address(&accepted.remote);
        let Ok(_room) = self.shared.hellos.try_acquire() else {
            counters.refused(Refusal::TooManyLanes);
            return;
        };
        if !self.admits(from) {
            counters.refused(Refusal::TooManyFailures);
            return;
        }
        let tls = accepted.tls;
        counters.handshake(tls.as_ref().is_some_and(|tls| tls.resumed));
        let identity = tls.and_then(|tls| tls.identity);
        let mut wire = Wire::from(accepted.stream);
        let config = &self.shared.config;
        let words = ServerWords { server_id: config.server_id.clone(), security: config.security };
        let agent = match greet(&mut wire, &words).await {
            Ok(agent) => agent,
            // An agent that holds no ticket for the server it reached just goes; that is no failure of its.
            Err(TalkError::Closed) => return counters.hello_failed(),
            Err(error) => {
                tracing::debug!(%from, %error, "a lane was lost in its hello");
                counters.hello_failed();
                return self.shared.book.failed(from, Instant::now());
            }
        };
        let now = Instant::now();
        let stream = self.shared.book.check(&agent.stream, &agent.secret, identity.as_ref(), from, now);
        let lane = Lane::new(wire, config.security.with(agent.security)).expiring_in(config.age);
        let placed = match stream {
            Ok(pool) => pool.arrive(lane, agent.dial),
            Err(refusal) => Err((lane, refusal)),
        };
        match placed {
            Ok(()) => counters.kept(),
            Err((lane, refusal)) => {
                counters.refused(refusal);
                tracing::debug!(%from, %refusal, "refused a lane");
                refuse(lane, refusal).await;
            }
        }
    }
}

async fn refuse(mut lane: Lane, refusal: Refusal) {
    let Ok(wire) = lane.wire() else { return };
    let told = async {
        say(wire, pb::Refused::from(refusal), HELLO_TIMEOUT).await?;
        wire.shutdown().await.map_err(TalkError::Io)
    };
    // The agent learns the reason, or it sees the end.
    let _ = tokio::time::timeout(HELLO_TIMEOUT, told).await;
}

fn address(remote: &Remote) -> IpAddr {
    match remote {
        Remote::Tcp(address) => address.ip().to_canonical(),
        Remote::Unix { .. } => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}
