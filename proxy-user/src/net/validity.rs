//! Certificates of our own whose time has not come or is over: they load, and peers refuse them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use rustls::CertificateError;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::seldom::Seldom;

/// What is wrong with a certificate now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Untimely {
    #[error(
        "the certificate {path:?} expired at {at}: peers refuse it; put a new one there, which is read within seconds"
    )]
    Expired { path: PathBuf, at: Timestamp },
    #[error(
        "the certificate {path:?} is not valid before {at}: until then peers refuse it; set this machine's clock if \
         that is wrong, or put another there, which is read within seconds"
    )]
    NotYet { path: PathBuf, at: Timestamp },
}

/// The certificates that are in force here, by their files.
static IN_FORCE: LazyLock<Mutex<HashMap<PathBuf, InForce>>> = LazyLock::new(Mutex::default);

/// How often the same certificate is warned of.
const EVERY: Duration = Duration::from_secs(3600);

struct InForce {
    leaf: CertificateDer<'static>,
    days: Days,
    told: Seldom,
}

/// When a certificate is valid; `None`: a bound that is beyond all calendars, or cannot be read.
#[derive(Default)]
struct Days {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

/// Takes note of a certificate that was just loaded, and looks at it. Endpoints that share a file share its warnings.
pub(super) fn note(path: &Path, leaf: &CertificateDer<'_>) {
    let mut in_force = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner);
    if in_force.get(path).is_none_or(|known| known.leaf != *leaf) {
        in_force.insert(path.into(), InForce::new(leaf));
    }
    drop(in_force);
    look(path);
}

/// Warns if peers will refuse this file's certificate by now. To be called every few seconds.
pub(super) fn look(path: &Path) {
    let in_force = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner);
    let news = in_force.get(path).and_then(|known| known.news(path, Timestamp::now(), Instant::now()));
    if let Some(error) = news {
        tracing::warn!("{error}");
    }
}

impl InForce {
    fn new(leaf: &CertificateDer<'_>) -> InForce {
        InForce { leaf: leaf.clone().into_owned(), days: Days::of(leaf), told: Seldom::new(EVERY) }
    }

    /// What to tell at this time, which is asked of both clocks.
    fn news(&self, path: &Path, now: Timestamp, at: Instant) -> Option<Untimely> {
        self.days.untimely(path, now).filter(|_| self.told.take(at))
    }
}

impl Days {
    fn of(leaf: &CertificateDer<'_>) -> Days {
        let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return Days::default() };
        let [from, to] = [parsed.validity().not_before, parsed.validity().not_after]
            .map(|at| Timestamp::from_second(at.timestamp()).ok());
        Days { from, to }
    }

    fn untimely(&self, path: &Path, now: Timestamp) -> Option<Untimely> {
        match (self.from, self.to) {
            (Some(at), _) if now < at => Some(Untimely::NotYet { path: path.into(), at }),
            (_, Some(at)) if now > at => Some(Untimely::Expired { path: path.into(), at }),
            _ => None,
        }
    }
}

/// Of a peer that resumes a session, whose certificate nobody verifies again: refused from the end of its days on, as
/// Go's crypto/tls does (`handshake_server_tls13.go`, `checkForResumption`).
pub(super) fn check_resumed(leaf: &X509Certificate<'_>) -> Result<(), rustls::Error> {
    let time = UnixTime::now();
    let not_after = Duration::from_secs(u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0));
    let not_after = UnixTime::since_unix_epoch(not_after);
    if time <= not_after {
        return Ok(());
    }
    Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }))
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
        let days = Days::of(params.self_signed(&key).unwrap().der());
        let on = |day: &str| {
            let now = day.parse().unwrap();
            days.untimely(Path::new("/etc/a.crt"), now).map(|error| error.to_string())
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

    #[test]
    fn one_that_expires_while_it_is_in_force_is_told_and_told_again_after_an_hour() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2025, 1, 1);
        let in_force = InForce::new(params.self_signed(&key).unwrap().der());
        let start = Instant::now();
        let told = [
            ("2024-12-31T23:59:55Z", 0),
            ("2025-01-01T00:00:05Z", 10),
            ("2025-01-01T00:00:10Z", 15),
            ("2025-01-01T01:00:05Z", 3610),
        ]
        .map(|(now, second)| {
            let at = start + Duration::from_secs(second);
            in_force.news(Path::new("a.crt"), now.parse().unwrap(), at).is_some()
        });
        assert_eq!(told, [false, true, false, true]);
    }
}
