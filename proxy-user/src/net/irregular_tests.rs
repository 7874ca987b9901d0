//! Irregular leaves in handshakes, and what of them nobody may take.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SigningKey as _,
};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::net::bundle::{of_clients, of_servers};
use crate::net::connect::base64;
use crate::net::pem::Roots;
use crate::net::tls::tests::{client, meet, offered, refusal, server};
use crate::net::tls::{ALPN_H2, ClientTls, HandshakeError, TlsError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Version1,
    Ca,
    Any,
}
use Kind::{Any as AnyPurpose, Ca, Plain, Version1};

const IRREGULAR: [Kind; 3] = [Version1, Ca, AnyPurpose];

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2010, 1, 1);
    params.not_after = rcgen::date_time_ymd(2090, 1, 1);
    params
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn copy(key: &KeyPair) -> KeyPair {
    KeyPair::from_pem(&key.serialize_pem()).unwrap()
}

struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str, key: KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn below(&self, name: &str, usages: &[KeyUsagePurpose]) -> Authority {
        let (mut params, key) = (params(name), key());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = usages.to_vec();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, kind: Kind, key: &KeyPair) -> CertificateDer<'static> {
        self.issue_with(kind, key, |_| ())
    }

    fn issue_with(
        &self,
        kind: Kind,
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        let mut params = params("peer");
        match kind {
            Plain | Version1 => {}
            Ca => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            AnyPurpose => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
        }
        change(&mut params);
        let der = params.signed_by(key, &self.issuer).unwrap().der().clone();
        if kind == Version1 { version_1(&der, self.issuer.key()) } else { der }
    }
}

/// The same as `openssl x509 -req` makes it without an -extfile: no version, no extensions.
fn version_1(der: &[u8], signer: &KeyPair) -> CertificateDer<'static> {
    let whole = inner(der).unwrap();
    let fields = elements(inner(elements(whole)[0]).unwrap());
    let fields: Vec<&[u8]> = fields.into_iter().filter(|field| ![0xa0, 0xa3].contains(&field[0])).collect();
    let tbs = element(0x30, &fields);
    let signature = element(0x03, &[&[0], &signer.sign(&tbs).unwrap()]);
    element(0x30, &[&tbs, elements(whole)[1], &signature]).into()
}

fn elements(mut content: &[u8]) -> Vec<&[u8]> {
    let mut elements = Vec::new();
    while !content.is_empty() {
        let (rest, _) = Any::from_der(content).unwrap();
        elements.push(&content[..content.len() - rest.len()]);
        content = rest;
    }
    elements
}

fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    let length = match content.len() {
        ..0x80 => vec![low],
        0x80..0x100 => vec![0x81, low],
        _ => vec![0x82, high, low],
    };
    [vec![tag], length, content].concat()
}

fn in_2025() -> UnixTime {
    let second = rcgen::date_time_ymd(2025, 7, 1).unix_timestamp();
    UnixTime::since_unix_epoch(Duration::from_secs(second.try_into().unwrap()))
}

