//! What a connection met, kept for whoever has to say why it ended: the gRPC library calls a peer that answers no
//! ping, and one that is gone, much the same as one that ended its stream.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How a connection was lost.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Loss {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection failed: {0}")]
    Broken(Arc<io::Error>),
    #[error("nothing came from the peer for {} s, no answer to a ping either", .0.as_secs())]
    Silent(Duration),
}

/// Follows one connection; clones follow the same.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    /// Milliseconds from the beginning to the last byte that came.
    heard: AtomicU64,
    /// `None`: nobody pings this peer.
    patience: Option<Duration>,
    end: OnceLock<Loss>,
}

impl Pulse {
    /// Of a peer that answers a ping within `patience`, or is given up.
    pub fn new(patience: Duration) -> Pulse {
        Pulse::with(Some(patience))
    }

    fn with(patience: Option<Duration>) -> Pulse {
        let (heard, end) = (AtomicU64::new(0), OnceLock::new());
        Pulse(Arc::new(Inner { began: Instant::now(), heard, patience, end }))
    }

    /// What is known of the connection's end; `None` where it is whole.
    pub fn loss(&self) -> Option<Loss> {
        self.0.end.get().cloned().or_else(|| self.silence())
    }

    /// Somebody waits for an answer for too long.
    fn silence(&self) -> Option<Loss> {
        let heard = Duration::from_millis(self.0.heard.load(Ordering::Relaxed));
        let silence = self.0.began.elapsed().saturating_sub(heard);
        self.0.patience.filter(|patience| silence >= *patience).map(|_| Loss::Silent(silence))
    }

    fn hear(&self) {
        let now = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.heard.store(now, Ordering::Relaxed);
    }

    /// The first thing that happened is the cause of the others.
    fn lose(&self, loss: Loss) {
        let _ = self.0.end.set(loss);
    }

    fn fail(&self, error: &io::Error) {
        // TLS has this for a connection that ends without its farewell.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.lose(Loss::Closed);
        }
        // The kernel waits as long for an acknowledgement as we do for a ping's answer, and may be first.
        if error.kind() == io::ErrorKind::TimedOut
            && let Some(silent) = self.silence()
        {
            return self.lose(silent);
        }
        let kept = match error.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        self.lose(Loss::Broken(Arc::new(kept)));
    }
}

impl Default for Pulse {
    /// Of a peer that nobody pings.
    fn default() -> Pulse {
        Pulse::with(None)
    }
}

/// A connection with its pulse. It changes nothing.
pub struct Followed<S> {
    stream: S,
    pulse: Pulse,
}

impl<S> Followed<S> {
    pub fn new(stream: S, pulse: Pulse) -> Followed<S> {
        pulse.hear();
        Followed { stream, pulse }
    }

    fn noted<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            self.pulse.fail(error);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Followed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Ok(()))) && buf.capacity() > before {
            match buf.filled().len() > before {
                true => self.pulse.hear(),
                false => self.pulse.lose(Loss::Closed),
            }
        }
        self.noted(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Followed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.noted(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.noted(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.noted(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::sockopt::reset_on_close;

    #[tokio::test]
    async fn what_became_of_the_peer_is_known() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for reset in [false, true] {
            let mut far = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let pulse = Pulse::new(Duration::from_secs(100));
            let mut near = Followed::new(listener.accept().await.unwrap().0, pulse.clone());
            near.write_all(b"there").await.unwrap();
            far.read_exact(&mut [0; 5]).await.unwrap();
            assert!(pulse.loss().is_none());
            if reset {
                reset_on_close(&far).unwrap();
            }
            drop(far);
            let _ = near.read_to_end(&mut Vec::new()).await;
            match (reset, pulse.loss()) {
                (false, Some(Loss::Closed)) => {}
                (true, Some(Loss::Broken(error))) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
                (_, other) => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn silence_counts_from_the_last_byte_and_only_where_somebody_pings() {
        const PATIENCE: Duration = Duration::from_millis(200);
        let (mut far, near) = tokio::io::duplex(10);
        let pulse = Pulse::new(PATIENCE);
        let mut near = Followed::new(near, pulse.clone());
        tokio::time::sleep(PATIENCE).await;
        assert!(matches!(pulse.loss(), Some(Loss::Silent(silence)) if silence >= PATIENCE));
        far.write_all(b"x").await.unwrap();
        near.read_u8().await.unwrap();
        assert!(!matches!(pulse.loss(), Some(Loss::Silent(silence)) if silence >= 2 * PATIENCE));
        let (_far, unasked) = (far, Pulse::default());
        tokio::time::sleep(PATIENCE).await;
        assert!(unasked.loss().is_none());
    }
}
