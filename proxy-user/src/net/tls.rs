//! TLS from files, on both sides, with the rules of the wire contract.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, ClientHello, VerifierBuilderError};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, CommonState, HandshakeKind, InconsistentKeys, ServerConfig, server};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::bundle::{self, Clients, Servers};
use super::cipher::TlsPolicy;
use super::irregular;
use super::listener::{Accepted, unbracketed};
use super::pem::{self, PemError};
use super::refusal::{self, Why, is_about_certificate};
use super::reload::{POLL, Reloading};
use super::sessions::Sessions;
use super::validity::{self, Use};

pub const ALPN_H2: &[u8] = b"h2";
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// How long a peer may take to hear why its handshake failed, and to close.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Shorter keys of RSA can neither be used nor verified here.
const RSA_BITS: usize = 2048;

/// A TLS configuration that cannot be made of its files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("certificate {cert:?} and key {key:?} cannot be used together: {}", refusal::of_pair(.source))]
    Pair { cert: PathBuf, key: PathBuf, source: rustls::Error },
    #[error(
        "certificate {cert:?} has an RSA key of {bits} bits; RSA keys below 2048 bits are not supported, make a new pair"
    )]
    SmallRsa { cert: PathBuf, bits: usize },
    #[error("CA bundle {ca:?} cannot be used to verify peers: {source}")]
    Ca { ca: PathBuf, source: VerifierBuilderError },
    #[error("the TLS versions and cipher suites asked for leave nothing to offer: {0}")]
    Policy(rustls::Error),
}

/// A handshake that led nowhere.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("no TLS handshake within {0:?}")]
    Timeout(Duration),
    #[error("TLS handshake failed: {}", Why(.0))]
    Failed(#[from] io::Error),
    #[error("TLS peer negotiated no application protocol (ALPN); one is required here")]
    NoAlpn,
}

impl HandshakeError {
    /// Whether the peer just left, as whoever only looks whether a port is open: balancers do so each second.
    pub fn is_peer_gone(&self) -> bool {
        let HandshakeError::Failed(error) = self else { return false };
        matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
    }

    /// Whether it failed over the peer's certificate or the want of one, or the peer will not have ours.
    pub fn is_about_certificate(&self) -> bool {
        let HandshakeError::Failed(error) = self else { return false };
        match refusal::cause(error) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => true,
            Some(rustls::Error::AlertReceived(alert)) => is_about_certificate(*alert),
            _ => false,
        }
    }

    /// Whether the peer said that it knows none of our protocols: a server without lanes, no fault.
    pub fn is_no_application_protocol(&self) -> bool {
        let HandshakeError::Failed(error) = self else { return false };
        let alert = rustls::AlertDescription::NoApplicationProtocol;
        matches!(refusal::cause(error), Some(rustls::Error::AlertReceived(received)) if *received == alert)
    }
}

/// What a finished handshake says of the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    pub alpn: Option<Vec<u8>>,
    pub identity: Option<Identity>,
    pub resumed: bool,
}

/// Who a verified client certificate is: DER names, compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    pub subject: Vec<u8>,
    pub issuer: Vec<u8>,
}

impl Identity {
    fn of(certificate: &X509Certificate<'_>) -> Identity {
        Identity {
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
        }
    }
}

