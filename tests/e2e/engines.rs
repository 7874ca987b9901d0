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

async fn forced(server: EngineChoice, agent: EngineChoice) -> anyhow::Result<Cell> {
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
    use Direction::{Down, Up};
    use EngineChoice::{Auto, Copy, Sockmap, Splice};
    if !(ABILITIES.sockmap_tcp.is_proven() && ABILITIES.sockmap_unix.is_proven()) {
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: sockmap is not proven on this machine\n");
        return;
    }
    for target in [Target::echo().await.unwrap(), talker().await.unwrap()] {
        for (server, agent) in
            [(Sockmap, Auto), (Auto, Sockmap), (Sockmap, Sockmap), (Splice, Splice), (Copy, Copy)]
        {
            let cell = forced(server, agent).await.unwrap();
            flow(&cell, &target).await.unwrap_or_else(|error| panic!("{server}, {agent}: {error}"));
            let (at_server, at_agent) = (cell.server.flows(), &cell.agent.flows);
            match server {
                // A Unix source enters the map before its first byte or never: all of it, or nothing.
                Sockmap => {
                    assert_eq!(moved(at_server, Up, Engine::Sockmap), BYTES + 1, "{agent}");
                    assert_eq!(moved(at_server, Down, Engine::Sockmap), 0, "{agent}");
                }
                Splice => assert_eq!(moved(at_server, Up, Engine::Splice), BYTES + 1),
                Copy => assert_eq!(moved(at_server, Up, Engine::Copy), BYTES + 1),
                Auto => assert_eq!(moved(at_server, Up, Engine::Sockmap), 0),
            }
            let most = |engine| assert!(moved(at_agent, Up, engine) > BYTES / 2, "{server}: {engine:?}");
            match agent {
                Sockmap => most(Engine::Sockmap),
                Splice => most(Engine::Splice),
                Copy => most(Engine::Copy),
                Auto => {}
            }
        }
    }
}
