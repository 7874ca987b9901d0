//! A peer's certificate against a CA bundle: webpki decides, and what Go takes beyond that is taken too.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::extensions::ExtendedKeyUsage;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem::Roots;

/// The verifier of one side's peers.
///
/// Go (`x509.Certificate.Verify`) looks first whether the leaf is, byte for byte, in the pool: "if
/// opts.Roots.contains(c)" the chain is just the leaf. It must still be within its validity, carry the server's name,
/// have no critical extension that is not understood and allow the usage; nobody's signature on it counts, nor whether
/// it is a CA. So a certificate of `openssl req -x509`, which is a CA's, serves as `--server-cert` here and as
/// `--ca-cert` there. webpki refuses each CA as a leaf.
///
/// A CA as a leaf that only was issued by one of the pool, which Go takes, is refused.
#[derive(Debug)]
pub(super) struct Bundle<V: ?Sized> {
    webpki: Arc<V>,
    certificates: Vec<CertificateDer<'static>>,
}

/// For an endpoint that clients connect to: each must have a certificate.
pub(super) fn of_clients(
    roots: Roots,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<Bundle<dyn ClientCertVerifier>>, VerifierBuilderError> {
    let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.anchors), provider).build()?;
    Ok(Arc::new(Bundle { webpki, certificates: roots.certificates }))
}

pub(super) fn of_servers(
    roots: Roots,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<Bundle<WebPkiServerVerifier>>, VerifierBuilderError> {
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots.anchors), provider).build()?;
    Ok(Arc::new(Bundle { webpki, certificates: roots.certificates }))
}

impl<V: ?Sized> Bundle<V> {
    /// What Go says of a leaf that webpki refused with `refusal`, the server's name aside. Both refusals that count
    /// come after webpki read the leaf, its critical extensions included, and checked its validity.
    fn member(
        &self,
        leaf: &CertificateDer<'_>,
        refusal: Error,
        allows: fn(&ExtendedKeyUsage<'_>) -> bool,
    ) -> Result<(), Error> {
        if !is_for_want_of_an_issuer(&refusal) || !self.certificates.contains(leaf) {
            return Err(refusal);
        }
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding)?;
        match parsed.extended_key_usage() {
            Ok(None) => Ok(()),
            Ok(Some(usage)) if usage.value.any || allows(usage.value) => Ok(()),
            Ok(Some(_)) => Err(CertificateError::InvalidPurpose.into()),
            Err(_) => Err(CertificateError::BadEncoding.into()),
        }
    }
}

fn is_for_want_of_an_issuer(refusal: &Error) -> bool {
    match refusal {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            matches!(other.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

impl ServerCertVerifier for Bundle<WebPkiServerVerifier> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.webpki.verify_server_cert(leaf, intermediates, name, ocsp, now).or_else(|refusal| {
            self.member(leaf, refusal, |usage| usage.server_auth)?;
            verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
            Ok(ServerCertVerified::assertion())
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Bundle<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.webpki.verify_client_cert(leaf, intermediates, now).or_else(|refusal| {
            self.member(leaf, refusal, |usage| usage.client_auth)?;
            Ok(ClientCertVerified::assertion())
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
