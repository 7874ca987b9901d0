//! What a peer is here, and by which purposes its certificate, and who vouches for it, are for that.

use rustls::{CertificateError, Error};
use rustls_pki_types::CertificateDer;
use webpki::{ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage};
use x509_parser::asn1_rs::Oid;
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// What a peer is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Client,
    Server,
}

/// The object identifier of anyExtendedKeyUsage, RFC 5280, 4.2.1.12.
const ANY: [usize; 5] = [2, 5, 29, 37, 0];

impl Part {
    /// Whether a certificate's extendedKeyUsage, if it has one, names this part, or any.
    pub(super) fn check(self, certificate: &X509Certificate<'_>) -> Result<(), Error> {
        let named = certificate.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
        let Some(usage) = named.map(|named| named.value) else { return Ok(()) };
        let is_named = match self {
            Part::Client => usage.client_auth,
            Part::Server => usage.server_auth,
        };
        if usage.any || is_named { Ok(()) } else { Err(CertificateError::InvalidPurpose.into()) }
    }

    fn usage(self) -> KeyUsage {
        match self {
            Part::Client => KeyUsage::client_auth(),
            Part::Server => KeyUsage::server_auth(),
        }
    }

    /// Whether a signer's certificate may vouch for peers of this part, by what Go asks of it (`isValid`,
    /// `CheckSignatureFrom`, `checkChainForKeyUsage`) beyond its days.
    pub(super) fn may_be_vouched_for_by(self, member: &CertificateDer<'_>) -> bool {
        const UNDERSTOOD: [Oid<'static>; 5] = [
            OID_X509_EXT_BASIC_CONSTRAINTS,
            OID_X509_EXT_EXTENDED_KEY_USAGE,
            OID_X509_EXT_KEY_USAGE,
            OID_X509_EXT_NAME_CONSTRAINTS,
            OID_X509_EXT_SUBJECT_ALT_NAME,
        ];
        let Ok((_, member)) = X509Certificate::from_der(member) else { return false };
        let is_ca = match member.basic_constraints() {
            Ok(Some(constraints)) => constraints.value.ca,
            Ok(None) => member.version() == X509Version::V1,
            Err(_) => false,
        };
        let signs = match member.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.key_cert_sign()),
            Err(_) => false,
        };
        let is_understood =
            || member.extensions().iter().all(|it| !it.critical || UNDERSTOOD.contains(&it.oid));
        is_ca && signs && is_understood() && self.check(&member).is_ok()
    }
}

/// As webpki's own, but any purpose is this one too.
impl ExtendedKeyUsageValidator for Part {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for purpose in purposes {
            present.push(purpose?.to_decoded_oid());
        }
        let wanted: Vec<usize> = self.usage().oid_values().collect();
        if present.is_empty() || present.iter().any(|it| *it == ANY || *it == wanted) {
            return Ok(());
        }
        let context = webpki::RequiredEkuNotFoundContext { required: self.usage(), present };
        Err(webpki::Error::RequiredEkuNotFoundContext(context))
    }
}
