//! Both endpoints against each other, over an in-memory pipe.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::CertificateError;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::net::listener::{Local, Remote};

const SOON: Duration = Duration::from_secs(5);

struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        Authority::until(SystemTime::now() + Duration::from_secs(86_400))
    }

    fn until(end: SystemTime) -> Authority {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.not_after = end.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        self.issue_until(name, SystemTime::now() + Duration::from_secs(86_400))
    }

    fn issue_until(&self, name: &str, end: SystemTime) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = end.into();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let at = |ending: &str| self.dir.path().join(format!("{name}.{ending}"));
        fs::write(at("crt"), cert.pem()).unwrap();
        fs::write(at("key"), key.serialize_pem()).unwrap();
        (at("crt"), at("key"))
    }

    fn server(&self, client_ca: Option<&Path>, alpn: &[&[u8]]) -> ServerEndpoint {
        server(self.issue("server"), client_ca, alpn)
    }

    fn client(&self, identity: Option<(PathBuf, PathBuf)>, alpn: &[&[u8]]) -> ClientEndpoint {
        client(&self.ca(), identity, alpn)
    }
}

pub(crate) fn server(
    (cert, key): (PathBuf, PathBuf),
    client_ca: Option<&Path>,
    alpn: &[&[u8]],
) -> ServerEndpoint {
    let client_ca = client_ca.map(Path::to_path_buf);
    let alpn = alpn_list(&[], alpn);
    ServerTls { cert, key, client_ca, alpn, require_alpn: true, policy: TlsPolicy::default() }
        .watch()
        .unwrap()
}

pub(crate) fn client(ca: &Path, identity: Option<(PathBuf, PathBuf)>, alpn: &[&[u8]]) -> ClientEndpoint {
    ClientTls { ca: ca.to_owned(), identity, alpn: alpn_list(&[], alpn) }.watch().unwrap()
}

pub(crate) type Shaken = Result<Accepted<tokio_rustls::server::TlsStream<DuplexStream>>, HandshakeError>;

/// As if it had just been accepted.
pub(crate) fn offered(stream: DuplexStream) -> Accepted<DuplexStream> {
    let [local, remote] = [1, 2].map(|port| ([127, 0, 0, 1], port).into());
    Accepted { stream, local: Local::Tcp(local), remote: Remote::Tcp(remote), tls: None }
}

/// One connection that carries a byte each way: in TLS 1.3 a client learns of its refusal only when it reads.
pub(crate) async fn meet(
    client: &ClientEndpoint,
    server: &ServerEndpoint,
    name: &str,
) -> (Result<u8, HandshakeError>, Shaken) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepted = offered(far);
    let near = async {
        let mut stream = client.connect(name, near, SOON).await?;
        stream.write_u8(7).await?;
        Ok(stream.read_u8().await?)
    };
    let far = async {
        let mut accepted = server.accept(accepted, SOON).await?;
        accepted.stream.read_u8().await?;
        accepted.stream.write_u8(8).await?;
        Ok(accepted)
    };
    tokio::join!(near, far)
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_also_when_it_resumes() {
    let authority = Authority::new();
    let server = authority.server(Some(&authority.ca()), &[b"lane", ALPN_H2]);
    let client = authority.client(Some(authority.issue("agent")), &[ALPN_H2]);
    let (first, shaken) = meet(&client, &server, "localhost").await;
    assert_eq!(first.unwrap(), 8);
    let full = shaken.unwrap().tls.unwrap();
    assert_eq!(full.alpn.as_deref(), Some(ALPN_H2));
    assert!(!full.resumed);
    let again = meet(&client, &server, "localhost").await.1.unwrap().tls.unwrap();
    assert!(again.resumed);
    assert_eq!(again.identity, full.identity);
    assert!(full.identity.is_some());

    let reloaded = authority.server(Some(&authority.ca()), &[ALPN_H2]);
    assert!(!meet(&client, &reloaded, "localhost").await.1.unwrap().tls.unwrap().resumed);
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.server(Some(&authority.ca()), &[ALPN_H2]);
    let without = authority.client(None, &[ALPN_H2]);
    assert!(meet(&without, &server, "localhost").await.1.is_err());
    let other = authority.client(Some(stranger.issue("agent")), &[ALPN_H2]);
    assert!(meet(&other, &server, "localhost").await.1.is_err());
    let open = authority.server(None, &[ALPN_H2]);
    assert!(meet(&stranger.client(None, &[ALPN_H2]), &open, "localhost").await.0.is_err());
    assert!(meet(&without, &open, "elsewhere").await.0.is_err());
    assert!(meet(&without, &open, "127.0.0.1").await.0.is_ok());
}