/// The peer's own certificate.
fn leaf<'a>(chain: &'a [CertificateDer<'_>]) -> Option<X509Certificate<'a>> {
    let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
    Some(leaf)
}

fn is_resumed(connection: &CommonState) -> bool {
    connection.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// The files and rules of one listening endpoint.
#[derive(Debug, Clone)]
pub struct ServerTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Set: a client certificate is required and verified against it. Unset: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// In order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// Refuse peers that negotiate no ALPN.
    pub require_alpn: bool,
    pub policy: TlsPolicy,
}

impl ServerTls {
    /// Every call makes a new configuration with a ticketer of its own, so nothing that an old CA verified
    /// resumes under a new one.
    pub fn load(&self) -> Result<ServerConfig, TlsError> {
        self.make().map(|(config, _)| config)
    }

    fn make(&self) -> Result<(ServerConfig, Option<Arc<Clients>>), TlsError> {
        let builder = ServerConfig::builder_with_provider(self.policy.provider())
            .with_protocol_versions(self.policy.versions())
            .map_err(TlsError::Policy)?;
        let mut authorities = Vec::new();
        let clients = match &self.client_ca {
            None => None,
            Some(ca) => {
                let roots = pem::roots(ca)?;
                authorities.clone_from(&roots.certificates);
                let bundle = bundle::of_clients(roots, self.policy.provider());
                Some(bundle.map_err(|source| unusable(ca, source))?)
            }
        };
        let builder = match &clients {
            None => builder.with_no_client_auth(),
            Some(bundle) => builder.with_client_cert_verifier(bundle.clone()),
        };
        let certified = certified_key(&self.cert, &self.key)?;
        let mut config =
            builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = self.alpn.clone();
        if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
            config.ticketer = ticketer;
        }
        // A handshake takes one ticket and brings one: a second is work for nothing.
        config.send_tls13_tickets = 1;
        config.session_storage = Arc::new(server::NoServerSessionStorage {});
        // First words go with the first flight, unless a client certificate has yet to be verified.
        config.send_half_rtt_data = true;
        self.client_ca.iter().for_each(|ca| validity::note(ca, Use::Bundle, &authorities));
        Ok((config, clients))
    }

    /// Loads now and again whenever a file changes. Must be called inside a tokio runtime.
    pub fn watch(self) -> Result<ServerEndpoint, TlsError> {
        let files = [&self.cert, &self.key].into_iter().chain(&self.client_ca).cloned().collect();
        let require_alpn = self.require_alpn;
        let (cert, ca) = (self.cert.clone(), self.client_ca.clone());
        let load = move || self.make().map(|(config, clients)| (Arc::new(config), clients));
        let look = move |bad: Option<&str>| {
            validity::look(&cert, Use::Own, bad);
            ca.iter().for_each(|ca| validity::look(ca, Use::Bundle, bad));
        };
        let loaded = Reloading::start("server TLS", files, POLL, load, look)?;
        Ok(ServerEndpoint { loaded: Arc::new(loaded), require_alpn })
    }
}

/// With who vouches for clients, where they have to show a certificate.
type Serving = (Arc<ServerConfig>, Option<Arc<Clients>>);

/// A listening endpoint's TLS, as its files say now.
#[derive(Clone)]
pub struct ServerEndpoint {
    loaded: Arc<Reloading<Serving>>,
    require_alpn: bool,
}

impl ServerEndpoint {
    /// Does the handshake on a connection just accepted, over its socket or whatever wraps that.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        accepted: Accepted<S>,
        timeout: Duration,
    ) -> Result<Accepted<tokio_rustls::server::TlsStream<S>>, HandshakeError> {
        self.accept_with(accepted, timeout, |_, _| None).await
    }

    /// As [`ServerEndpoint::accept`]. `first` sees what the client offers, and may have bytes sent to it as soon
    /// as TLS allows it: with the server's first flight, when no client certificate has yet to be verified.
    pub async fn accept_with<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        accepted: Accepted<S>,
        timeout: Duration,
        first: impl FnOnce(&ClientHello<'_>, &mut S) -> Option<Vec<u8>>,
    ) -> Result<Accepted<tokio_rustls::server::TlsStream<S>>, HandshakeError> {
        let Accepted { stream, local, remote, .. } = accepted;
        let handshake = async {
            let mut start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
            let words = first(&start.accepted.client_hello(), &mut start.io);
            let mut said = Ok(());
            let loaded = self.loaded.current();
            let stream = start.into_stream_with(loaded.0.clone(), |connection| {
                said = words.map_or(Ok(()), |words| connection.writer().write_all(&words));
            });
            said?;
            match stream.into_fallible().await {
                Ok(stream) => Ok((stream, loaded)),
                Err((error, io)) => Err(tell(error, io).await),
            }
        };
        // On the heap at once: the state of a handshake is large, and whoever awaits it is moved about.
        let (stream, loaded) = tokio::time::timeout(timeout, Box::pin(handshake))
            .await
            .map_err(|_| HandshakeError::Timeout(timeout))??;
        let connection = stream.get_ref().1;
        let chain = connection.peer_certificates().unwrap_or_default();
        let leaf = leaf(chain);
        let info = TlsInfo {
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            identity: leaf.as_ref().map(Identity::of),
            resumed: is_resumed(connection),
        };
        if info.resumed
            && let Some(clients) = &loaded.1
        {
            clients.check_resumed(leaf.as_ref(), chain).map_err(io::Error::other)?;
        }
        if self.require_alpn && info.alpn.is_none() {
            return Err(HandshakeError::NoAlpn);
        }
        Ok(Accepted { stream, local, remote, tls: Some(info) })
    }
}

