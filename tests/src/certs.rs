//! Throwaway certificates: an authority, a server's and an agent's, as PEM files in a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// One authority and what it signed; the files live as long as their directory.
pub struct Certs {
    directory: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Certs {
    /// A new authority; its certificate is `directory/ca.crt`.
    pub fn new(directory: &Path, name: &str) -> anyhow::Result<Certs> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named(&format!("{name} test authority"), None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let certs = Certs { directory: directory.to_owned(), authority };
        fs::write(certs.ca(), certs.authority.pem())?;
        Ok(certs)
    }

    pub fn ca(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// A server's certificate for these names and addresses.
    pub fn server(&self, file: &str, names: &[&str]) -> anyhow::Result<Pair> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named("konnectivity-server", None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(file, params)
    }

    /// A client's certificate with this subject.
    pub fn client(&self, file: &str, common_name: &str, organization: Option<&str>) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named(common_name, organization);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, params)
    }

    /// A certificate for this machine's server and its agents alike, valid in these years (from their first days).
    pub fn dated(&self, file: &str, from: i32, to: i32) -> anyhow::Result<Pair> {
        self.both(file, |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        })
    }

    /// The same, valid until then.
    pub fn until(&self, file: &str, to: SystemTime) -> anyhow::Result<Pair> {
        self.both(file, |params| params.not_after = to.into())
    }

    fn both(&self, file: &str, days: impl FnOnce(&mut CertificateParams)) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.distinguished_name = named("konnectivity", None);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        days(&mut params);
        self.sign(file, params)
    }

    fn sign(&self, file: &str, mut params: CertificateParams) -> anyhow::Result<Pair> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.authority)?;
        Pair::write(&self.directory, file, &cert, &key)
    }
}

impl Pair {
    /// A certificate that is its own authority, as `openssl req -x509` makes it.
    pub fn alone(directory: &Path, file: &str, names: &[&str]) -> anyhow::Result<Pair> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named("konnectivity", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        Pair::write(directory, file, &params.self_signed(&key)?, &key)
    }

    fn write(directory: &Path, file: &str, cert: &Certificate, key: &KeyPair) -> anyhow::Result<Pair> {
        let at = |ending: &str| directory.join(format!("{file}.{ending}"));
        let pair = Pair { cert: at("crt"), key: at("key") };
        fs::write(&pair.cert, cert.pem())?;
        fs::write(&pair.key, key.serialize_pem())?;
        Ok(pair)
    }
}

fn named(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name
}
