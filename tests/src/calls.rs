//! Either end of a gRPC call, which may say anything; a test's own, so whatever fails here panics.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::HeaderMap;
use prost::Message;
use proxy_user::wire::packet::Packet;
use proxy_user::wire::pb;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::runner::SOON;

/// A connection that calls can be made on.
pub struct Client {
    requests: SendRequest<Bytes>,
}

/// One call under way.
pub struct Call {
    pub send: h2::SendStream<Bytes>,
    response: Option<ResponseFuture>,
    pub headers: HeaderMap,
    body: Option<RecvStream>,
    bytes: BytesMut,
}

impl Client {
    pub async fn new<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(socket: S) -> Client {
        Client::with_window(socket, 65_535).await
    }

    /// With this window for what a server sends on each of its streams.
    pub async fn with_window<S>(socket: S, window: u32) -> Client
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let builder = h2::client::Builder::new().initial_window_size(window).clone();
        let (requests, driver) = builder.handshake(socket).await.unwrap();
        tokio::spawn(driver);
        Client { requests }
    }

    pub async fn call(&self, path: &str, metadata: &[(&str, &str)]) -> Call {
        let mut request = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, send) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        Call { send, response: Some(response), headers: HeaderMap::new(), body: None, bytes: BytesMut::new() }
    }
}

impl Call {
    /// The next call on a server's connection, answered with these headers. The connection must be driven beside.
    pub fn answer(
        request: http::Request<RecvStream>,
        respond: h2::server::SendResponse<Bytes>,
        metadata: &[(&str, &str)],
    ) -> Call {
        Call::try_answer(request, respond, metadata).unwrap()
    }

    /// As [`Call::answer`], to a peer that may have given the call up.
    pub fn try_answer(
        request: http::Request<RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
        metadata: &[(&str, &str)],
    ) -> Result<Call, h2::Error> {
        let mut response = http::Response::builder().header("content-type", "application/grpc");
        for (name, value) in metadata {
            response = response.header(*name, *value);
        }
        let send = respond.send_response(response.body(()).unwrap(), false)?;
        let (head, body) = request.into_parts();
        Ok(Call { send, response: None, headers: head.headers, body: Some(body), bytes: BytesMut::new() })
    }

    /// As [`Call::say`], to a peer that may have ended the call; whether it has not.
    pub fn try_say(&mut self, packet: Packet) -> bool {
        let message = pb::Packet::from(packet).encode_to_vec();
        let mut out = BytesMut::new();
        out.put_u8(0);
        out.put_u32(message.len() as u32);
        out.put_slice(&message);
        self.send.send_data(out.freeze(), false).is_ok()
    }

    /// Waits until this many bytes can go out at once, at most the peer's window.
    pub async fn room(&mut self, bytes: usize) -> anyhow::Result<()> {
        self.send.reserve_capacity(bytes);
        while self.send.capacity() < bytes {
            let more = std::future::poll_fn(|cx| self.send.poll_capacity(cx)).await;
            more.ok_or_else(|| anyhow::anyhow!("the call has ended"))??;
        }
        Ok(())
    }

    pub fn say(&mut self, packet: Packet) {
        let packet = pb::Packet::from(packet).encode_to_vec();
        self.send_message(&packet);
    }

    pub fn send_message(&mut self, message: &[u8]) {
        let mut out = BytesMut::new();
        out.put_u8(0);
        out.put_u32(message.len() as u32);
        out.put_slice(message);
        self.send.send_data(out.freeze(), false).unwrap();
    }

    /// The headers of the answer.
    pub async fn answered(&mut self) -> &HeaderMap {
        if let Some(response) = self.response.take() {
            let response = tokio::time::timeout(SOON, response).await.expect("no answer").unwrap();
            self.headers = response.headers().clone();
            self.body = Some(response.into_body());
        }
        &self.headers
    }

    /// The next packet; `None` when there are no more.
    pub async fn hear(&mut self) -> Option<Packet> {
        self.answered().await;
        let body = self.body.as_mut().unwrap();
        loop {
            if let Some(length) = self.bytes.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if self.bytes.len() >= 5 + length {
                    let message = self.bytes.split_to(5 + length).freeze().slice(5..);
                    return Some(Packet::try_from(pb::Packet::decode(message).unwrap()).unwrap());
                }
            }
            let chunk = tokio::time::timeout(SOON, body.data()).await.expect("nothing came")?.ok()?;
            body.flow_control().release_capacity(chunk.len()).unwrap();
            self.bytes.extend_from_slice(&chunk);
        }
    }

    /// The status that ended the call, and its message.
    pub async fn status(&mut self) -> (String, String) {
        while self.hear().await.is_some() {}
        let trailers = self.body.as_mut().unwrap().trailers().await.ok().flatten().unwrap_or_default();
        let text = |name| {
            let value = trailers.get(name).or(self.headers.get(name));
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        (text("grpc-status"), text("grpc-message"))
    }
}
