//! Engines that are forced in the binaries' own way: who moves which bytes of a flow on a raw lane.

use std::io::Write;
use std::time::Duration;

use proxy_tests::runner::{ABILITIES, Cell, until};
use proxy_tests::targets::Target;
use proxy_user::flow::{Direction, Engine, FlowTable, Path};
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use proxy_user::splice::EngineChoice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BYTES: usize = 1 << 20;
/// More than a read, less than what a lane carries in frames.
const BANNER: usize = 20_000;

/// Speaks first, then echoes.
async fn talker() -> std::io::Result<Target> {
    Target::start(|mut socket| async move {
        let _ = socket.write_all(&[b'b'; BANNER]).await;
        let (mut from, mut to) = socket.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    })
    .await
}

pub(crate) async fn forced(server: EngineChoice, agent: EngineChoice) -> anyhow::Result<Cell> {
    Cell::start(|on_server, on_agent| {
        (on_server.splice.engine, on_agent.splice.engine) = (server, agent);
        for lanes in [&mut on_server.lanes, &mut on_agent.lanes] {
            (lanes.mode, lanes.security) = (LanesMode::Always, LaneSecurity::Raw);
            lanes.wait = Duration::from_secs(10);
        }
    })
    .await
}

/// One flow: what the target says first, then as many bytes there and back. A word ahead of them leaves every engine the
/// time to enter.
async fn flow(cell: &Cell, target: &Target) -> anyhow::Result<()> {
    let mut client = cell.server.open(&target.name()).await?;
    client.write_all(b"b").await?;
    client.read_u8().await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let sent: Vec<u8> = (0..BYTES).map(|n| (n * 7) as u8).collect();
    let mut back = Vec::new();
    let (mut from, mut to) = client.split();
    let send = async {
        to.write_all(&sent).await?;
        to.shutdown().await
    };
    let (wrote, read) = tokio::join!(send, from.read_to_end(&mut back));
    wrote?;
    read?;
    anyhow::ensure!(back[back.len() - BYTES..] == sent[..], "bytes came back changed");
    anyhow::ensure!(back[..back.len() - BYTES].iter().all(|byte| *byte == b'b'), "changed before them");
    until("the flow to end", || cell.server.flows().is_empty() && cell.agent.flows.is_empty()).await
}

fn moved(flows: &FlowTable, direction: Direction, engine: Engine) -> usize {
    flows.totals().bytes(Path::LaneRaw, direction, engine) as usize
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forced_engines_move_what_they_can_from_the_first_byte() {
    use EngineChoice::{Auto, Copy, Sockmap, Splice};
    if !(ABILITIES.sockmap_tcp.is_proven() && ABILITIES.sockmap_unix.is_proven()) {
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: sockmap is not proven on this machine\n");
        return;
    }
    for target in [Target::echo().await.unwrap(), talker().await.unwrap()] {
        for (server, agent) in
            [(Sockmap, Auto), (Auto, Sockmap), (Sockmap, Sockmap), (Splice, Splice), (Copy, Copy)]
        {
            let mut tries = 1;
            while let Err(error) = moves(server, agent, &target).await {
                // A forced engine waits a second for a lane to be clear, which a busy machine may miss.
                assert!(tries < 3, "{server}, {agent}: {error}");
                tries += 1;
            }
        }
    }
}

/// An error where other engines than these moved the bytes of a flow.
async fn moves(server: EngineChoice, agent: EngineChoice, target: &Target) -> anyhow::Result<()> {
    use Direction::{Down, Up};
    use EngineChoice::{Auto, Copy, Sockmap, Splice};
    let cell = forced(server, agent).await.unwrap();
    flow(&cell, target).await.unwrap_or_else(|error| panic!("{server}, {agent}: {error}"));
    let (at_server, at_agent) = (cell.server.flows(), &cell.agent.flows);
    let is = |direction, engine, bytes| {
        let seen = moved(at_server, direction, engine);
        anyhow::ensure!(seen == bytes, "{engine:?} moved {seen} bytes {direction:?} at the server");
        Ok(())
    };
    match server {
        // A Unix source enters the map before its first byte or never: all of it, or nothing.
        Sockmap => is(Up, Engine::Sockmap, BYTES + 1).and(is(Down, Engine::Sockmap, 0))?,
        Splice => is(Up, Engine::Splice, BYTES + 1)?,
        Copy => is(Up, Engine::Copy, BYTES + 1)?,
        Auto => is(Up, Engine::Sockmap, 0)?,
    }
    let engine = match agent {
        Sockmap => Engine::Sockmap,
        Splice => Engine::Splice,
        Copy => Engine::Copy,
        Auto => return Ok(()),
    };
    let seen = moved(at_agent, Up, engine);
    anyhow::ensure!(seen > BYTES / 2, "{engine:?} moved {seen} bytes up at the agent");
    Ok(())
}
