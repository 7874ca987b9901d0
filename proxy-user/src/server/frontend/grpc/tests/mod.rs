//! The frontend against an h2 client that speaks packets, with real sockets behind it.

mod crowd;
mod cut;
mod dials;
mod draining;
mod flows;
mod strays;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use h2::RecvStream;
use h2::client::SendRequest;
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::encode::encode;
use super::message::Item;
use super::parse::Parser;
use super::stream::Backend;
use super::{connection, send};
use crate::flow::{DialError, DialReason, FlowTable, Meter};
use crate::mux::brake::Limits;
use crate::mux::{Dialect, Link, LinkConfig, Role};
use crate::ops::drain::{self, DrainTrigger};
use crate::ops::metrics::ServerMetrics;
use crate::splice::{End, SpliceConfig, Splicer};
use crate::wire::ids::{ConnId, DialId};
use crate::wire::packet::{Answer, DialRequest, Packet};
use crate::wire::pb;

const SOON: Duration = Duration::from_secs(10);

/// Dials addresses on this machine; `hang` never answers, others are flows of upstream's agent that do
/// what [`Agent`] says.
struct Local {
    splicer: Splicer,
    hanging: AtomicUsize,
    given_up: AtomicUsize,
    joined: AtomicUsize,
    metrics: ServerMetrics,
}

const WORDS: &str = "the target said: 100 %\n";

/// What upstream's agent does with a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agent {
    Ends,
    AnswersClose,
    /// It does not even read.
    IsStuck,
}

/// The flow of a link on which the peer sends a few bytes, and [`WORDS`] when it ends the flow.
fn with_words(agent: Agent) -> End {
    let config = LinkConfig::alone(Role::Dialer, Dialect::Upstream, Limits::default());
    let (link, mut outlet) = Link::new(config);
    let conn = ConnId(1);
    let flow = link.attach(conn).unwrap();
    tokio::spawn(async move {
        let answer = async {
            let mut asked =
                async || outlet.next().await.unwrap().unwrap().r#type() == pb::PacketType::CloseReq;
            match agent {
                Agent::Ends => {}
                Agent::AnswersClose => while !asked().await {},
                Agent::IsStuck => std::future::pending().await,
            }
            Ok(Packet::CloseResponse { conn, error: WORDS.into() }.into())
        };
        let data = Ok(Packet::Data { conn, data: "bytes".into() }.into());
        let inbound = stream::iter([data]).chain(stream::once(answer)).chain(stream::pending());
        link.run(std::pin::pin!(inbound), |_| {}).await
    });
    End::stream(flow)
}

struct GivenUp<'a>(&'a AtomicUsize);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Backend for Local {
    type Opened = End;

    async fn dial(&self, request: &DialRequest) -> Result<End, DialError> {
        match request.address.as_str() {
            "words" => return Ok(with_words(Agent::Ends)),
            "answers close" => return Ok(with_words(Agent::AnswersClose)),
            "is stuck" => return Ok(with_words(Agent::IsStuck)),
            _ => {}
        }
        if request.address == "hang" {
            self.hanging.fetch_add(1, Ordering::SeqCst);
            let _given_up = GivenUp(&self.given_up);
            std::future::pending::<()>().await;
        }
        let refused =
            |error| DialError::new(DialReason::Refused, format!("dial tcp {}: {error}", request.address));
        let address: SocketAddr =
            request.address.parse().map_err(|_| DialError::new(DialReason::NoAgent, "No agent available"))?;
        let target = TcpStream::connect(address).await.map_err(refused)?;
        Ok(End::tcp(target.into_std().unwrap()))
    }

    fn answers_close(target: &End) -> bool {
        target.answers_close()
    }

    async fn join(&self, client: End, target: End) {
        self.splicer.join(client, target, Arc::new(Meter::default())).await;
        self.joined.fetch_add(1, Ordering::SeqCst);
    }

    fn metrics(&self) -> &ServerMetrics {
        &self.metrics
    }
}

