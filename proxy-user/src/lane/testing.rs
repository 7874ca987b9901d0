//! Certificates and byte streams for the tests of lanes.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// One CA, a server certificate for `server.test`, and client configurations under it.
pub(crate) struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "lane test CA");
        Pki { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        Arc::new(roots)
    }

    fn leaf(&self, name: &str) -> (Vec<rustls_pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![format!("{name}.test")]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// Writes CA, certificate and key of `name` as PEM files, named `name.*`, into `directory`.
    pub(crate) fn write(&self, directory: &Path, name: &str) {
        let (chain, key) = self.leaf(name);
        let pem = |kind: &str, der: &[u8]| pem_text(kind, der);
        std::fs::write(directory.join("ca.crt"), pem("CERTIFICATE", self.ca.der())).unwrap();
        std::fs::write(directory.join(format!("{name}.crt")), pem("CERTIFICATE", &chain[0])).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), pem("PRIVATE KEY", key.secret_der())).unwrap();
    }

    pub(crate) fn server(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let (chain, key) = self.leaf("server");
        let verifier = WebPkiClientVerifier::builder(self.roots()).build().unwrap();
        let mut config = ServerConfig::builder_with_protocol_versions(versions)
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        config
    }

    pub(crate) fn client(&self, name: &str, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let (chain, key) = self.leaf(name);
        ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)
            .unwrap()
    }
}

/// TLS between two ends of a transport: the client's and the server's.
pub(crate) async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    versions: &[&'static SupportedProtocolVersion],
    client: S,
    server: S,
) -> (TlsStream<S>, TlsStream<S>) {
    let pki = Pki::new();
    let connector = TlsConnector::from(Arc::new(pki.client("agent", versions)));
    let acceptor = TlsAcceptor::from(Arc::new(pki.server(versions)));
    let name = ServerName::try_from("server.test").unwrap();
    let (client, server) = tokio::join!(connector.connect(name, client), acceptor.accept(server));
    (client.unwrap().into(), server.unwrap().into())
}

/// Both ends of a TCP connection.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

fn pem_text(kind: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {kind}-----\n");
    for chunk in der.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    text + &format!("\n-----END {kind}-----\n")
}

/// Hands out its reads in the given pieces, with a `Pending` between two of them; then as they come.
pub(crate) struct Pieces<S> {
    io: S,
    pieces: VecDeque<usize>,
    rest: bool,
}

impl<S> Pieces<S> {
    pub(crate) fn new(io: S, pieces: impl IntoIterator<Item = usize>) -> Pieces<S> {
        Pieces { io, pieces: pieces.into_iter().collect(), rest: false }
    }

    pub(crate) fn pieces_from_here(&mut self, pieces: impl IntoIterator<Item = usize>) {
        self.pieces = pieces.into_iter().collect();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Pieces<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(piece) = this.pieces.front_mut() else {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        };
        this.rest = !this.rest;
        if this.rest {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let wanted = buf.remaining().min(*piece);
        let mut limited = ReadBuf::new(buf.initialize_unfilled_to(wanted));
        std::task::ready!(Pin::new(&mut this.io).poll_read(cx, &mut limited))?;
        let read = limited.filled().len();
        *piece -= read;
        if *piece == 0 {
            this.pieces.pop_front();
        }
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Pieces<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
