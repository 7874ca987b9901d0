//! Many bytes and many flows.

use proxy_tests::runner::until;
use proxy_tests::targets::Target;
use proxy_user::flow::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::paths::{all_took, cell, on_every_path};

on_every_path!(large_both_ways_at_once, a_hundred_flows_at_once, one_stalled_flow_stops_nobody);

/// Bytes that differ at every position of a period that divides no buffer size.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 65_521 % 251) as u8).collect()
}

async fn large_both_ways_at_once(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let target = Target::echo().await?;
    let client = cell.server.open(&target.name()).await?;
    let (mut read, mut write) = client.into_split();
    let sent = pattern(24 << 20);
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await?;
        write.shutdown().await
    });
    let mut back = Vec::with_capacity(expected.len());
    read.read_to_end(&mut back).await?;
    writer.await??;
    assert!(back == expected, "{} of {} bytes came back, or other ones", back.len(), expected.len());
    until("the flow to end", || cell.server.flows().is_empty()).await?;
    assert!(all_took(&cell, path));
    Ok(())
}

async fn a_hundred_flows_at_once(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let target = Target::echo().await?;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..100usize {
        let (socket, target) = (cell.server.socket().to_owned(), target.name());
        clients.spawn(async move {
            let (mut stream, head) = proxy_tests::runner::connect(&socket, &target).await?;
            anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
            let sent = pattern(10_000 + 997 * number);
            let mut back = vec![0; sent.len()];
            let (mut read, mut write) = stream.split();
            let (wrote, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut back));
            wrote?;
            read?;
            anyhow::ensure!(back == sent);
            Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    until("the flows to end", || cell.server.flows().is_empty() && cell.agent.flows.is_empty()).await?;
    assert!(all_took(&cell, path));
    Ok(())
}

async fn one_stalled_flow_stops_nobody(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    let flood =
        Target::start(|mut stream| async move { while stream.write_all(&[7; 65536]).await.is_ok() {} })
            .await?;
    let mut stalled = cell.server.open(&flood.name()).await?;
    stalled.read_u8().await?;
    // More than every buffer on the way holds has been sent by now, or the flood waits already.
    let moved = || {
        cell.agent
            .flows
            .live()
            .iter()
            .map(|flow| flow.meter.total(proxy_user::flow::Direction::Down))
            .sum::<u64>()
    };
    let mut before = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let now = moved();
        if now == before {
            break;
        }
        before = now;
    }
    let echo = Target::echo().await?;
    let exchange = async {
        let mut client = cell.server.open(&echo.name()).await?;
        for _ in 0..100 {
            client.write_all(b"ping").await?;
            client.read_exact(&mut [0; 4]).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(proxy_tests::runner::SOON, exchange).await??;
    Ok(())
}
