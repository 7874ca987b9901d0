//! Lanes that show a ticket which does not count: each hears why on its own connection, and the server counts it.

use proxy_tests::calls::{Call, Client};
use proxy_tests::certs::Pair;
use proxy_tests::runner::until;
use proxy_user::lane::{ALPN_LANE, Refusal};
use proxy_user::net::tls::ALPN_H2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::cell::{Cell, LONG, Plan};
use crate::{Witness, dials};

/// Of a control stream: 16 bytes name it, 32 are secret.
#[derive(Clone)]
struct Ticket([u8; 48]);

impl Ticket {
    fn changed(&self, at: usize) -> Ticket {
        let mut changed = self.clone();
        changed.0[at] ^= 1;
        changed
    }
}

async fn tls(cell: &Cell, identity: &Pair, alpn: &[u8]) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(cell.server.bound.agents).await.unwrap();
    cell.tls(Some(identity), alpn).connect("127.0.0.1", stream, LONG).await.unwrap()
}

/// A control stream that knows lanes, and its ticket.
async fn control_stream(cell: &Cell) -> (Client, Call, Ticket) {
    let client = Client::new(tls(cell, &cell.client(), ALPN_H2).await).await;
    let metadata = [("agentid", "ticket"), ("konduit-mux", "1"), ("konduit-lane", "1")];
    let mut call = client.call("/AgentService/Connect", &metadata).await;
    let text = call.answered().await["konduit-lane-ticket"].to_str().unwrap().to_owned();
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
    (client, call, Ticket(std::array::from_fn(byte)))
}

async fn message(lane: &mut TlsStream<TcpStream>) -> Vec<u8> {
    let read = async {
        let mut message = vec![0; lane.read_u16().await?.into()];
        lane.read_exact(&mut message).await?;
        std::io::Result::Ok(message)
    };
    tokio::time::timeout(LONG, read).await.expect("the server says nothing").unwrap()
}

/// Opens a lane for a dial that nobody made and shows this ticket; the number of the refusal that comes back.
async fn shown(cell: &Cell, identity: &Pair, Ticket(ticket): &Ticket) -> u8 {
    let mut lane = tls(cell, identity, ALPN_LANE).await;
    // The server's hello.
    assert_eq!(message(&mut lane).await[0], 0x0a);
    let (stream, secret) = ticket.split_at(16);
    let words = [&[0x0a, 16][..], stream, &[0x12, 32], secret, &[0x20, 77]].concat();
    let length = words.len() as u8;
    lane.write_all(&[&[0, length + 2, 0x12, length][..], &words].concat()).await.unwrap();
    lane.flush().await.unwrap();
    let [0x1a, 2, 0x08, refusal] = message(&mut lane).await[..] else { panic!("no refusal") };
    let ended = tokio::time::timeout(LONG, lane.read(&mut [0])).await.expect("the lane stays open");
    assert!(matches!(ended, Ok(0)), "{ended:?}");
    refusal
}

fn refused(cell: &Cell, refusal: Refusal) -> f64 {
    cell.server_count("konduit_lanes_refused_total", &[("reason", refusal.name())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_does_not_count_is_refused_with_the_reason() {
    let cell = Cell::start(Plan::default()).await.unwrap();
    let lanes = cell.server.lanes.clone().unwrap();
    cell.server.dialer.metrics.konduit.show_server_lanes(move || lanes.stats()).unwrap();
    let elsewhere = Cell::server(Plan::default()).unwrap();
    let mut witness = Witness::new(&cell).await;
    let us = cell.client();
    let others = cell.ground.certs.client("other", "another node", None).unwrap();
    let (_theirs, _there, foreign) = control_stream(&elsewhere).await;
    let (client, call, ticket) = control_stream(&cell).await;

    // The numbers are the wire's. The good ticket gets past all that is asked of tickets.
    for (identity, ticket, number, refusal) in [
        (&us, &ticket, 9, Refusal::NoSuchDial),
        (&us, &ticket.changed(15), 1, Refusal::UnknownStream),
        (&us, &ticket.changed(16), 2, Refusal::WrongSecret),
        (&us, &ticket.changed(47), 2, Refusal::WrongSecret),
        (&others, &ticket, 4, Refusal::OtherCertificate),
        (&us, &foreign, 5, Refusal::OtherServer),
    ] {
        let before = refused(&cell, refusal);
        assert_eq!(shown(&cell, identity, ticket).await, number, "not {refusal:?}");
        assert_eq!(refused(&cell, refusal), before + 1.0, "{refusal:?}");
        witness.still_works().await;
    }

    // Words that are no hello.
    let mut lane = tls(&cell, &us, ALPN_LANE).await;
    message(&mut lane).await;
    lane.write_all(&[0, 3, 0xff, 0xff, 0xff]).await.unwrap();
    lane.flush().await.unwrap();
    let ended = tokio::time::timeout(LONG, lane.read(&mut [0])).await.expect("the lane stays open");
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    assert_eq!(cell.server_count("konduit_lanes_total", &[("event", "hello_failed")]), 1.0);

    drop((call, client));
    until("the stream to end", || cell.server.registry().streams().len() == 1).await.unwrap();
    assert_eq!(shown(&cell, &us, &ticket).await, 3, "not {:?}", Refusal::EndedStream);
    assert_eq!(refused(&cell, Refusal::EndedStream), 1.0);
    assert_eq!(cell.server_count("konduit_lanes_refused_total", &[]), 7.0);
    witness.still_works().await;
    dials(&cell).await;
}

/// Many agents may share an address, and a busy machine lets them all be slow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_hellos_are_not_held_against_their_address() {
    const SLOW: usize = 70;
    let cell = Cell::start(Plan::default()).await.unwrap();
    let lanes = cell.server.lanes.clone().unwrap();
    cell.server.dialer.metrics.konduit.show_server_lanes(move || lanes.stats()).unwrap();
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        slow.push(tls(&cell, &cell.client(), ALPN_LANE).await);
    }
    let failed = [("event", "hello_failed")];
    cell.server_counts("konduit_lanes_total", &failed, SLOW as f64).await;
    let (_client, _call, ticket) = control_stream(&cell).await;
    assert_eq!(shown(&cell, &cell.client(), &ticket).await, 9, "not {:?}", Refusal::NoSuchDial);
    assert_eq!(refused(&cell, Refusal::TooManyFailures), 0.0);
}