/// A CA's certificate that its own key signed, as `openssl req -x509` makes it, and the key.
fn alone(dir: &Path, file: &str, change: impl FnOnce(&mut CertificateParams)) -> (PathBuf, PathBuf) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "konnectivity");
    change(&mut params);
    let at = |ending: &str| dir.join(format!("{file}.{ending}"));
    fs::write(at("crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(at("key"), key.serialize_pem()).unwrap();
    (at("crt"), at("key"))
}

/// What was wrong with the peer's certificate.
pub(crate) fn refusal(error: HandshakeError) -> CertificateError {
    let HandshakeError::Failed(error) = error else { panic!("{error}") };
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => why.clone(),
        _ => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_ca_that_is_in_the_bundle_is_itself_and_resumes_under_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let [of_server, of_agent, other] =
        ["server", "agent", "other"].map(|file| alone(dir.path(), file, |_| ()));
    let open = server(of_server.clone(), Some(&of_agent.0), &[ALPN_H2]);
    let agent = client(&of_server.0, Some(of_agent.clone()), &[ALPN_H2]);
    for resumed in [false, true] {
        let (heard, shaken) = meet(&agent, &open, "localhost").await;
        assert_eq!(heard.unwrap(), 8);
        let info = shaken.unwrap().tls.unwrap();
        assert_eq!(info.resumed, resumed);
        assert!(info.identity.is_some());
    }
    // The agent holds a ticket, but the server's bundle is another now.
    let closed = server(of_server, Some(&other.0), &[ALPN_H2]);
    let why = refusal(meet(&agent, &closed, "localhost").await.1.unwrap_err());
    assert!(matches!(why, CertificateError::Other(_)), "{why:?}");
    let words = reads(why);
    assert!(words.contains("is that of a certificate authority") && words.contains("--ca-cert"), "{words}");
    let agent = client(&other.0, Some(of_agent), &[ALPN_H2]);
    let why = refusal(meet(&agent, &open, "localhost").await.0.unwrap_err());
    assert!(matches!(why, CertificateError::Other(_)), "{why:?}");
}

/// What a person reads of a certificate that was refused.
fn reads(error: CertificateError) -> String {
    let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::InvalidCertificate(error));
    HandshakeError::Failed(error).to_string()
}

/// Nobody verifies a certificate again when its session resumes.
#[tokio::test]
async fn nothing_resumes_beyond_its_certificates_days() {
    let authority = Authority::new();
    let end = SystemTime::now() + Duration::from_secs(10);
    let short = authority.issue_until("short", end);
    let ca = authority.ca();
    let client_expires =
        (authority.client(Some(short.clone()), &[ALPN_H2]), authority.server(Some(&ca), &[ALPN_H2]));
    let server_expires = (authority.client(None, &[ALPN_H2]), server(short, None, &[ALPN_H2]));
    let brief = Authority::until(end);
    let clients_ca_expires = (
        authority.client(Some(brief.issue("agent")), &[ALPN_H2]),
        server(authority.issue("beside"), Some(&brief.ca()), &[ALPN_H2]),
    );
    let servers_ca_expires = (brief.client(None, &[ALPN_H2]), brief.server(None, &[ALPN_H2]));
    for (client, server) in [&client_expires, &server_expires, &clients_ca_expires, &servers_ca_expires] {
        for resumed in [false, true] {
            let shaken = meet(client, server, "localhost").await.1.unwrap();
            assert_eq!(shaken.tls.unwrap().resumed, resumed);
        }
    }
    // Certificates know whole seconds.
    let over = end + Duration::from_secs(1);
    tokio::time::sleep(over.duration_since(SystemTime::now()).unwrap_or_default()).await;
    let (client, server) = &client_expires;
    let at_server = meet(client, server, "localhost").await.1.map(|_| ()).unwrap_err();
    let (client, server) = &server_expires;
    let at_client = meet(client, server, "localhost").await.0.unwrap_err();
    for error in [at_server, at_client] {
        assert!(matches!(refusal(error), CertificateError::ExpiredContext { .. }));
    }
    // Nor beyond the days of who vouches for it; nobody is taken anew either.
    let (client, server) = &clients_ca_expires;
    let anew = authority.client(Some(brief.issue("another")), &[ALPN_H2]);
    for client in [client, &anew] {
        let words = reads(refusal(meet(client, server, "localhost").await.1.map(|_| ()).unwrap_err()));
        assert!(words.contains(" vouches for the peer's certificate, and it expired at "), "{words}");
    }
    let (client, server) = &servers_ca_expires;
    for client in [client, &brief.client(None, &[ALPN_H2])] {
        let words = reads(refusal(meet(client, server, "localhost").await.0.unwrap_err()));
        assert!(words.contains(" vouches for the peer's certificate, and it expired at "), "{words}");
    }
}

