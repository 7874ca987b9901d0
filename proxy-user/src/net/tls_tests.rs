//! Both endpoints against each other, over an in-memory pipe.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
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
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        fs::write(dir.path().join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { dir, issuer: Issuer::new(params, key) }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let at = |ending: &str| self.dir.path().join(format!("{name}.{ending}"));
        fs::write(at("crt"), cert.pem()).unwrap();
        fs::write(at("key"), key.serialize_pem()).unwrap();
        (at("crt"), at("key"))
    }

    fn server(&self, client_ca: Option<&Path>, alpn: &[&[u8]]) -> ServerEndpoint {
        let (cert, key) = self.issue("server");
        let alpn = alpn_list(&[], alpn);
        let client_ca = client_ca.map(Path::to_path_buf);
        ServerTls { cert, key, client_ca, alpn, require_alpn: true, policy: TlsPolicy::default() }
            .watch()
            .unwrap()
    }

    fn client(&self, identity: Option<(PathBuf, PathBuf)>, alpn: &[&[u8]]) -> ClientEndpoint {
        ClientTls { ca: self.ca(), identity, alpn: alpn_list(&[], alpn) }.watch().unwrap()
    }
}

type Shaken = Result<Accepted<tokio_rustls::server::TlsStream<DuplexStream>>, HandshakeError>;

/// One connection that carries a byte each way: in TLS 1.3 a client learns of its refusal only when it reads.
async fn meet(
    client: &ClientEndpoint,
    server: &ServerEndpoint,
    name: &str,
) -> (Result<u8, HandshakeError>, Shaken) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let accepted = Accepted {
        stream: far,
        local: Local::Tcp(([127, 0, 0, 1], 1).into()),
        remote: Remote::Tcp(([127, 0, 0, 1], 2).into()),
        tls: None,
    };
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
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    let authority = Authority::new();
    let (_near, far) = tokio::io::duplex(64);
    let result = authority.client(None, &[]).connect("localhost", far, Duration::from_millis(20)).await;
    assert!(matches!(result, Err(HandshakeError::Timeout(_))));
}
