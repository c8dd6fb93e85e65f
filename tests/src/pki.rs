//! Certificates for tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A CA and what it signs, as PEM files in a directory.
pub struct Pki {
    dir: PathBuf,
    ca: Issuer<'static, KeyPair>,
}

/// Paths of a certificate and its key.
#[derive(Debug, Clone)]
pub struct Pem {
    pub certificate: String,
    pub key: String,
}

impl Pem {
    /// As `proxy.toml` has it.
    pub fn toml(&self) -> String {
        format!("certificate = \"{}\", key = \"{}\"", self.certificate, self.key)
    }
}

fn params(organisation: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organisation);
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 1, 1);
    params
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

impl Pki {
    /// `name` is the CA's, and that of the files' directory in `dir`.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir)?;
        let mut params = params("Pointsman", name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        fs::write(dir.join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { dir, ca: Issuer::new(params, key) })
    }

    /// The CA's certificate.
    pub fn ca(&self) -> String {
        path(&self.dir.join("ca.pem"))
    }

    /// A certificate for `/O=Pointsman/CN=name`, good for the hosts in `names`.
    pub fn issue(&self, name: &str, names: &[&str]) -> Result<Pem> {
        let mut params = params("Pointsman", name);
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(ip) => rcgen::SanType::IpAddress(ip),
                Err(_) => rcgen::SanType::DnsName((*name).try_into()?),
            });
        }
        let key = KeyPair::generate()?;
        let (certificate, key_file) =
            (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}-key.pem")));
        fs::write(&certificate, params.signed_by(&key, &self.ca)?.pem())?;
        fs::write(&key_file, key.serialize_pem())?;
        Ok(Pem { certificate: path(&certificate), key: path(&key_file) })
    }
}
