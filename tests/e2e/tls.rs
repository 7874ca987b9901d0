//! Versions, cipher suites and application protocols, as the flags say them, in real handshakes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use proxy_tests::certs::Pair;
use proxy_tests::runner::{Ground, RunningAgent, RunningServer, SOON};
use proxy_tests::targets::Target;
use proxy_user::agent;
use proxy_user::flow::Path as FlowPath;
use proxy_user::net::tls::{ALPN_HTTP1, ClientTls};
use proxy_user::ops::flags::{LaneOptions, LanesMode};
use proxy_user::server::BoundFrontend;
use proxy_user::server::options::{Mode, Options};
use rustls::crypto::aws_lc_rs;
use rustls::server::Acceptor;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

const AES_128: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
const AES_256: CipherSuite = CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
const AES_128_NAME: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
const CBC_NAME: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA";

type Versions = &'static [&'static SupportedProtocolVersion];
const ONLY_12: Versions = &[&TLS12];
const ONLY_13: Versions = &[&TLS13];
const BOTH: Versions = &[&TLS13, &TLS12];

/// What a client offers: versions, suites for TLS 1.2 (none: all), application protocols.
struct Offer {
    versions: Versions,
    suites: &'static [CipherSuite],
    alpn: &'static [&'static str],
}

/// What was agreed on, and that the server spoke then.
#[derive(Debug, PartialEq, Eq)]
struct Agreed {
    version: rustls::ProtocolVersion,
    /// Of TLS 1.2.
    suite: Option<CipherSuite>,
    alpn: Option<String>,
}

impl Offer {
    /// `None`: refused.
    async fn make(&self, ground: &Ground, to: SocketAddr) -> anyhow::Result<Option<Agreed>> {
        let mut provider = aws_lc_rs::default_provider();
        let offered = |suite| self.suites.is_empty() || self.suites.contains(&suite);
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || offered(suite.suite()));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ground.path("ca.crt"))?)?;
        let cert = CertificateDer::from_pem_file(ground.path("client.crt"))?;
        let key = PrivateKeyDer::from_pem_file(ground.path("client.key"))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(self.versions)?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![cert], key)?;
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(to).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        let shaken = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
        let Ok(mut stream) = shaken else { return Ok(None) };
        // In TLS 1.3 a client learns of its refusal later.
        let hello: &[u8] = match self.alpn {
            ["h2"] => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            _ => b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n",
        };
        let spoke = async {
            stream.write_all(hello).await?;
            stream.read_u8().await
        };
        if tokio::time::timeout(SOON, spoke).await.context("neither words nor an end")?.is_err() {
            return Ok(None);
        }
        let session = stream.get_ref().1;
        let version = session.protocol_version().context("no version")?;
        let suite = session.negotiated_cipher_suite().filter(|suite| suite.tls13().is_none());
        let alpn = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
        Ok(Some(Agreed { version, suite: suite.map(|suite| suite.suite()), alpn }))
    }
}

/// A server with both ports on TCP, and where they are: the agents', the frontend's.
fn server(
    ground: &Ground,
    mode: Mode,
    flags: (&str, &[&str]),
) -> anyhow::Result<(RunningServer, [SocketAddr; 2])> {
    let path = |name| ground.path(name).display().to_string();
    let server = RunningServer::start(Options {
        mode,
        uds_name: String::new(),
        server_bind_address: "127.0.0.1".into(),
        server_cert: path("server.crt"),
        server_key: path("server.key"),
        server_ca_cert: path("ca.crt"),
        tls_min_version: flags.0.into(),
        cipher_suites: flags.1.iter().map(|name| (*name).to_owned()).collect(),
        ..ground.server_options("server")
    })?;
    let BoundFrontend::Tcp(frontend) = server.bound.frontend else { anyhow::bail!("no TCP frontend") };
    let agents = server.bound.agents;
    Ok((server, [agents, frontend]))
}

