//! One call of `ProxyService.Proxy`: its dial, then its flow.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};

use super::flow::Carrier;
use super::message::{Code, Item};
use super::packets::Packets;
use super::receive::{Ended, Receiver};
use super::send::{Sender, status};
use crate::flow::{DialError, DialReason};
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::{ServerMetrics, Service};
use crate::splice::End;
use crate::wire::ids::{ConnId, DialId};
use crate::wire::method;
use crate::wire::packet::{Answer, DialRequest, DialResponse, Packet};

/// What a call needs of the server: dials, and somebody who takes the two ends of a flow.
pub(in crate::server::frontend) trait Backend: Send + Sync + 'static {
    type Opened: Send;

    /// Dropping the future gives the dial up.
    fn dial(&self, request: &DialRequest) -> impl Future<Output = Result<Self::Opened, DialError>> + Send;

    /// As [`End::answers_close`], of the target's end.
    fn answers_close(opened: &Self::Opened) -> bool;

    /// Runs the flow to its end.
    fn join(&self, client: End, opened: Self::Opened) -> impl Future<Output = ()> + Send;

    fn metrics(&self) -> &ServerMetrics;
}

/// Connection ids towards frontends are ours: unique in this process, never 0.
static NEXT_CONN: AtomicI64 = AtomicI64::new(1);

/// Serves one call to its end, or until work is cut off.
pub(super) async fn serve<B: Backend>(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    backend: Arc<B>,
    mut drain: DrainWatch,
) {
    tokio::select! {
        // A call without a flow ends with its status.
        biased;
        () = answer(request, respond, &*backend, drain.clone()) => {}
        () = drain.cut() => {}
    }
}

async fn answer<B: Backend>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    backend: &B,
    drain: DrainWatch,
) {
    if let Err(refusal) = route(&request) {
        // Fails when the client is gone already.
        let _ = respond.send_response(refusal, true);
        return;
    }
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    let Ok(stream) = respond.send_response(response, false) else { return };
    let metrics = backend.metrics();
    let _open = metrics.grpc_connection(Service::Proxy);
    let receiver = Receiver::new(request.into_body(), metrics.clone());
    let sender = Sender::new(stream, metrics.clone());
    let call = Call { receiver, sender, dialled: false };
    call.run(backend, drain).await;
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const SERVICE: &str = "ProxyService";
const METHOD: &str = "Proxy";

/// Answers what is no call of ours in grpc-go's words.
fn route(request: &Request<RecvStream>) -> Result<(), Response<()>> {
    if request.method() != Method::POST {
        return Err(plain(StatusCode::METHOD_NOT_ALLOWED));
    }
    let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    match content_type.strip_prefix(GRPC.as_bytes()) {
        Some([] | [b'+' | b';', ..]) => {}
        _ => return Err(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
    }
    match method::unknown(request.uri().path(), SERVICE, METHOD) {
        None => Ok(()),
        Some(refusal) => Err(trailers_only(status(Code::Unimplemented, &refusal))),
    }
}

fn plain(code: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = code;
    response
}

fn trailers_only(mut headers: HeaderMap) -> Response<()> {
    headers.insert(CONTENT_TYPE, GRPC);
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    response
}

struct Call {
    receiver: Receiver,
    sender: Sender,
    /// A dial was answered, well or not.
    dialled: bool,
}

impl Call {
    async fn run<B: Backend>(mut self, backend: &B, mut drain: DrainWatch) {
        loop {
            let item = tokio::select! {
                item = self.receiver.item() => item,
                // Nobody waits for who has no flow and asks for none.
                () = drain.last_words() => break,
            };
            let request = match item {
                Ok(Item::Packet(Packet::DialRequest(request))) => request,
                Ok(item) => match self.without_flow(item) {
                    true => continue,
                    false => break,
                },
                Err(ended) => return self.end(ended),
            };
            match self.dial(&request, backend, &mut drain).await {
                Outcome::Opened(opened) => {
                    let conn = ConnId(NEXT_CONN.fetch_add(1, Ordering::Relaxed));
                    self.answer(request.dial, Ok(Answer::Here(conn)));
                    let answers_close = B::answers_close(&opened);
                    let packets = Packets::new(conn, self.receiver, self.sender, answers_close);
                    let (carrier, flow) = Carrier::new(packets);
                    carrier.carry(backend.join(End::stream(flow), opened)).await;
                    tokio::select! {
                        () = carrier.left() => {}
                        () = drain.last_words() => {}
                    }
                    return;
                }
                Outcome::Answered => self.dialled = true,
                Outcome::GivenUp => {}
                Outcome::Ended(ended) => return self.end(ended),
            }
        }
        self.sender.finish();
    }

    /// Waits for the dial, and for the client to give it up.
    async fn dial<B: Backend>(
        &mut self,
        request: &DialRequest,
        backend: &B,
        drain: &mut DrainWatch,
    ) -> Outcome<B::Opened> {
        let dialing = backend.dial(request);
        tokio::pin!(dialing);
        loop {
            tokio::select! {
                biased;
                opened = &mut dialing => match opened {
                    Ok(opened) => return Outcome::Opened(opened),
                    Err(error) => {
                        self.answer(request.dial, Err(error));
                        return Outcome::Answered;
                    }
                },
                // The call ends with its status.
                () = drain.cut() => return Outcome::Ended(Ended::Half),
                item = self.receiver.item() => match item {
                    Ok(Item::Packet(Packet::CloseDial { dial })) if dial == request.dial => {
                        return Outcome::GivenUp;
                    }
                    Ok(item) => if !self.without_flow(item) {
                        return Outcome::Ended(Ended::Half);
                    },
                    Err(ended) => {
                        return Outcome::Ended(ended);
                    }
                },
            }
        }
    }

    fn answer(&mut self, dial: DialId, outcome: Result<Answer, DialError>) {
        if matches!(&outcome, Err(error) if error.reason == DialReason::Withdrawn) {
            return self.sender.relay(Packet::CloseDial { dial });
        }
        let by_us = matches!(&outcome, Err(error) if error.reason.is_of_server());
        let response = Packet::DialResponse(DialResponse { dial, outcome });
        if by_us { self.sender.say(response) } else { self.sender.relay(response) }
    }

    /// A packet that belongs to no flow; `false` when the call is over.
    fn without_flow(&mut self, item: Item) -> bool {
        if !self.sender.bears_stray() {
            return false;
        }
        match item {
            Item::Data { conn: ConnId::NONE, .. } | Item::Data { first: false, .. } => true,
            Item::Data { conn, .. } | Item::Packet(Packet::Data { conn, .. }) => {
                let error = if self.dialled { "unrecognized connectID" } else { "backend not initialized" };
                self.sender.close_response(conn, error);
                self.dialled
            }
            Item::Packet(Packet::CloseRequest { conn }) => {
                self.sender.close_response(conn, if self.dialled { "" } else { "backend uninitialized" });
                true
            }
            Item::Packet(Packet::DialRequest(another)) => {
                self.sender.refuse_dial(another.dial);
                true
            }
            Item::Packet(Packet::CloseDial { .. }) => {
                self.sender.metrics().pending_dials_looked_at();
                true
            }
            Item::Packet(_) => true,
        }
    }

    fn end(&mut self, ended: Ended) {
        match ended {
            Ended::Half => self.sender.finish(),
            Ended::Broken(error) => self.sender.fail(&error),
            Ended::Reset => {}
        }
    }
}

enum Outcome<O> {
    Opened(O),
    /// The dial failed and the client was told.
    Answered,
    GivenUp,
    Ended(Ended),
}
