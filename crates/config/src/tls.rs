//! `tls` on listeners and servers, and whose PROXY protocol headers are believed.

use std::net::IpAddr;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::DeValue;

use crate::read::{At, Findings, Read, Section, word};
use crate::report::Problem;

/// A certificate (with those between it and its CA, in this order) and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Whether clients of a listener use TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientTlsMode {
    /// Not offered.
    Disabled,
    /// Who asks for it gets it.
    #[default]
    Optional,
    /// Who does not ask for it is refused with error 3159.
    Required,
}

/// Oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersion {
    #[default]
    Tls12,
    Tls13,
}

/// `[listener.tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientTls {
    pub mode: ClientTlsMode,
    /// `None`: made at start, as the servers do it.
    pub identity: Option<Identity>,
    /// CAs of client certificates, PEM. Clients are asked for one then, and need not have it
    /// unless their account demands it.
    pub client_ca: Option<PathBuf>,
    pub min_version: TlsVersion,
}

/// Whether connections to a server use TLS. All but the first are what MySQL's clients call
/// `--ssl-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerTlsMode {
    /// Sessions whose client uses TLS, if the server offers it; others if the server demands it.
    #[default]
    AsClient,
    Disabled,
    /// If the server offers it.
    Preferred,
    /// Encrypted, to whomever.
    Required,
    /// Only to a server with a certificate of `ca`.
    VerifyCa,
    /// Whose certificate must also name the address it is reached by.
    VerifyIdentity,
}

/// `[tls]`, `[server.tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerTls {
    pub mode: ServerTlsMode,
    pub ca: Option<PathBuf>,
    /// Shown to servers that ask for a certificate.
    pub identity: Option<Identity>,
}

/// Addresses with a common beginning: `192.168.4.0/24`, `fd00::/8`, or a single one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|p| *p <= most)?,
            None => most,
        };
        Some(Self { address, prefix })
    }

    /// Whether `ip` is one of them; an IPv4 address may come as an IPv6 one.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let same = |a: u128, b: u128, bits: u32| {
            let cut = bits - u32::from(self.prefix);
            a.checked_shr(cut).unwrap_or(0) == b.checked_shr(cut).unwrap_or(0)
        };
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                same(u128::from(a.to_bits()), u128::from(b.to_bits()), 32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A file that can be read; what is in it is found out by those who use it.
struct File(PathBuf);

impl Read for File {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        let path = PathBuf::from(String::read(found, value, key)?);
        match std::fs::read(&path) {
            Ok(_) => Some(Self(path)),
            Err(error) => {
                found.error(
                    Problem::new(format!("can't read {}: {error}", path.display()))
                        .at(value.span())
                        .help("the daemon's user must be able to read it"),
                );
                None
            }
        }
    }
}

fn file(found: &mut Findings, s: &mut Section<'_>, key: &'static str) -> Option<At<PathBuf>> {
    let file = s.at::<File>(found, key)?;
    Some(At { value: file.value.0, span: file.span })
}

fn identity(found: &mut Findings, s: &mut Section<'_>) -> Option<Identity> {
    let certificate = s.is_written("certificate");
    let key = s.is_written("key");
    let read = (file(found, s, "certificate"), file(found, s, "key"));
    if certificate != key {
        let (there, missing) =
            if certificate { ("certificate", "key") } else { ("key", "certificate") };
        found.error(
            Problem::new(format!("`{there}` without `{missing}`"))
                .at(s.span())
                .help(format!("add {missing} = \"/etc/pointsman/{missing}.pem\"")),
        );
    }
    let (Some(certificate), Some(key)) = read else { return None };
    if crate::read::readable_by_all(&key.value) {
        found.warn(
            Problem::new(format!("every user of this host can read {}", key.value.display()))
                .at(key.span)
                .help(format!("chmod o-r {}", key.value.display())),
        );
    }
    Some(Identity { certificate: certificate.value, key: key.value })
}

/// `[listener.tls]`.
pub(crate) fn of_listener(found: &mut Findings, listener: &mut Section<'_>) -> ClientTls {
    let Some(mut s) = listener.section(found, "tls") else { return ClientTls::default() };
    let mode = s.or(found, "mode", ClientTlsMode::default());
    let identity = identity(found, &mut s);
    let client_ca = file(found, &mut s, "client_ca");
    let min_version = s.or(found, "min_version", TlsVersion::default());
    s.finish(found);
    if let Some(ca) = client_ca.as_ref().filter(|_| mode == ClientTlsMode::Disabled) {
        found.error(
            Problem::new("`client_ca` where TLS is disabled: no client could show a certificate")
                .at(ca.span.clone())
                .help("mode = \"optional\" or \"required\""),
        );
    }
    ClientTls { mode, identity, client_ca: client_ca.map(|c| c.value), min_version }
}

