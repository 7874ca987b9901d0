use std::future::poll_fn;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::lane::message::{hear, pb, say};
use crate::lane::record::RecordExact;
use crate::lane::testing::{shake, tcp_pair};

const SOON: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Shelf(Mutex<Vec<Lane>>);

impl Home for Shelf {
    fn take_back(self: Arc<Self>, lane: Lane) {
        self.0.lock().unwrap().push(lane);
    }
}

impl Shelf {
    fn take(&self) -> Lane {
        self.0.lock().unwrap().pop().expect("the lane came back")
    }

    fn is_empty(&self) -> bool {
        self.0.lock().unwrap().is_empty()
    }
}

struct World {
    near: Carried,
    far: Carried,
    shelves: [Arc<Shelf>; 2],
}

fn on(mut lane: Lane, shelf: &Arc<Shelf>) -> Carried {
    lane.engage();
    let mut carried = Carried::new(lane, shelf.clone());
    // A busy machine makes no flow a long one.
    carried.until = Instant::now() + 12 * SOON;
    carried
}

async fn world(security: Security, old: bool) -> World {
    let versions = if old { &[&TLS12] } else { &[&TLS13] };
    let (near, far) = tcp_pair().await;
    let (client, server) =
        shake(versions, RecordExact::reading_ahead(near), RecordExact::reading_ahead(far)).await;
    let shelves = [Arc::<Shelf>::default(), Arc::default()];
    World {
        near: on(Lane::new(client, security), &shelves[0]),
        far: on(Lane::new(server, security), &shelves[1]),
        shelves,
    }
}

fn bytes(length: usize, salt: u8) -> Vec<u8> {
    // Starts like a TLS record, so that a reader that goes on would take it for one.
    let count =
        (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add((n >> 8) as u8).wrapping_add(salt));
    [23, 3, 3, 0, 20].into_iter().chain(count).take(length).collect()
}

async fn send(from: &mut (impl AsyncWrite + Unpin), sent: &[u8], pieces: usize) {
    for piece in sent.chunks(pieces) {
        from.write_all(piece).await.unwrap();
        from.flush().await.unwrap();
    }
    from.shutdown().await.unwrap();
}

async fn receive(to: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut seen = Vec::new();
    to.read_to_end(&mut seen).await.unwrap();
    seen
}

/// A flow in both directions at once, to its end.
async fn exchange(near: &mut Carried, far: &mut Carried, up: usize, down: usize, pieces: usize) {
    let (asked, answered) = (bytes(up, 1), bytes(down, 2));
    let near = async {
        let (mut read, mut write) = tokio::io::split(near);
        tokio::join!(send(&mut write, &asked, pieces), receive(&mut read)).1
    };
    let far = async {
        let seen = receive(far).await;
        send(far, &answered, pieces).await;
        seen
    };
    let (down_seen, up_seen) = tokio::time::timeout(SOON, async { tokio::join!(near, far) }).await.unwrap();
    assert!(up_seen == asked, "{up} bytes up");
    assert!(down_seen == answered, "{down} bytes down");
}

#[tokio::test]
async fn a_lane_serves_one_short_flow_after_the_other() {
    for security in [Security::Raw, Security::Encrypt] {
        for old in [false, true] {
            let World { mut near, mut far, shelves } = world(security, old).await;
            for round in 0..20 {
                exchange(&mut near, &mut far, round * 97, 40_000 / (round + 1), 3000).await;
                drop((near, far));
                let (mut ours, mut theirs) = (shelves[0].take(), shelves[1].take());
                // Between two flows the lane talks as before.
                say(ours.wire().unwrap(), pb::Ping {}, SOON).await.unwrap();
                let heard = hear(theirs.wire().unwrap(), SOON).await.unwrap();
                assert_eq!(heard, pb::lane_message::What::Ping(pb::Ping {}));
                (near, far) = (on(ours, &shelves[0]), on(theirs, &shelves[1]));
            }
        }
    }
}

#[tokio::test]
async fn a_flow_that_lasts_leaves_its_frames_and_uses_its_lane_up() {
    let lasting = BRIEF_BYTES as usize;
    for security in [Security::Raw, Security::Encrypt] {
        for (up, down) in [(lasting + 1, 10), (10, lasting * 40), (lasting * 3, lasting * 3), (lasting, 0)] {
            let World { mut near, mut far, shelves } = world(security, false).await;
            exchange(&mut near, &mut far, up, down, 50_000).await;
            let used_up = up > lasting || down > lasting;
            assert_eq!((near.used_up, far.used_up), (used_up, used_up), "{up} and {down}");
            drop((near, far));
            assert_eq!(shelves.each_ref().map(|shelf| shelf.is_empty()), [used_up; 2], "{up} and {down}");
        }
    }
}

