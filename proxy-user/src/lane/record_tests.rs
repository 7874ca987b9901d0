use proptest::prelude::*;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::lane::testing::{Pieces, shake};

type Lane = TlsStream<RecordExact<Pieces<DuplexStream>>>;

/// A connected pair whose ends read in the given pieces.
async fn pair(
    version: &'static SupportedProtocolVersion,
    client: Vec<usize>,
    server: Vec<usize>,
) -> (Lane, Lane) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let [near, far] = [Pieces::new(near, client), Pieces::new(far, server)].map(RecordExact::new);
    shake(&[version], near, far).await
}

/// Out of TLS in both directions, with nothing read ahead.
fn leave(lane: Lane) -> Result<Pieces<DuplexStream>, LeaveError> {
    reading_ends(&lane)?;
    let (transport, ahead) = super::leave(lane)?;
    assert!(ahead.is_empty());
    Ok(transport)
}

async fn say(lane: &mut Lane, message: &[u8]) {
    lane.write_all(message).await.unwrap();
    lane.flush().await.unwrap();
}

async fn hear(lane: &mut Lane, length: usize) -> Vec<u8> {
    let mut message = vec![0; length];
    lane.read_exact(&mut message).await.unwrap();
    message
}

fn flow(salt: u8) -> Vec<u8> {
    // Starts like a TLS record, so that a reader that goes on would take it for one.
    let mut bytes = vec![23, 3, 3, 0, 20];
    bytes.extend((0..300u32).map(|n| (n as u8).wrapping_mul(31).wrapping_add(salt)));
    bytes
}

/// `from` says a last message and, without waiting, goes on in clear; `to` must see the flow from its first byte.
async fn one_way_out(mut from: Lane, mut to: Lane) {
    say(&mut from, b"the last message").await;
    let mut from = leave(from).unwrap();
    from.write_all(&flow(1)).await.unwrap();

    assert_eq!(hear(&mut to, 16).await, b"the last message");
    let mut to = leave(to).unwrap();
    let mut seen = vec![0; flow(1).len()];
    to.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen, flow(1));

    to.write_all(&flow(2)).await.unwrap();
    from.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen, flow(2));
}

/// The client has not read the tickets of TLS 1.3 until it hears something.
async fn settled(
    version: &'static SupportedProtocolVersion,
    client: Vec<usize>,
    server: Vec<usize>,
) -> (Lane, Lane) {
    let (mut client, mut server) = pair(version, client, server).await;
    say(&mut server, b"server speaks first").await;
    assert_eq!(hear(&mut client, 19).await, b"server speaks first");
    (client, server)
}

#[tokio::test]
async fn flow_bytes_glued_to_the_last_record_stay_in_the_transport() {
    for version in [&TLS12, &TLS13] {
        let (client, server) = settled(version, vec![], vec![]).await;
        one_way_out(client, server).await;
        let (client, server) = settled(version, vec![], vec![]).await;
        one_way_out(server, client).await;
    }
}

#[tokio::test]
async fn every_split_of_the_last_record_and_the_flow_behind_it() {
    let last = 5 + 1 + 16 + 16 + 8 + flow(1).len();
    for version in [&TLS12, &TLS13] {
        for cut in 1..last {
            let (client, mut server) = settled(version, vec![], vec![]).await;
            reader(&mut server).pieces_from_here([cut, 1]);
            one_way_out(client, server).await;
        }
    }
}

#[tokio::test]
async fn every_split_of_the_first_messages_of_a_handshake() {
    for version in [&TLS12, &TLS13] {
        for cut in (1..400).step_by(7) {
            let (client, server) = settled(version, vec![cut, 3, 1], vec![cut, 2, 5]).await;
            one_way_out(server, client).await;
        }
    }
}

fn reader(lane: &mut Lane) -> &mut Pieces<DuplexStream> {
    &mut lane.get_mut().0.io.io
}

#[tokio::test]
async fn tickets_behind_the_handshake_are_read_as_tls_and_never_as_the_flow() {
    let (mut client, mut server) = pair(&TLS13, vec![], vec![]).await;
    // The client hears its first message only now: two tickets lie in front of it.
    say(&mut server, b"and the flow begins").await;
    let mut server = leave(server).unwrap();
    server.write_all(&flow(3)).await.unwrap();
    assert_eq!(hear(&mut client, 19).await, b"and the flow begins");
    let mut seen = vec![0; flow(3).len()];
    leave(client).unwrap().read_exact(&mut seen).await.unwrap();
    assert_eq!(seen, flow(3));
}

#[tokio::test]
async fn a_lane_does_not_leave_inside_a_record_or_before_its_plaintext_was_read() {
    let (mut client, mut server) = settled(&TLS13, vec![], vec![]).await;
    say(&mut client, b"four and four more").await;
    assert_eq!(hear(&mut server, 4).await, b"four");
    assert_eq!(leave(server).err(), Some(LeaveError::Unread));

    let (mut client, mut server) = settled(&TLS13, vec![], vec![]).await;
    say(&mut client, b"first").await;
    assert_eq!(hear(&mut server, 5).await, b"first");
    say(&mut client, b"second").await;
    reader(&mut server).pieces_from_here([7, 1]);
    let mut byte = [0];
    for _ in 0..3 {
        // The header and two bytes of the body: a read that was abandoned half-way.
        let read = std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut server).poll_read(cx, &mut ReadBuf::new(&mut byte)))
        });
        assert!(read.await.is_pending());
        if !server.get_ref().0.at_boundary() {
            break;
        }
    }
    assert_eq!(leave(server).err(), Some(LeaveError::InsideRecord));
}

#[tokio::test]
async fn a_lane_does_not_leave_after_the_peer_closed_tls() {
    let (mut client, mut server) = settled(&TLS13, vec![], vec![]).await;
    client.shutdown().await.unwrap();
    let mut byte = [0];
    assert_eq!(server.read(&mut byte).await.unwrap(), 0);
    assert_eq!(leave(server).err(), Some(LeaveError::Unread));
}

#[tokio::test]
async fn clear_bytes_where_a_record_is_due_are_an_error() {
    let (client, mut server) = settled(&TLS13, vec![], vec![]).await;
    leave(client).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = server.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn passing_through_reads_across_records() {
    let (mut client, mut server) = settled(&TLS13, vec![], vec![]).await;
    server.get_mut().0.pass_through();
    for part in 0..50u8 {
        client.write_all(&[part; 1000]).await.unwrap();
    }
    client.flush().await.unwrap();
    let seen = hear(&mut server, 50_000).await;
    assert!(seen.chunks(1000).zip(0u8..).all(|(chunk, part)| chunk.iter().all(|byte| *byte == part)));
    assert_eq!(leave(server).err(), Some(LeaveError::InsideRecord));
}

#[test]
fn a_header_that_is_not_tls_is_refused() {
    assert_eq!(body_length([23, 3, 3, 0, 17]).unwrap(), 17);
    assert!(body_length([23, 3, 3, 0x48, 0x01]).is_err());
    assert!(body_length([19, 3, 3, 0, 1]).is_err());
    assert!(body_length([22, 2, 0, 0, 1]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_pieces_in_both_directions(
        client in proptest::collection::vec(1usize..700, 0..40),
        server in proptest::collection::vec(1usize..700, 0..40),
        old: bool,
        towards_client: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (client, server) = settled(if old { &TLS12 } else { &TLS13 }, client, server).await;
            if towards_client { one_way_out(server, client).await } else { one_way_out(client, server).await }
        });
    }
}
