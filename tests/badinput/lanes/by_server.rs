//! A played server's words to our agent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proxy_tests::calls::Call;
use proxy_tests::dark::Dark;
use proxy_tests::runner::{Ground, RunningAgent, until};
use proxy_tests::scrape::Page;
use proxy_tests::targets::Target;
use proxy_user::lane::ALPN_LANE;
use proxy_user::net::cipher::TlsPolicy;
use proxy_user::net::listener::{Remote, TcpListener};
use proxy_user::net::tls::{ALPN_H2, ServerTls};
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use proxy_user::ops::metrics;
use proxy_user::wire::ids::{ConnId, DialId};
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex as Turn, mpsc};
use tokio_rustls::server::TlsStream;

use super::lane::{Socket, shaped};
use super::words::{self, About};
use super::{Carried, Heard, Lane, Shape, Then, Word, all_closed, each, sayings};
use crate::cell::LONG;
use crate::{panics, puppet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// In place of the hello.
    Hello,
    /// In the pool, never dialled on.
    Warm,
    /// A dial was said, its target is silent.
    Dialled,
    /// And the agent has acknowledged it.
    Acknowledged,
    /// It carries the flow of a dial.
    Flow,
    /// Back in the pool after a dial that failed.
    Again,
    /// Back in the pool after a flow that ended.
    Ended,
    /// Opened for a dial that came over the control stream, whose target is silent.
    Claimed,
    /// Opened for a dial whose target answered.
    Answered,
    /// It carries the flow of that dial.
    Joined,
}

const MOMENTS: [Moment; 10] = [
    Moment::Hello,
    Moment::Warm,
    Moment::Dialled,
    Moment::Acknowledged,
    Moment::Flow,
    Moment::Again,
    Moment::Ended,
    Moment::Claimed,
    Moment::Answered,
    Moment::Joined,
];

#[derive(Debug, Clone, Copy)]
struct Case {
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
                cases.push(Case { moment, word, shape, raw });
            }
        }
    }
    cases
}

/// One agent that finds ever more servers, each of them played; the first is the bystander's.
struct Stage {
    /// Control streams, and the ids of the servers they are with.
    streams: Turn<mpsc::Receiver<(String, Call)>>,
    /// Whoever has its turn has the next lane.
    lanes: Turn<mpsc::Receiver<TlsStream<TcpStream>>>,
    next_dial: AtomicU64,
    echo: Target,
    dark: Dark,
    played: Arc<Mutex<Vec<(String, Socket)>>>,
}

/// A server of a case's own.
struct Server {
    stage: Arc<Stage>,
    case: Case,
    call: Call,
    about: About,
    target: Target,
    /// What has reached the target, and whether its end or an abort came behind.
    reached: Arc<Mutex<(Vec<u8>, Option<bool>)>>,
}

/// An address where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

impl Server {
    async fn start(stage: Arc<Stage>, case: Case) -> Server {
        let next = tokio::time::timeout(LONG, async { stage.streams.lock().await.recv().await }).await;
        let (server, call) = next.expect("the agent stays away").unwrap();
        let dial = stage.next_dial.fetch_add(2, Ordering::Relaxed);
        let security = 1 + u64::from(case.raw);
        let about = About { server, ticket: [5; 48], security, claim: 0, dial, target: NOWHERE.to_owned() };
        let reached = Arc::new(Mutex::default());
        let target = Target::start(record(reached.clone())).await.unwrap();
        Server { stage, case, call, about, target, reached }
    }

    /// The lane that the agent opens when it hears this packet.
    async fn silent_lane(&mut self, packet: Packet) -> Lane {
        let mut lanes = self.stage.lanes.lock().await;
        self.call.say(packet);
        let lane = tokio::time::timeout(LONG, lanes.recv()).await.expect("no lane is opened").unwrap();
        let lane = Lane::new(lane.into());
        self.stage.played.lock().unwrap().push((format!("{:?}", self.case), lane.far));
        lane
    }

    async fn lane(&mut self, packet: Packet) -> Lane {
        let mut lane = self.silent_lane(packet).await;
        lane.say(&Word::ServerHello.bytes(&self.about)).await;
        assert_eq!(lane.hear().await, Some(Heard::AgentHello));
        lane
    }

    async fn warm(&mut self) -> Lane {
        self.lane(Packet::WantLanes { lanes: 1 }).await
    }

    async fn claimed(&mut self, address: String) -> Lane {
        let dial = DialId(self.about.dial as i64);
        let protocol = "tcp".to_owned();
        let request = DialRequest { dial, protocol, address, lane_dial: self.about.dial };
        self.lane(Packet::DialRequest(request)).await
    }

    fn dial(&self, target: &str) -> Vec<u8> {
        words::dial(self.about.dial, 1, target)
    }

