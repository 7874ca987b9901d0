//! An abort is no clean end, on either side.

use proxy_tests::runner::until;
use proxy_tests::targets::Target;
use proxy_user::flow::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::paths::{cell, on_every_path};

on_every_path!(a_target_that_resets_is_no_eof, a_client_that_goes_resets_the_target);

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
    assert_eq!(totals.ended(path, proxy_user::flow::Outcome::Clean), 0);
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
