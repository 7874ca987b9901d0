//! A played agent's words to our server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use proxy_tests::calls::{Call, Client};
use proxy_tests::konduit::Lanes;
use proxy_tests::runner::until;
use proxy_user::flow::{DialError, DialReason};
use proxy_user::lane::ALPN_LANE;
use proxy_user::net::tls::ALPN_H2;
use proxy_user::server::options::{Strategies, Strategy};
use proxy_user::wire::packet::{DialRequest, DialResponse, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UnixStream};
use tokio_rustls::client::TlsStream;

use super::lane::{Socket, shaped};
use super::words::{About, SAID};
use super::{Carried, Heard, Lane, Shape, Then, Word, all_closed, each, sayings};
use crate::cell::{Cell, LONG, Plan};
use crate::{Witness, dials, panics, rest};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// In place of the hello.
    Hello,
    /// In the pool, never dialled on.
    Warm,
    /// The server dials on it.
    Dialled,
    /// The dial was acknowledged.
    Acknowledged,
    /// It carries the flow of that dial.
    Flow,
    /// Back in the pool after a dial that failed.
    Again,
    /// Back in the pool after a flow that ended.
    Ended,
    /// Opened for a dial that came over the control stream.
    Claimed,
    /// It carries the flow of that dial.
    Joined,
}

const MOMENTS: [Moment; 9] = [
    Moment::Hello,
    Moment::Warm,
    Moment::Dialled,
    Moment::Acknowledged,
    Moment::Flow,
    Moment::Again,
    Moment::Ended,
    Moment::Claimed,
    Moment::Joined,
];

#[derive(Debug, Clone, Copy)]
struct Case {
    number: u16,
    moment: Moment,
    word: Word,
    shape: Shape,
    raw: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for moment in MOMENTS {
        for (word, shape) in sayings(moment == Moment::Hello) {
            let flows = matches!(moment, Moment::Flow | Moment::Joined);
            // A flow in clear may have left its frames before it ends.
            let ended = moment == Moment::Ended;
            for raw in [true, false].into_iter().filter(|raw| flows || *raw != ended) {
                cases.push(Case { number: cases.len() as u16, moment, word, shape, raw });
            }
        }
    }
    cases
}

/// The server, a bystander's agent at it, and every lane that was played.
struct Stage {
    cell: Cell,
    played: Mutex<Vec<(String, Socket)>>,
}

/// A busy machine let the server wait for the word after a dial until it took the lane for dead.
struct Late;

/// An agent of a case's own.
struct Agent {
    stage: Arc<Stage>,
    case: Case,
    call: Call,
    about: About,
    /// The dial that a lane was opened for.
    claimed: Option<DialRequest>,
    _client: Client,
}

