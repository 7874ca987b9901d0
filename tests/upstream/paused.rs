//! A slow reader at one end and a peer of upstream's at the other, which no packet can stop: every byte arrives,
//! and nobody else waits long. KONDUIT_FULL=1 moves 1 GiB each time instead of 48 MiB.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use proxy_tests::konduit::Frontend;
use proxy_tests::runner::SOON;
use proxy_tests::targets::Target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use crate::flow::Flow;
use crate::pair::{Pair, Pairing, Side};

/// Bytes per second that the reader takes.
const RATE: u64 = 20_000_000;
/// What nine of ten round trips beside it stay below: a busy machine has its own outliers.
const MOST: Duration = Duration::from_millis(250);
/// What all of them stay below.
const LONGEST: Duration = Duration::from_secs(2);
/// A flow that nobody reads has ended by then.
const ENDED: Duration = Duration::from_secs(20);
const CHUNK: usize = 64 << 10;

fn length() -> u64 {
    if std::env::var_os("KONDUIT_FULL").is_some() {
        return 1 << 30;
    }
    // Past libtest's capture: what is left out must be seen.
    let _ = writeln!(
        std::io::stderr(),
        "\n!!! SHORT FORM: 48 MiB instead of 1 GiB; KONDUIT_FULL=1 moves it all\n"
    );
    48 << 20
}

/// Each byte says where it stands.
fn fill(at: u64, into: &mut [u8]) {
    for (offset, byte) in into.iter_mut().enumerate() {
        let at = at + offset as u64;
        *byte = (at ^ (at >> 8) ^ (at >> 16).wrapping_mul(31)) as u8;
    }
}

/// As fast as it is taken.
async fn write_all<W: AsyncWrite + Unpin>(mut to: W, length: u64) -> std::io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    for at in (0..length).step_by(64 << 10) {
        fill(at, &mut chunk);
        to.write_all(&chunk).await?;
    }
    to.flush().await
}

