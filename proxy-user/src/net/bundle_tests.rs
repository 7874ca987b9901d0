//! Each side's peers on days of the test's choice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;

use super::*;

/// A CA and when it counts, in years; its own issuer is another or itself.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn copy(key: &KeyPair) -> KeyPair {
    KeyPair::from_pem(&key.serialize_pem()).unwrap()
}

fn params(name: &str, [from, to]: [i32; 2]) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(to, 1, 1);
    params
}

impl Authority {
    fn new(name: &str, years: [i32; 2], key: KeyPair, by: Option<&Authority>) -> Authority {
        let mut params = params(name, years);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = match by {
            None => params.self_signed(&key),
            Some(by) => params.signed_by(&key, &by.issuer),
        };
        let certificate = certificate.unwrap().der().clone();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, years: [i32; 2]) -> CertificateDer<'static> {
        params("peer", years).signed_by(&key(), &self.issuer).unwrap().der().clone()
    }
}

fn roots(bundle: &[&CertificateDer<'_>]) -> Roots {
    let certificates: Vec<_> = bundle.iter().map(|der| (*der).clone().into_owned()).collect();
    let mut anchors = RootCertStore::empty();
    certificates.iter().for_each(|der| anchors.add(der.clone()).unwrap());
    Roots { anchors, certificates }
}

fn july(year: i32) -> UnixTime {
    let second = rcgen::date_time_ymd(year, 7, 1).unix_timestamp();
    UnixTime::since_unix_epoch(Duration::from_secs(second.try_into().unwrap()))
}

/// On the first of July, as a client and as a server.
fn in_year(
    year: i32,
    bundle: &[&CertificateDer<'_>],
    chain: &[&CertificateDer<'static>],
) -> [Result<(), CertificateError>; 2] {
    let roots = || roots(bundle);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let now = july(year);
    let leaf = chain[0];
    let others: Vec<_> = chain[1..].iter().map(|der| (*der).clone()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let client = of_clients(roots(), provider.clone()).unwrap().verify_client_cert(leaf, &others, now);
    let server = of_servers(roots(), provider).unwrap().verify_server_cert(leaf, &others, &name, &[], now);
    [client.map(drop), server.map(drop)].map(|verified| match verified {
        Ok(()) => Ok(()),
        Err(Error::InvalidCertificate(why)) => Err(why),
        Err(other) => panic!("{other}"),
    })
}

/// The same on both sides: who would vouch, and why they may not.
fn only(verified: [Result<(), CertificateError>; 2]) -> String {
    let [client, server] = verified.map(|verified| match verified {
        Err(CertificateError::Other(OtherError(other))) => {
            other.downcast_ref::<OnlyUntimely>().unwrap().to_string()
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(client, server);
    client
}

const TAKEN: [Result<(), CertificateError>; 2] = [Ok(()), Ok(())];
const ALWAYS: [i32; 2] = [2000, 2040];

#[test]
fn a_ca_vouches_on_its_days_only() {
    let old = Authority::new("old", [2010, 2020], key(), None);
    let middle = Authority::new("middle", ALWAYS, key(), Some(&old));
    let direct = old.issue(ALWAYS);
    let deep = middle.issue(ALWAYS);
    for chain in [&[&direct][..], &[&deep, &middle.certificate]] {
        let year = |year| in_year(year, &[&old.certificate], chain);
        let early =
            "only \"CN=old\" vouches for it, whose certificate is not valid before 2010-01-01T00:00:00Z";
        assert_eq!(only(year(2009)), early);
        assert_eq!(year(2010), TAKEN);
        assert_eq!(year(2019), TAKEN);
        let late = "only \"CN=old\" vouches for it, whose certificate expired at 2020-01-01T00:00:00Z";
        assert_eq!(only(year(2020)), late);
    }
}

#[test]
fn a_renewed_ca_with_the_same_key_vouches_beside_the_expired_one() {
    let key = key();
    let old = Authority::new("ca", [2010, 2020], copy(&key), None);
    let renewed = Authority::new("ca", [2019, 2030], key, None);
    let leaf = old.issue(ALWAYS);
    for bundle in [[&old, &renewed], [&renewed, &old]] {
        let year = |year| in_year(year, &bundle.map(|ca| &ca.certificate), &[&leaf]);
        for taken in [2015, 2019, 2025] {
            assert_eq!(year(taken), TAKEN, "{taken}");
        }
        only(year(2035));
    }
}

#[test]
fn a_ca_of_others_vouches_for_nobody_more() {
    let old = Authority::new("ca", [2010, 2020], key(), None);
    let stranger = Authority::new("stranger", ALWAYS, key(), None);
    // The name of the old one, but not its key.
    let namesake = Authority::new("ca", ALWAYS, key(), None);
    let bundle = [&stranger, &namesake, &old].map(|ca| &ca.certificate);
    assert!(only(in_year(2025, &bundle, &[&old.issue(ALWAYS)])).contains("expired at 2020"));
    assert_eq!(in_year(2025, &bundle, &[&namesake.issue(ALWAYS)]), TAKEN);
}

/// Go takes a leaf that is in the pool without a look at its issuer.
#[test]
fn a_leaf_in_the_bundle_needs_no_ca() {
    let old = Authority::new("ca", [2010, 2020], key(), None);
    let leaf = old.issue([2010, 2030]);
    assert_eq!(in_year(2025, &[&old.certificate, &leaf], &[&leaf]), TAKEN);
    let late = in_year(2035, &[&old.certificate, &leaf], &[&leaf]);
    assert!(late.iter().all(|late| matches!(late, Err(CertificateError::ExpiredContext { .. }))), "{late:?}");
}

/// Verifiers that the test of it had made.
static MADE: AtomicUsize = AtomicUsize::new(0);

#[test]
fn an_expired_ca_costs_no_verifier_at_each_handshake() {
    let old = Authority::new("old", [2010, 2020], key(), None);
    let young = Authority::new("young", ALWAYS, key(), None);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = roots(&[&old.certificate, &young.certificate]);
    let clients: Arc<Clients> = Bundle::new(roots, provider, |anchors, provider| {
        MADE.fetch_add(1, Ordering::Relaxed);
        WebPkiClientVerifier::builder_with_provider(Arc::new(anchors), provider).build()
    })
    .unwrap();
    let made_for = |leaf: &CertificateDer<'_>, year, taken| {
        let before = MADE.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(clients.verify_client_cert(leaf, &[], july(year)).is_ok(), taken);
        }
        MADE.load(Ordering::Relaxed) - before
    };
    let (of_old, of_young) = (old.issue(ALWAYS), young.issue(ALWAYS));
    assert_eq!(made_for(&of_young, 2015, true), 0, "everybody counts");
    assert_eq!(made_for(&of_young, 2025, true), 1, "without the old one");
    assert_eq!(made_for(&of_old, 2026, false), 1, "the old one alone, to be named");
    assert_eq!(made_for(&of_young, 2027, true), 0);
    assert_eq!(made_for(&of_old, 2015, true), 0);
}

/// As if our parser could not read the leaf, which webpki could when the session began.
#[test]
fn who_resumes_with_a_leaf_that_cannot_be_read_is_verified_again() {
    let ca = Authority::new("ca", [2010, 2090], key(), None);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let clients = of_clients(roots(&[&ca.certificate]), provider.clone()).unwrap();
    let servers = of_servers(roots(&[&ca.certificate]), provider).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let resumed = |chain: &[CertificateDer<'static>]| {
        [clients.check_resumed(None, chain).is_ok(), servers.check_resumed(None, chain, &name).is_ok()]
    };
    assert_eq!(resumed(&[ca.issue([2010, 2090])]), [true, true]);
    assert_eq!(resumed(&[ca.issue([2010, 2020])]), [false, false]);
    assert_eq!(resumed(&[]), [false, false]);
}
