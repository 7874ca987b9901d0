//! Every packet type at every moment of a flow, from either side, as a generator has it: no panic, nothing left
//! behind, and what has an answer by the contract gets it. A failure names its seed.

use std::time::Duration;

use bytes::Bytes;
use proxy_tests::calls::{Call, Client};
use proxy_tests::konduit::{Frontend, Lanes};
use proxy_tests::runner::{RunningServer, until};
use proxy_tests::scrape::Page;
use proxy_tests::targets::Target;
use proxy_user::flow::{DialError, DialReason};
use proxy_user::net::tls::ALPN_H2;
use proxy_user::wire::ids::{ConnId, DialId};
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::cell::{Cell, LONG, Plan};
use crate::panics;
use crate::puppet::{Puppet, hears};

const SEEDS: std::ops::Range<u64> = 1..9;
const STEPS: usize = 120;
/// An id that is generated, and one that never is.
const FAR: ConnId = ConnId(424_242);
const NOBODY: ConnId = ConnId(777_777);

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Any packet at all, about these flows, these dials and this target.
    fn packet(&mut self, conns: &[ConnId], dials: &[DialId], target: &str) -> Packet {
        let (conn, dial) = (self.of(conns), self.of(dials));
        let size = self.of(&[0, 1, 4096, 40_000]);
        match self.below(13) {
            0 => {
                let address = self.of(&[target, "127.0.0.1:1", "nowhere", ""]).to_owned();
                let protocol = self.of(&["tcp", "tcp", "tcp4", "udp", ""]).to_owned();
                let lane_dial = self.of(&[0, 0, 0, 7]);
                Packet::DialRequest(DialRequest { dial, protocol, address, lane_dial })
            }
            1 => Packet::DialResponse(DialResponse { dial, outcome: Ok(Answer::Here(conn)) }),
            2 => {
                let outcome = match self.below(2) {
                    0 => Ok(Answer::OnLane),
                    _ => Err(DialError::new(DialReason::Refused, "no")),
                };
                Packet::DialResponse(DialResponse { dial, outcome })
            }
            3 | 4 => Packet::Data { conn, data: Bytes::from(vec![3; size]) },
            5 => Packet::CloseRequest { conn },
            6 => Packet::CloseResponse { conn, error: self.of(&["", "why"]).to_owned() },
            7 => Packet::CloseDial { dial },
            8 => Packet::Drain,
            9 => Packet::Window { conn, bytes: self.of(&[0, 1, 1 << 20, u64::MAX]) },
            10 => Packet::Fin { conn },
            11 => Packet::Reset { conn, reason: "generated".to_owned() },
            _ => match self.below(2) {
                0 => Packet::WantLanes { lanes: 3 },
                _ => Packet::Unknown(77),
            },
        }
    }
}

const CONNS: [ConnId; 6] = [ConnId(0), ConnId(1), ConnId(2), ConnId(3), FAR, ConnId(-1)];
const DIALS: [DialId; 4] = [DialId(0), DialId(1), DialId(2), DialId(-5)];