impl Agent {
    async fn start(stage: Arc<Stage>, case: Case) -> Agent {
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
    async fn client(&self) -> UnixStream {
        let mut client = UnixStream::connect(self.stage.cell.socket()).await.unwrap();
        let request = format!("CONNECT {}:1 HTTP/1.1\r\n\r\n", self.case.host());
        client.write_all(request.as_bytes()).await.unwrap();
        client
    }

    /// The next dial over the control stream.
    async fn asked(&mut self) -> DialRequest {
        loop {
            match self.call.hear().await.expect("the control stream ended") {
                Packet::DialRequest(request) => return request,
                // The client of a dial that came too late to a lane has left.
                Packet::WantLanes { .. } | Packet::CloseDial { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn refuse(&mut self, request: &DialRequest) {
        let outcome = Err(DialError::new(DialReason::Refused, SAID));
        self.call.say(Packet::DialResponse(DialResponse { dial: request.dial, outcome }));
    }

    /// What comes of a dial on a lane, unless the server has given the lane up meanwhile and asks anew.
    async fn in_time<T>(&mut self, outcome: impl Future<Output = T>) -> Result<T, Late> {
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
    async fn at(&mut self, moment: Moment) -> Result<(Lane, Option<UnixStream>), Late> {
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

    /// With another lane where a machine was too busy for one; a server that always gives up is none of its doing.
    async fn play(mut self) {
        for _ in 0..3 {
            if self.play_once().await.is_ok() {
                return;
            }
        }
        panic!("the server never waits for what follows a dial");
    }

    async fn play_once(&mut self) -> Result<(), Late> {
        let Case { moment, word, shape, raw, .. } = self.case;
        let (mut lane, client) = self.at(moment).await?;
        let said = word.bytes(&self.about);
        lane.say_as(&said, shape).await;
        match (moment, client) {
            (Moment::Hello, _) => {
                let heard = lane.ends().await;
                let shown = matches!(word, Word::AgentHello | Word::ForgersHello) && !shape.is_half();
                // What comes last is a refusal: tag 3, two bytes, its number.
                assert_eq!(
                    heard.ends_with(&[0x1a, 2, 8, if word == Word::AgentHello { 8 } else { 2 }]),
                    shown
                );
            }
            // Nothing may come on a lane that waits: the next dial goes elsewhere.
            (_, None) => {
                let client = self.client().await;
                let request = self.asked().await;
                self.refuse(&request);
                refused(client).await;
                lane.ends().await;
            }
            (Moment::Flow | Moment::Joined, Some(client)) => {
                carried(client, &Carried::of(&shaped(&said, shape), shape, raw), shape).await;
            }
            (_, Some(client)) => self.pending(&mut lane, client).await?,
        }
        Ok(())
    }

    /// A dial waits for its answer on the lane.
    async fn pending(&mut self, lane: &mut Lane, mut client: UnixStream) -> Result<(), Late> {
        let Case { moment, word, shape, .. } = self.case;
        match (word, shape) {
            (Word::Dialing, Shape::Whole) if moment == Moment::Dialled => {
                lane.say(&Word::Bad.bytes(&self.about)).await;
                return self.in_time(refused(client)).await;
            }
            (Word::Good, Shape::Whole | Shape::Glued) => {
                if moment == Moment::Claimed {
                    assert_eq!(lane.hear().await, Some(Heard::Joined(self.about.dial)));
                }
                self.in_time(opened(&mut client)).await?;
                carried(client, &Carried::of(&shaped(&[], shape), shape, true), shape).await;
                return Ok(());
            }
            (Word::Bad, Shape::Whole | Shape::Glued) => return self.in_time(refused(client)).await,
            // Waited for, as long as a client does.
            (_, Shape::Half) if moment == Moment::Acknowledged => drop(client),
            _ => {
                let request = match self.claimed.take() {
                    Some(request) => request,
                    None => self.asked().await,
                };
                self.refuse(&request);
                refused(client).await;
            }
        }
        lane.ends().await;
        Ok(())
    }
}

impl Case {
    fn host(self) -> String {
        format!("case-{}", self.number)
    }
}

/// From an address of the case's own: what it does wrong is counted against that.
async fn connect(stage: &Stage, case: Case, alpn: &[u8]) -> TlsStream<tokio::net::TcpStream> {
    let [high, low] = case.number.to_be_bytes();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 1, high, low), 0))).unwrap();
    let stream = socket.connect(stage.cell.server.bound.agents).await.unwrap();
    let tls = stage.cell.tls(Some(&stage.cell.client()), alpn);
    tls.connect("127.0.0.1", stream, LONG).await.unwrap()
}

async fn opened(client: &mut UnixStream) {
    let mut head = [0; 39];
    tokio::time::timeout(LONG, client.read_exact(&mut head)).await.expect("no answer to a dial").unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 Connection Established\r\n\r\n");
}

async fn refused(mut client: UnixStream) {
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.ends_with(SAID), "{answer:?}");
}

async fn carried(mut client: UnixStream, expected: &Carried, shape: Shape) {
    let mut bytes = vec![0; expected.bytes.len()];
    if expected.then == Then::Abort {
        // What came before may be lost with it.
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(LONG, client.read_to_end(&mut bytes)).await;
        let _ = read.expect("the client's connection stays open");
        return assert!(expected.bytes.starts_with(&bytes), "{bytes:?} of {expected:?}");
    }
    tokio::time::timeout(LONG, client.read_exact(&mut bytes)).await.expect("no bytes").unwrap();
    assert_eq!(bytes, expected.bytes, "{shape:?}");
    if expected.then == Then::End {
        assert_eq!(rest(&mut client).await, "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_says_on_a_lane_harms_its_own_dial_at_most() {
    panics::watch();
    let plan = Plan { lanes: Lanes::Raw, ..Plan::default() };
    let strategies = Strategies(vec![Strategy::DestHost]);
    let mut cell = Cell::serve(plan, |options| options.proxy_strategies = strategies).unwrap();
    cell.start_agent(plan, |options| options.agent_identifiers = "ipv4=127.0.0.1".to_owned()).unwrap();
    cell.server.has_agents(1).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    let lanes = cell.server.lanes.clone().unwrap();
    dials(&cell).await;
    let stage = Arc::new(Stage { cell, played: Mutex::default() });
    let watch = tokio::spawn(async move {
        loop {
            witness.still_works().await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    each(cases(), |case| {
        let stage = stage.clone();
        async move { Agent::start(stage, case).await.play().await }
    })
    .await;
    dials(&stage.cell).await;
    let server = &stage.cell.server;
    server.has_agents(1).await.unwrap();
    until("an end of all flows but the bystander's", || server.flows().len() == 1).await.unwrap();
    until("nobody to wait for a lane", || lanes.stats().waiting == 0).await.unwrap();
    all_closed(&stage.played).await;
    watch.abort();
    assert!(watch.await.unwrap_err().is_cancelled(), "the bystander's flow was harmed");
    assert_eq!(panics::seen(), [""; 0]);
}
