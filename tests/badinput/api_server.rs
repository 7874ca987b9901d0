//! Every packet at every moment of an API server's call, good packets and broken ones, and then its end or its abort:
//! the answer is the contract's, nothing is left, and nobody else notices. A case that fails names itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proxy_tests::calls::{Call, Client};
use proxy_tests::dark::Dark;
use proxy_tests::konduit::{Frontend, Lanes};
use proxy_tests::runner::until;
use proxy_tests::targets::Target;
use proxy_user::flow::{DialError, DialReason};
use proxy_user::wire::ids::{ConnId, DialId};
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use proxy_user::wire::pb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::cell::{Cell, Plan};
use crate::lanes::each;
use crate::{control_stream, panics, puppet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Before a dial.
    Before,
    /// The target is silent.
    Dialling,
    /// The dial failed.
    Failed,
    Open,
    /// CLOSE_REQ was said, and its answer not heard.
    Closing,
    /// And its answer was heard.
    Closed,
    /// The target ended its side.
    Left,
}

const MOMENTS: [Moment; 7] = [
    Moment::Before,
    Moment::Dialling,
    Moment::Failed,
    Moment::Open,
    Moment::Closing,
    Moment::Closed,
    Moment::Left,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Dial,
    DialResponse,
    FailedDialResponse,
    CloseOwnDial,
    CloseOtherDial,
    /// About the flow, where there is one.
    Data,
    OtherData,
    NobodysData,
    Close,
    CloseOther,
    CloseNobody,
    CloseResponse,
    Drain,
    Window,
    Fin,
    Reset,
    WantLanes,
    Unknown,
    /// A message of no bytes.
    Empty,
    /// One of upstream's types, without its payload.
    Bare(u8),
    /// DATA with a dial's payload.
    Mismatch,
    Garbage,
    TooLarge,
    Compressed,
    /// The first half of DATA for the flow.
    Half,
}

const SAYINGS: [Said; 29] = [
    Said::Dial,
    Said::DialResponse,
    Said::FailedDialResponse,
    Said::CloseOwnDial,
    Said::CloseOtherDial,
    Said::Data,
    Said::OtherData,
    Said::NobodysData,
    Said::Close,
    Said::CloseOther,
    Said::CloseNobody,
    Said::CloseResponse,
    Said::Drain,
    Said::Window,
    Said::Fin,
    Said::Reset,
    Said::WantLanes,
    Said::Unknown,
    Said::Empty,
    Said::Bare(1),
    Said::Bare(2),
    Said::Bare(3),
    Said::Bare(4),
    Said::Bare(5),
    Said::Mismatch,
    Said::Garbage,
    Said::TooLarge,
    Said::Compressed,
    Said::Half,
];

const DIAL: DialId = DialId(5);
const OTHER: ConnId = ConnId(777_777);

impl Said {
    fn bytes(self, conn: ConnId) -> Vec<u8> {
        let packet = match self {
            Said::Dial => dial(DialId(6), "127.0.0.1:1"),
            Said::DialResponse => {
                Packet::DialResponse(DialResponse { dial: DIAL, outcome: Ok(Answer::Here(conn)) })
            }
            Said::FailedDialResponse => {
                let outcome = Err(DialError::new(DialReason::Refused, "no"));
                Packet::DialResponse(DialResponse { dial: DIAL, outcome })
            }
            Said::CloseOwnDial => Packet::CloseDial { dial: DIAL },
            Said::CloseOtherDial => Packet::CloseDial { dial: DialId(7) },
            Said::Data | Said::Half => Packet::Data { conn, data: "data".into() },
            Said::OtherData => Packet::Data { conn: OTHER, data: "data".into() },
            Said::NobodysData => Packet::Data { conn: ConnId::NONE, data: "data".into() },
            Said::Close => Packet::CloseRequest { conn },
            Said::CloseOther => Packet::CloseRequest { conn: OTHER },
            Said::CloseNobody => Packet::CloseRequest { conn: ConnId::NONE },
            Said::CloseResponse => Packet::CloseResponse { conn, error: String::new() },
            Said::Drain => Packet::Drain,
            Said::Window => Packet::Window { conn, bytes: u64::MAX },
            Said::Fin => Packet::Fin { conn },
            Said::Reset => Packet::Reset { conn, reason: "so".to_owned() },
            Said::WantLanes => Packet::WantLanes { lanes: 1000 },
            Said::Unknown => Packet::Unknown(77),
            Said::Empty => return framed(b""),
            Said::Bare(kind) => return framed(&[8, kind]),
            Said::Mismatch => return framed(b"\x08\x04\x12\x00"),
            Said::Garbage => return framed(b"\xff\xff\xff"),
            Said::TooLarge => return b"\0\x00\x40\x00\x01".to_vec(),
            Said::Compressed => return b"\x01\0\0\0\x02\x08\x06".to_vec(),
        };
        let mut bytes = framed(&pb::Packet::from(packet).encode_to_vec());
        if self == Said::Half {
            bytes.truncate(bytes.len() / 2);
        }
        bytes
    }

