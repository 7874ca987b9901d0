//! The certificate, the key and the CA of a frontend on TCP, swapped as a mounted Secret is.

use std::time::{Duration, Instant};

use proxy_tests::calls::{Call, Client};
use proxy_tests::runner::{Ground, RunningAgent, RunningServer};
use proxy_tests::targets::Target;
use proxy_user::net::tls::{ALPN_H2, ALPN_HTTP1, ClientEndpoint};
use proxy_user::server::BoundFrontend;
use proxy_user::server::options::Mode;
use proxy_user::wire::ids::{ConnId, DialId};
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::reload::{PREFACE, client, issue, visit};

const LONG: Duration = Duration::from_secs(20);

/// An API server's flow over either frontend.
enum Flow {
    Connect(Box<TlsStream<TcpStream>>),
    Grpc(Box<Call>, ConnId),
}

impl Flow {
    async fn open(client: &ClientEndpoint, port: u16, mode: Mode, target: &Target) -> Flow {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let mut tls = client.connect("127.0.0.1", socket, LONG).await.unwrap();
        let mut flow = match mode {
            Mode::HttpConnect => {
                let request = format!("CONNECT {} HTTP/1.1\r\n\r\n", target.name());
                tls.write_all(request.as_bytes()).await.unwrap();
                let mut head = [0; 39];
                tokio::time::timeout(LONG, tls.read_exact(&mut head)).await.unwrap().unwrap();
                assert_eq!(&head, b"HTTP/1.1 200 Connection Established\r\n\r\n");
                Flow::Connect(Box::new(tls))
            }
            Mode::Grpc => {
                let mut call = Client::new(tls).await.call("/ProxyService/Proxy", &[]).await;
                let (protocol, address) = ("tcp".to_owned(), target.name());
                call.say(Packet::DialRequest(DialRequest {
                    dial: DialId(1),
                    protocol,
                    address,
                    lane_dial: 0,
                }));
                let heard = call.hear().await;
                let Some(Packet::DialResponse(DialResponse { outcome: Ok(Answer::Here(conn)), .. })) = heard
                else {
                    panic!("{heard:?}")
                };
                Flow::Grpc(Box::new(call), conn)
            }
        };
        flow.ping().await;
        flow
    }

    async fn ping(&mut self) {
        match self {
            Flow::Connect(tls) => {
                tls.write_all(b"unharmed").await.unwrap();
                let mut back = [0; 8];
                tokio::time::timeout(LONG, tls.read_exact(&mut back)).await.unwrap().unwrap();
                assert_eq!(&back, b"unharmed");
            }
            Flow::Grpc(call, conn) => {
                let packet = Packet::Data { conn: *conn, data: "unharmed".into() };
                call.say(packet.clone());
                assert_eq!(call.hear().await, Some(packet));
            }
        }
    }
}

async fn a_new_authority_takes_over(mode: Mode, alpn: &[u8], words: &[u8]) {
    let ground = Ground::new().unwrap();
    let (volume, old_keys, new_keys) = (ground.path("secret"), ground.path("old"), ground.path("new"));
    issue(&volume, "..old", &old_keys).unwrap();
    let text = |name: &str| volume.join(name).display().to_string();
    let mut options = ground.server_options("server");
    options.mode = mode;
    options.uds_name = String::new();
    options.server_bind_address = "127.0.0.1".to_owned();
    options.server_cert = text("server.crt");
    options.server_key = text("server.key");
    options.server_ca_cert = text("ca.crt");
    let server = RunningServer::start(options).unwrap();
    let BoundFrontend::Tcp(frontend) = server.bound.frontend else { panic!("no TCP") };
    let port = frontend.port();
    let _agent = RunningAgent::start(ground.agent_options("agent", server.agent_port())).unwrap();
    server.has_agents(1).await.unwrap();
    let target = Target::echo().await.unwrap();

    let old = client(&old_keys, &old_keys, alpn).unwrap();
    let mut flow = Flow::open(&old, port, mode, &target).await;
    visit(&old, port, words).await.unwrap();
    assert!(visit(&old, port, words).await.unwrap(), "sessions resume while nothing changes");

    issue(&volume, "..new", &new_keys).unwrap();
    // Trusts the new authority alone, so that the certificate that it is shown is a new one.
    let new = client(&new_keys, &new_keys, alpn).unwrap();
    let began = Instant::now();
    while visit(&new, port, words).await.is_err() {
        assert!(began.elapsed() < LONG, "the new authority is never taken");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(visit(&old, port, words).await.is_err(), "a session of the old authority resumed");
    let stale = client(&new_keys, &old_keys, alpn).unwrap();
    assert!(visit(&stale, port, words).await.is_err(), "a client of the old authority is let in");
    flow.ping().await;
    let mut later = Flow::open(&new, port, mode, &target).await;
    flow.ping().await;
    later.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_http_connect_frontend() {
    let words = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    a_new_authority_takes_over(Mode::HttpConnect, ALPN_HTTP1, words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_grpc_frontend() {
    a_new_authority_takes_over(Mode::Grpc, ALPN_H2, PREFACE).await;
}
