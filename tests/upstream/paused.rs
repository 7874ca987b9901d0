//! A slow reader at one end and a peer of upstream's at the other, which no packet can stop: every byte arrives,
//! and nobody else waits long. KONDUIT_FULL=1 moves 1 GiB each time instead of 48 MiB.

use std::time::{Duration, Instant};

use proxy_tests::konduit::Frontend;
use proxy_tests::runner::SOON;
use proxy_tests::targets::Target;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::flow::Flow;
use crate::pair::{Pair, Pairing, Side};

/// Bytes per second that the reader takes.
const RATE: u64 = 20_000_000;
/// What 99 of 100 round trips beside it stay below.
const NEIGHBOUR: Duration = Duration::from_millis(250);

fn length() -> u64 {
    if std::env::var_os("KONDUIT_FULL").is_some() {
        return 1 << 30;
    }
    eprintln!("SHORT FORM: 48 MiB instead of 1 GiB; KONDUIT_FULL=1 moves it all");
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

/// A round trip that one of a hundred exceeds, until told to stop: a busy machine has its own outliers.
async fn neighbour(mut flow: Flow, mut stop: tokio::sync::oneshot::Receiver<()>) -> anyhow::Result<Duration> {
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
    Ok(trips.get(trips.len() * 99 / 100).copied().unwrap_or(Duration::MAX))
}

async fn beside<T>(pair: &Pair, bulk: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<()> {
    let echo = Target::echo().await?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let neighbour = tokio::spawn(neighbour(pair.dial(&echo.name()).await?, stopped));
    bulk.await?;
    // It has failed already, and says so.
    let _ = stop.send(());
    let trip = neighbour.await??;
    assert!(trip < NEIGHBOUR, "a round trip of {trip:?} beside a slow reader");
    pair.kept_to_the_contract();
    Ok(())
}

/// Upstream's agent sends what its target gives, and our server cannot stop one flow of it.
async fn slow_client() -> anyhow::Result<()> {
    let pairing =
        Pairing { server: Side::Ours, agent: Side::Upstream, frontend: Frontend::Connect, lanes: false };
    let (pair, length) = (Pair::start(pairing).await?, length());
    let source = Target::start(move |stream| async move { drop(write_all(stream, length).await) }).await?;
    let Flow::Connect(client) = pair.dial(&source.name()).await? else { anyhow::bail!("no CONNECT") };
    beside(&pair, async { Ok(read_all(client, length).await?) }).await
}

/// Upstream's server sends what its client gives, and our agent cannot stop one flow of it.
async fn slow_target() -> anyhow::Result<()> {
    let pairing =
        Pairing { server: Side::Upstream, agent: Side::Ours, frontend: Frontend::Connect, lanes: false };
    let (pair, length) = (Pair::start(pairing).await?, length());
    let sink = Target::start(move |mut stream| async move {
        if read_all(&mut stream, length).await.is_ok() {
            let _ = stream.write_all(b"all").await;
        }
    })
    .await?;
    let Flow::Connect(mut client) = pair.dial(&sink.name()).await? else { anyhow::bail!("no CONNECT") };
    beside(&pair, async {
        write_all(&mut client, length).await?;
        let mut word = [0; 3];
        client.read_exact(&mut word).await?;
        Ok(())
    })
    .await
}

/// One after the other: both look at times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_every_byte_and_holds_nobody_up() {
    slow_client().await.unwrap();
    slow_target().await.unwrap();
}