    /// The status of a call that this breaks.
    fn breaks(self) -> Option<&'static str> {
        match self {
            Said::Empty | Said::Bare(_) | Said::Mismatch => Some("3"),
            Said::Garbage => Some("13"),
            Said::TooLarge => Some("8"),
            Said::Compressed => Some("12"),
            _ => None,
        }
    }

    /// What is answered at this moment, in order, and whether the call is over then.
    fn answers(self, moment: Moment, own: ConnId) -> (Vec<Packet>, bool) {
        let closed = |conn, error: &str| Packet::CloseResponse { conn, error: error.to_owned() };
        let conn = match self {
            Said::OtherData | Said::CloseOther => OTHER,
            Said::NobodysData | Said::CloseNobody => ConnId::NONE,
            _ => own,
        };
        let said = match (moment, self) {
            // Read and dropped.
            (Moment::Closing | Moment::Closed, _) | (_, Said::NobodysData) => vec![],
            (Moment::Before | Moment::Failed, Said::Dial) => {
                let text = "dial tcp 127.0.0.1:1: connect: connection refused";
                let outcome = Err(DialError::new(DialReason::Other, text));
                vec![Packet::DialResponse(DialResponse { dial: DialId(6), outcome })]
            }
            (Moment::Dialling | Moment::Open | Moment::Left, Said::Dial) => {
                let outcome =
                    Err(DialError::new(DialReason::Other, "this stream carries another dial already"));
                vec![Packet::DialResponse(DialResponse { dial: DialId(6), outcome })]
            }
            (Moment::Before | Moment::Dialling, Said::Data | Said::OtherData) => {
                return (vec![closed(conn, "backend not initialized")], true);
            }
            (Moment::Before | Moment::Dialling, Said::Close | Said::CloseOther | Said::CloseNobody) => {
                vec![closed(conn, "backend uninitialized")]
            }
            (Moment::Failed, Said::Data | Said::OtherData) => vec![closed(conn, "unrecognized connectID")],
            (Moment::Failed, Said::Close | Said::CloseOther | Said::CloseNobody) => vec![closed(conn, "")],
            (Moment::Open, Said::Data) => vec![Packet::Data { conn, data: "data".into() }],
            (Moment::Open, Said::OtherData) => {
                let error = "mismatched connection IDs";
                return (vec![closed(own, error), closed(conn, error)], true);
            }
            (Moment::Left, Said::OtherData) => {
                return (vec![closed(own, "mismatched connection IDs")], true);
            }
            (Moment::Open, Said::Close) => vec![closed(own, "")],
            (Moment::Open, Said::CloseOther | Said::CloseNobody) => vec![closed(conn, "Unknown connectID")],
            _ => vec![],
        };
        (said, false)
    }
}

fn dial(dial: DialId, address: &str) -> Packet {
    let (protocol, address) = ("tcp".to_owned(), address.to_owned());
    Packet::DialRequest(DialRequest { dial, protocol, address, lane_dial: 0 })
}

/// As a gRPC message.
fn framed(packet: &[u8]) -> Vec<u8> {
    [&[0][..], &(packet.len() as u32).to_be_bytes(), packet].concat()
}

#[derive(Debug, Clone, Copy)]
struct Case {
    moment: Moment,
    said: Said,
    /// Half-closes, and otherwise resets.
    ends: bool,
}

struct Stage {
    client: Client,
    echo: Target,
    /// Ends its side at once and goes on reading.
    leaver: Target,
    dark: Dark,
}

