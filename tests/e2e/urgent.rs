//! A target that sends urgent data (MSG_OOB): every byte arrives where it was sent, on whatever path.

use std::time::Duration;

use proxy_tests::targets::Target;
use proxy_user::flow::Path;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::paths::{cell, on_every_path};

const ROUNDS: usize = 20;

on_every_path!(an_urgent_byte_is_one_like_the_others);

async fn an_urgent_byte_is_one_like_the_others(path: Path) -> anyhow::Result<()> {
    let cell = cell(path).await?;
    // Each answer waits until the one before it was read: nothing follows that would push it.
    let target = Target::start(|mut stream| async move {
        while stream.read_u8().await.is_ok() {
            stream.write_all(b"abc").await.unwrap();
            assert_eq!(SockRef::from(&stream).send_out_of_band(b"!").unwrap(), 1);
            stream.write_all(b"def").await.unwrap();
        }
    })
    .await?;
    let mut client = cell.server.open(&target.name()).await?;
    for round in 0..ROUNDS {
        client.write_u8(b'?').await?;
        let mut answer = [0; 7];
        let read = tokio::time::timeout(Duration::from_secs(5), client.read_exact(&mut answer)).await;
        anyhow::ensure!(read.is_ok(), "round {round}: {:?}", String::from_utf8_lossy(&answer));
        read??;
        assert_eq!(&answer, b"abc!def", "round {round}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
