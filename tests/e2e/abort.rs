//! An abort is no clean end, on either side.

use proxy_tests::runner::{Cell, until};
use proxy_tests::targets::Target;
use proxy_user::flow::{Outcome, Path};
use proxy_user::net::sockopt::reset_on_close;
use proxy_user::splice::EngineChoice;
use proxy_user::splice::kernel::sock::unacknowledged;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::engines::forced;
use crate::paths::{cell, on_every_path};

on_every_path!(
    a_target_that_resets_is_no_eof,
    a_client_that_goes_resets_the_target,
    what_a_target_sent_before_its_reset_arrives,
    what_a_client_sent_before_its_reset_arrives,
);

/// More than any one queue on the way holds.
const BEFORE: usize = 1 << 20;

async fn a_target_that_resets_is_no_eof(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let sent = 1usize << 20;
    let target = Target::start(move |mut stream| async move {
        stream.write_all(&vec![7; sent]).await.unwrap();
        // The other side has taken everything before the reset.
        assert_eq!(stream.read_u8().await.unwrap(), 1);
        socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    })
    .await?;
    let mut client = cell.server.open(&target.name()).await?;
    let mut bytes = vec![0; sent];
    client.read_exact(&mut bytes).await?;
    client.write_all(&[1]).await?;
    let mut rest = Vec::new();
    // A Unix socket cannot say RST: its end is all the client may see, and nothing more comes.
    let _ = client.read_to_end(&mut rest).await;
    assert_eq!(rest.len(), 0);
    drop(client);
    until("the flow to end", || cell.server.flows().is_empty() && cell.agent.flows.is_empty()).await?;
    let totals = cell.server.flows().totals();
    assert_eq!(totals.ended(path, Outcome::Clean), 0);
    Ok(())
}

async fn a_client_that_goes_resets_the_target(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let target = Target::start(move |mut stream| {
        let told = told.clone();
        async move {
            // Written until it fails: the client has gone.
            while stream.write_all(&[7; 65536]).await.is_ok() {}
            told.send(()).await.unwrap();
        }
    })
    .await?;
    let mut client = cell.server.open(&target.name()).await?;
    client.read_u8().await?;
    drop(client);
    let failed = tokio::time::timeout(proxy_tests::runner::SOON, heard.recv()).await;
    assert_eq!(failed, Ok(Some(())));
    until("the flow to end", || cell.server.flows().is_empty() && cell.agent.flows.is_empty()).await
}

async fn what_a_target_sent_before_its_reset_arrives(path: Path) -> anyhow::Result<()> {
    bytes_then_a_target_s_reset(&cell(path).await?, path).await
}

async fn what_a_client_sent_before_its_reset_arrives(path: Path) -> anyhow::Result<()> {
    bytes_then_a_client_s_reset(&cell(path).await?, path).await
}

/// The same whoever moves the bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_before_a_reset_arrives_by_each_forced_engine() {
    for engine in EngineChoice::ALL {
        let cell = forced(engine, engine).await.unwrap();
        let down = bytes_then_a_target_s_reset(&cell, Path::LaneRaw).await;
        down.unwrap_or_else(|error| panic!("{engine}, down: {error}"));
        let up = bytes_then_a_client_s_reset(&cell, Path::LaneRaw).await;
        up.unwrap_or_else(|error| panic!("{engine}, up: {error}"));
    }
}

/// The target resets once the agent's kernel has everything; nobody waits for the client, which gets everything all the
/// same, and the flow is no clean one. That an end is a reset no Unix socket can tell.
async fn bytes_then_a_target_s_reset(cell: &Cell, path: Path) -> anyhow::Result<()> {
    let before = cell.server.flows().totals().ended(path, Outcome::Clean);
    let target = Target::start(|mut stream| async move {
        stream.write_all(&pattern()).await.unwrap();
        until("the last acknowledgement", || unacknowledged(&stream).unwrap() == 0).await.unwrap();
        reset_on_close(&stream).unwrap();
    })
    .await?;
    let mut client = cell.server.open(&target.name()).await?;
    let mut bytes = Vec::new();
    let ended = client.read_to_end(&mut bytes).await;
    anyhow::ensure!(bytes == pattern(), "{} bytes came, then {ended:?}", bytes.len());
    drop(client);
    until("the flow to end", || cell.server.flows().is_empty() && cell.agent.flows.is_empty()).await?;
    let clean = cell.server.flows().totals().ended(path, Outcome::Clean) - before;
    anyhow::ensure!(clean == 0, "the flow ended cleanly");
    Ok(())
}

/// A client that closes its Unix socket with bytes unread resets it, right behind what it wrote.
async fn bytes_then_a_client_s_reset(cell: &Cell, path: Path) -> anyhow::Result<()> {
    let before = cell.server.flows().totals().ended(path, Outcome::Clean);
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let target = Target::start(move |mut stream| {
        let told = told.clone();
        async move {
            stream.write_all(&[1]).await.unwrap();
            let mut bytes = Vec::new();
            let ended = stream.read_to_end(&mut bytes).await;
            told.send((bytes, ended.map_err(|error| error.kind()))).await.unwrap();
        }
    })
    .await?;
    let mut client = cell.server.open(&target.name()).await?;
    let unread = || socket2::SockRef::from(&client).peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok();
    until("a byte that stays unread", unread).await?;
    client.write_all(&pattern()).await?;
    drop(client);
    let Some((bytes, ended)) = tokio::time::timeout(proxy_tests::runner::SOON, heard.recv()).await? else {
        anyhow::bail!("the target said nothing");
    };
    anyhow::ensure!(bytes == pattern(), "{} bytes came, then {ended:?}", bytes.len());
    anyhow::ensure!(ended == Err(std::io::ErrorKind::ConnectionReset), "the target saw {ended:?}");
    until("the flow to end", || cell.server.flows().is_empty() && cell.agent.flows.is_empty()).await?;
    let clean = cell.server.flows().totals().ended(path, Outcome::Clean) - before;
    anyhow::ensure!(clean == 0, "the flow ended cleanly");
    Ok(())
}

fn pattern() -> Vec<u8> {
    (0..BEFORE).map(|at| (at ^ (at >> 8)) as u8).collect()
}