/// The receive buffer's and the unsent limit's bytes.
fn bounds(carried: &Carried) -> (usize, u32) {
    let socket = socket2::SockRef::from(carried.tcp().unwrap());
    (socket.recv_buffer_size().unwrap(), socket.tcp_notsent_lowat().unwrap())
}

#[tokio::test]
async fn a_lane_is_bounded_by_the_flow_that_uses_it_up_and_by_no_other() {
    let lasting = BRIEF_BYTES as usize;
    for security in [Security::Raw, Security::Encrypt] {
        let World { mut near, mut far, shelves } = world(security, false).await;
        let before = bounds(&near);
        near.bound(Room::alone(0));
        exchange(&mut near, &mut far, 10, lasting, 50_000).await;
        // The kernel still tunes it.
        assert!(bounds(&near).0 >= before.0, "{before:?}");
        assert_eq!(bounds(&near).1, before.1);
        drop((near, far));
        let (mut near, mut far) = (on(shelves[0].take(), &shelves[0]), on(shelves[1].take(), &shelves[1]));
        near.bound(Room::alone(0));
        exchange(&mut near, &mut far, 10, lasting + 1, 50_000).await;
        assert_eq!(bounds(&near), (64 << 10, 16 << 10));
    }
}

#[tokio::test]
async fn a_flow_that_lasts_long_leaves_with_its_next_byte() {
    let World { mut near, mut far, .. } = world(Security::Raw, false).await;
    near.write_all(b"first").await.unwrap();
    near.flush().await.unwrap();
    far.read_exact(&mut [0; 5]).await.unwrap();
    assert!(!near.is_leaving());
    near.until = Instant::now();
    near.write_all(b"later").await.unwrap();
    far.read_exact(&mut [0; 5]).await.unwrap();
    assert!(near.is_leaving() && far.is_leaving());
}

/// Reads until both have left; what was read is of the flow.
async fn leave(stream: &mut Carried) -> Vec<u8> {
    let mut seen = Vec::new();
    let mut buffer = [0; 1000];
    let left = poll_fn(|cx| {
        loop {
            if stream.poll_leave(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut into = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut into)).unwrap();
            seen.extend_from_slice(into.filled());
        }
    });
    tokio::time::timeout(SOON, left).await.expect("the peer leaves as well");
    seen
}

fn socket(stream: Carried) -> (TcpStream, Bytes) {
    let (plain, ahead) = Box::new(stream).into_plain().expect("both have left");
    match plain {
        Plain::Tcp(socket) => (TcpStream::from_std(socket).unwrap(), ahead),
        Plain::Unix(_) => panic!("a lane is a TCP socket"),
    }
}

async fn both_leave(up: usize, down: usize, behind: usize) {
    let World { mut near, mut far, shelves } = world(Security::Raw, false).await;
    let (asked, answered) = (bytes(up, 3), bytes(down, 4));
    near.write_all(&asked[..up - behind]).await.unwrap();
    far.write_all(&answered[..down - behind]).await.unwrap();
    poll_fn(|cx| near.poll_output_left(cx)).await.unwrap();
    near.write_all(&asked[up - behind..]).await.unwrap();
    poll_fn(|cx| far.poll_output_left(cx)).await.unwrap();
    far.write_all(&answered[down - behind..]).await.unwrap();
    let (mut up_seen, mut down_seen) = (leave(&mut far).await, leave(&mut near).await);
    for (stream, seen, other) in [(far, &mut up_seen, asked), (near, &mut down_seen, answered)] {
        let (mut socket, ahead) = socket(stream);
        seen.extend_from_slice(&ahead);
        let mut rest = vec![0; other.len() - seen.len()];
        socket.read_exact(&mut rest).await.unwrap();
        seen.extend_from_slice(&rest);
        assert!(*seen == other, "{up} {down} {behind}");
        std::mem::forget(socket);
    }
    assert!(shelves.iter().all(|shelf| shelf.is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_raw_lane_leaves_tls_at_an_exact_byte(up in 5000usize..40_000, down in 5000usize..40_000, behind in 0usize..5000) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(both_leave(up, down, behind));
    }
}

#[tokio::test]
async fn a_direction_that_ended_need_not_leave() {
    let World { mut near, mut far, .. } = world(Security::Raw, false).await;
    send(&mut near, b"a question", 100).await;
    assert_eq!(receive(&mut far).await, b"a question");
    assert!(leave(&mut far).await.is_empty());
    assert!(leave(&mut near).await.is_empty());
    let ((mut far, _), (mut near, _)) = (socket(far), socket(near));
    far.write_all(b"an answer").await.unwrap();
    drop(far);
    let mut seen = Vec::new();
    near.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen, b"an answer");
}

