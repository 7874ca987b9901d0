//! Certificates of our own whose time has not come or is over: they load, and peers refuse them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::room::Seldom;

/// What is wrong with a certificate now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Untimely {
    #[error(
        "the certificate {path:?} expired at {at}: peers refuse it; put a new one there, which is read at once"
    )]
    Expired { path: PathBuf, at: Timestamp },
    #[error(
        "the certificate {path:?} is not valid before {at}: until then peers refuse it; set this machine's clock if \
         that is wrong, or put another there, which is read at once"
    )]
    NotYet { path: PathBuf, at: Timestamp },
}

/// Warns if peers will refuse the certificate that was just loaded. Endpoints that share a file warn once.
pub(super) fn warn(path: &Path, leaf: &CertificateDer<'_>) {
    static SAID: LazyLock<Mutex<HashMap<PathBuf, Seldom>>> = LazyLock::new(Mutex::default);
    // Less than between two looks at a file.
    const EVERY: Duration = Duration::from_secs(2);
    let Some(error) = untimely(path, leaf, Timestamp::now()) else { return };
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let news = said.entry(path.to_owned()).or_insert_with(|| Seldom::new(EVERY));
    if news.take(std::time::Instant::now()) {
        tracing::warn!("{error}");
    }
}

fn untimely(path: &Path, leaf: &CertificateDer<'_>, now: Timestamp) -> Option<Untimely> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let [from, to] = [parsed.validity().not_before, parsed.validity().not_after];
    let [from, to] = [from, to].map(|at| Timestamp::from_second(at.timestamp()));
    match (from, to) {
        (Ok(at), _) if now < at => Some(Untimely::NotYet { path: path.into(), at }),
        (_, Ok(at)) if now > at => Some(Untimely::Expired { path: path.into(), at }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_untimely_before_and_after_its_days() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2025, 3, 1);
        let certificate = params.self_signed(&key).unwrap();
        let on = |day: &str| {
            let now = day.parse().unwrap();
            untimely(Path::new("/etc/a.crt"), certificate.der(), now).map(|error| error.to_string())
        };
        let early = on("2024-02-28T23:59:59Z").unwrap();
        assert!(
            early.starts_with("the certificate \"/etc/a.crt\" is not valid before 2024-02-29T00:00:00Z: ")
        );
        assert_eq!(on("2024-02-29T00:00:00Z"), None);
        assert_eq!(on("2025-03-01T00:00:00Z"), None);
        let late = on("2025-03-01T00:00:01Z").unwrap();
        assert!(
            late.starts_with("the certificate \"/etc/a.crt\" expired at 2025-03-01T00:00:00Z: "),
            "{late}"
        );
    }
}