/// What has come meanwhile.
async fn listen(call: &mut Call, heard: &mut Vec<Packet>) {
    while let Ok(Some(packet)) = tokio::time::timeout(Duration::from_millis(1), call.hear()).await {
        heard.push(packet);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_an_agent() {
    panics::watch();
    for seed in SEEDS {
        let cell = Cell::server(Plan { lanes: Lanes::Mux, ..Plan::default() }).unwrap();
        let stream = TcpStream::connect(cell.server.bound.agents).await.unwrap();
        let tls = cell.tls(Some(&cell.client()), ALPN_H2);
        let client = Client::new(tls.connect("127.0.0.1", stream, LONG).await.unwrap()).await;
        let ours = [("agentid", "generated"), ("konduit-mux", "1")];
        let metadata = if seed % 2 == 0 { &ours[..] } else { &ours[..1] };
        let mut call = client.call("/AgentService/Connect", metadata).await;
        call.answered().await;
        let (mut random, mut heard, mut clients) = (Random(seed), Vec::new(), Vec::new());
        let mut open = true;
        for _ in 0..STEPS {
            match random.below(6) {
                0 => {
                    let mut client = UnixStream::connect(cell.socket()).await.unwrap();
                    client.write_all(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\nearly").await.unwrap();
                    clients.push(client);
                }
                1 if !clients.is_empty() => {
                    let at = random.below(clients.len());
                    drop(clients.swap_remove(at));
                }
                _ => {
                    let dials: Vec<DialId> = heard
                        .iter()
                        .filter_map(|packet| match packet {
                            Packet::DialRequest(request) => Some(request.dial),
                            _ => None,
                        })
                        .chain(DIALS)
                        .collect();
                    open = open && call.try_say(random.packet(&CONNS, &dials, "127.0.0.1:1"));
                }
            }
            listen(&mut call, &mut heard).await;
        }
        assert!(open, "seed {seed}: the server ended the stream");
        call.say(Packet::Data { conn: NOBODY, data: "?".into() });
        let answer = match metadata.len() {
            2 => Packet::Reset { conn: NOBODY, reason: "unknown connection id".into() },
            _ => Packet::CloseRequest { conn: NOBODY },
        };
        assert!(hears(&mut call, &answer).await, "seed {seed}");
        drop((call, client, clients));
        nothing_is_left(&cell.server, 0, seed).await;
    }
    assert_eq!(panics::seen(), [""; 0]);
}

/// But so many agents.
async fn nothing_is_left(server: &RunningServer, agents: u32, seed: u64) {
    let empty =
        || server.flows().is_empty() && server.registry().streams().iter().all(|stream| stream.load() == 0);
    until(&format!("an end of every flow, seed {seed}"), empty).await.unwrap();
    let agents = f64::from(agents);
    for (gauge, labels, value) in [
        ("pending_backend_dials", &[][..], 0.0),
        ("established_connections", &[], 0.0),
        ("http_connections", &[], 0.0),
        ("full_receive_channels", &[], 0.0),
        ("grpc_connections", &[("service_method", "Proxy")], 0.0),
        ("grpc_connections", &[("service_method", "Connect")], agents),
        ("ready_backends", &[], agents),
    ] {
        let back = || page(server).sum(gauge, labels) == value;
        until(&format!("{gauge}{labels:?} to be {value}, seed {seed}"), back).await.unwrap();
    }
}

fn page(server: &RunningServer) -> Page {
    let text = proxy_user::ops::metrics::encode(server.dialer.metrics.registry()).unwrap();
    Page::parse(&String::from_utf8_lossy(&text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_an_api_server() {
    panics::watch();
    let target = Target::echo().await.unwrap();
    for lanes in [Lanes::Mux, Lanes::Raw] {
        let plan = Plan { frontend: Frontend::Grpc, lanes, ..Plan::default() };
        let cell = Cell::start(plan).await.unwrap();
        for seed in SEEDS {
            let client = Client::new(UnixStream::connect(cell.socket()).await.unwrap()).await;
            let mut random = Random(seed);
            for _ in 0..8 {
                let mut call = client.call("/ProxyService/Proxy", &[]).await;
                call.answered().await;
                let mut heard = Vec::new();
                for step in 0..STEPS / 8 {
                    let packet = match step {
                        // Most begin with a dial, as they should.
                        0 if random.below(4) > 0 => Packet::DialRequest(DialRequest {
                            dial: DialId(1),
                            protocol: "tcp".into(),
                            address: target.name(),
                            lane_dial: 0,
                        }),
                        _ => random.packet(&CONNS, &DIALS, &target.name()),
                    };
                    if !call.try_say(packet) {
                        break;
                    }
                    listen(&mut call, &mut heard).await;
                }
            }
            drop(client);
            nothing_is_left(&cell.server, 1, seed).await;
            assert!(page(&cell.server).has("grpc_connections", &[("service_method", "Proxy")]));
        }
        // Nobody else was harmed.
        let client = Client::new(UnixStream::connect(cell.socket()).await.unwrap()).await;
        let mut call = client.call("/ProxyService/Proxy", &[]).await;
        call.say(Packet::Data { conn: NOBODY, data: "?".into() });
        let error = "backend not initialized".to_owned();
        assert_eq!(call.hear().await, Some(Packet::CloseResponse { conn: NOBODY, error }));
        let left = || cell.agent_count("open_endpoint_connections", &[]) == 0.0;
        until("targets to be left", left).await.unwrap();
    }
    assert_eq!(panics::seen(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_server() {
    panics::watch();
    let target = Target::echo().await.unwrap();
    for seed in SEEDS {
        let puppet = Puppet::start(seed % 2 == 0);
        let mut call = puppet.stream().await;
        let (mut random, mut heard) = (Random(seed), Vec::new());
        let mut open = true;
        for _ in 0..STEPS {
            open = open && call.try_say(random.packet(&CONNS, &DIALS, &target.name()));
            listen(&mut call, &mut heard).await;
        }
        assert!(open, "seed {seed}: the agent ended its stream");
        call.say(Packet::Data { conn: NOBODY, data: "?".into() });
        let text = "unrecognized connectID".to_owned();
        let answer = match seed % 2 {
            0 => Packet::Reset { conn: NOBODY, reason: text },
            _ => Packet::CloseResponse { conn: NOBODY, error: text },
        };
        assert!(hears(&mut call, &answer).await, "seed {seed}");
        call.say(Packet::CloseRequest { conn: NOBODY });
        let error = "Unknown connectID".to_owned();
        assert!(hears(&mut call, &Packet::CloseResponse { conn: NOBODY, error }).await, "seed {seed}");
        drop(call);
        puppet.agent_has_nothing_left(&format!("seed {seed}")).await;
    }
    assert_eq!(panics::seen(), [""; 0]);
}
