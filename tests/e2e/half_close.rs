//! Each direction ends by itself.

use proxy_tests::runner::until;
use proxy_tests::targets::Target;
use proxy_user::flow::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::paths::{cell, on_every_path};

on_every_path!(a_client_that_ends_still_reads, a_target_that_ends_still_reads);

async fn a_client_that_ends_still_reads(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let target = Target::start(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&(all.len() as u64).to_be_bytes()).await.unwrap();
    })
    .await?;
    let mut client = cell.server.open(&target.name()).await?;
    client.write_all(&vec![7; 300_000]).await?;
    client.shutdown().await?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await?;
    assert_eq!(answer, 300_000u64.to_be_bytes());
    until("the flow to end", || cell.server.flows().is_empty() && cell.agent.flows.is_empty()).await
}

async fn a_target_that_ends_still_reads(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let (told, mut heard) = tokio::sync::mpsc::channel(1);
    let target = Target::start(move |mut stream| {
        let told = told.clone();
        async move {
            stream.shutdown().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            told.send(all.len()).await.unwrap();
        }
    })
    .await?;
    let mut client = cell.server.open(&target.name()).await?;
    assert_eq!(client.read(&mut [0; 1]).await?, 0);
    client.write_all(&vec![7; 300_000]).await?;
    client.shutdown().await?;
    assert_eq!(heard.recv().await, Some(300_000));
    until("the flow to end", || cell.server.flows().is_empty() && cell.agent.flows.is_empty()).await
}