/// `--tls-min-version` and `--cipher-suites`, the versions and suites that a client offers, and what comes of it.
type Case = (
    (&'static str, &'static [&'static str]),
    (Versions, &'static [CipherSuite]),
    Option<(bool, Option<CipherSuite>)>,
);

const CASES: [Case; 11] = [
    (("", &[]), (ONLY_12, &[]), Some((false, Some(AES_256)))),
    (("", &[]), (BOTH, &[]), Some((true, None))),
    (("VersionTLS12", &[]), (ONLY_12, &[]), Some((false, Some(AES_256)))),
    (("VersionTLS13", &[]), (ONLY_12, &[]), None),
    (("VersionTLS13", &[]), (BOTH, &[]), Some((true, None))),
    (("", &[AES_128_NAME]), (ONLY_12, &[AES_256]), None),
    (("", &[AES_128_NAME]), (ONLY_12, &[AES_256, AES_128]), Some((false, Some(AES_128)))),
    // The list is for TLS 1.2 alone.
    (("", &[AES_128_NAME]), (ONLY_13, &[]), Some((true, None))),
    (("", &[CBC_NAME, AES_128_NAME]), (ONLY_12, &[]), Some((false, Some(AES_128)))),
    (("", &[CBC_NAME]), (ONLY_12, &[]), None),
    (("", &[CBC_NAME]), (BOTH, &[]), Some((true, None))),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_excluded_is_refused_and_the_rest_is_agreed_on() {
    let ground = Ground::new().unwrap();
    for (flags, (versions, suites), expected) in CASES {
        let (_server, ports) = server(&ground, Mode::Grpc, flags).unwrap();
        let expected = expected.map(|(newest, suite)| Agreed {
            version: if newest { TLS13.version } else { TLS12.version },
            suite,
            alpn: Some("h2".into()),
        });
        for (name, port) in ["agents' port", "frontend"].into_iter().zip(ports) {
            let agreed = Offer { versions, suites, alpn: &["h2"] }.make(&ground, port).await.unwrap();
            assert_eq!(agreed, expected, "{flags:?} at the {name}, {versions:?} {suites:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_port_speaks_its_application_protocol() {
    let ground = Ground::new().unwrap();
    let (_grpc, [agents, grpc]) = server(&ground, Mode::Grpc, ("", &[])).unwrap();
    let (_connect, [_, connect]) = server(&ground, Mode::HttpConnect, ("", &[])).unwrap();
    for (port, alpn, agreed) in [
        (agents, &["h2"][..], Some(Some("h2"))),
        (agents, &["http/1.1"], None),
        (agents, &[], None),
        (grpc, &["h2"], Some(Some("h2"))),
        (grpc, &["http/1.1"], None),
        (grpc, &[], None),
        (connect, &["http/1.1"], Some(Some("http/1.1"))),
        (connect, &["h2"], None),
        (connect, &[], Some(None)),
    ] {
        let told = Offer { versions: BOTH, suites: &[], alpn }.make(&ground, port).await.unwrap();
        let alpn_agreed = told.as_ref().map(|told| told.alpn.as_deref());
        let name = [("agents", agents), ("grpc", grpc), ("http-connect", connect)];
        let name = name.into_iter().find(|(_, of)| *of == port).unwrap().0;
        assert_eq!(alpn_agreed, agreed, "{name} {alpn:?}");
    }
}

/// What an agent offers first, and whether it speaks HTTP/2 to a server that picks `pick`.
async fn agent_meets(flags: &[&str], pick: Option<&str>) -> anyhow::Result<(Vec<String>, bool)> {
    let ground = Ground::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut options = ground.agent_options("agent", listener.local_addr()?.port());
    options.alpn_proto = flags.iter().map(|name| (*name).to_owned()).collect();
    let _agent = RunningAgent::start(options)?;
    let (socket, _) = tokio::time::timeout(SOON, listener.accept()).await??;
    let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let hello = start.client_hello();
    let offered =
        hello.alpn().map(|names| names.map(|name| String::from_utf8_lossy(name).into_owned()).collect());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let cert = CertificateDer::from_pem_file(ground.path("server.crt"))?;
    let key = PrivateKeyDer::from_pem_file(ground.path("server.key"))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)?;
    config.alpn_protocols = pick.into_iter().map(|name| name.as_bytes().to_vec()).collect();
    let mut stream = start.into_stream(Arc::new(config)).await?;
    let mut preface = [0; 14];
    let spoke = tokio::time::timeout(SOON, stream.read_exact(&mut preface)).await?;
    Ok((offered.unwrap_or_default(), spoke.is_ok() && &preface == b"PRI * HTTP/2.0"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_offers_its_protocols_and_takes_any_of_them() {
    for (flags, pick, offered, speaks) in [
        (&[][..], Some("h2"), &["h2"][..], true),
        (&["proto"], Some("proto"), &["proto", "h2"], true),
        (&["h2", "proto"], Some("proto"), &["h2", "proto"], true),
        // A server without ALPN.
        (&[], None, &["h2"], false),
    ] {
        let met = agent_meets(flags, pick).await.unwrap();
        let offered: Vec<String> = offered.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(met, (offered, speaks), "{flags:?}, {pick:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_are_their_own_authority_serve_on_every_port() {
    let ground = Ground::new().unwrap();
    let [own, agents, callers] = ["own", "agents", "callers"]
        .map(|file| Pair::alone(&ground.path(""), file, &["127.0.0.1", "localhost"]).unwrap());
    let text = |path: &Path| path.display().to_string();
    let server = RunningServer::start(Options {
        uds_name: String::new(),
        server_bind_address: "127.0.0.1".into(),
        server_cert: text(&own.cert),
        server_key: text(&own.key),
        server_ca_cert: text(&callers.cert),
        cluster_cert: text(&own.cert),
        cluster_key: text(&own.key),
        cluster_ca_cert: text(&agents.cert),
        lanes: LaneOptions { mode: LanesMode::Always, ..LaneOptions::default() },
        ..ground.server_options("server")
    })
    .unwrap();
    let _agent = RunningAgent::start(agent::options::Options {
        lanes: LaneOptions { wait: SOON, ..LaneOptions::default() },
        ca_cert: text(&own.cert),
        agent_cert: text(&agents.cert),
        agent_key: text(&agents.key),
        ..ground.agent_options("agent", server.agent_port())
    })
    .unwrap();
    server.has_agents(1).await.unwrap();
    let target = Target::echo().await.unwrap();
    let BoundFrontend::Tcp(frontend) = server.bound.frontend else { panic!("no TCP frontend") };
    let call = async |caller: &Pair| {
        let identity = Some((caller.cert.clone(), caller.key.clone()));
        let tls = ClientTls { ca: own.cert.clone(), identity, alpn: vec![ALPN_HTTP1.to_vec()] }.watch()?;
        let mut stream = tls.connect("localhost", TcpStream::connect(frontend).await?, SOON).await?;
        stream.write_all(format!("CONNECT {} HTTP/1.1\r\n\r\n", target.name()).as_bytes()).await?;
        let mut head = [0; 39];
        tokio::time::timeout(SOON, stream.read_exact(&mut head)).await??;
        stream.write_all(b"echo").await?;
        let mut back = [0; 4];
        tokio::time::timeout(SOON, stream.read_exact(&mut back)).await??;
        anyhow::ensure!(&back == b"echo");
        Ok((head, stream))
    };
    let (head, _open) = call(&callers).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 Connection Established\r\n\r\n");
    assert_eq!(server.flows().live().first().map(|flow| flow.path), Some(FlowPath::LaneEncrypt));
    assert!(call(&agents).await.is_err(), "one that is its own authority, but another's");
}
