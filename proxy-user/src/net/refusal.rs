//! Why a handshake failed, in words that say what to do. The library's are its types' names, and seconds since 1970.

use std::fmt;
use std::io;

use k8s_openapi::jiff::Timestamp;
use rustls::{
    AlertDescription, CertificateError, Error, InconsistentKeys, InvalidMessage, OtherError, PeerIncompatible,
};
use rustls_pki_types::UnixTime;

use super::bundle::OnlyUntimely;

/// Where a certificate authority is named.
const BUNDLE: &str =
    "the CA bundle here (--ca-cert of an agent, --cluster-ca-cert or --server-ca-cert of a server)";

/// What TLS itself says of a failed handshake.
pub(super) fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// A failed handshake's error, to be shown.
pub(super) struct Why<'a>(pub(super) &'a io::Error);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match cause(self.0) {
            Some(Error::InvalidCertificate(error)) => certificate(error, f),
            Some(Error::NoCertificatesPresented) => f.write_str(
                "the peer showed no certificate; give it one (--agent-cert and --agent-key of an agent, clientCert and \
                 clientKey in the EgressSelectorConfiguration of an API server)",
            ),
            Some(Error::AlertReceived(alert)) => told(*alert, f),
            Some(Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon)) => f.write_str(
                "the peer takes no signature that the key of our certificate can make; give us one with another kind \
                 of key",
            ),
            Some(Error::PeerIncompatible(_)) => write!(
                f,
                "the peer has too little of TLS in common with us; see --tls-min-version and --cipher-suites of the \
                 server ({})",
                self.0
            ),
            Some(Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge,
            )) => write!(f, "what the peer says is no TLS; check address and port ({})", self.0),
            None if self.0.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the peer closed the connection instead; its log may say why")
            }
            _ => write!(f, "{}", self.0),
        }
    }
}

fn certificate(error: &CertificateError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext, NotValidForName,
        NotValidForNameContext, NotValidYet, NotValidYetContext, Other, UnknownIssuer,
    };
    match error {
        ExpiredContext { not_after, .. } => {
            write!(f, "the peer's certificate expired at {}; give it a new one", date(*not_after))?;
            f.write_str(", or set this machine's clock if that is wrong")
        }
        NotValidYetContext { not_before, .. } => {
            write!(f, "the peer's certificate is not valid before {}; give it another", date(*not_before))?;
            f.write_str(", or set this machine's clock if that is wrong")
        }
        Expired | NotValidYet => f.write_str(
            "the peer's certificate is not valid today; give it another, or set this machine's clock if that is wrong",
        ),
        UnknownIssuer => {
            write!(f, "nobody in {BUNDLE} signed the peer's certificate; put the authority there that did")
        }
        BadSignature => write!(
            f,
            "the peer's certificate names a signer that is in {BUNDLE}, but with another key; put the authority there \
             that signed it"
        ),
        Other(OtherError(other)) if let Some(only) = other.downcast_ref::<OnlyUntimely>() => write!(
            f,
            "only the CA {:?} of {BUNDLE} vouches for the peer's certificate, and it {}; put its successor there, give \
             the peer a certificate of that one if it has another key, or set this machine's clock if that is wrong",
            only.subject, only.untimely
        ),
        Other(OtherError(other)) if is_ca_as_leaf(other.downcast_ref()) => write!(
            f,
            "the peer's certificate is that of a certificate authority, and neither itself nor who signed it is in \
             {BUNDLE}; put it or its signer there, or give the peer one of a server or client (basicConstraints \
             CA:FALSE)"
        ),
        Other(OtherError(other)) if is_of_old_version(other.downcast_ref()) => f.write_str(
            "the peer's certificate is of an X.509 version before 3, which has no place for the name of a server; give \
             it one of version 3 with a subjectAltName (openssl x509 -req makes one when it gets an -extfile)",
        ),
        NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            write!(
                f,
                "the peer's certificate is for {names}, not for {}; name the peer as it does (--proxy-server-host of \
                 an agent), or give it one with that subjectAltName",
                expected.to_str()
            )
        }
        NotValidForName => f.write_str(
            "the peer's certificate is for another name; name the peer as it does (--proxy-server-host of an agent)",
        ),
        InvalidPurpose | InvalidPurposeContext { .. } => f.write_str(
            "the peer's certificate is not meant for its part (extendedKeyUsage: a server needs serverAuth, an agent \
             or API server clientAuth); give it one that is",
        ),
        other => write!(f, "the peer's certificate cannot be used, give it another ({other})"),
    }
}

fn is_ca_as_leaf(error: Option<&webpki::Error>) -> bool {
    matches!(error, Some(webpki::Error::CaUsedAsEndEntity))
}

fn is_of_old_version(error: Option<&webpki::Error>) -> bool {
    matches!(error, Some(webpki::Error::UnsupportedCertVersion))
}

/// A name as the library shows it, without its type: `DnsName("a.example")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// Why our own certificate and key are no pair.
pub(super) fn of_pair(error: &Error) -> String {
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key is another certificate's; put both files of one pair there".to_owned()
        }
        other => other.to_string(),
    }
}

/// Whether a peer says by this that it does not take our certificate, or wants one.
pub(crate) fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, UnknownCA, UnsupportedCertificate,
    };
    matches!(
        alert,
        AccessDenied
            | BadCertificate
            | CertificateExpired
            | CertificateRequired
            | CertificateRevoked
            | CertificateUnknown
            | UnknownCA
            | UnsupportedCertificate
    )
}

/// What the peer said before it ended the handshake.
fn told(alert: AlertDescription, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match alert {
        AlertDescription::NoApplicationProtocol => {
            f.write_str("the peer knows none of our application protocols (ALPN); check address and port")
        }
        AlertDescription::ProtocolVersion => f.write_str(
            "the peer has no TLS version in common with us; see --tls-min-version of the server",
        ),
        // Go's below TLS 1.3 for the want of a client's certificate, too.
        AlertDescription::HandshakeFailure => f.write_str(
            "the peer found no common ground: it may want a certificate of us (--agent-cert of an agent), or other \
             cipher suites (--cipher-suites of the server)",
        ),
        alert if is_about_certificate(alert) => write!(
            f,
            "the peer does not take our certificate (TLS alert {alert:?}): ours must be valid today, and its CA bundle \
             must have who signed ours"
        ),
        AlertDescription::UnrecognisedName => {
            f.write_str("the peer serves nobody of that name; check --proxy-server-host of the agent")
        }
        other => write!(f, "the peer ended it (TLS alert {other:?}); its log may say why"),
    }
}

fn date(time: UnixTime) -> String {
    let second = i64::try_from(time.as_secs()).ok();
    let at = second.and_then(|second| Timestamp::from_second(second).ok());
    at.map_or_else(|| "a time beyond all calendars".to_owned(), |at| at.to_string())
}
