//! PEM files read by Go's rules: blocks one understands count, everything between them is skipped.

use std::fs;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate, key or CA file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    #[error("failed to read {what} {path:?}: {source}; check that the file exists and is readable")]
    Read { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{what} {path:?} holds no usable CERTIFICATE block; it must be PEM")]
    NoCertificate { what: &'static str, path: PathBuf },
    #[error("{what} {path:?} holds a certificate that does not parse: {why}")]
    BadCertificate { what: &'static str, path: PathBuf, why: String },
    #[error(
        "key {path:?} holds no private key that can be used; it must be a PEM block of PKCS#1, PKCS#8 or SEC1"
    )]
    NoKey { path: PathBuf },
}

/// A CA bundle: there is at least one certificate.
pub struct Roots {
    pub anchors: RootCertStore,
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Reads a CA bundle: header-less `CERTIFICATE` blocks count, other types and broken text are skipped, a
/// well-formed block with bad DER fails the load, and so does a bundle without any certificate.
pub fn roots(path: &Path) -> Result<Roots, PemError> {
    const WHAT: &str = "CA bundle";
    let mut anchors = RootCertStore::empty();
    let certificates = chain(path, WHAT)?;
    for der in &certificates {
        let added = anchors.add(der.clone());
        added.map_err(|error| PemError::BadCertificate {
            what: WHAT,
            path: path.into(),
            why: error.to_string(),
        })?;
    }
    Ok(Roots { anchors, certificates })
}

/// Reads every certificate of `path`, in order; there is at least one.
pub fn chain(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = read(path, what)?;
    let blocks = blocks(&text).filter(|block| block.label == b"CERTIFICATE" && !block.has_headers());
    let chain: Vec<_> = blocks.filter_map(|block| CertificateDer::from_pem_slice(block.text).ok()).collect();
    if chain.is_empty() {
        return Err(PemError::NoCertificate { what, path: path.into() });
    }
    for der in &chain {
        x509_parser::parse_x509_certificate(der).map_err(|error| PemError::BadCertificate {
            what,
            path: path.into(),
            why: error.to_string(),
        })?;
    }
    Ok(chain)
}

/// Reads the first private key of `path`.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = read(path, "key")?;
    let key = blocks(&text)
        .filter(|block| block.label.ends_with(b"PRIVATE KEY"))
        .find_map(|block| PrivateKeyDer::from_pem_slice(block.text).ok());
    key.ok_or_else(|| PemError::NoKey { path: path.into() })
}

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, PemError> {
    fs::read(path).map_err(|source| PemError::Read { what, path: path.into(), source })
}

struct Block<'a> {
    label: &'a [u8],
    /// From its BEGIN line to its END line, both included.
    text: &'a [u8],
    body: &'a [u8],
}

impl Block<'_> {
    fn has_headers(&self) -> bool {
        self.body.contains(&b':')
    }
}

/// The well-framed blocks of `text`; a BEGIN without its END is skipped, what follows it is looked at again.
fn blocks(text: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = find(rest, b"-----BEGIN ")?;
            let from = &rest[start..];
            let after = &from[b"-----BEGIN ".len()..];
            rest = after;
            let Some(dashes) = find(after, b"-----") else { continue };
            let label = &after[..dashes];
            if label.contains(&b'\n') {
                continue;
            }
            let body = &after[dashes + 5..];
            let end = [b"-----END ", label, b"-----"].concat();
            let Some(length) = find(body, &end) else { continue };
            if find(&body[..length], b"-----BEGIN ").is_some() {
                continue;
            }
            let whole = from.len() - body.len() + length + end.len();
            rest = &from[whole..];
            return Some(Block { label, text: &from[..whole], body: &body[..length] });
        }
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap().pem()
    }

    fn count(text: &str) -> Result<usize, PemError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        roots(file.path()).map(|roots| roots.anchors.len())
    }

    #[test]
    fn other_blocks_and_broken_text_are_skipped() {
        let (one, two) = (certificate(), certificate());
        assert_eq!(count(&format!("hello\n{one}")).unwrap(), 1);
        assert_eq!(
            count(&format!("{one}-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n{two}")).unwrap(),
            2
        );
        assert_eq!(count(&format!("{one}-----BEGIN CERTIFICATE-----\nAAAA")).unwrap(), 1);
        assert_eq!(count(&format!("-----BEGIN CERTIFICATE-----\nAAAA\n{one}")).unwrap(), 1);
        assert_eq!(
            count(&format!("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n{one}")).unwrap(),
            1
        );
        let headers = one.replacen("-----\n", "-----\nProc-Type: 4\n\n", 1);
        assert_eq!(count(&format!("{headers}{two}")).unwrap(), 1);
    }

    #[test]
    fn bad_der_and_nothing_at_all_fail_and_name_the_file() {
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(count(&format!("{}{bad}", certificate())), Err(PemError::BadCertificate { .. })));
        assert!(matches!(count(""), Err(PemError::NoCertificate { .. })));
        let missing = roots(Path::new("/nowhere/ca.crt")).err().unwrap();
        assert!(missing.to_string().contains("/nowhere/ca.crt"), "{missing}");
    }
}
