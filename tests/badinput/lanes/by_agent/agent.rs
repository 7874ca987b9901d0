//! An agent of a case's own, which brings a lane to its moment.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use proxy_tests::calls::{Call, Client};
use proxy_user::flow::{DialError, DialReason};
use proxy_user::lane::ALPN_LANE;
use proxy_user::net::tls::ALPN_H2;
use proxy_user::wire::packet::{DialRequest, DialResponse, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::super::words::{About, SAID};
use super::super::{Heard, Lane, Word};
use super::{Case, Moment, Stage};
use crate::cell::LONG;
use crate::rest;

/// A busy machine let the server wait for the word after a dial until it took the lane for dead.
pub(super) struct Late;

/// An agent of a case's own.
pub(super) struct Agent {
    stage: Arc<Stage>,
    pub(super) case: Case,
    call: Call,
    pub(super) about: About,
    /// The dial that a lane was opened for.
    pub(super) claimed: Option<DialRequest>,
    _client: Client,
}

impl Agent {
    pub(super) async fn start(stage: Arc<Stage>, case: Case) -> Agent {
        let client = Client::new(connect(&stage, case, ALPN_H2).await).await;
        let (id, identifiers) = (case.host(), format!("host={}", case.host()));
        let metadata = [
            ("agentid", id.as_str()),
            ("agentidentifiers", &identifiers),
            ("konduit-mux", "1"),
            ("konduit-lane", "1"),
        ];
        let mut call = client.call("/AgentService/Connect", &metadata).await;
        let ticket = call.answered().await["konduit-lane-ticket"].to_str().unwrap().to_owned();
        let byte = |at: usize| u8::from_str_radix(&ticket[2 * at..2 * at + 2], 16).unwrap();
        let about = About {
            server: "server".to_owned(),
            ticket: std::array::from_fn(byte),
            security: 1 + u64::from(case.raw),
            claim: 0,
            dial: 1,
            target: "127.0.0.1:1".to_owned(),
        };
        Agent { stage, case, call, about, claimed: None, _client: client }
    }

    /// A client that wants a flow over this agent, and has no answer yet.
    pub(super) async fn client(&self) -> UnixStream {
        let mut client = UnixStream::connect(self.stage.cell.socket()).await.unwrap();
        let request = format!("CONNECT {}:1 HTTP/1.1\r\n\r\n", self.case.host());
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    /// The next dial over the control stream.
    pub(super) async fn asked(&mut self) -> DialRequest {
        loop {
            match self.call.hear().await.expect("the control stream ended") {
                Packet::DialRequest(request) => return request,
                // The client of a dial that came too late to a lane has left.
                Packet::WantLanes { .. } | Packet::CloseDial { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn refuse(&mut self, request: &DialRequest) {
        let outcome = Err(DialError::new(DialReason::Refused, SAID));
        self.call.say(Packet::DialResponse(DialResponse { dial: request.dial, outcome }));
    }

    /// What comes of a dial on a lane, unless the server has given the lane up meanwhile and asks anew.
    pub(super) async fn in_time<T>(&mut self, outcome: impl Future<Output = T>) -> Result<T, Late> {
        let request = tokio::select! {
            outcome = outcome => return Ok(outcome),
            request = self.asked() => request,
        };
        self.refuse(&request);
        Err(Late)
    }

    /// A lane before its first word.
    async fn silent_lane(&self) -> Lane {
        let lane = Lane::new(connect(&self.stage, self.case, ALPN_LANE).await.into());
        self.stage.played.lock().unwrap().push((format!("{:?}", self.case), lane.far));
        lane
    }

    async fn lane(&mut self, claim: u64) -> Lane {
        let mut lane = self.silent_lane().await;
        assert_eq!(lane.hear().await, Some(Heard::ServerHello));
        self.about.claim = claim;
        lane.say(&Word::AgentHello.bytes(&self.about)).await;
        lane
    }

    /// A lane of the pool: one was asked for with a dial that failed.
    async fn warm(&mut self) -> Lane {
        let client = self.client().await;
        let request = self.asked().await;
        self.refuse(&request);
        refused(client).await;
        self.lane(0).await
    }

    /// The client whose dial came on this lane.
    async fn dialled(&mut self, lane: &mut Lane) -> UnixStream {
        loop {
            let client = self.client().await;
            let request = tokio::select! {
                heard = lane.hear() => {
                    let Some(Heard::Dial(dial)) = heard else { panic!("no dial but {heard:?}") };
                    self.about.dial = dial;
                    return client;
                }
                request = self.asked() => request,
            };
            // The lane was not yet in the pool.
            self.refuse(&request);
            refused(client).await;
        }
    }

    /// Brings a lane to the moment; with the client whose dial or flow is on it.
    pub(super) async fn at(&mut self, moment: Moment) -> Result<(Lane, Option<UnixStream>), Late> {
        match moment {
            Moment::Hello => Ok((self.silent_lane().await, None)),
            Moment::Warm => Ok((self.warm().await, None)),
            Moment::Dialled | Moment::Acknowledged | Moment::Flow | Moment::Again | Moment::Ended => {
                let mut lane = self.warm().await;
                let mut client = self.dialled(&mut lane).await;
                let word = match moment {
                    Moment::Dialled => return Ok((lane, Some(client))),
                    Moment::Acknowledged => Word::Dialing,
                    Moment::Again => Word::Bad,
                    _ => Word::Good,
                };
                lane.say(&word.bytes(&self.about)).await;
                match moment {
                    Moment::Acknowledged => return Ok((lane, Some(client))),
                    Moment::Again => self.in_time(refused(client)).await?,
                    _ => {
                        self.in_time(opened(&mut client)).await?;
                        if moment == Moment::Flow {
                            return Ok((lane, Some(client)));
                        }
                        drop(client);
                        assert_eq!(lane.flow(1).await, (Vec::new(), true));
                        lane.say(&[0, 0]).await;
                    }
                }
                Ok((lane, None))
            }
            Moment::Claimed | Moment::Joined => {
                let mut client = self.client().await;
                let request = self.asked().await;
                let dial = request.lane_dial;
                assert_ne!(dial, 0, "no answer on a lane was asked for");
                self.claimed = Some(request);
                let mut lane = self.lane(dial).await;
                self.about.dial = dial;
                if moment == Moment::Joined {
                    lane.say(&Word::Good.bytes(&self.about)).await;
                    assert_eq!(lane.hear().await, Some(Heard::Joined(dial)));
                    opened(&mut client).await;
                }
                Ok((lane, Some(client)))
            }
        }
    }
}

/// From an address of the case's own: what it does wrong is counted against that.
async fn connect(stage: &Stage, case: Case, alpn: &[u8]) -> TlsStream<TcpStream> {
    let [high, low] = case.number.to_be_bytes();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0))).unwrap();
    let stream = socket.connect(stage.cell.server.bound.agents).await.unwrap();
    let tls = stage.cell.tls(Some(&stage.cell.client()), alpn);
    tls.connect("127.0.0.1", stream, LONG).await.unwrap()
}

pub(super) async fn opened(client: &mut UnixStream) {
    let mut head = [0; 39];
    tokio::time::timeout(LONG, client.read_exact(&mut head)).await.expect("no answer to a dial").unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 Connection Established\r\n\r\n");
}

pub(super) async fn refused(mut client: UnixStream) {
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.ends_with(SAID), "{answer:?}");
}
