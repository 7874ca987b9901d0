//! `--tls-min-version` and `--cipher-suites` by Go's names.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, SupportedProtocolVersion, version};

/// A name that Go's TLS does not know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("cipher suite {0} not supported, doesn't exist or considered as insecure")]
    Cipher(String),
    #[error(
        "unsupported TLS version {0:?}, supported values are: VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13"
    )]
    Version(String),
}

/// Names that Go accepts and rustls does not have: they are accepted and contribute nothing.
const CBC: [&str; 4] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
];

const NAMES: [(&str, CipherSuite); 11] = [
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    // Go's older spellings of the same two suites.
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Which versions and suites our servers accept.
#[derive(Debug, Clone)]
pub struct TlsPolicy {
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static SupportedProtocolVersion],
    /// What was asked for and cannot be had, in words for a log line.
    pub notes: Vec<String>,
}

impl Default for TlsPolicy {
    fn default() -> TlsPolicy {
        let mut provider = aws_lc_rs::default_provider();
        // As Go. Key schedules in SHA-256 run in hardware where those in SHA-384 do not, and a lane's resumed
        // handshake is mostly that.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        TlsPolicy { provider: Arc::new(provider), versions: BOTH, notes: Vec::new() }
    }
}

static BOTH: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
static ONLY_13: &[&SupportedProtocolVersion] = &[&version::TLS13];

impl TlsPolicy {
    /// `min_version` and `suites` as given on the command line; empty means the default. The suites restrict
    /// TLS 1.2 only, as in Go.
    pub fn parse(min_version: &str, suites: &[String]) -> Result<TlsPolicy, PolicyError> {
        let mut policy = TlsPolicy::default();
        policy.versions = match min_version {
            "" | "VersionTLS12" => BOTH,
            "VersionTLS13" => ONLY_13,
            "VersionTLS10" | "VersionTLS11" => {
                policy
                    .notes
                    .push(format!("{min_version} is asked for; versions below TLS 1.2 are not offered"));
                BOTH
            }
            other => return Err(PolicyError::Version(other.into())),
        };
        if suites.is_empty() {
            return Ok(policy);
        }
        let mut wanted = Vec::new();
        for name in suites {
            match NAMES.iter().find(|(known, _)| known == name) {
                Some((_, suite)) => wanted.push(*suite),
                None if CBC.contains(&name.as_str()) => {
                    policy
                        .notes
                        .push(format!("cipher suite {name} is accepted but not offered: no CBC suites here"));
                }
                None => return Err(PolicyError::Cipher(name.clone())),
            }
        }
        let mut provider = CryptoProvider::clone(&policy.provider);
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || wanted.contains(&suite.suite()));
        if provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()) {
            policy.versions = ONLY_13;
            policy
                .notes
                .push("of the cipher suites none is left for TLS 1.2, so only TLS 1.3 is offered".into());
        }
        policy.provider = Arc::new(provider);
        Ok(policy)
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }

    pub(super) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        self.versions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(min: &str, suites: &[&str]) -> Result<TlsPolicy, PolicyError> {
        TlsPolicy::parse(min, &suites.iter().map(|name| name.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn suites_restrict_tls12_only() {
        let policy = parse("", &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]).unwrap();
        let tls12: Vec<_> =
            policy.provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).collect();
        assert_eq!(tls12.len(), 1);
        assert_eq!(policy.provider.cipher_suites.len(), 4);
    }

    #[test]
    fn cbc_names_are_accepted_with_a_note_and_leave_tls13() {
        let policy = parse("VersionTLS12", &["TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"]).unwrap();
        assert_eq!(policy.notes.len(), 2);
        assert!(policy.notes[1].contains("only TLS 1.3"), "{:?}", policy.notes);
        assert_eq!(policy.versions.len(), 1);
    }

    #[test]
    fn unknown_names_are_refused_in_upstreams_words() {
        let error = parse("", &["TLS_RSA_WITH_RC4_128_SHA"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cipher suite TLS_RSA_WITH_RC4_128_SHA not supported, doesn't exist or considered as insecure"
        );
        assert!(
            parse("TLS1.2", &[]).unwrap_err().to_string().starts_with("unsupported TLS version \"TLS1.2\"")
        );
    }
}
