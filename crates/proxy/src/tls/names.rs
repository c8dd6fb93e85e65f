//! Subject and issuer of a certificate, written as the servers write them in `REQUIRE SUBJECT` and
//! `REQUIRE ISSUER` (OpenSSL's `X509_NAME_oneline`): `/C=SE/O=Example/CN=client`.

use std::fmt::Write as _;

/// Who a certificate is for and who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerNames {
    pub subject: String,
    pub issuer: String,
}

impl PeerNames {
    /// Of a certificate in DER; `None` if it is none.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let parts = Parts::of(certificate)?;
        Some(Self { subject: one_line(parts.subject)?, issuer: one_line(parts.issuer)? })
    }
}

/// SubjectPublicKeyInfo, in DER.
pub fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    Some(Parts::of(certificate)?.public_key)
}

const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;

/// The parts of a certificate (RFC 5280, 4.1) that are of use here.
struct Parts<'a> {
    /// Content of a Name.
    issuer: &'a [u8],
    subject: &'a [u8],
    /// With its header.
    public_key: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(certificate: &'a [u8]) -> Option<Self> {
        let mut der = Der(certificate);
        let mut der = Der(Der(der.expect(SEQUENCE)?).expect(SEQUENCE)?);
        if der.0.first() == Some(&VERSION) {
            der.next()?;
        }
        der.expect(INTEGER)?; // serial number
        der.expect(SEQUENCE)?; // signature algorithm
        let issuer = der.expect(SEQUENCE)?;
        der.expect(SEQUENCE)?; // validity
        let subject = der.expect(SEQUENCE)?;
        let before = der.0;
        der.expect(SEQUENCE)?;
        let public_key = &before[..before.len() - der.0.len()];
        Some(Self { issuer, subject, public_key })
    }
}

/// What is left of some DER.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Tag and content of the next value.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, len], rest) = self.0.split_first_chunk::<2>()?;
        let (len, rest) = match len {
            0..=0x7f => (usize::from(len), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(len & 0x7f))?;
                (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(t, _)| *t == tag).map(|(_, content)| content)
    }
}

fn one_line(name: &[u8]) -> Option<String> {
    let mut out = String::new();
    let mut name = Der(name);
    while !name.0.is_empty() {
        let mut set = Der(name.expect(SET)?);
        while !set.0.is_empty() {
            let mut pair = Der(set.expect(SEQUENCE)?);
            let oid = pair.expect(OID)?;
            let (_, value) = pair.next()?;
            out.push('/');
            put_type(&mut out, oid)?;
            out.push('=');
            for &b in value {
                match b {
                    b' '..=b'~' => out.push(char::from(b)),
                    _ => write!(out, "\\x{b:02X}").ok()?,
                }
            }
        }
    }
    Some(out)
}

fn put_type(out: &mut String, oid: &[u8]) -> Option<()> {
    let short = match oid {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 4] => "SN",
        [0x55, 4, 5] => "serialNumber",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 9] => "street",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x55, 4, 12] => "title",
        [0x55, 4, 13] => "description",
        [0x55, 4, 15] => "businessCategory",
        [0x55, 4, 17] => "postalCode",
        [0x55, 4, 41] => "name",
        [0x55, 4, 42] => "GN",
        [0x55, 4, 43] => "initials",
        [0x55, 4, 46] => "dnQualifier",
        [0x55, 4, 65] => "pseudonym",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "emailAddress",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        _ => {
            let mut arcs = Vec::new();
            let mut arc = 0u64;
            for &b in oid {
                arc = arc.checked_mul(128)? | u64::from(b & 0x7f);
                if b & 0x80 == 0 {
                    arcs.push(std::mem::take(&mut arc));
                }
            }
            let (first, rest) = arcs.split_first()?;
            let top = (*first / 40).min(2);
            write!(out, "{top}.{}", first - top * 40).ok()?;
            for arc in rest {
                write!(out, ".{arc}").ok()?;
            }
            return Some(());
        }
    };
    out.push_str(short);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        // Long enough for lengths of two bytes.
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[1, 2, 3], vec![0; 70_000])];
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn names_are_written_as_servers_write_them() {
        let der = certificate(&[
            (DnType::CountryName, "SE"),
            (DnType::StateOrProvinceName, "Stockholm"),
            (DnType::OrganizationName, "Bücher"),
            (DnType::CommonName, "a client"),
            (DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]), "c@example.com"),
            (DnType::CustomDnType(vec![2, 999, 3]), "x"),
        ]);
        let names = PeerNames::of(&der).unwrap();
        assert_eq!(
            names.subject,
            "/C=SE/ST=Stockholm/O=B\\xC3\\xBCcher/CN=a client/emailAddress=c@example.com/2.999.3=x"
        );
        assert_eq!(names.issuer, names.subject, "signed by itself");
        assert!(public_key(&der).unwrap().starts_with(&[SEQUENCE]));
        // Cut anywhere, it is none, and nothing worse.
        for end in (0..der.len()).step_by(97) {
            assert_eq!(PeerNames::of(&der[..end]), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, at in 0usize..400, byte: u8) {
            let _ = PeerNames::of(&bytes);
            let mut der = certificate(&[(DnType::CommonName, "x")]);
            der[at] = byte;
            let _ = PeerNames::of(&der);
            let _ = public_key(&der);
        }
    }
}