/// What the verifiers say of a chain, as a client's and as a server's.
fn judge(
    bundle: &[&CertificateDer<'static>],
    chain: &[&CertificateDer<'static>],
    name: &str,
) -> [Result<(), CertificateError>; 2] {
    let roots = || {
        let certificates: Vec<_> = bundle.iter().map(|der| (*der).clone()).collect();
        let mut anchors = RootCertStore::empty();
        certificates.iter().for_each(|der| anchors.add(der.clone()).unwrap());
        Roots { anchors, certificates }
    };
    let provider = || Arc::new(aws_lc_rs::default_provider());
    let others: Vec<_> = chain[1..].iter().map(|der| (*der).clone()).collect();
    let name = ServerName::try_from(name).unwrap();
    let (clients, servers) =
        (of_clients(roots(), provider()).unwrap(), of_servers(roots(), provider()).unwrap());
    let client = clients.verify_client_cert(chain[0], &others, in_2025()).map(drop);
    let server = servers.verify_server_cert(chain[0], &others, &name, &[], in_2025()).map(drop);
    [client, server].map(|verified| match verified {
        Ok(()) => Ok(()),
        Err(Error::InvalidCertificate(why)) => Err(why),
        Err(other) => panic!("{other}"),
    })
}

fn taken(bundle: &[&CertificateDer<'static>], chain: &[&CertificateDer<'static>]) -> [bool; 2] {
    judge(bundle, chain, "localhost").map(|judged| judged.is_ok())
}

/// Whom Go takes: one of version 1 has no name, which a server needs.
fn by_go(kind: Kind) -> [bool; 2] {
    [true, kind != Version1]
}

const NEITHER: [bool; 2] = [false, false];

#[test]
fn irregular_leaves_are_taken_of_their_issuer_alone() {
    let ca = Authority::new("ca", key(), |_| ());
    let stranger = Authority::new("stranger", key(), |_| ());
    let namesake = Authority::new("ca", key(), |_| ());
    for kind in IRREGULAR {
        let leaf = ca.issue(kind, &key());
        assert_eq!(taken(&[&ca.certificate], &[&leaf]), by_go(kind), "{kind:?}");
        let bundle = [&stranger, &namesake, &ca].map(|ca| &ca.certificate);
        assert_eq!(taken(&bundle, &[&leaf]), by_go(kind), "{kind:?} among others");
        assert_eq!(taken(&bundle[..1], &[&leaf]), NEITHER, "{kind:?} of a stranger");
        assert_eq!(taken(&bundle[..2], &[&leaf]), NEITHER, "{kind:?} of a namesake");
        assert_eq!(taken(&bundle[..1], &[&leaf, &ca.certificate]), NEITHER, "{kind:?} with its issuer");
        assert_eq!(taken(&[&leaf], &[&leaf]), by_go(kind), "{kind:?} in the bundle itself");
        let [as_client, as_server] = judge(&bundle[2..], &[&leaf], "elsewhere");
        assert_eq!((as_client.is_ok(), as_server.is_ok()), (true, false), "{kind:?} by another name");
    }
}

#[test]
fn of_intermediates_only_a_leaf_for_any_purpose_may_come() {
    let ca = Authority::new("ca", key(), |_| ());
    let middle = ca.below("middle", &[KeyUsagePurpose::KeyCertSign]);
    let no_signer = ca.below("no signer", &[KeyUsagePurpose::DigitalSignature]);
    for kind in IRREGULAR {
        let leaf = middle.issue(kind, &key());
        let presented = taken(&[&ca.certificate], &[&leaf, &middle.certificate]);
        assert_eq!(presented, [kind == AnyPurpose; 2], "{kind:?}");
        assert_eq!(taken(&[&middle.certificate], &[&leaf]), by_go(kind), "{kind:?} of one in the bundle");
        assert_eq!(taken(&[&ca.certificate], &[&leaf]), NEITHER, "{kind:?} without it");
        let leaf = no_signer.issue(kind, &key());
        assert_eq!(taken(&[&ca.certificate], &[&leaf, &no_signer.certificate]), NEITHER, "{kind:?}");
    }
}

#[test]
fn irregular_leaves_count_on_their_days_only() {
    let ca = Authority::new("ca", key(), |_| ());
    for kind in IRREGULAR {
        let late = ca.issue_with(kind, &key(), |it| it.not_after = rcgen::date_time_ymd(2025, 6, 30));
        let early = ca.issue_with(kind, &key(), |it| it.not_before = rcgen::date_time_ymd(2025, 7, 2));
        for leaf in [&late, &early] {
            assert_eq!(taken(&[&ca.certificate], &[leaf]), NEITHER, "{kind:?}");
            assert_eq!(taken(&[leaf], &[leaf]), NEITHER, "{kind:?} in the bundle itself");
        }
    }
}

#[test]
fn irregular_leaves_that_were_changed_are_refused() {
    let ca = Authority::new("ca", key(), |_| ());
    for kind in IRREGULAR {
        let leaf = ca.issue(kind, &key());
        let name = leaf.windows(4).position(|it| it == b"peer").unwrap();
        // The leaf's name, its signature's last byte, something behind it.
        for changed in [
            [&leaf[..name], b"pear", &leaf[name + 4..]].concat(),
            [&leaf[..leaf.len() - 1], &[leaf[leaf.len() - 1] ^ 1]].concat(),
            [&leaf[..], &[0]].concat(),
        ] {
            assert_eq!(taken(&[&ca.certificate], &[&changed.into()]), NEITHER, "{kind:?}");
        }
    }
}

#[test]
fn a_version_1_with_extensions_or_two_algorithms_is_refused() {
    let ca = Authority::new("ca", key(), |_| ());
    let leaf = ca.issue(Plain, &key());
    let whole = elements(inner(&leaf).unwrap());
    let fields = elements(inner(whole[0]).unwrap());
    let sign = |fields: &[&[u8]], algorithm: &[u8]| -> CertificateDer<'static> {
        let tbs = element(0x30, fields);
        let signature = element(0x03, &[&[0], &ca.issuer.key().sign(&tbs).unwrap()]);
        element(0x30, &[&tbs, algorithm, &signature]).into()
    };
    let plain = &fields[1..fields.len() - 1];
    assert_eq!(taken(&[&ca.certificate], &[&sign(plain, whole[1])]), [true, false]);
    assert_eq!(taken(&[&ca.certificate], &[&sign(&fields[1..], whole[1])]), NEITHER);
    // id-ecPublicKey, where the other place has ecdsa-with-SHA256.
    let other = element(0x30, &[&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]]);
    assert_eq!(taken(&[&ca.certificate], &[&sign(plain, &other)]), NEITHER);
    let two = [&plain[..1], &[&other], &plain[2..]].concat();
    assert_eq!(taken(&[&ca.certificate], &[&sign(&two, whole[1])]), NEITHER);
    let behind = [plain, &[&[5, 0]]].concat();
    assert_eq!(taken(&[&ca.certificate], &[&sign(&behind, whole[1])]), NEITHER, "a NULL behind the key");
    let version_2 = [&[&[0xa0, 3, 2, 1, 1][..]], plain].concat();
    assert_eq!(taken(&[&ca.certificate], &[&sign(&version_2, whole[1])]), NEITHER, "version 2");
}

