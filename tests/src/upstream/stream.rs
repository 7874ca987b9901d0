//! One gRPC stream of packets, on h2 itself: messages out with flow control, messages in.

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use prost::Message;
use proxy_user::wire::pb;

/// The stream or its connection is gone.
#[derive(Debug)]
pub(super) struct Gone;

pub(super) struct Outbound(pub(super) SendStream<Bytes>);

impl Outbound {
    /// Waits for the peer's window, as grpc-go's senders do.
    pub(super) async fn send(&mut self, packet: &pb::Packet) -> Result<(), Gone> {
        let message = packet.encode_to_vec();
        let mut out = BytesMut::with_capacity(message.len() + 5);
        out.put_u8(0);
        out.put_u32(message.len() as u32);
        out.put_slice(&message);
        while !out.is_empty() {
            self.0.reserve_capacity(out.len());
            let room = std::future::poll_fn(|cx| self.0.poll_capacity(cx)).await;
            let room = room.and_then(Result::ok).ok_or(Gone)?;
            let part = out.split_to(room.min(out.len())).freeze();
            self.0.send_data(part, false).map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Ends a server's side of the stream with OK.
    pub(super) fn finish(mut self) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        // A stream that is gone needs no end.
        let _ = self.0.send_trailers(trailers);
    }
}

pub(super) struct Inbound {
    body: RecvStream,
    bytes: BytesMut,
}

impl Inbound {
    pub(super) fn new(body: RecvStream) -> Inbound {
        Inbound { body, bytes: BytesMut::new() }
    }

    /// The next packet; `None` when the stream ended, however it did.
    pub(super) async fn next(&mut self) -> Option<pb::Packet> {
        loop {
            if let Some(length) = self.bytes.get(1..5).and_then(|four| <[u8; 4]>::try_from(four).ok()) {
                let length = u32::from_be_bytes(length) as usize;
                if self.bytes.len() >= 5 + length {
                    let message = self.bytes.split_to(5 + length).freeze().slice(5..);
                    return pb::Packet::decode(message).ok();
                }
            }
            let chunk = self.body.data().await?.ok()?;
            self.body.flow_control().release_capacity(chunk.len()).ok()?;
            self.bytes.extend_from_slice(&chunk);
        }
    }
}
