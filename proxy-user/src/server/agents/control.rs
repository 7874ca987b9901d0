//! A connection that is to carry a control stream: until an agent registers on it, it is anybody's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::listen::Peer;
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
        let registered = peer.registered.clone();
        let registers = Box::pin(async move {
            tokio::select! {
                biased;
                () = registered.cancelled() => Ok(()),
                () = newcomer.lost() => Err(NoAgent::NoRoom),
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