/// `[tls]`, or `[server.tls]`, which has what it does not say from the former (`default`).
pub(crate) fn of_servers(
    found: &mut Findings,
    parent: &mut Section<'_>,
    default: &ServerTls,
) -> ServerTls {
    let Some(mut s) = parent.section(found, "tls") else { return default.clone() };
    let mode = s.at::<ServerTlsMode>(found, "mode");
    let ca_wrong = s.is_written("ca");
    let ca = file(found, &mut s, "ca");
    let ca_wrong = ca_wrong && ca.is_none();
    let ca = ca.map(|ca| ca.value).or_else(|| default.ca.clone());
    let identity = identity(found, &mut s).or_else(|| default.identity.clone());
    let span = mode.as_ref().map_or_else(|| s.span(), |m| m.span.clone());
    let mode = mode.map_or(default.mode, |m| m.value);
    s.finish(found);
    if matches!(mode, ServerTlsMode::VerifyCa | ServerTlsMode::VerifyIdentity)
        && ca.is_none()
        && !ca_wrong
    {
        found.error(Problem::new("servers can't be verified without `ca`").at(span).help(
            "add ca = \"/etc/pointsman/ca.pem\": the CA that signed the servers' certificates",
        ));
    }
    ServerTls { mode, ca, identity }
}

/// `proxy_protocol` of a listener.
pub(crate) struct Networks(pub(crate) Vec<Network>);

impl Read for Networks {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        const HELP: &str = "a list of networks: [\"192.168.4.0/24\", \"fd00::1\"]";
        let DeValue::Array(items) = value.get_ref() else {
            found.error(
                Problem::new(format!("`{key}` says whose headers are believed"))
                    .at(value.span())
                    .help(HELP),
            );
            return None;
        };
        let mut networks = Vec::new();
        for item in items.iter() {
            let text = String::read(found, item, key)?;
            match Network::parse(&text) {
                Some(network) => networks.push(network),
                None => found.error(
                    Problem::new(format!("{text:?} is no network")).at(item.span()).help(HELP),
                ),
            }
        }
        Some(Self(networks))
    }
}

impl Read for ClientTlsMode {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        word(
            found,
            value,
            key,
            &[
                ("disabled", Self::Disabled),
                ("optional", Self::Optional),
                ("required", Self::Required),
            ],
        )
    }
}

impl ClientTlsMode {
    /// As the file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

impl Read for TlsVersion {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        word(found, value, key, &[("1.2", Self::Tls12), ("1.3", Self::Tls13)])
    }
}

impl ServerTlsMode {
    const WORDS: [(&'static str, Self); 6] = [
        ("as_client", Self::AsClient),
        ("disabled", Self::Disabled),
        ("preferred", Self::Preferred),
        ("required", Self::Required),
        ("verify_ca", Self::VerifyCa),
        ("verify_identity", Self::VerifyIdentity),
    ];

    /// As the file writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(_, mode)| *mode == self).map_or("?", |(word, _)| word)
    }
}

impl Read for ServerTlsMode {
    fn read(found: &mut Findings, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Self> {
        word(found, value, key, &Self::WORDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let inside = |net: &str, ip: &str| {
            Network::parse(net).map(|net| net.contains(ip.parse().expect("an address")))
        };
        assert_eq!(inside("192.168.4.0/24", "192.168.4.77"), Some(true));
        assert_eq!(inside("192.168.4.0/24", "::ffff:192.168.4.77"), Some(true));
        assert_eq!(inside("192.168.4.0/24", "192.168.5.77"), Some(false));
        assert_eq!(inside("192.168.4.7", "192.168.4.7"), Some(true));
        assert_eq!(inside("192.168.4.7", "192.168.4.8"), Some(false));
        assert_eq!(inside("0.0.0.0/0", "8.8.8.8"), Some(true));
        assert_eq!(inside("0.0.0.0/0", "::1"), Some(false));
        assert_eq!(inside("::/0", "::1"), Some(true));
        assert_eq!(inside("fd00::/8", "fd12::1"), Some(true));
        assert_eq!(inside("fd00::/8", "fe80::1"), Some(false));
        for wrong in ["192.168.4.0/33", "192.168.4", "/24", "", "::/129", "localhost", "1.2.3.4/"] {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }
}
