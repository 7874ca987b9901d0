//! Leaves that webpki refuses for what they are, and that Go (`x509.Certificate.Verify`) takes: those of a CA, those of
//! X.509 version 1, those that are for any purpose.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, PeerMisbehaved};
use rustls_pki_types::{
    CertificateDer, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use webpki::{EndEntityCert, RawPublicKeyEntity, VerifiedPath};
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::bundle::{Bundle, Member, OnlyUntimely};
use super::part::Part;
use super::validity::{Days, Untimely};

/// Why webpki refused a leaf that Go may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Irregular {
    /// Nobody vouches for it on this day. All else is well.
    Orphan,
    /// It is a CA's. webpki read it, its critical extensions included, and found it valid today.
    Authority,
    /// It, or who vouches for it, is for purposes among which webpki misses the one needed. As with [`Self::Authority`].
    Purpose,
    /// It is of an X.509 version before 3. webpki read nothing else of it.
    Version,
}

impl Irregular {
    pub(super) fn of(refusal: &Error) -> Option<Irregular> {
        match refusal {
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => Some(Irregular::Orphan),
            Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => Some(Irregular::Purpose),
            Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
                match other.downcast_ref() {
                    Some(webpki::Error::CaUsedAsEndEntity) => Some(Irregular::Authority),
                    Some(webpki::Error::UnsupportedCertVersion) => Some(Irregular::Version),
                    _ => other.is::<OnlyUntimely>().then_some(Irregular::Orphan),
                }
            }
            _ => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it has a signature of a kind that is not supported")]
struct UnknownSignature;

impl<V: ?Sized> Bundle<V> {
    /// What Go says of a leaf that webpki refused with `refusal`, the server's name aside.
    pub(super) fn irregular(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        part: Part,
        now: UnixTime,
        refusal: Error,
    ) -> Result<(), Error> {
        let Some(kind) = Irregular::of(&refusal) else { return Err(refusal) };
        let Ok(parsed) = read(leaf) else { return Err(refusal) };
        if kind == Irregular::Version {
            // It has no name, which a server needs.
            if part == Part::Server || !is_version_1(&parsed) {
                return Err(refusal);
            }
            check_days(&parsed, now)?;
        }
        if self.members.iter().any(|member| member.certificate == *leaf) {
            return part.check(&parsed);
        }
        if kind == Irregular::Orphan {
            return Err(refusal);
        }
        let algorithms = self.provider.signature_verification_algorithms.all;
        let by = |members: &[&Member]| {
            let anchors: Vec<_> = members.iter().map(|member| member.anchor.clone()).collect();
            if kind == Irregular::Purpose {
                check_chain(&anchors, leaf, others, part, algorithms, now)
            } else {
                check_issued_by(&anchors, &parsed, algorithms)?;
                part.check(&parsed)
            }
        };
        let vouching = self.members.iter().filter(|member| member.parts.contains(&part));
        let (timely, untimely): (Vec<_>, Vec<_>) = vouching.partition(|member| member.days.hold(now));
        let why = match by(&timely) {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        let only = untimely.into_iter().find(|member| by(&[*member]).is_ok());
        Err(match (only.and_then(|member| member.refusal(now)), kind) {
            (Some(only), _) => only,
            // What webpki said tells more.
            (None, Irregular::Authority) if is_for_want_of_an_issuer(&why) => refusal,
            (None, _) => why,
        })
    }
}

fn is_for_want_of_an_issuer(refusal: &Error) -> bool {
    let Error::InvalidCertificate(why) = refusal else { return false };
    matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature)
}

/// Reads all of a leaf.
fn read<'a>(leaf: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(leaf) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

/// Whether a leaf is of X.509 version 1, hence without extensions.
fn is_version_1(leaf: &X509Certificate<'_>) -> bool {
    let has_ids = leaf.issuer_uid.is_some() || leaf.subject_uid.is_some();
    leaf.version() == X509Version::V1 && leaf.extensions().is_empty() && !has_ids
}

fn check_days(leaf: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let days = Days::of(leaf);
    let at = i64::try_from(now.as_secs()).ok().and_then(|now| Timestamp::from_second(now).ok());
    match at.and_then(|at| days.untimely(at)) {
        Some(Untimely::NotYet(_)) => Err(CertificateError::NotValidYet.into()),
        None if days.hold(now) => Ok(()),
        _ => Err(CertificateError::Expired.into()),
    }
}

/// Whether one of the anchors itself signed `leaf`. One that is limited to some names vouches for no irregular leaf.
fn check_issued_by(
    anchors: &[TrustAnchor<'_>],
    leaf: &X509Certificate<'_>,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Result<(), Error> {
    let (issuer, subject) = (inner(leaf.issuer().as_raw())?, inner(leaf.subject().as_raw())?);
    let (tbs, algorithm) = signed(leaf)?;
    let mut why = CertificateError::UnknownIssuer.into();
    for anchor in anchors {
        let key = webpki::spki_for_anchor(anchor);
        // Go's `alreadyInChain`: nobody vouches for itself.
        let is_itself = subject == &*anchor.subject && leaf.public_key().raw == &*key;
        if issuer != &*anchor.subject || is_itself || anchor.name_constraints.is_some() {
            continue;
        }
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        let candidates = algorithms.iter().filter(|it| &*it.signature_alg_id() == algorithm);
        match verify(&key, candidates, tbs, &leaf.signature_value.data) {
            Ok(()) => return Ok(()),
            Err(other) => why = other,
        }
    }
    Err(why)
}

/// Whether one of the anchors vouches for `leaf` as webpki decides, but for what [`Part`] says of purposes and signers.
fn check_chain(
    anchors: &[TrustAnchor<'_>],
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    part: Part,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
    now: UnixTime,
) -> Result<(), Error> {
    use webpki::Error::{InvalidSignatureForPublicKey, RequiredEkuNotFoundContext, UnknownIssuer};
    let may_sign = |path: &VerifiedPath<'_>| {
        let all = path.intermediate_certificates().all(|it| part.may_be_vouched_for_by(&it.der()));
        if all { Ok(()) } else { Err(UnknownIssuer) }
    };
    let verified = EndEntityCert::try_from(leaf).and_then(|leaf| {
        leaf.verify_for_usage(algorithms, anchors, others, now, part, None, Some(&may_sign)).map(drop)
    });
    verified.map_err(|error| {
        let why = match error {
            UnknownIssuer => CertificateError::UnknownIssuer,
            InvalidSignatureForPublicKey => CertificateError::BadSignature,
            RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        why.into()
    })
}

/// The key of a leaf of X.509 version 1, where webpki refused it for that.
pub(super) fn public_key_beyond(
    leaf: &CertificateDer<'_>,
    refusal: Error,
) -> Result<SubjectPublicKeyInfoDer<'static>, Error> {
    let parsed = read(leaf)?;
    if Irregular::of(&refusal) != Some(Irregular::Version) || !is_version_1(&parsed) {
        return Err(refusal);
    }
    Ok(parsed.public_key().raw.to_vec().into())
}

/// As rustls' `verify_tls12_signature`, by a key alone.
pub(super) fn verify_tls12_signature_with_raw_key(
    message: &[u8],
    key: &SubjectPublicKeyInfoDer<'_>,
    signed: &DigitallySignedStruct,
    supported: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let candidates = supported.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let (_, candidates) = candidates.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let key = RawPublicKeyEntity::try_from(key).map_err(|_| CertificateError::BadEncoding)?;
    verify(&key, candidates.iter(), message, signed.signature())?;
    Ok(HandshakeSignatureValid::assertion())
}

/// By the one of the candidates that is for keys of this kind.
fn verify<'a>(
    key: &RawPublicKeyEntity<'_>,
    candidates: impl Iterator<Item = &'a &'a dyn SignatureVerificationAlgorithm>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), Error> {
    for algorithm in candidates {
        match key.verify_signature(*algorithm, message, signature) {
            Ok(()) => return Ok(()),
            Err(webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => {}
            Err(_) => return Err(CertificateError::BadSignature.into()),
        }
    }
    Err(CertificateError::Other(OtherError(Arc::new(UnknownSignature))).into())
}

/// What `leaf`'s signature is over, and by which algorithm. All of what was read is below it.
fn signed<'a>(leaf: &X509Certificate<'a>) -> Result<(&'a [u8], &'a [u8]), Error> {
    let whole = inner(leaf.as_raw())?;
    let (behind, _) = Any::from_der(whole).map_err(|_| CertificateError::BadEncoding)?;
    let (tbs, _) = whole.split_at(whole.len() - behind.len());
    let (_, algorithm) = Any::from_der(behind).map_err(|_| CertificateError::BadEncoding)?;
    let agree = leaf.tbs_certificate.signature == leaf.signature_algorithm;
    let is_whole = leaf.tbs_certificate.as_ref() == tbs && leaf.signature_value.unused_bits == 0;
    if agree && is_whole { Ok((tbs, algorithm.data)) } else { Err(CertificateError::BadEncoding.into()) }
}

/// What is in a sequence.
fn inner(der: &[u8]) -> Result<&[u8], Error> {
    match Any::from_der(der) {
        Ok(([], any)) if any.tag() == Tag::Sequence => Ok(any.data),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

#[cfg(test)]
#[path = "irregular_tests.rs"]
mod tests;
