//! The authority rewriter on a live connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::authority::Rewriter;

/// A connection whose reader sees clean header blocks; what is written goes out as it is.
///
/// Bytes are read straight into the reader's buffer and stay there unless a header block is among them.
#[derive(Debug)]
pub(super) struct CleanAuthority<S> {
    inner: S,
    rewriter: Rewriter,
    /// Rewritten, not handed over yet.
    ready: BytesMut,
}

impl<S> CleanAuthority<S> {
    pub(super) fn new(inner: S) -> CleanAuthority<S> {
        CleanAuthority { inner, rewriter: Rewriter::default(), ready: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for CleanAuthority<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                let step = this.ready.len().min(buffer.remaining());
                buffer.put_slice(&this.ready[..step]);
                this.ready.advance(step);
                if this.ready.is_empty() {
                    this.ready = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.rewriter.is_broken() || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
            let fresh = &buffer.filled()[before..];
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = this.rewriter.pass(fresh);
            this.rewriter.feed(&fresh[passed..], &mut this.ready);
            buffer.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CleanAuthority<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// h2 speaks, through the adapter, with h2: whatever its encoder indexes, the server reads the same list.
    #[tokio::test]
    async fn requests_arrive_as_they_were_sent() {
        let (near, far) = tokio::io::duplex(1000);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(CleanAuthority::new(far)).await.unwrap();
            let mut seen = Vec::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.uri().authority().unwrap(), "localhost");
                seen.push((request.uri().path().to_owned(), request.headers().clone()));
                respond.send_response(http::Response::new(()), true).unwrap();
            }
            seen
        });
        let (mut client, connection) = h2::client::handshake(near).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut sent = Vec::new();
        for round in 0..50 {
            let path = format!("/AgentService/{}", round % 3);
            let mut request = http::Request::post(format!("http://target.example:80{path}"));
            let headers = request.headers_mut().unwrap();
            headers.insert("user-agent", format!("client/{}", round / 10).parse().unwrap());
            headers.insert("authorization", "x".repeat(round * 300).parse().unwrap());
            sent.push((path, headers.clone()));
            let (response, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
        }
        drop(client);
        driver.await.unwrap().unwrap();
        assert_eq!(server.await.unwrap(), sent);
    }

    #[tokio::test]
    async fn a_broken_header_block_is_answered_with_goaway() {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(CleanAuthority::new(far)).await.unwrap();
            while let Some(Ok(_)) = connection.accept().await {}
        });
        near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        near.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        near.write_all(&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0xff]).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), near.read_to_end(&mut answer));
        read.await.unwrap().unwrap();
        server.await.unwrap();
        const GOAWAY: u8 = 7;
        const NO_ERROR: u8 = 0;
        let last = &answer[answer.len() - 17..];
        assert_eq!(last[3], GOAWAY, "{answer:x?}");
        assert_ne!(last[16], NO_ERROR, "{answer:x?}");
    }
}
