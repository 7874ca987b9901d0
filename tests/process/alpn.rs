//! `GRPC_ENFORCE_ALPN_ENABLED`, which upstream's programs have from grpc-go.

use std::process::Command;

use proxy_tests::child::Child;
use proxy_tests::ports;
use proxy_tests::scrape::http_get;
use proxy_user::net::listener::{Accepted, Local, Remote};
use proxy_user::net::tls::{ClientTls, ServerTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::ground::{Place, SOON};

/// What the variable says, and whether a peer without application protocols is refused.
const CASES: [(Option<&str>, bool); 3] = [(None, true), (Some("true"), true), (Some("False"), false)];

fn with(command: &mut Command, said: Option<&str>) {
    command.env_remove("GRPC_ENFORCE_ALPN_ENABLED");
    command.envs(said.map(|said| ("GRPC_ENFORCE_ALPN_ENABLED", said)));
}

/// Whether the server speaks HTTP/2 to a client that offers no application protocol.
async fn serves(place: &Place) -> anyhow::Result<bool> {
    let path = |name| place.ground.path(name);
    let identity = Some((path("client.crt"), path("client.key")));
    let tls = ClientTls { ca: path("ca.crt"), identity, alpn: vec![] }.watch()?;
    let socket = TcpStream::connect(("127.0.0.1", place.agent_port)).await?;
    let mut stream = tls.connect("127.0.0.1", socket, SOON).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    Ok(tokio::time::timeout(SOON, stream.read_u8()).await?.is_ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_takes_agents_without_application_protocol_if_told_so() {
    for (said, refuses) in CASES {
        let place = Place::new().unwrap();
        let mut command = place.server(&[]).unwrap();
        with(&mut command, said);
        let _server = Child::start("server", &place.ground.path(""), &mut command).unwrap();
        ports::wait(SOON, "the server", || http_get(place.pages(), "/healthz").is_ok()).unwrap();
        assert_eq!(serves(&place).await.unwrap(), !refuses, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_takes_a_server_without_application_protocol_if_told_so() {
    for (said, refuses) in CASES {
        let place = Place::new().unwrap();
        let path = |name| place.ground.path(name);
        let (cert, key, policy) = (path("server.crt"), path("server.key"), Default::default());
        let tls = ServerTls { cert, key, client_ca: None, alpn: vec![], require_alpn: false, policy };
        let tls = tls.watch().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", place.agent_port)).await.unwrap();
        let mut command = place.agent(&[]).unwrap();
        with(&mut command, said);
        let _agent = Child::start("agent", &place.ground.path(""), &mut command).unwrap();
        let (stream, remote) = tokio::time::timeout(SOON, listener.accept()).await.unwrap().unwrap();
        let local = Local::Tcp(stream.local_addr().unwrap());
        let accepted = Accepted { stream, local, remote: Remote::Tcp(remote), tls: None };
        let mut stream = tls.accept(accepted, SOON).await.unwrap().stream;
        let mut preface = [0; 14];
        let spoke = tokio::time::timeout(SOON, stream.read_exact(&mut preface)).await.unwrap();
        assert_eq!(spoke.is_ok() && &preface == b"PRI * HTTP/2.0", !refuses, "{said:?}");
    }
}