struct Server {
    backend: Arc<Local>,
    requests: SendRequest<Bytes>,
    drain: DrainTrigger,
}

fn local() -> Arc<Local> {
    let splicer = Splicer::start(SpliceConfig { threads: 1, ..SpliceConfig::default() }).unwrap();
    Arc::new(Local {
        splicer,
        hanging: 0.into(),
        given_up: 0.into(),
        joined: 0.into(),
        metrics: ServerMetrics::new(&FlowTable::new()).unwrap(),
    })
}

async fn server() -> Server {
    let backend = local();
    let (near, far) = UnixStream::pair().unwrap();
    let (trigger, watch) = drain::channel();
    tokio::spawn(connection::serve(far, Duration::from_secs(3600), backend.clone(), watch, || {}));
    let (requests, driver) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake(near)
        .await
        .unwrap();
    tokio::spawn(driver);
    Server { backend, requests, drain: trigger }
}

/// One call, seen by its client.
struct Call {
    send: h2::SendStream<Bytes>,
    response: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    parser: Parser,
}

async fn call(requests: &SendRequest<Bytes>) -> Call {
    let request = http::Request::post("http://localhost/ProxyService/Proxy")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut requests = requests.clone().ready().await.unwrap();
    let (response, send) = requests.send_request(request, false).unwrap();
    Call { send, response: Some(response), body: None, parser: Parser::default() }
}

impl Server {
    async fn call(&self) -> Call {
        call(&self.requests).await
    }

    async fn dial(&self, address: &str) -> (Call, ConnId) {
        let mut call = self.call().await;
        call.say(dial(address, 7));
        let Packet::DialResponse(response) = call.hear().await else { panic!("no DIAL_RSP") };
        assert_eq!(response.dial, DialId(7));
        let Ok(Answer::Here(conn)) = response.outcome else { panic!("{:?}", response.outcome) };
        assert_ne!(conn, ConnId::NONE);
        (call, conn)
    }

    async fn joined(&self, count: usize) {
        self.reached(|backend| &backend.joined, count).await;
    }

    async fn reached(&self, counter: impl Fn(&Local) -> &AtomicUsize, count: usize) {
        let done = async {
            while counter(&self.backend).load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(SOON, done).await.expect("it never happened");
    }
}

fn dial(address: &str, random: i64) -> Packet {
    Packet::DialRequest(DialRequest {
        dial: DialId(random),
        protocol: "tcp".into(),
        address: address.into(),
        lane_dial: 0,
    })
}

impl Call {
    fn say(&mut self, packet: Packet) {
        self.send.send_data(encode(packet), false).unwrap();
    }

    async fn next(&mut self) -> Option<Item> {
        if let Some(response) = self.response.take() {
            self.body = Some(response.await.unwrap().into_body());
        }
        let body = self.body.as_mut().unwrap();
        loop {
            if let Some(item) = self.parser.next().unwrap() {
                return Some(item);
            }
            let chunk = tokio::time::timeout(SOON, body.data()).await.expect("nothing came")?.ok()?;
            body.flow_control().release_capacity(chunk.len()).unwrap();
            self.parser.push(chunk);
        }
    }

    async fn hear(&mut self) -> Packet {
        match self.next().await {
            Some(Item::Packet(packet)) => packet,
            other => panic!("{other:?}"),
        }
    }

    async fn status(&mut self) -> (String, String) {
        assert_eq!(self.next().await, None);
        let trailers = self.body.as_mut().unwrap().trailers().await.unwrap().unwrap();
        let text =
            |name| trailers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        (text(send::GRPC_STATUS), text(send::GRPC_MESSAGE))
    }

    /// Reads DATA until this many bytes arrived.
    async fn bytes(&mut self, conn: ConnId, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            match self.next().await {
                Some(Item::Data { conn: of, part, .. }) if of == conn => bytes.extend_from_slice(&part),
                other => panic!("{other:?}"),
            }
        }
        bytes
    }
}

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8).collect()
}