/// The client holds a ticket of a server that only its former CA vouches for.
#[tokio::test]
async fn nothing_resumes_that_a_former_ca_verified() {
    let (former, next) = (Authority::new(), Authority::new());
    let server = former.server(None, &[ALPN_H2]);
    let tls = ClientTls { ca: former.ca(), identity: None, alpn: alpn_list(&[], &[ALPN_H2]) };
    let client = tls.watch_every(Duration::from_millis(5)).unwrap();
    for resumed in [false, true] {
        let (heard, shaken) = meet(&client, &server, "localhost").await;
        assert_eq!(heard.unwrap(), 8);
        assert_eq!(shaken.unwrap().tls.unwrap().resumed, resumed);
    }
    fs::rename(next.ca(), former.ca()).unwrap();
    let began = std::time::Instant::now();
    let why = loop {
        match meet(&client, &server, "localhost").await.0 {
            Err(error) => break refusal(error),
            Ok(_) => assert!(began.elapsed() < SOON, "the former CA's server is still taken"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature), "{why:?}");
}

/// Each certificate as a server's and as a client's, its peer having it in its bundle.
async fn both_sides(
    dir: &Path,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> [Result<(), CertificateError>; 2] {
    let [shown, plain] = [alone(dir, "shown", change), alone(dir, "plain", |_| ())];
    let as_server =
        meet(&client(&shown.0, None, &[ALPN_H2]), &server(shown.clone(), None, &[ALPN_H2]), name).await.0;
    let agent = client(&plain.0, Some(shown.clone()), &[ALPN_H2]);
    let as_client = meet(&agent, &server(plain, Some(&shown.0), &[ALPN_H2]), "localhost").await.1;
    [as_server.map(|_| ()).map_err(refusal), as_client.map(|_| ()).map_err(refusal)]
}

#[tokio::test]
async fn a_ca_in_the_bundle_must_be_valid_bear_the_name_and_be_meant_for_this() {
    use CertificateError::{ExpiredContext, InvalidPurpose, NotValidForNameContext, NotValidYetContext};
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let expired = both_sides(dir, "localhost", |it| it.not_after = rcgen::date_time_ymd(2020, 1, 1)).await;
    assert!(matches!(expired, [Err(ExpiredContext { .. }), Err(ExpiredContext { .. })]), "{expired:?}");
    for words in expired.map(|refused| reads(refused.unwrap_err())) {
        assert!(words.contains(" expired at 2020-01-01T00:00:00Z; "), "{words}");
    }
    let early = both_sides(dir, "localhost", |it| it.not_before = rcgen::date_time_ymd(4000, 1, 1)).await;
    assert!(matches!(early, [Err(NotValidYetContext { .. }), Err(NotValidYetContext { .. })]), "{early:?}");
    for words in early.map(|refused| reads(refused.unwrap_err())) {
        assert!(words.contains(" not valid before 4000-01-01T00:00:00Z; "), "{words}");
    }
    let named = both_sides(dir, "elsewhere", |_| ()).await;
    assert!(matches!(named, [Err(NotValidForNameContext { .. }), Ok(())]), "{named:?}");
    let [Err(refused), _] = named else { unreachable!() };
    let words = reads(refused);
    let names = "is for localhost, 127.0.0.1, not for elsewhere; ";
    assert!(words.contains(names) && words.contains("--proxy-server-host"), "{words}");
    for (purposes, expected) in [
        (vec![ServerAuth], [Ok(()), Err(InvalidPurpose)]),
        (vec![ClientAuth], [Err(InvalidPurpose), Ok(())]),
        (vec![ServerAuth, ClientAuth], [Ok(()), Ok(())]),
        (vec![Any], [Ok(()), Ok(())]),
    ] {
        let outcome = both_sides(dir, "127.0.0.1", |it| it.extended_key_usages = purposes.clone()).await;
        assert_eq!(outcome, expected, "{purposes:?}");
    }
}

#[tokio::test]
async fn a_lookalike_of_what_the_bundle_holds_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let known = alone(dir.path(), "known", |_| ());
    for is_ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::ExplicitNoCa, IsCa::NoCa] {
        // Same subject, same names, another key.
        let lookalike = alone(dir.path(), "lookalike", |it| it.is_ca = is_ca);
        let trusting = client(&known.0, Some(lookalike.clone()), &[ALPN_H2]);
        refusal(meet(&trusting, &server(lookalike, None, &[ALPN_H2]), "localhost").await.0.unwrap_err());
        let asking = server(known.clone(), Some(&known.0), &[ALPN_H2]);
        refusal(meet(&trusting, &asking, "localhost").await.1.unwrap_err());
    }
}