    /// Brings a lane to the moment.
    async fn at(&mut self, moment: Moment) -> Lane {
        let dial = self.about.dial;
        let (target, dark) = (self.target.name(), self.stage.dark.address.to_string());
        match moment {
            Moment::Hello => self.silent_lane(Packet::WantLanes { lanes: 1 }).await,
            Moment::Warm => self.warm().await,
            Moment::Dialled | Moment::Acknowledged => {
                let mut lane = self.warm().await;
                lane.say(&self.dial(&dark)).await;
                if moment == Moment::Acknowledged {
                    assert_eq!(lane.hear().await, Some(Heard::Dialing(dial)));
                }
                lane
            }
            Moment::Again => {
                let mut lane = self.warm().await;
                lane.say(&self.dial(NOWHERE)).await;
                assert_eq!(lane.hear().await, Some(Heard::Bad(dial)));
                // A number is served once.
                self.about.dial += 1;
                lane
            }
            Moment::Flow | Moment::Ended => {
                let mut lane = self.warm().await;
                lane.say(&self.dial(&target)).await;
                assert_eq!(answer(&mut lane, dial).await, Some(Heard::Good(dial)));
                if moment == Moment::Ended {
                    lane.say(&[0, 0]).await;
                    assert_eq!(lane.flow(1).await, (Vec::new(), true));
                    self.about.dial += 1;
                }
                lane
            }
            Moment::Claimed => self.claimed(dark).await,
            Moment::Answered | Moment::Joined => {
                let mut lane = self.claimed(target).await;
                assert_eq!(lane.hear().await, Some(Heard::Good(dial)));
                if moment == Moment::Joined {
                    lane.say(&Word::Joined.bytes(&self.about)).await;
                }
                lane
            }
        }
    }

    async fn play(mut self) {
        let Case { moment, word, shape, raw } = self.case;
        let dial = self.about.dial;
        let mut lane = self.at(moment).await;
        let said = word.bytes(&self.about);
        lane.say_as(&said, shape).await;
        match (moment, word, shape) {
            (Moment::Flow | Moment::Joined, ..) => {
                return self.carried(&Carried::of(&shaped(&said, shape), shape, raw)).await;
            }
            (Moment::Hello, Word::ServerHello, Shape::Whole) => {
                assert_eq!(lane.hear().await, Some(Heard::AgentHello));
                return self.serves(lane).await;
            }
            (Moment::Warm | Moment::Again | Moment::Ended, Word::Ping, Shape::Whole) => {
                assert_eq!(lane.hear().await, Some(Heard::Pong));
                return self.serves(lane).await;
            }
            (Moment::Warm | Moment::Again | Moment::Ended, Word::Dial, Shape::Whole) => {
                assert_eq!(answer(&mut lane, self.about.dial).await, Some(Heard::Bad(self.about.dial)));
                return self.serves(lane).await;
            }
            (Moment::Answered, Word::Joined, Shape::Whole | Shape::Glued) => {
                return self.carried(&Carried::of(&shaped(&[], shape), shape, raw)).await;
            }
            // Its flow goes over the control stream.
            (Moment::Answered, ..) => {
                let outcome = match self.call.hear().await {
                    Some(Packet::DialResponse(DialResponse { dial: to, outcome })) if to.0 == dial as i64 => {
                        outcome
                    }
                    other => panic!("{other:?}"),
                };
                let Ok(Answer::Here(conn)) = outcome else { panic!("{outcome:?}") };
                self.call.say(Packet::Data { conn, data: "ping".into() });
                self.carried(&Carried { bytes: b"ping".to_vec(), then: Then::More }).await;
            }
            (Moment::Claimed, ..) => self.call.say(Packet::CloseDial { dial: DialId(dial as i64) }),
            _ => {}
        }
        lane.ends().await;
    }

    /// This, and nothing else, gets to the target.
    async fn carried(&self, expected: &Carried) {
        let then = match expected.then {
            Then::More => None,
            Then::End => Some(true),
            Then::Abort => Some(false),
        };
        let what = format!("{expected:?} to reach the target");
        // What came before an abort may be lost with it.
        let fits = |bytes: &[u8]| {
            bytes == expected.bytes || then == Some(false) && expected.bytes.starts_with(bytes)
        };
        let met =
            || matches!(&*self.reached.lock().unwrap(), (bytes, ended) if fits(bytes) && *ended == then);
        until(&what, met).await.unwrap();
    }

    /// The lane is as good as before.
    async fn serves(&mut self, mut lane: Lane) {
        self.about.dial += 10_000_000;
        lane.say(&self.dial(NOWHERE)).await;
        assert_eq!(answer(&mut lane, self.about.dial).await, Some(Heard::Bad(self.about.dial)));
    }
}

/// The answer to a dial, acknowledged before or not.
async fn answer(lane: &mut Lane, dial: u64) -> Option<Heard> {
    match lane.hear().await {
        Some(Heard::Dialing(acknowledged)) if acknowledged == dial => lane.hear().await,
        heard => heard,
    }
}

