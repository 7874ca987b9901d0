//! `--keepalive-time` of both programs and `--frontend-keepalive-time`, as PINGs on the wire to a played peer.

use std::time::{Duration, Instant};

use proxy_tests::calls::{Call, Client};
use proxy_tests::pings::{Peer, Pings, Watched};
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, SOON};
use proxy_user::net::cipher::TlsPolicy;
use proxy_user::net::listener::TcpListener;
use proxy_user::net::tls::{ALPN_H2, ClientTls, ServerTls};
use proxy_user::server::options::Mode;
use tokio::net::{TcpStream, UnixStream};

/// What each is told.
const SECOND: Duration = Duration::from_secs(1);

/// Less than the 5 s that agents get anyway, and no busy loop.
async fn come_each_second(pings: Pings) -> anyhow::Result<()> {
    let came = pings.first(4, 2 * SOON).await?;
    let gaps: Vec<_> = came.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().any(|gap| *gap < 3 * SECOND), "{gaps:?}");
    assert!(gaps.iter().sum::<Duration>() > SECOND, "{gaps:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_pings_an_idle_agent() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let mut options = ground.server_options("server");
    options.keepalive_time = SECOND;
    let server = RunningServer::start(options)?;
    let identity = Some((ground.path("client.crt"), ground.path("client.key")));
    let tls = ClientTls { ca: ground.certs.ca(), identity, alpn: vec![ALPN_H2.to_vec()] }.watch()?;
    let socket = TcpStream::connect(("127.0.0.1", server.agent_port())).await?;
    let (stream, pings) = Watched::new(tls.connect("127.0.0.1", socket, SOON).await?, Peer::Server);
    let metadata = [("agentid", "idle"), ("agentidentifiers", "")];
    let mut call = Client::new(stream).await.call("/AgentService/Connect", &metadata).await;
    assert!(call.answered().await.contains_key("serverid"));
    come_each_second(pings).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_pings_an_idle_client_of_its_grpc_frontend() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let mut options = ground.server_options("server");
    options.mode = Mode::Grpc;
    options.frontend_keepalive_time = SECOND;
    let server = RunningServer::start(options)?;
    let (stream, pings) = Watched::new(UnixStream::connect(server.socket()).await?, Peer::Server);
    let mut call = Client::new(stream).await.call("/ProxyService/Proxy", &[]).await;
    assert!(call.answered().await.contains_key("content-type"));
    come_each_second(pings).await
}

/// No more often than every 10 s, whatever it is told: as grpc-go's clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_pings_an_idle_server() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let tls = ServerTls {
        cert: ground.path("server.crt"),
        key: ground.path("server.key"),
        client_ca: Some(ground.certs.ca()),
        alpn: vec![ALPN_H2.to_vec()],
        require_alpn: true,
        policy: TlsPolicy::default(),
    };
    let (tls, listener) = (tls.watch()?, TcpListener::bind("127.0.0.1", 0)?);
    let mut options = ground.agent_options("agent", listener.local_addr().port());
    options.keepalive_time = SECOND;
    let _agent = RunningAgent::start(options)?;
    let accepted = tokio::time::timeout(SOON, listener.accept()).await?;
    let (stream, pings) = Watched::new(tls.accept(accepted, SOON).await?.stream, Peer::Client);
    let mut connection = h2::server::handshake(stream).await?;
    let call = tokio::time::timeout(SOON, connection.accept()).await?;
    let (request, respond) = call.ok_or_else(|| anyhow::anyhow!("no call"))??;
    let _call = Call::answer(request, respond, &[("serverid", "played"), ("servercount", "1")]);
    let began = Instant::now();
    tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
    let came = pings.first(1, 3 * SOON).await?;
    assert!(came[0] - began > 8 * SECOND, "{:?} after the last word", came[0] - began);
    Ok(())
}
