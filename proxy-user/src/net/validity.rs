//! Certificates whose time has not come or is over. Our own load, and peers refuse them; those of a CA bundle load, and
//! vouch for nobody.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::seldom::Seldom;

/// When a certificate counts: seconds since 1970, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Days {
    from: i64,
    to: i64,
}

/// The day is none of a certificate's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Untimely {
    #[error("expired at {0}")]
    Expired(Timestamp),
    #[error("is not valid before {0}")]
    NotYet(Timestamp),
}

impl Days {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Days {
        let validity = certificate.validity();
        Days { from: validity.not_before.timestamp(), to: validity.not_after.timestamp() }
    }

    /// None of what cannot be read.
    pub(super) fn of_der(certificate: &CertificateDer<'_>) -> Days {
        X509Certificate::from_der(certificate)
            .map_or(Days { from: 1, to: 0 }, |(_, parsed)| Days::of(&parsed))
    }

    pub(super) fn hold(self, now: UnixTime) -> bool {
        i64::try_from(now.as_secs()).is_ok_and(|now| (self.from..=self.to).contains(&now))
    }

    pub(super) fn untimely(self, now: Timestamp) -> Option<Untimely> {
        match [self.from, self.to].map(Timestamp::from_second) {
            [Ok(from), _] if now < from => Some(Untimely::NotYet(from)),
            [_, Ok(to)] if now > to => Some(Untimely::Expired(to)),
            _ => None,
        }
    }
}

/// What a file's certificates are for here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Use {
    /// To be shown to peers.
    Own,
    /// To vouch for peers.
    Bundle,
}

/// What is wrong with a certificate now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Warning {
    #[error(
        "the certificate {path:?} {untimely}: peers refuse it; put a new one there, which is read within seconds"
    )]
    OwnExpired { path: PathBuf, untimely: Untimely },
    #[error(
        "the certificate in force, which {path:?} had before, {untimely}: peers refuse it, and what is in the files \
         now does not load ({why}); mend that, and it is read within seconds"
    )]
    OwnWithoutHeir { path: PathBuf, untimely: Untimely, why: String },
    #[error(
        "the certificate {path:?} {untimely}: until then peers refuse it; set this machine's clock if that is wrong, \
         or put another there, which is read within seconds"
    )]
    OwnEarly { path: PathBuf, untimely: Untimely },
    #[error(
        "the certificate of {subject:?} in the CA bundle {path:?} {untimely}: peers for which no other vouches are \
         refused; put its successor there, which is read within seconds, or set this machine's clock if that is wrong"
    )]
    Bundle { path: PathBuf, subject: String, untimely: Untimely },
}

/// Certificates by their files.
type Files = HashMap<(PathBuf, Use), Vec<InForce>>;

/// The certificates that are in force here.
static IN_FORCE: LazyLock<Mutex<Files>> = LazyLock::new(Mutex::default);

/// How often the same certificate is warned of.
const EVERY: Duration = Duration::from_secs(3600);

struct InForce {
    certificate: CertificateDer<'static>,
    subject: String,
    days: Days,
    told: Seldom,
}