#[tokio::test]
async fn a_leaf_in_the_bundle_is_trusted_alone() {
    let authority = Authority::new();
    let [pinned, other] = ["pinned", "other"].map(|name| authority.issue(name));
    let agent = client(&pinned.0, Some(pinned.clone()), &[ALPN_H2]);
    assert!(meet(&agent, &server(pinned.clone(), Some(&pinned.0), &[ALPN_H2]), "localhost").await.1.is_ok());
    let why = meet(&agent, &server(other.clone(), None, &[ALPN_H2]), "localhost").await.0.unwrap_err();
    assert!(why.to_string().contains("nobody in the CA bundle here"), "{why}");
    assert_eq!(refusal(why), CertificateError::UnknownIssuer);
    let why = meet(&agent, &server(pinned, Some(&other.0), &[ALPN_H2]), "localhost").await.1.unwrap_err();
    assert_eq!(refusal(why), CertificateError::UnknownIssuer);
}

#[tokio::test]
async fn application_protocols_must_meet() {
    let authority = Authority::new();
    let server = authority.server(None, &[ALPN_H2]);
    let lanes_only = meet(&authority.client(None, &[b"lane"]), &server, "localhost").await.0.unwrap_err();
    assert!(lanes_only.is_no_application_protocol(), "{lanes_only}");
    let none = meet(&authority.client(None, &[]), &server, "localhost").await.1;
    assert!(matches!(none, Err(HandshakeError::NoAlpn)));
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused_by_name() {
    let authority = Authority::new();
    let ((cert, _), (_, key)) = (authority.issue("one"), authority.issue("two"));
    let mixed = ClientTls { ca: authority.ca(), identity: Some((cert, key)), alpn: vec![] };
    let error = mixed.load().unwrap_err();
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
    assert!(error.to_string().contains("one.crt"), "{error}");
    assert!(error.to_string().contains("the key is another certificate's"), "{error}");
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    let authority = Authority::new();
    let (_near, far) = tokio::io::duplex(64);
    let result = authority.client(None, &[]).connect("localhost", far, Duration::from_millis(20)).await;
    assert!(matches!(result, Err(HandshakeError::Timeout(_))));
}

#[tokio::test]
async fn who_speaks_no_tls_or_leaves_is_called_that() {
    let authority = Authority::new();
    let client = authority.client(None, &[]);
    for (said, words) in
        [(&b"HTTP/1.1 400 Bad Request"[..], "is no TLS; check address and port"), (b"", "closed the")]
    {
        let (near, mut far) = tokio::io::duplex(1 << 12);
        far.write_all(said).await.unwrap();
        far.shutdown().await.unwrap();
        let error = client.connect("localhost", near, SOON).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
