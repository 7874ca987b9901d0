//! The server's end of a new lane: hello, ticket, pool.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use rustls::server::ClientHello;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::Refusal;
use super::carrier::{Lane, Wire};
use super::hello::{ALPN_LANE, AgentWords, HELLO_TIMEOUT, ServerWords, hear_agent};
use super::message::{TalkError, pb, say};
use super::record::RecordExact;
use super::server::ServerLanes;
use crate::net::listener::{Accepted, Remote};
use crate::net::tls::{HandshakeError, ServerEndpoint};

/// The handshake of a connection that may become a lane. Where its client offers nothing else, the server's hello
/// ends its first flight: rustls sends it before the client proved itself only where it never will (no client
/// certificate is asked for) or did so by the session that it resumes, and it says no secret.
///
/// # Errors
/// As [`ServerEndpoint::accept`].
pub async fn handshake(
    tls: &ServerEndpoint,
    lanes: Option<&ServerLanes>,
    accepted: Accepted<TcpStream>,
    within: Duration,
) -> Result<Accepted<TlsStream<RecordExact<TcpStream>>>, HandshakeError> {
    // Whom the server will not hear it does not greet either: an agent that was greeted thinks that it was let in.
    let heard = lanes.filter(|lanes| {
        lanes.admits(address(&accepted.remote)) && lanes.shared.hellos.available_permits() > 0
    });
    let first = |hello: &ClientHello<'_>, connection: &mut RecordExact<TcpStream>| {
        let only_lane = hello.alpn().is_some_and(|offered| offered.eq([ALPN_LANE]));
        let words = heard.filter(|_| only_lane).and_then(|lanes| lanes.words().encode().ok());
        match words {
            Some(_) => connection.hold(),
            None => connection.read_exactly(),
        }
        words
    };
    tls.accept_with(accepted.map(RecordExact::reading_ahead), within, first).await
}

impl ServerLanes {
    fn words(&self) -> ServerWords {
        let config = &self.shared.config;
        ServerWords { server_id: config.server_id.clone(), security: config.security }
    }

    async fn greet(&self, wire: &mut Wire) -> Result<AgentWords, TalkError> {
        if !wire.get_ref().0.holds() {
            let said = async {
                wire.write_all(&self.words().encode()?).await?;
                Ok::<_, TalkError>(wire.flush().await?)
            };
            timeout(HELLO_TIMEOUT, said).await.map_err(|_| TalkError::Timeout(HELLO_TIMEOUT))??;
        }
        let heard = hear_agent(wire).await;
        // The session ticket may wait for the first dial.
        wire.get_mut().0.release();
        heard
    }

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
        let agent = match self.greet(&mut wire).await {
            Ok(agent) => agent,
            // An agent that holds no ticket for the server it reached just goes; that is no failure of its.
            Err(TalkError::Closed) => return counters.hello_failed(),
            Err(error) => {
                tracing::debug!(%from, %error, "a lane was lost in its hello");
                counters.hello_failed();
                // An agent that is slow, or was killed, may share its address with many others.
                if error.is_of_a_stranger() {
                    self.shared.book.failed(from, Instant::now());
                }
                return;
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