/// Takes note of certificates that were just loaded, and looks at them. Endpoints that share a file share its warnings.
pub(super) fn note(path: &Path, purpose: Use, certificates: &[CertificateDer<'_>]) {
    let mut in_force = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = in_force.entry((path.into(), purpose)).or_default();
    if !known.iter().map(|known| &known.certificate).eq(certificates) {
        *known = certificates.iter().filter_map(InForce::new).collect();
    }
    drop(in_force);
    look(path, purpose, None);
}

/// Warns of this file's certificates that do not count by now. `bad` is why what is in the files now does not load, where
/// that is so. To be called every few seconds.
pub(super) fn look(path: &Path, purpose: Use, bad: Option<&str>) {
    let in_force = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = in_force.get(&(path.into(), purpose)).into_iter().flatten();
    for warning in known.filter_map(|known| known.news(path, purpose, Timestamp::now(), Instant::now())) {
        tracing::warn!("{}", warning.beside(bad));
    }
}

impl Warning {
    /// The same, while newer files do not load.
    fn beside(self, bad: Option<&str>) -> Warning {
        match (self, bad) {
            (Warning::OwnExpired { path, untimely }, Some(why)) => {
                Warning::OwnWithoutHeir { path, untimely, why: why.to_owned() }
            }
            (warning, _) => warning,
        }
    }
}

impl InForce {
    /// Read once; `None`: of what cannot be read no days are known.
    fn new(certificate: &CertificateDer<'_>) -> Option<InForce> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        Some(InForce {
            certificate: certificate.clone().into_owned(),
            subject: parsed.subject().to_string(),
            days: Days::of(&parsed),
            told: Seldom::new(EVERY),
        })
    }

    /// What to tell at this time, which is asked of both clocks.
    fn news(&self, path: &Path, purpose: Use, now: Timestamp, at: Instant) -> Option<Warning> {
        self.warning(path, purpose, now).filter(|_| self.told.take(at))
    }

    fn warning(&self, path: &Path, purpose: Use, now: Timestamp) -> Option<Warning> {
        let untimely = self.days.untimely(now)?;
        let path = path.into();
        Some(match (purpose, untimely) {
            (Use::Own, Untimely::Expired(_)) => Warning::OwnExpired { path, untimely },
            (Use::Own, Untimely::NotYet(_)) => Warning::OwnEarly { path, untimely },
            (Use::Bundle, _) => Warning::Bundle { path, subject: self.subject.clone(), untimely },
        })
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
        let certificate = InForce::new(params.self_signed(&key).unwrap().der()).unwrap();
        let on = |day: &str| {
            let now = day.parse().unwrap();
            certificate.warning(Path::new("/etc/a.crt"), Use::Own, now).map(|warning| warning.to_string())
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
        let now = "2025-03-01T00:00:01Z".parse().unwrap();
        let expired = || certificate.warning(Path::new("/etc/a.crt"), Use::Own, now).unwrap();
        assert_eq!(expired().beside(None).to_string(), late);
        let without = expired().beside(Some("\"/etc/a.key\" is no key")).to_string();
        let wanted = "in force, which \"/etc/a.crt\" had before, expired at 2025-03-01T00:00:00Z: ";
        assert!(without.contains(wanted) && without.contains("(\"/etc/a.key\" is no key)"), "{without}");
    }

    #[test]
    fn a_ca_bundle_is_told_of_each_that_vouches_for_nobody() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "cluster");
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2025, 1, 1);
        let certificate = InForce::new(params.self_signed(&key).unwrap().der()).unwrap();
        for (now, wanted) in [
            (
                "2023-12-31T23:59:59Z",
                Some("is not valid before 2024-01-01T00:00:00Z: peers for which no other "),
            ),
            ("2024-06-01T00:00:00Z", None),
            (
                "2025-01-01T00:00:01Z",
                Some("expired at 2025-01-01T00:00:00Z: peers for which no other vouches "),
            ),
        ] {
            let told = certificate.warning(Path::new("/ca.crt"), Use::Bundle, now.parse().unwrap());
            let told = told.map(|warning| warning.to_string());
            let wanted = wanted
                .map(|it| format!("the certificate of \"CN=cluster\" in the CA bundle \"/ca.crt\" {it}"));
            match (told, wanted) {
                (Some(told), Some(wanted)) => assert!(told.starts_with(&wanted), "{told}"),
                (told, wanted) => assert_eq!(told, wanted),
            }
        }
    }

    #[test]
    fn one_that_expires_while_it_is_in_force_is_told_and_told_again_after_an_hour() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2025, 1, 1);
        let in_force = InForce::new(params.self_signed(&key).unwrap().der()).unwrap();
        let start = Instant::now();
        let told = [
            ("2024-12-31T23:59:55Z", 0),
            ("2025-01-01T00:00:05Z", 10),
            ("2025-01-01T00:00:10Z", 15),
            ("2025-01-01T01:00:05Z", 3610),
        ]
        .map(|(now, second)| {
            let at = start + Duration::from_secs(second);
            in_force.news(Path::new("a.crt"), Use::Own, now.parse().unwrap(), at).is_some()
        });
        assert_eq!(told, [false, true, false, true]);
    }
}