#[tokio::test]
async fn an_abort_a_drop_and_an_end_among_frames_are_no_clean_end() {
    for security in [Security::Raw, Security::Encrypt] {
        for how in 0..4 {
            let World { mut near, mut far, shelves } = world(security, false).await;
            near.write_all(b"half of it").await.unwrap();
            near.flush().await.unwrap();
            far.read_exact(&mut [0; 10]).await.unwrap();
            match how {
                0 => near.abort(),
                1 => drop(near),
                2 => near.wire().unwrap().shutdown().await.unwrap(),
                _ => drop(near.lane.take().unwrap().into_wire()),
            }
            let error = far.read(&mut [0; 10]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{how}");
            drop(far);
            assert!(shelves[1].is_empty());
        }
    }
}

#[tokio::test]
async fn a_direction_that_ended_while_the_other_goes_on_is_no_free_lane() {
    let World { mut near, mut far, shelves } = world(Security::Encrypt, false).await;
    send(&mut near, b"a question", 100).await;
    assert_eq!(receive(&mut far).await, b"a question");
    drop(near);
    assert!(shelves[0].is_empty());
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    let lost = async {
        loop {
            if far.write_all(&[0; 1000]).await.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, lost).await.unwrap();
}

#[tokio::test]
async fn a_frame_that_is_too_long_is_refused() {
    let World { mut near, mut far, .. } = world(Security::Raw, false).await;
    let wire = near.wire().unwrap().get_mut();
    wire.write_all(&(MAX_FRAME as u16 + 1).to_be_bytes()).await.unwrap();
    wire.flush().await.unwrap();
    assert_eq!(far.read(&mut [0; 10]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

/// Inside TLS behind its last frame there may be nothing.
#[tokio::test]
async fn more_tls_behind_the_last_frame_is_refused() {
    let World { mut near, mut far, .. } = world(Security::Raw, false).await;
    let wire = near.wire().unwrap().get_mut();
    wire.write_all(&[0xff, 0xff, 1]).await.unwrap();
    wire.flush().await.unwrap();
    assert!(far.read(&mut [0; 10]).await.unwrap_err().to_string().contains("more inside TLS"));
}

/// Answering LEAVE is where the kernel tells of a reset, once: the end that is read then is no clean one.
#[tokio::test]
async fn a_peer_that_leaves_and_aborts_has_not_ended() {
    let World { mut near, mut far, .. } = world(Security::Raw, false).await;
    poll_fn(|cx| near.poll_output_left(cx)).await.unwrap();
    near.write_all(b"half of it").await.unwrap();
    far.read_exact(&mut [0; 5]).await.unwrap();
    near.abort();
    tokio::time::sleep(Duration::from_millis(50)).await;
    poll_fn(|cx| {
        let _ = far.poll_leave(cx);
        Poll::Ready(())
    })
    .await;
    let error = far.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(poll_fn(|cx| Poll::Ready(far.poll_broken(cx))).await.is_ready());
}

/// A forced engine waits for both to leave TLS, for so long; then the flow is copied as any other. `auto` on a machine
/// without splice(2) forces none.
#[tokio::test]
async fn a_peer_that_does_not_leave_costs_a_forced_engine_its_flow_and_nothing_else() {
    use crate::flow::Meter;
    use crate::splice::{End, EngineChoice, Proven, SpliceConfig, Splicer};

    for engine in [EngineChoice::Copy, EngineChoice::Auto] {
        let World { near, mut far, .. } = world(Security::Raw, false).await;
        let proven = Proven { sockmap_tcp: false, sockmap_unix: false, splice: false };
        let splicer = Splicer::start(SpliceConfig { engine, proven, ..SpliceConfig::default() }).unwrap();
        let (inner, outer) = std::os::unix::net::UnixStream::pair().unwrap();
        outer.set_nonblocking(true).unwrap();
        let mut client = tokio::net::UnixStream::from_std(outer).unwrap();
        let end = End::unix(inner).with_greeting(Bytes::from_static(b"hello"));
        let join = tokio::spawn(splicer.join(end, End::stream(near), Arc::<Meter>::default()));

        let mut words = [0; 5];
        tokio::time::timeout(SOON, client.read_exact(&mut words)).await.unwrap().unwrap();
        assert_eq!(&words, b"hello");
        client.write_all(b"there").await.unwrap();
        tokio::time::timeout(SOON, far.read_exact(&mut words)).await.unwrap().unwrap();
        assert_eq!(&words, b"there");
        assert_eq!(far.is_leaving(), engine == EngineChoice::Copy);
        far.write_all(b"again").await.unwrap();
        far.shutdown().await.unwrap();
        let mut rest = Vec::new();
        tokio::time::timeout(SOON, client.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, b"again");
        client.shutdown().await.unwrap();
        assert_eq!(tokio::time::timeout(SOON, far.read(&mut words)).await.unwrap().unwrap(), 0);
        assert!(tokio::time::timeout(SOON, join).await.unwrap().unwrap().is_clean());
    }
}