/// The files and rules of connections to a proxy-server.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Nothing else is trusted.
    pub ca: PathBuf,
    /// Certificate and key, where the server asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// In order of preference.
    pub alpn: Vec<Vec<u8>>,
}

impl ClientTls {
    /// Every call makes a new configuration with a session store of its own.
    pub fn load(&self) -> Result<ClientConfig, TlsError> {
        self.make().map(|(config, _)| config)
    }

    fn make(&self) -> Result<(ClientConfig, Arc<Servers>), TlsError> {
        let policy = TlsPolicy::default();
        let roots = pem::roots(&self.ca)?;
        let authorities = roots.certificates.clone();
        let servers = bundle::of_servers(roots, policy.provider());
        let servers = servers.map_err(|source| unusable(&self.ca, source))?;
        let builder = ClientConfig::builder_with_provider(policy.provider())
            .with_protocol_versions(policy.versions())
            .map_err(TlsError::Policy)?
            .dangerous()
            .with_custom_certificate_verifier(servers.clone());
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let certified = certified_key(cert, key)?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = self.alpn.clone();
        config.resumption = Resumption::store(Arc::new(Sessions::default()));
        validity::note(&self.ca, Use::Bundle, &authorities);
        Ok((config, servers))
    }

    /// Loads now and again whenever a file changes. Must be called inside a tokio runtime.
    pub fn watch(self) -> Result<ClientEndpoint, TlsError> {
        self.watch_every(POLL)
    }

    fn watch_every(self, poll: Duration) -> Result<ClientEndpoint, TlsError> {
        let pair = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        let files = std::iter::once(&self.ca).chain(pair).cloned().collect();
        let (cert, ca) = (self.identity.as_ref().map(|(cert, _)| cert.clone()), self.ca.clone());
        let load = move || self.make().map(|(config, servers)| (Arc::new(config), servers));
        let look = move |bad: Option<&str>| {
            cert.iter().for_each(|cert| validity::look(cert, Use::Own, bad));
            validity::look(&ca, Use::Bundle, bad);
        };
        let loaded = Reloading::start("client TLS", files, poll, load, look)?;
        Ok(ClientEndpoint { loaded: Arc::new(loaded) })
    }
}

/// The DNS name or IP address, bracketed or not, that a server's certificate must carry.
///
/// # Errors
/// It is neither: no certificate carries it.
pub fn server_name(host: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
    ServerName::try_from(unbracketed(host).to_owned())
}

/// The ALPN list of a connection to a proxy-server: what the operator named, in order, then what we need.
pub fn alpn_list(named: &[String], ours: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut list: Vec<Vec<u8>> = named.iter().map(|name| name.as_bytes().to_vec()).collect();
    for name in ours {
        if !list.iter().any(|known| known == name) {
            list.push(name.to_vec());
        }
    }
    list
}

