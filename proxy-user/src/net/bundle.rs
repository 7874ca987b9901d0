//! A peer's certificate against a CA bundle: webpki decides, and what Go takes beyond that is taken too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::irregular;
use super::part::Part;
use super::pem::Roots;
use super::validity::{Days, Untimely};

/// The verifier of one side's peers.
///
/// Go (`x509.Certificate.Verify`) looks first whether the leaf is, byte for byte, in the pool: "if
/// opts.Roots.contains(c)" the chain is just the leaf. It must still be within its validity, carry the server's name,
/// have no critical extension that is not understood and allow the usage; nobody's signature on it counts, nor whether
/// it is a CA. So a certificate of `openssl req -x509`, which is a CA's, serves as `--server-cert` here and as
/// `--ca-cert` there. webpki refuses each CA as a leaf.
///
/// What else Go takes is in [`irregular`]. Of these a CA's leaf and one of X.509 version 1 have to be issued by a member
/// itself.
///
/// Go takes nobody for whom only a root outside of its days vouches (`isValid` looks at each certificate of the chain).
/// webpki looks at no root's days.
#[derive(Debug)]
pub(super) struct Bundle<V: ?Sized> {
    /// Trusts all of them on every day.
    webpki: Arc<V>,
    pub(super) members: Vec<Member>,
    /// By the places of the members that it trusts, those that were needed so far. As time goes by some come to count
    /// and others no more: two sets for each member at the most, beside itself alone.
    parts: Mutex<Parts<V>>,
    build: Build<V>,
    pub(super) provider: Arc<CryptoProvider>,
}

/// None of what makes no verifier.
type Parts<V> = HashMap<Vec<usize>, Option<Arc<V>>>;

/// Makes the verifier that trusts these alone.
type Build<V> = fn(RootCertStore, Arc<CryptoProvider>) -> Result<Arc<V>, VerifierBuilderError>;

pub(super) type Clients = Bundle<dyn ClientCertVerifier>;
pub(super) type Servers = Bundle<WebPkiServerVerifier>;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) days: Days,
    /// Whose irregular leaves it may vouch for.
    pub(super) parts: Vec<Part>,
}

/// Nobody vouches for the peer but this member of the bundle, and not on this day.
#[derive(Debug, thiserror::Error)]
#[error("only {subject:?} vouches for it, whose certificate {untimely}")]
pub(super) struct OnlyUntimely {
    pub(super) subject: String,
    pub(super) untimely: Untimely,
}

/// For an endpoint that clients connect to: each must have a certificate.
pub(super) fn of_clients(
    roots: Roots,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<Clients>, VerifierBuilderError> {
    Bundle::new(roots, provider, |anchors, provider| {
        WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), provider).build()
    })
}