#[test]
fn an_irregular_leaf_must_be_meant_for_its_part() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, EmailProtection, ServerAuth};
    let ca = Authority::new("ca", key(), |_| ());
    for (purposes, allowed) in [
        (vec![ServerAuth], [false, true]),
        (vec![ClientAuth], [true, false]),
        (vec![EmailProtection], [false, false]),
        (vec![EmailProtection, Any], [true, true]),
    ] {
        for kind in [Plain, Ca] {
            let leaf = ca.issue_with(kind, &key(), |it| it.extended_key_usages = purposes.clone());
            assert_eq!(taken(&[&ca.certificate], &[&leaf]), allowed, "{kind:?}, {purposes:?}");
            assert_eq!(taken(&[&leaf], &[&leaf]), allowed, "{kind:?}, {purposes:?}, in the bundle itself");
        }
    }
}

#[test]
fn who_may_not_vouch_vouches_for_no_irregular_leaf() {
    use ExtendedKeyUsagePurpose::{Any, ServerAuth};
    let of = |change: fn(&mut CertificateParams)| Authority::new("ca", key(), change);
    let nobody = [
        of(|it| it.is_ca = IsCa::ExplicitNoCa),
        of(|it| it.is_ca = IsCa::NoCa),
        of(|it| it.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        of(|it| it.not_after = rcgen::date_time_ymd(2025, 6, 30)),
        of(|it| it.not_before = rcgen::date_time_ymd(2025, 7, 2)),
        of(|it| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            unknown.set_criticality(true);
            it.custom_extensions = vec![unknown];
        }),
    ];
    let limited = of(|it| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("elsewhere".into())];
        it.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let of_servers = of(|it| it.extended_key_usages = vec![ServerAuth]);
    let of_any = of(|it| it.extended_key_usages = vec![Any]);
    let signs = of(|it| it.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    for kind in IRREGULAR {
        for (place, ca) in nobody.iter().enumerate() {
            let leaf = ca.issue(kind, &key());
            assert_eq!(taken(&[&ca.certificate], &[&leaf]), NEITHER, "{kind:?}, {place}");
        }
        let by = |ca: &Authority| taken(&[&ca.certificate], &[&ca.issue(kind, &key())]);
        assert_eq!(by(&limited), NEITHER, "{kind:?}");
        assert_eq!(by(&of_servers), [false, kind != Version1], "{kind:?}");
        assert_eq!(by(&of_any), by_go(kind), "{kind:?}");
        assert_eq!(by(&signs), by_go(kind), "{kind:?}");
    }
    let late = &nobody[3];
    for kind in IRREGULAR {
        let [as_client, _] = judge(&[&late.certificate], &[&late.issue(kind, &key())], "localhost");
        let Err(CertificateError::Other(OtherError(why))) = as_client else { panic!("{as_client:?}") };
        let words = why.downcast_ref::<OnlyUntimely>().unwrap().to_string();
        assert!(words.contains("expired at 2025-06-30"), "{words}");
    }
}

/// Go's `alreadyInChain`.
#[test]
fn a_ca_vouches_for_no_other_certificate_of_itself() {
    let key = key();
    let [old, renewed] = [(), ()].map(|()| Authority::new("ca", copy(&key), |_| ()));
    assert_ne!(old.certificate, renewed.certificate);
    assert_eq!(taken(&[&renewed.certificate], &[&old.certificate]), NEITHER);
}

#[test]
fn a_ca_of_version_1_vouches_for_a_leaf_of_version_1() {
    let ca = Authority::new("ca", key(), |_| ());
    let root = version_1(&ca.certificate, ca.issuer.key());
    let leaf = ca.issue(Version1, &key());
    assert_eq!(taken(&[&root], &[&leaf]), [true, false]);
    assert_eq!(taken(&[&root], &[&Authority::new("ca", key(), |_| ()).issue(Version1, &key())]), NEITHER);
}

#[test]
fn a_critical_extension_that_nobody_knows_refuses_a_ca_as_a_leaf() {
    let ca = Authority::new("ca", key(), |_| ());
    let leaf = ca.issue_with(Ca, &key(), |it| {
        let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        unknown.set_criticality(true);
        it.custom_extensions = vec![unknown];
    });
    assert_eq!(taken(&[&ca.certificate], &[&leaf]), NEITHER);
}

/// A CA's file and pairs that it issued.
struct Files {
    dir: tempfile::TempDir,
    ca: Authority,
}

impl Files {
    fn new() -> Files {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new("ca", key(), |_| ()));
        write(&dir.path().join("ca.crt"), &ca.certificate);
        Files { dir, ca }
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    fn pair(&self, kind: Kind, file: &str, key: &KeyPair) -> (PathBuf, PathBuf) {
        let at = |ending: &str| self.dir.path().join(format!("{file}.{ending}"));
        write(&at("crt"), &self.ca.issue(kind, key));
        fs::write(at("key"), key.serialize_pem()).unwrap();
        (at("crt"), at("key"))
    }
}

fn write(path: &Path, der: &CertificateDer<'_>) {
    let body = base64(der);
    fs::write(path, format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")).unwrap();
}

#[tokio::test]
async fn irregular_pairs_shake_hands_and_resume() {
    let files = Files::new();
    let (bundle, plain) = (files.bundle(), files.pair(Plain, "plain", &key()));
    for kind in IRREGULAR {
        let shown = files.pair(kind, "shown", &key());
        let asking = server(plain.clone(), Some(&bundle), &[ALPN_H2]);
        let agent = client(&bundle, Some(shown.clone()), &[ALPN_H2]);
        let mut identity = None;
        for resumed in [false, true] {
            let (heard, shaken) = meet(&agent, &asking, "localhost").await;
            let info = shaken.unwrap().tls.unwrap();
            assert_eq!((heard.unwrap(), info.resumed), (8, resumed), "{kind:?}");
            assert_eq!(*identity.get_or_insert(info.identity.clone()), info.identity);
        }
        assert!(identity.unwrap().is_some());
        let shown = server(shown, None, &[ALPN_H2]);
        let (heard, _) = meet(&client(&bundle, None, &[ALPN_H2]), &shown, "localhost").await;
        match (kind, heard) {
            (Version1, Err(refused)) => {
                let words = refused.to_string();
                assert!(words.contains("X.509 version before 3") && words.contains("-extfile"), "{words}");
                refusal(refused);
            }
            (_, heard) => assert_eq!(heard.unwrap(), 8, "{kind:?}"),
        }
    }
}

/// By a client that would show whatever certificate with whatever key.
async fn show(
    files: &Files,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
    version: &'static SupportedProtocolVersion,
) -> Result<(), Error> {
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate.clone()], key));
    let mut roots = RootCertStore::empty();
    roots.add(files.ca.certificate.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(shown));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    let asking = server(files.pair(Plain, "plain", &self::key()), Some(&files.bundle()), &[ALPN_H2]);
    let (near, far) = tokio::io::duplex(1 << 16);
    let near = async {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), near).await?;
        // Until the server has said all.
        stream.read_u8().await
    };
    let far = async { asking.accept(offered(far), Duration::from_secs(5)).await.map(drop) };
    let (_, shaken) = tokio::join!(near, far);
    match shaken {
        Ok(()) => Ok(()),
        Err(HandshakeError::Failed(error)) => {
            Err(error.get_ref().unwrap().downcast_ref::<Error>().unwrap().clone())
        }
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_irregular_client_proves_its_key_in_each_version_of_tls() {
    let files = Files::new();
    let kinds_of_keys = [
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        KeyPair::generate_for(&rcgen::PKCS_ED25519),
        KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256),
    ];
    for key in kinds_of_keys.map(Result::unwrap) {
        // Of the same kind, but not the certificate's.
        let other = KeyPair::generate_for(key.algorithm()).unwrap();
        for kind in [Plain, Version1, Ca, AnyPurpose] {
            let certificate = files.ca.issue(kind, &key);
            for version in [&version::TLS12, &version::TLS13] {
                let context = format!("{kind:?}, {:?}, {version:?}", key.algorithm());
                assert_eq!(show(&files, &certificate, &key, version).await, Ok(()), "{context}");
                let stolen = show(&files, &certificate, &other, version).await;
                let why = Error::InvalidCertificate(CertificateError::BadSignature);
                assert_eq!(stolen, Err(why), "{context}");
            }
        }
    }
}

fn load(identity: (PathBuf, PathBuf), ca: PathBuf) -> Result<ClientConfig, TlsError> {
    ClientTls { ca, identity: Some(identity), alpn: vec![] }.load()
}

#[test]
fn an_own_pair_of_version_1_loads_if_it_is_one() {
    let files = Files::new();
    let [one, two] = ["one", "two"].map(|file| files.pair(Version1, file, &key()));
    assert!(load(one.clone(), files.bundle()).is_ok());
    let mixed = load((one.0, two.1), files.bundle()).unwrap_err().to_string();
    assert!(mixed.contains("the key is another certificate's"), "{mixed}");
}

#[test]
fn an_own_pair_of_too_short_a_key_is_called_that() {
    let files = Files::new();
    let pair = files.dir.path().join("rsa1024.pem");
    fs::write(&pair, include_str!("testdata/rsa1024.pem")).unwrap();
    let words = load((pair.clone(), pair), files.bundle()).unwrap_err().to_string();
    assert!(words.contains("rsa1024.pem") && words.contains("RSA key of 1024 bits"), "{words}");
    assert!(words.contains("RSA keys below 2048 bits are not supported, make a new pair"), "{words}");
}
