//! A server that ends in good order says GOAWAY and waits for its agents' streams.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use proxy_tests::calls::Call;
use proxy_tests::runner::{Ground, RunningAgent, SOON, until};
use proxy_tests::targets::Target;
use proxy_user::wire::ids::DialId;
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A gRPC server that knows nothing of ours, as upstream's.
pub(crate) struct Upstream {
    listener: TcpListener,
    tls: TlsAcceptor,
    arrived: Mutex<Instant>,
}

impl Upstream {
    pub(crate) async fn new(ground: &Ground) -> Upstream {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(ground.path("server.crt")).unwrap()],
                PrivateKeyDer::from_pem_file(ground.path("server.key")).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Upstream { listener, tls: TlsAcceptor::from(Arc::new(config)), arrived: Mutex::new(Instant::now()) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// When the last connection came.
    pub(crate) fn arrived(&self) -> Instant {
        *self.arrived.lock().unwrap()
    }

    /// The next control stream, and what makes its server say GOAWAY.
    async fn control_stream(&self, id: &str) -> (Call, CancellationToken) {
        self.answer(&[("serverid", id), ("servercount", "1")]).await
    }

    /// The next control stream, answered with these headers.
    pub(crate) async fn answer(&self, headers: &[(&str, &str)]) -> (Call, CancellationToken) {
        let opened = async || {
            let accepted = tokio::time::timeout(SOON, self.listener.accept()).await;
            let socket: TcpStream = accepted.unwrap().unwrap().0;
            *self.arrived.lock().unwrap() = Instant::now();
            let stream = self.tls.accept(socket).await?;
            let mut connection = h2::server::handshake(stream).await?;
            let (request, respond): (_, h2::server::SendResponse<Bytes>) =
                connection.accept().await.context("no call")??;
            anyhow::Ok((Call::try_answer(request, respond, headers)?, connection))
        };
        // One that the agent has given up before its turn came is none.
        let (call, mut connection) = match opened().await {
            Ok(opened) => opened,
            Err(_) => opened().await.unwrap(),
        };
        let ending = CancellationToken::new();
        let told = ending.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = connection.accept() => return,
                () = told.cancelled() => connection.graceful_shutdown(),
            }
            while connection.accept().await.is_some() {}
        });
        (call, ending)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_go_on_while_the_agent_connects_elsewhere_and_the_stream_ends_with_the_last() {
    let ground = Ground::new().unwrap();
    let upstream = Upstream::new(&ground).await;
    let mut options = ground.agent_options("agent", upstream.port());
    options.probe_interval = Duration::from_millis(50);
    let agent = RunningAgent::start(options).unwrap();
    let (mut first, ending) = upstream.control_stream("first").await;
    let target = Target::echo().await.unwrap();
    let dial = DialId(1);
    let request = DialRequest { dial, protocol: "tcp".into(), address: target.name(), lane_dial: 0 };
    first.say(Packet::DialRequest(request));
    let Some(Packet::DialResponse(DialResponse { outcome: Ok(Answer::Here(conn)), .. })) = first.hear().await
    else {
        panic!("the dial failed")
    };
    ending.cancel();
    until("the server to be left", || agent.servers.connected() == 0).await.unwrap();
    // The same server again: the end of the old stream must not be taken for the end of this one.
    let (_second, _) = upstream.control_stream("first").await;
    until("the server again", || agent.servers.connected() == 1).await.unwrap();
    for _ in 0..3 {
        first.say(Packet::Data { conn, data: "still".into() });
        assert_eq!(first.hear().await, Some(Packet::Data { conn, data: "still".into() }));
        tokio::time::sleep(Duration::from_millis(100)).await; // two probes and more
    }
    first.say(Packet::CloseRequest { conn });
    assert_eq!(first.hear().await, Some(Packet::CloseResponse { conn, error: String::new() }));
    assert_eq!(first.hear().await, None);
    // An agent that misses a server looks for it ten times a second.
    let another = tokio::time::timeout(Duration::from_millis(500), upstream.listener.accept()).await;
    assert!(another.is_err(), "the agent looks for a server that it has");
    assert_eq!(agent.servers.connected(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_uses_ends_at_the_next_probe() {
    let ground = Ground::new().unwrap();
    let upstream = Upstream::new(&ground).await;
    let agent = RunningAgent::start(ground.agent_options("agent", upstream.port())).unwrap();
    let (mut first, ending) = upstream.control_stream("same").await;
    ending.cancel();
    assert_eq!(first.hear().await, None);
    let (_again, _) = upstream.control_stream("same").await;
    until("the server again", || agent.servers.connected() == 1).await.unwrap();
}