impl Stage {
    /// A call at this moment, and its flow's id, where it has one.
    async fn at(&self, moment: Moment) -> (Call, ConnId) {
        let target = match moment {
            Moment::Before => {
                let mut call = self.client.call("/ProxyService/Proxy", &[]).await;
                call.answered().await;
                return (call, ConnId(88));
            }
            Moment::Dialling => {
                let mut call = self.client.call("/ProxyService/Proxy", &[]).await;
                call.answered().await;
                call.say(dial(DIAL, &self.dark.address.to_string()));
                return (call, ConnId(88));
            }
            Moment::Failed => "127.0.0.1:1".to_owned(),
            Moment::Left => self.leaver.name(),
            Moment::Open | Moment::Closing | Moment::Closed => self.echo.name(),
        };
        let (mut call, conn) = control_stream::dial(&self.client, &target).await;
        let conn = conn.unwrap_or(ConnId(88));
        if matches!(moment, Moment::Closing | Moment::Closed) {
            call.say(Packet::CloseRequest { conn });
        }
        if matches!(moment, Moment::Left | Moment::Closed) {
            assert_eq!(call.hear().await, Some(Packet::CloseResponse { conn, error: String::new() }));
        }
        (call, conn)
    }

    async fn play(&self, Case { moment, said, ends }: Case) {
        let (mut call, conn) = self.at(moment).await;
        call.send.send_data(Bytes::from(said.bytes(conn)), false).unwrap();
        let over = match said.breaks() {
            // What it sends is not looked at any more.
            Some(_) if matches!(moment, Moment::Closing | Moment::Closed) => false,
            Some(status) => {
                assert_eq!(call.status().await.0, status);
                return;
            }
            None => {
                let (answers, over) = said.answers(moment, conn);
                for answer in answers {
                    let heard = call.hear().await;
                    assert!(
                        heard.as_ref().is_some_and(|heard| same(heard, &answer)),
                        "{heard:?}, not {answer:?}"
                    );
                }
                over
            }
        };
        if !over && !ends {
            return call.send.send_reset(h2::Reason::CANCEL);
        }
        if !over {
            call.send.send_data(Bytes::new(), true).unwrap();
        }
        let status = call.status().await.0;
        // It ends within a message.
        let cut = said == Said::Half && !matches!(moment, Moment::Closing | Moment::Closed);
        assert_eq!(status, if cut { "13" } else { "0" });
    }
}

/// Whatever reason our own field of an answer has.
fn same(heard: &Packet, expected: &Packet) -> bool {
    match (heard, expected) {
        (Packet::DialResponse(heard), Packet::DialResponse(expected)) => {
            let text =
                |response: &DialResponse| response.outcome.as_ref().err().map(|error| error.text.clone());
            heard.dial == expected.dial && text(heard) == text(expected)
        }
        _ => heard == expected,
    }
}

async fn play_all(lanes: Lanes) {
    panics::watch();
    let cell = Cell::start(Plan { frontend: Frontend::Grpc, lanes, ..Plan::default() }).await.unwrap();
    let connect = async || Client::new(UnixStream::connect(cell.socket()).await.unwrap()).await;
    let leaver = Target::start(|mut stream| async move {
        // A client that is gone is no fault.
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let stage = Arc::new(Stage {
        client: connect().await,
        echo: Target::echo().await.unwrap(),
        leaver: leaver.await.unwrap(),
        dark: Dark::new().unwrap(),
    });
    let (mut bystander, conn) = control_stream::dial(&connect().await, &stage.echo.name()).await;
    let conn = conn.unwrap();
    let watch = tokio::spawn(async move {
        loop {
            puppet::ping(&mut bystander, conn).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut cases = Vec::new();
    for moment in MOMENTS {
        for said in SAYINGS {
            cases.extend([true, false].map(|ends| Case { moment, said, ends }));
        }
    }
    each(cases, |case| {
        let stage = stage.clone();
        async move { stage.play(case).await }
    })
    .await;
    for (gauge, labels) in [
        ("pending_backend_dials", &[][..]),
        ("established_connections", &[]),
        ("grpc_connections", &[("service_method", "Proxy")]),
    ] {
        let value = if gauge == "pending_backend_dials" { 0.0 } else { 1.0 };
        cell.server_counts(gauge, labels, value).await;
    }
    until("an end of all flows but the bystander's", || cell.server.flows().len() == 1).await.unwrap();
    let left = || cell.agent_count("open_endpoint_connections", &[]) == 1.0;
    until("all targets but the bystander's to be left", left).await.unwrap();
    let waiting = || cell.server.lanes.as_ref().map_or(0, |lanes| lanes.stats().waiting);
    until("no dial to wait for a lane", || waiting() == 0).await.unwrap();
    watch.abort();
    assert!(watch.await.unwrap_err().is_cancelled(), "the bystander's flow was harmed");
    assert_eq!(panics::seen(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_api_server_says_has_its_answer_over_packets() {
    play_all(Lanes::Mux).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_api_server_says_has_its_answer_over_lanes() {
    play_all(Lanes::Raw).await;
}