/// At `RATE`, comparing every byte.
async fn read_all<R: AsyncRead + Unpin>(mut from: R, length: u64) -> std::io::Result<()> {
    let (mut chunk, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let began = Instant::now();
    for at in (0..length).step_by(64 << 10) {
        from.read_exact(&mut chunk).await?;
        fill(at, &mut right);
        assert!(chunk == right, "changed between {at} and {}", at + (64 << 10));
        let due = Duration::from_secs_f64((at + (64 << 10)) as f64 / RATE as f64);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    Ok(())
}

/// How long a neighbour waited for its round trips.
#[derive(Debug)]
struct Trips {
    /// One of ten took longer.
    most: Duration,
    longest: Duration,
}

/// Round trips until told to stop.
async fn round_trips(mut flow: Flow, mut stop: tokio::sync::oneshot::Receiver<()>) -> anyhow::Result<Trips> {
    let mut trips = Vec::new();
    for turn in 0.. {
        if stop.try_recv().is_ok() {
            break;
        }
        let began = Instant::now();
        tokio::time::timeout(SOON, flow.exchange(64, turn)).await??;
        trips.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    trips.sort();
    let longest = *trips.last().context("not one round trip")?;
    Ok(Trips { most: trips[trips.len() * 9 / 10], longest })
}

/// A flow to an echo, which goes on beside a slow reader. It is there before that one fills the stream.
struct Neighbour {
    _echo: Target,
    flow: Flow,
}

impl Neighbour {
    async fn dial(pair: &Pair) -> anyhow::Result<Neighbour> {
        let echo = Target::echo().await?;
        Ok(Neighbour { flow: pair.dial(&echo.name()).await?, _echo: echo })
    }

    /// What its round trips took beside `bulk`.
    async fn beside(
        self,
        pair: &Pair,
        bulk: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Trips> {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let trips = tokio::spawn(round_trips(self.flow, stopped));
        bulk.await?;
        // It has failed already, and says so.
        let _ = stop.send(());
        let trips = trips.await??;
        eprintln!("{:?}: {trips:?} beside a slow reader", pair.pairing);
        pair.kept_to_the_contract();
        Ok(trips)
    }
}

/// The target sends, the client is slow.
async fn slow_client(pairing: Pairing) -> anyhow::Result<Trips> {
    let (pair, length) = (Pair::start(pairing).await?, length());
    let neighbour = Neighbour::dial(&pair).await?;
    let source = Target::start(move |stream| async move { drop(write_all(stream, length).await) }).await?;
    let client = pair.dial(&source.name()).await?.into_reader();
    neighbour.beside(&pair, async { Ok(read_all(client, length).await?) }).await
}

/// The client sends, the target is slow.
async fn slow_target(pairing: Pairing) -> anyhow::Result<Trips> {
    let (pair, length) = (Pair::start(pairing).await?, length());
    let neighbour = Neighbour::dial(&pair).await?;
    let sink = Target::start(move |mut stream| async move {
        if read_all(&mut stream, length).await.is_ok() {
            let _ = stream.write_all(b"all").await;
        }
    })
    .await?;
    let mut client = pair.dial(&sink.name()).await?;
    let all = async {
        let mut chunk = vec![0; CHUNK];
        for at in (0..length).step_by(CHUNK) {
            fill(at, &mut chunk);
            client.write(Bytes::copy_from_slice(&chunk)).await?;
        }
        // What was sent last is on its way for longer than a client waits for a word.
        tokio::time::sleep(Duration::from_secs_f64(20e6 / RATE as f64)).await;
        anyhow::ensure!(client.hear().await? == b"all"[..], "another word");
        Ok(())
    };
    neighbour.beside(&pair, all).await
}

/// Nobody reads; the flow is ended, and its neighbour goes on.
async fn nobody_reads(pairing: Pairing) -> anyhow::Result<Trips> {
    let pair = Pair::start(pairing).await?;
    let neighbour = Neighbour::dial(&pair).await?;
    let (over, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    let target = Target::start(move |mut stream| {
        let over = over.clone();
        async move {
            if pairing.server == Side::Ours {
                while stream.write_all(&[7; CHUNK]).await.is_ok() {}
            } else {
                // Upstream's server may write what a target says at once before its own 200.
                let _ = stream.read_u8().await;
                // As good as never: it only looks whether the connection is there.
                while stream.write_all(&[7]).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            let _ = over.try_send(());
        }
    })
    .await?;
    let mut client = pair.dial(&target.name()).await?;
    let began = Instant::now();
    let end = async {
        let flood = async {
            while pairing.server == Side::Upstream
                && client.write(Bytes::from_static(&[7; CHUNK])).await.is_ok()
            {}
            std::future::pending().await
        };
        tokio::select! {
            _ = ended.recv() => Ok(()),
            never = flood => never,
        }
    };
    let trips = neighbour.beside(&pair, async { tokio::time::timeout(ENDED, end).await? }).await?;
    eprintln!("{pairing:?}: ended after {:?}", began.elapsed());
    Ok(trips)
}

/// Upstream's end sends, and ours cannot stop one flow of it; by either frontend, one after the other: all look at
/// times.
fn pairings(server: Side, agent: Side) -> [Pairing; 2] {
    [Frontend::Connect, Frontend::Grpc].map(|frontend| Pairing {
        server,
        agent,
        frontend,
        lanes: false,
        killed: false,
    })
}

/// A busy machine may be late once; a neighbour that is held up is late each time.
async fn in_time<F: Future<Output = anyhow::Result<Trips>>>(trips: impl Fn() -> F) -> anyhow::Result<()> {
    let mut late = Vec::new();
    while late.len() < 3 {
        let took = trips().await?;
        if took.most < MOST && took.longest < LONGEST {
            return Ok(());
        }
        late.push(took);
    }
    anyhow::bail!("beside a reader that is slow or never reads: {late:?}")
}

static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_of_upstreams_agent_gets_every_byte_and_holds_nobody_up() {
    let _alone = ALONE.lock().await;
    for pairing in pairings(Side::Ours, Side::Upstream) {
        in_time(|| slow_client(pairing)).await.unwrap_or_else(|error| panic!("{pairing:?}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_target_of_upstreams_server_gets_every_byte_and_holds_nobody_up() {
    let _alone = ALONE.lock().await;
    for pairing in pairings(Side::Upstream, Side::Ours) {
        in_time(|| slow_target(pairing)).await.unwrap_or_else(|error| panic!("{pairing:?}: {error}"));
    }
}

/// The other way round, upstream's end waits for its reader with all flows; what is ours to do is to lose nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_behind_upstreams_end_gets_every_byte() {
    let _alone = ALONE.lock().await;
    for pairing in pairings(Side::Ours, Side::Upstream) {
        slow_target(pairing).await.unwrap();
    }
    for pairing in pairings(Side::Upstream, Side::Ours) {
        slow_client(pairing).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_is_ended_and_its_neighbour_goes_on() {
    let _alone = ALONE.lock().await;
    let ours = pairings(Side::Ours, Side::Upstream).into_iter();
    for pairing in ours.chain(pairings(Side::Upstream, Side::Ours)) {
        in_time(|| nobody_reads(pairing)).await.unwrap_or_else(|error| panic!("{pairing:?}: {error}"));
    }
}
