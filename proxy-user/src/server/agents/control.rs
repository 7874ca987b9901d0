//! A connection that is to carry a control stream: until an agent registers on it, it is anybody's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::listen::{Peer, Progress};
use crate::lane::record::RecordExact;
use crate::net::newcomers::Newcomer;
use crate::net::pulse::Followed;
use crate::ops::metrics::ServerMetrics;
use crate::wire::authority::PREFACE;

/// By then an agent has registered; its token may take 15 s to be checked. Pings are no sign of one.
const REGISTERS: Duration = Duration::from_secs(20);

/// No agent came of a connection.
#[derive(Debug, thiserror::Error)]
enum NoAgent {
    #[error("no agent registered within {REGISTERS:?}")]
    Late,
    #[error("it made room for another before an agent registered")]
    NoRoom,
}

impl NoAgent {
    /// As a metric's label.
    fn reason(&self) -> &'static str {
        match self {
            NoAgent::Late => "preface",
            NoAgent::NoRoom => "room",
        }
    }
}

type Registers = Pin<Box<dyn Future<Output = Result<(), NoAgent>> + Send>>;

/// Ends with an error when nobody registers in time, or its place goes to another before.
pub(super) struct Control {
    /// Was read from the stream already, and is to be read once more.
    heard: &'static [u8],
    stream: Followed<TlsStream<RecordExact<TcpStream>>>,
    peer: Peer,
    /// Until an agent has.
    registers: Option<Registers>,
    metrics: ServerMetrics,
}

impl Control {
    /// Behind HTTP/2's preface.
    pub(super) fn new(
        stream: TlsStream<RecordExact<TcpStream>>,
        peer: Peer,
        newcomer: Newcomer,
        metrics: ServerMetrics,
    ) -> Control {
        let stream = Followed::new(stream, peer.pulse.clone());
        let progress = peer.progress.subscribe();
        let registers = Box::pin(async move {
            tokio::select! {
                biased;
                registered = registers(progress, newcomer) => registered,
                () = sleep(REGISTERS) => Err(NoAgent::Late),
            }
        });
        Control { heard: PREFACE, stream, peer, registers: Some(registers), metrics }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(registers) = &mut self.registers else { return Ok(()) };
        let Poll::Ready(ended) = registers.as_mut().poll(cx) else { return Ok(()) };
        self.registers = None;
        ended.map_err(|error| {
            self.metrics.konduit.refused("agents", error.reason());
            tracing::debug!(from = %self.peer, %error, "Closed a connection on the agents' port");
            io::Error::new(io::ErrorKind::TimedOut, error)
        })
    }
}

/// Resolves when an agent registered. While one is being checked, which may take its time, nobody takes its place.
async fn registers(mut progress: watch::Receiver<Progress>, newcomer: Newcomer) -> Result<(), NoAgent> {
    loop {
        let now = *progress.borrow_and_update();
        let _busy = match now {
            Progress::Registered => return Ok(()),
            Progress::Asks => Some(newcomer.busy()),
            Progress::Silent => None,
        };
        tokio::select! {
            biased;
            changed = progress.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            () = newcomer.lost() => return Err(NoAgent::NoRoom),
        }
    }
}

impl Connected for Control {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Control {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        if !self.heard.is_empty() {
            let (now, later) = self.heard.split_at(self.heard.len().min(buf.remaining()));
            buf.put_slice(now);
            self.heard = later;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Control {
    /// A peer that does not read is not read either.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::newcomers::Newcomers;

    #[tokio::test]
    async fn who_is_being_checked_makes_no_room() {
        let newcomers = Newcomers::new(1);
        let peer = Peer::default();
        let ends = tokio::spawn(registers(peer.progress.subscribe(), newcomers.admit().await.unwrap()));
        peer.goes(Progress::Asks);
        tokio::task::yield_now().await;
        assert!(newcomers.admit().await.is_none());
        // Refused: it is anybody's again.
        peer.goes(Progress::Silent);
        tokio::task::yield_now().await;
        let second = newcomers.admit().await.unwrap();
        assert!(matches!(ends.await.unwrap(), Err(NoAgent::NoRoom)));

        let agent = Peer::default();
        let ends = tokio::spawn(registers(agent.progress.subscribe(), second));
        agent.goes(Progress::Registered);
        agent.goes(Progress::Asks);
        assert!(ends.await.unwrap().is_ok());
    }
}