/// Whether a peer on gRPC must agree on an application protocol, by the variable that grpc-go reads: yes, unless it is
/// "false" in whatever case.
pub fn alpn_enforced() -> bool {
    !std::env::var("GRPC_ENFORCE_ALPN_ENABLED").is_ok_and(|said| said.eq_ignore_ascii_case("false"))
}

/// A client's TLS, as its files say now.
#[derive(Clone)]
pub struct ClientEndpoint {
    loaded: Arc<Reloading<(Arc<ClientConfig>, Arc<Servers>)>>,
}

impl ClientEndpoint {
    /// Does the handshake over `stream`; `name` is what the server's certificate must carry: a DNS name, which
    /// is sent as SNI, or an IP address, which is not.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        name: &str,
        stream: S,
        timeout: Duration,
    ) -> Result<tokio_rustls::client::TlsStream<S>, HandshakeError> {
        let name = server_name(name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?}: {error}")))?;
        let loaded = self.loaded.current();
        let (config, servers) = &*loaded;
        let handshake = TlsConnector::from(config.clone()).connect(name.clone(), stream);
        let handshake = async {
            match handshake.into_fallible().await {
                Ok(stream) => Ok(stream),
                Err((error, io)) => Err(tell(error, io).await),
            }
        };
        let stream = tokio::time::timeout(timeout, Box::pin(handshake))
            .await
            .map_err(|_| HandshakeError::Timeout(timeout))??;
        let connection = stream.get_ref().1;
        let chain = connection.peer_certificates().unwrap_or_default();
        if is_resumed(connection) {
            servers.check_resumed(leaf(chain).as_ref(), chain, &name).map_err(io::Error::other)?;
        }
        Ok(stream)
    }
}

/// After a handshake that failed: what TLS had to say about it may still wait to be written, and a close in front of
/// unread bytes would be a reset, which destroys it.
async fn tell<S: AsyncRead + AsyncWrite + Unpin>(error: io::Error, mut stream: S) -> io::Error {
    let last_words = async {
        let _ = stream.shutdown().await;
        let mut unread = [0; 1024];
        while let Ok(1..) = stream.read(&mut unread).await {}
    };
    let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
    error
}

fn certified_key(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = pem::chain(cert, "certificate")?;
    let private = pem::key(key)?;
    let bits = rsa_bits(&chain);
    let certified = pair(chain, private).map_err(|source| match bits {
        Some(bits) if bits < RSA_BITS => TlsError::SmallRsa { cert: cert.into(), bits },
        _ => TlsError::Pair { cert: cert.into(), key: key.into(), source },
    })?;
    // Who vouches for it may be behind it; peers judge that.
    validity::note(cert, Use::Own, certified.cert.get(..1).unwrap_or_default());
    Ok(certified)
}

/// As [`CertifiedKey::from_der`], also of a certificate of X.509 version 1.
fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(refusal) => {
            let known = irregular::public_key_beyond(certified.end_entity_cert()?, refusal)?;
            match certified.key.public_key() {
                Some(key) if key != known => Err(InconsistentKeys::KeyMismatch.into()),
                _ => Ok(certified),
            }
        }
    }
}

/// How long the leaf's key is, if it is one of RSA.
fn rsa_bits(chain: &[CertificateDer<'_>]) -> Option<usize> {
    match leaf(chain)?.public_key().parsed() {
        Ok(key @ PublicKey::RSA(_)) => Some(key.key_size()),
        _ => None,
    }
}

fn unusable(ca: &Path, source: VerifierBuilderError) -> TlsError {
    TlsError::Ca { ca: ca.into(), source }
}

/// An end without close_notify reads as an abort, like the RST that usually causes it.
pub(crate) fn as_abort(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected => {
            io::Error::new(io::ErrorKind::ConnectionReset, error)
        }
        _ => error,
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
pub(super) mod tests;
