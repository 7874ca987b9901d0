//! A flow on the packets of one `Proxy` stream, as an end to be joined.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::packets::Packets;
use crate::splice::FlowStream;

/// The packets, as the call that carries them sees them while they are an end of a join.
pub(super) struct Carrier(Arc<Mutex<Packets>>);

/// The packets as an end. The call ends with its carrier.
pub(super) struct PacketFlow(Arc<Mutex<Packets>>);

impl Carrier {
    pub(super) fn new(packets: Packets) -> (Carrier, PacketFlow) {
        let packets = Arc::new(Mutex::new(packets));
        (Carrier(packets.clone()), PacketFlow(packets))
    }

    /// Runs the flow to its end, and looks after what the client waits for meanwhile.
    pub(super) async fn carry(&self, join: impl Future<Output = ()>) {
        let mut join = pin!(join);
        poll_fn(|context| {
            let joined = join.as_mut().poll(context);
            lock(&self.0).poll_answer(context);
            joined
        })
        .await;
    }

    /// Until the client has left, as upstream leaves the end of a call to it, or had the time to. A call that ends
    /// together with its CLOSE_RSP fails what the client writes before it read that far, and Go's may take its tunnel
    /// for lost.
    pub(super) async fn left(&self) {
        poll_fn(|context| lock(&self.0).poll_left(context)).await;
    }
}

fn lock(packets: &Mutex<Packets>) -> MutexGuard<'_, Packets> {
    packets.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for PacketFlow {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        lock(&self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for PacketFlow {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(context, bytes)
    }

    /// The connection's own task flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).shutdown();
        Poll::Ready(Ok(()))
    }
}

impl FlowStream for PacketFlow {
    fn abort(&mut self) {
        // Upstream has no words for a target that reset, or an agent that is lost.
        self.abort_with("");
    }

    fn abort_with(&mut self, words: &str) {
        lock(&self.0).abort(words);
    }

    fn poll_broken(&mut self, context: &mut Context<'_>) -> Poll<()> {
        lock(&self.0).poll_broken(context)
    }

    fn poll_unwritable(&mut self, context: &mut Context<'_>) -> Poll<()> {
        lock(&self.0).poll_unwritable(context)
    }
}

impl Drop for PacketFlow {
    fn drop(&mut self) {
        lock(&self.0).abandon();
    }
}
