//! What a lane's handshake costs each side: `cargo bench --no-default-features --bench handshake`.
//!
//! Both sides run on one thread over memory, so the figures are CPU time without sockets or a runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

type Leaf = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn configs(
    group: &'static dyn SupportedKxGroup,
    suite: CipherSuite,
    tickets: usize,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("CA");
    let leaf = |name: &str| -> Leaf {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("params");
        let certificate = params.signed_by(&key, &ca).expect("certificate");
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("DER"))
    };
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).expect("root");
    let roots = Arc::new(roots);
    let mut provider = CryptoProvider { kx_groups: vec![group], ..aws_lc_rs::default_provider() };
    provider.cipher_suites.sort_by_key(|known| known.suite() != suite);
    let provider = Arc::new(provider);

    let (chain, key) = leaf("server.test");
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("verifier"))
        .with_single_cert(chain, key)
        .expect("server");
    server.ticketer = aws_lc_rs::Ticketer::new().expect("ticketer");
    server.send_tls13_tickets = tickets;

    let (chain, key) = leaf("agent.test");
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("client");
    client.resumption = Resumption::in_memory_sessions(256);
    (Arc::new(client), Arc::new(server))
}

#[derive(Default)]
struct Cost {
    client: Duration,
    server: Duration,
    bytes: usize,
}

/// One handshake, the tickets included.
fn shake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, cost: &mut Cost) -> Option<HandshakeKind> {
    let mut wire = Vec::new();
    let start = Instant::now();
    let name = ServerName::try_from("server.test").expect("name");
    let mut near = ClientConnection::new(client.clone(), name).expect("client");
    cost.client += start.elapsed();
    let start = Instant::now();
    let mut far = ServerConnection::new(server.clone()).expect("server");
    cost.server += start.elapsed();
    loop {
        let start = Instant::now();
        wire.clear();
        while near.wants_write() {
            near.write_tls(&mut wire).expect("write");
        }
        cost.client += start.elapsed();
        cost.bytes += wire.len();
        let start = Instant::now();
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            far.read_tls(&mut bytes).expect("read");
            far.process_new_packets().expect("the client's side");
        }
        wire.clear();
        while far.wants_write() {
            far.write_tls(&mut wire).expect("write");
        }
        cost.server += start.elapsed();
        cost.bytes += wire.len();
        if wire.is_empty() && !near.is_handshaking() && !far.is_handshaking() {
            return far.handshake_kind();
        }
        let start = Instant::now();
        let mut bytes = wire.as_slice();
        while !bytes.is_empty() {
            near.read_tls(&mut bytes).expect("read");
            near.process_new_packets().expect("the server's side");
        }
        cost.client += start.elapsed();
    }
}

fn main() {
    const ROUNDS: u32 = 2000;
    println!(
        "{:<8} {:<8} {:<8} {:<8} {:>10} {:>10} {:>7}",
        "group", "hash", "tickets", "kind", "client us", "server us", "bytes"
    );
    let (x25519, p256) = (aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1);
    let (sha256, sha384) = (CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_256_GCM_SHA384);
    for (name, group, hash, suite, tickets) in [
        ("X25519", x25519, "SHA-256", sha256, 1),
        ("X25519", x25519, "SHA-384", sha384, 1),
        ("X25519", x25519, "SHA-256", sha256, 2),
        ("P-256", p256, "SHA-256", sha256, 1),
    ] {
        for full in [true, false] {
            let (client, server) = configs(group, suite, tickets);
            let client = if full {
                let mut fresh = (*client).clone();
                fresh.resumption = Resumption::disabled();
                Arc::new(fresh)
            } else {
                client
            };
            shake(&client, &server, &mut Cost::default());
            let mut cost = Cost::default();
            for _ in 0..ROUNDS {
                let kind = shake(&client, &server, &mut cost);
                assert_eq!(kind == Some(HandshakeKind::Resumed), !full);
            }
            let kind = if full { "full" } else { "resumed" };
            let per = |total: Duration| total.as_secs_f64() * 1e6 / f64::from(ROUNDS);
            println!(
                "{name:<8} {hash:<8} {tickets:<8} {kind:<8} {:>10.1} {:>10.1} {:>7}",
                per(cost.client),
                per(cost.server),
                cost.bytes / ROUNDS as usize
            );
        }
    }
}