/// A target that says nothing, and leaves when the other side did.
fn record(
    reached: Arc<Mutex<(Vec<u8>, Option<bool>)>>,
) -> impl Fn(TcpStream) -> futures_util::future::BoxFuture<'static, ()> {
    move |mut stream| {
        let reached = reached.clone();
        Box::pin(async move {
            loop {
                match stream.read_u8().await {
                    Ok(byte) => reached.lock().unwrap().0.push(byte),
                    Err(error) => {
                        let well = error.kind() == std::io::ErrorKind::UnexpectedEof;
                        reached.lock().unwrap().1 = Some(well);
                        return;
                    }
                }
            }
        })
    }
}

/// Whether the agent has not given the call up before it was answered.
async fn is_taken(call: &mut Call) -> bool {
    let conn = ConnId(777_777);
    let reason = "unrecognized connectID".to_owned();
    call.try_say(Packet::Data { conn, data: "?".into() })
        && puppet::hears(call, &Packet::Reset { conn, reason }).await
}

/// Plays every server that the agent finds; those without a case wait for one. The agent gives up who lets it wait for
/// long, so a connection that ends early is no fault.
async fn accept(listener: TcpListener, ground: &Ground) -> Arc<Stage> {
    let tls = ServerTls {
        cert: ground.path("server.crt"),
        key: ground.path("server.key"),
        client_ca: Some(ground.path("ca.crt")),
        alpn: vec![ALPN_LANE.to_vec(), ALPN_H2.to_vec()],
        require_alpn: true,
        policy: TlsPolicy::default(),
    };
    let tls = tls.watch().unwrap();
    let played: Arc<Mutex<Vec<(String, Socket)>>> = Arc::default();
    let ended = played.clone();
    let (to_streams, streams) = mpsc::channel(1);
    let (to_lanes, lanes) = mpsc::channel(1);
    tokio::spawn(async move {
        for number in 0.. {
            let Ok(accepted) = tls.accept(listener.accept().await, LONG).await else { continue };
            // Whoever had the port before is gone.
            ended.lock().unwrap().retain(|(_, socket)| Remote::Tcp(socket.local) != accepted.remote);
            if accepted.tls.unwrap().alpn.as_deref() == Some(ALPN_LANE) {
                let Ok(()) = to_lanes.send(accepted.stream).await else { return };
                continue;
            }
            let to_streams = to_streams.clone();
            tokio::spawn(async move {
                // Whoever waits for the agent's next stream lets it come.
                let Ok(place) = to_streams.reserve().await else { return };
                let Ok(mut connection) = h2::server::handshake(accepted.stream).await else { return };
                let Some(Ok((request, respond))) = connection.accept().await else { return };
                tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
                let (server, ticket) = (format!("played-{number}"), "05".repeat(48));
                let metadata = [
                    ("serverid", server.as_str()),
                    ("servercount", "100000"),
                    ("konduit-mux", "1"),
                    ("konduit-lane", "1"),
                    ("konduit-lane-ticket", &ticket),
                ];
                let Ok(mut call) = Call::try_answer(request, respond, &metadata) else { return };
                if is_taken(&mut call).await {
                    place.send((server, call));
                }
            });
        }
    });
    let stage = Stage {
        streams: Turn::new(streams),
        lanes: Turn::new(lanes),
        next_dial: AtomicU64::new(1),
        echo: Target::echo().await.unwrap(),
        dark: Dark::new().unwrap(),
        played,
    };
    Arc::new(stage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_says_on_a_lane_harms_its_own_dial_at_most() {
    panics::watch();
    let ground = Ground::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1", 0).unwrap();
    let mut options = ground.agent_options("agent", listener.local_addr().port());
    (options.lanes.mode, options.lanes.security) = (LanesMode::Always, LaneSecurity::Raw);
    // No dial is to go over packets because the machine is busy.
    options.lanes.wait = LONG;
    // Each case takes a stream of its own.
    (options.sync_interval, options.sync_interval_cap) = (Duration::from_millis(1), Duration::from_millis(5));
    let stage = accept(listener, &ground).await;
    let agent = RunningAgent::start(options).unwrap();
    let count = |name: &str, labels: &[(&str, &str)]| {
        let text = metrics::encode(agent.metrics.registry()).unwrap();
        Page::parse(&String::from_utf8_lossy(&text)).sum(name, labels)
    };
    let (_, mut bystander) = stage.streams.lock().await.recv().await.unwrap();
    let conn = puppet::dial(&mut bystander, &stage.echo.name()).await;
    let watch = tokio::spawn(async move {
        loop {
            puppet::ping(&mut bystander, conn).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    each(cases(), |case| {
        let stage = stage.clone();
        async move { Server::start(stage, case).await.play().await }
    })
    .await;
    until("an end of all flows but the bystander's", || agent.flows.len() == 1).await.unwrap();
    let targets = || count("open_endpoint_connections", &[]);
    until("all targets but the bystander's to be left", || targets() == 1.0).await.unwrap();
    let idle = || count("konduit_lanes", &[("state", "idle")]);
    until("all lanes to be given up", || idle() == 0.0).await.unwrap();
    all_closed(&stage.played).await;
    watch.abort();
    assert!(watch.await.unwrap_err().is_cancelled(), "the bystander's flow was harmed");
    assert_eq!(panics::seen(), [""; 0]);
}
