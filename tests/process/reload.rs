//! Certificates and CAs that change under running programs, as a mounted Secret does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proxy_tests::certs::Certs;
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, until};
use proxy_tests::targets::Target;
use proxy_user::flow::Path as FlowPath;
use proxy_user::net::tls::{ALPN_H2, ClientEndpoint, ClientTls};
use proxy_user::ops::flags::{LaneSecurity, LanesMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::live::swap;

const LONG: Duration = Duration::from_secs(20);

/// One authority's files, as a Secret.
pub(crate) fn issue(volume: &Path, version: &str, keys: &Path) -> anyhow::Result<Certs> {
    fs::create_dir_all(keys)?;
    let certs = Certs::new(keys, version)?;
    certs.server("server", &["127.0.0.1", "localhost"])?;
    certs.client("client", "system:konnectivity-server", None)?;
    let names = ["ca.crt", "server.crt", "server.key", "client.crt", "client.key"];
    let files: Vec<_> = names.iter().map(|name| fs::read(keys.join(name))).collect::<Result<_, _>>()?;
    let files: Vec<_> = names.into_iter().zip(files.iter().map(Vec::as_slice)).collect();
    swap(volume, version, &files)?;
    Ok(certs)
}

/// A client that shows one authority's certificate and trusts another's.
pub(crate) fn client(trusted: &Path, own: &Path, alpn: &[u8]) -> anyhow::Result<ClientEndpoint> {
    let identity = Some((own.join("client.crt"), own.join("client.key")));
    let tls = ClientTls { ca: trusted.join("ca.crt"), identity, alpn: vec![alpn.to_vec()] };
    Ok(tls.watch()?)
}

/// The first words of a client that speaks HTTP/2.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Connects, says this and waits for the server's first bytes, with which tickets come; whether the session was
/// resumed.
pub(crate) async fn visit(client: &ClientEndpoint, port: u16, words: &[u8]) -> anyhow::Result<bool> {
    let socket = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut tls = client.connect("127.0.0.1", socket, LONG).await?;
    tls.write_all(words).await?;
    tokio::time::timeout(LONG, tls.read_u8()).await??;
    Ok(tls.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed))
}

async fn ping(flow: &mut UnixStream) {
    flow.write_all(b"unharmed").await.unwrap();
    let mut back = [0; 8];
    tokio::time::timeout(LONG, flow.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"unharmed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_authority_takes_over_and_no_flow_notices() {
    let ground = Ground::new().unwrap();
    let (volume, old_keys, new_keys) = (ground.path("secret"), ground.path("old"), ground.path("new"));
    issue(&volume, "..old", &old_keys).unwrap();
    let text = |name: &str| volume.join(name).display().to_string();
    let mut options = ground.server_options("server");
    options.cluster_cert = text("server.crt");
    options.cluster_key = text("server.key");
    options.cluster_ca_cert = text("ca.crt");
    (options.lanes.mode, options.lanes.security) = (LanesMode::Always, LaneSecurity::Encrypt);
    let server = RunningServer::start(options).unwrap();
    let port = server.agent_port();
    let agent = |id: &str, lanes| {
        let mut options = ground.agent_options(id, port);
        options.ca_cert = text("ca.crt");
        options.agent_cert = text("client.crt");
        options.agent_key = text("client.key");
        options.lanes.mode = lanes;
        RunningAgent::start(options).unwrap()
    };
    let before = agent("before", LanesMode::Auto);
    server.has_agents(1).await.unwrap();
    let target = Target::echo().await.unwrap();
    let mut flow = server.open(&target.name()).await.unwrap();
    ping(&mut flow).await;
    // One more, as packets on the agent's stream.
    let lanes = server.lanes.as_ref().unwrap();
    lanes.allow(false);
    let mut packets = server.open(&target.name()).await.unwrap();
    ping(&mut packets).await;
    assert_eq!(server.flows().live().last().map(|flow| flow.path), Some(FlowPath::Mux));
    lanes.allow(true);
    let old = client(&old_keys, &old_keys, ALPN_H2).unwrap();
    assert!(!visit(&old, port, PREFACE).await.unwrap());
    assert!(visit(&old, port, PREFACE).await.unwrap(), "sessions resume while nothing changes");

    issue(&volume, "..new", &new_keys).unwrap();
    let new = client(&new_keys, &new_keys, ALPN_H2).unwrap();
    let began = std::time::Instant::now();
    while visit(&new, port, PREFACE).await.is_err() {
        assert!(began.elapsed() < LONG, "the new authority is never taken");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(visit(&old, port, PREFACE).await.is_err(), "a session of the old authority resumed");
    ping(&mut flow).await;
    let mut later = server.open(&target.name()).await.unwrap();
    ping(&mut later).await;

    // Lanes come under the new certificate and the agent's stream did not: it registers anew, and they are taken.
    let stream = || server.registry().streams().iter().map(|agent| agent.number).max();
    let first = stream();
    let mut kept = Vec::new();
    let on_a_lane = |path| server.flows().live().last().is_some_and(|flow| flow.path == path);
    while stream() == first || !on_a_lane(FlowPath::LaneEncrypt) {
        assert!(kept.len() < 100, "no lane under the new certificate");
        assert!(stream().is_some(), "it left before it came");
        kept.push(server.open(&target.name()).await.unwrap());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(kept);
    until("only the packets to be left on the first stream", || {
        let live = server.flows().live();
        live.iter().filter(|flow| flow.path == FlowPath::Mux).count() == 1
    })
    .await
    .unwrap();
    ping(&mut packets).await;
    assert_eq!(server.registry().streams().len(), 2, "the first stream ended under a flow");
    drop(packets);
    until("the first stream to end", || server.registry().streams().len() == 1).await.unwrap();
    // The agent reads its files anew as well: it comes back after its stream is gone.
    let after = agent("after", LanesMode::Auto);
    until("an agent under the new authority", || after.servers.connected() == 1).await.unwrap();
    let number = server.registry().streams().len();
    assert_eq!((number, before.servers.connected()), (2, 1));
    for stream in server.registry().streams().iter().filter(|stream| stream.id.as_str() == "before") {
        stream.link.close(Ok(()));
    }
    until("the first agent to come back", || before.servers.connected() == 0).await.unwrap();
    until("the first agent to come back", || before.servers.connected() == 1).await.unwrap();
    ping(&mut flow).await;
}