pub(super) fn of_servers(
    roots: Roots,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<Servers>, VerifierBuilderError> {
    Bundle::new(roots, provider, |anchors, provider| {
        WebPkiServerVerifier::builder_with_provider(Arc::new(anchors), provider).build()
    })
}

impl<V: ?Sized> Bundle<V> {
    fn new(
        roots: Roots,
        provider: Arc<CryptoProvider>,
        build: Build<V>,
    ) -> Result<Arc<Bundle<V>>, VerifierBuilderError> {
        let members = roots.certificates.into_iter().zip(&roots.anchors.roots);
        let members = members.map(|(certificate, anchor)| {
            let days = Days::of_der(&certificate);
            let mut parts = vec![Part::Client, Part::Server];
            parts.retain(|part| part.may_be_vouched_for_by(&certificate));
            Member { certificate, anchor: anchor.clone(), days, parts }
        });
        let members = members.collect();
        let webpki = build(roots.anchors, provider.clone())?;
        Ok(Arc::new(Bundle { webpki, members, parts: Mutex::default(), build, provider }))
    }

    /// Whoever webpki takes, if a member vouches for them that counts at this time.
    fn vouched<T>(&self, now: UnixTime, verify: impl Fn(&V) -> Result<T, Error>) -> Result<T, Error> {
        let verified = verify(&self.webpki)?;
        if self.holds(now) {
            return Ok(verified);
        }
        let places = 0..self.members.len();
        let (timely, untimely): (Vec<_>, Vec<_>) =
            places.partition(|place| self.members[*place].days.hold(now));
        let by = |members: Vec<usize>| verify(&*self.trusting(members)?).ok();
        by(timely).ok_or_else(|| {
            let only = untimely.into_iter().find(|place| by(vec![*place]).is_some());
            only.and_then(|place| self.members[place].refusal(now))
                .unwrap_or(CertificateError::UnknownIssuer.into())
        })
    }

    /// A verifier that trusts the members at these places alone.
    fn trusting(&self, members: Vec<usize>) -> Option<Arc<V>> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let part = parts.entry(members).or_insert_with_key(|members| {
            let anchors = members.iter().map(|place| self.members[*place].anchor.clone()).collect();
            (self.build)(anchors, self.provider.clone()).ok()
        });
        part.clone()
    }

    /// Every member is within its days.
    fn holds(&self, now: UnixTime) -> bool {
        self.members.iter().all(|member| member.days.hold(now))
    }

    /// Whether a peer that resumes a session has to be verified again: one of its certificates, or of ours, is outside
    /// of its days, as Go's crypto/tls looks for (`handshake_server_tls13.go`, `checkForResumption`), or cannot be read.
    fn is_in_doubt(
        &self,
        leaf: Option<&X509Certificate<'_>>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> bool {
        let is_timely = |leaf| Days::of(leaf).hold(now);
        let others_are_timely = || others.iter().all(|other| Days::of_der(other).hold(now));
        !self.holds(now) || !leaf.is_some_and(is_timely) || !others_are_timely()
    }
}

impl Clients {
    /// Of a client that resumes a session, whose certificates nobody verifies otherwise. `chain` begins with `leaf`, where
    /// that can be read.
    pub(super) fn check_resumed(
        &self,
        leaf: Option<&X509Certificate<'_>>,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let now = UnixTime::now();
        match chain {
            [der, others @ ..] if self.is_in_doubt(leaf, others, now) => {
                self.verify_client_cert(der, others, now).map(drop)
            }
            [] => Err(Error::NoCertificatesPresented),
            _ => Ok(()),
        }
    }
}

impl Servers {
    /// As [`Clients::check_resumed`], of a server of that name.
    pub(super) fn check_resumed(
        &self,
        leaf: Option<&X509Certificate<'_>>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<(), Error> {
        let now = UnixTime::now();
        match chain {
            [der, others @ ..] if self.is_in_doubt(leaf, others, now) => {
                self.verify_server_cert(der, others, name, &[], now).map(drop)
            }
            [] => Err(Error::NoCertificatesPresented),
            _ => Ok(()),
        }
    }
}

impl Member {
    pub(super) fn refusal(&self, now: UnixTime) -> Option<Error> {
        let now = Timestamp::from_second(i64::try_from(now.as_secs()).ok()?).ok()?;
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        let (subject, untimely) = (parsed.subject().to_string(), self.days.untimely(now)?);
        let refusal = OtherError(Arc::new(OnlyUntimely { subject, untimely }));
        Some(CertificateError::Other(refusal).into())
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.vouched(now, |webpki| webpki.verify_server_cert(leaf, intermediates, name, ocsp, now));
        verified.or_else(|refusal| {
            self.irregular(leaf, intermediates, Part::Server, now, refusal)?;
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

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.vouched(now, |webpki| webpki.verify_client_cert(leaf, intermediates, now));
        verified.or_else(|refusal| {
            self.irregular(leaf, intermediates, Part::Client, now, refusal)?;
            Ok(ClientCertVerified::assertion())
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, leaf, signed).or_else(|refusal| {
            let key = irregular::public_key_beyond(leaf, refusal)?;
            let supported = &self.provider.signature_verification_algorithms;
            irregular::verify_tls12_signature_with_raw_key(message, &key, signed, supported)
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, leaf, signed).or_else(|refusal| {
            let key = irregular::public_key_beyond(leaf, refusal)?;
            let supported = &self.provider.signature_verification_algorithms;
            verify_tls13_signature_with_raw_key(message, &key, signed, supported)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
