//! A reader that pauses for long and then goes on.

use std::io::Write as _;
use std::time::Duration;

use proxy_tests::runner::Cell;
use proxy_tests::targets::Target;
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// More than all buffers on the way hold.
const LENGTH: u64 = 64 << 20;

/// Longer than the 20 s of TCP_USER_TIMEOUT that control streams have: on a closed window it would end a flow.
fn pause() -> Duration {
    if std::env::var_os("KONDUIT_FULL").is_some() {
        return Duration::from_secs(90);
    }
    // Past libtest's capture: what is left out must be seen.
    let _ = writeln!(
        std::io::stderr(),
        "\n!!! SHORT FORM: a pause of 25 s instead of 90 s; KONDUIT_FULL=1 waits\n"
    );
    Duration::from_secs(25)
}

async fn keeps_its_flow(mode: LanesMode, security: LaneSecurity) -> anyhow::Result<()> {
    let cell = Cell::start(|server, agent| {
        for lanes in [&mut server.lanes, &mut agent.lanes] {
            (lanes.mode, lanes.security) = (mode, security);
        }
    });
    let cell = cell.await?;
    let target = Target::start(|mut stream| async move {
        let chunk = [7; 64 << 10];
        for _ in 0..LENGTH / chunk.len() as u64 {
            if stream.write_all(&chunk).await.is_err() {
                return;
            }
        }
    });
    let target = target.await?;
    let mut client = cell.server.open(&target.name()).await?;
    let mut buffer = vec![0; 256 << 10];
    client.read_exact(&mut buffer).await?;
    tokio::time::sleep(pause()).await;
    let mut got = buffer.len() as u64;
    loop {
        let read = client.read(&mut buffer).await?;
        anyhow::ensure!(buffer[..read].iter().all(|byte| *byte == 7), "bytes changed");
        got += read as u64;
        if read == 0 {
            anyhow::ensure!(got == LENGTH, "{got} of {LENGTH} bytes came");
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pauses_keeps_its_flow() {
    let (raw, encrypted, packets) = tokio::join!(
        keeps_its_flow(LanesMode::Always, LaneSecurity::Raw),
        keeps_its_flow(LanesMode::Always, LaneSecurity::Encrypt),
        keeps_its_flow(LanesMode::Off, LaneSecurity::Encrypt),
    );
    raw.unwrap();
    encrypted.unwrap();
    packets.unwrap();
}
