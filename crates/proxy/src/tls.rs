//! Certificates and how far they are trusted: read from files, kept as what handshakes need.
//!
//! All of it is read anew by a reload and replaced as a whole; a connection keeps what it began with.

mod names;
mod session;
mod verify;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use pointsman_config::proxy::{ProxyConfig, Server};
use pointsman_config::tls::{ClientTls, ClientTlsMode, Identity, ServerTlsMode, TlsVersion};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use sha2::{Digest as _, Sha256};

use crate::backend::ConnectError;

pub use session::{Facts, Session};

/// TLS of every listener and towards every server.
pub struct Tls {
    /// By the listener's place in the config; `None` where it is disabled.
    listeners: Vec<Option<ToClients>>,
    /// By the server's place in the config.
    servers: Vec<Arc<ToServer>>,
}

/// TLS of one listener.
#[derive(Clone)]
pub struct ToClients {
    pub config: Arc<ServerConfig>,
    /// The certificate's SHA-256.
    pub fingerprint: [u8; 32],
    pub required: bool,
}

/// How connections to one server are made.
pub struct ToServer {
    pub mode: ServerTlsMode,
    pub config: Arc<ClientConfig>,
    /// What its certificate must name; `None` if that can't be a name in one.
    pub name: Option<ServerName<'static>>,
    /// It is told the client's address before all else.
    pub proxy_protocol: bool,
    /// It has refused a connection without TLS and taken one with it.
    pub demands: AtomicBool,
}

/// TLS as configured can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("can't read {file}: {why}")]
    Unreadable { file: String, why: String },
    #[error("{file} has no {what} in PEM form (-----BEGIN ...)")]
    Empty { file: String, what: &'static str },
    #[error("can't use {certificate} with {key}: {why}")]
    Identity { certificate: String, key: String, why: String },
    #[error("can't use the CA certificates in {file}: {why}")]
    Ca { file: String, why: String },
    #[error("can't make a certificate: {0}")]
    SelfMade(String),
    #[error("TLS can't be set up: {0}")]
    Setup(String),
}

impl Tls {
    /// Reads every certificate the config names.
    ///
    /// # Errors
    /// The first that can't be used.
    pub fn load(config: &ProxyConfig) -> Result<Self, TlsError> {
        let listeners = config.listeners.iter().map(|l| to_clients(&l.tls));
        let servers = config.servers.iter().map(|s| to_server(s).map(Arc::new));
        Ok(Self {
            listeners: listeners.collect::<Result<_, _>>()?,
            servers: servers.collect::<Result<_, _>>()?,
        })
    }

    /// Of the listener at this place in the config; `None`: not offered.
    #[must_use]
    pub fn listener(&self, index: usize) -> Option<&ToClients> {
        self.listeners.get(index)?.as_ref()
    }

    /// Towards the server at this place in the config.
    #[must_use]
    pub fn server(&self, index: usize) -> Option<&Arc<ToServer>> {
        self.servers.get(index)
    }
}

impl ToClients {
    /// The server's side of a new connection.
    pub fn session(&self) -> Result<Session, rustls::Error> {
        Ok(Session::new(rustls::ServerConnection::new(Arc::clone(&self.config))?))
    }
}

impl ToServer {
    /// Whether a connection is to be encrypted, made for a client whose own is (`secure`), to a
    /// server that can do it (`offered`).
    ///
    /// # Errors
    /// It must be, and can't.
    pub fn wanted(&self, secure: bool, offered: bool) -> Result<bool, ConnectError> {
        match self.mode {
            ServerTlsMode::Disabled => Ok(false),
            ServerTlsMode::AsClient => Ok(offered && (secure || self.demands.load(Relaxed))),
            ServerTlsMode::Preferred => Ok(offered),
            ServerTlsMode::Required | ServerTlsMode::VerifyCa | ServerTlsMode::VerifyIdentity => {
                if offered {
                    return Ok(true);
                }
                let mode = self.mode.as_str();
                Err(ConnectError::Tls(format!("it offers no TLS, and [tls] mode is \"{mode}\"")))
            }
        }
    }

    /// Whether a server that has refused a connection made for such a client with this error may
    /// take it with TLS. MySQL says so (3159), MariaDB only denies access.
    #[must_use]
    pub fn may_demand(&self, secure: bool, code: u16) -> bool {
        self.mode == ServerTlsMode::AsClient
            && !secure
            && !self.demands.load(Relaxed)
            && matches!(code, 3159 | 1045)
    }

    /// The client's side of a new connection.
    pub fn session(&self) -> Result<Session, rustls::Error> {
        let name = self.name.clone().ok_or_else(|| {
            rustls::Error::General("the server's address can't stand in a certificate".to_owned())
        })?;
        Ok(Session::new(rustls::ClientConnection::new(Arc::clone(&self.config), name)?))
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

fn setup(error: impl std::fmt::Display) -> TlsError {
    TlsError::Setup(error.to_string())
}

fn to_clients(tls: &ClientTls) -> Result<Option<ToClients>, TlsError> {
    if tls.mode == ClientTlsMode::Disabled {
        return Ok(None);
    }
    let versions: &[&SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(setup)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(roots(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .allow_unauthenticated()
                .build()
                .map_err(|e| TlsError::Ca {
                    file: file.display().to_string(),
                    why: e.to_string(),
                })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = match &tls.identity {
        Some(identity) => read_identity(identity)?,
        None => self_made().map(|(certificate, key)| (vec![certificate], key))?,
    };
    let fingerprint = chain.first().map(Sha256::digest).unwrap_or_default().into();
    let mut config = builder.with_single_cert(chain, key).map_err(|e| match &tls.identity {
        Some(identity) => unfit(identity, &e),
        None => setup(e),
    })?;
    // Short connections, as PHP makes them, spare the long handshake where their clients can.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(setup)?;
    config.send_tls13_tickets = 1;
    let required = tls.mode == ClientTlsMode::Required;
    Ok(Some(ToClients { config: Arc::new(config), fingerprint, required }))
}

fn to_server(server: &Server) -> Result<ToServer, TlsError> {
    let Server { tls, address, .. } = server;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?;
    let verifier = verify::verifier(tls.mode, provider(), || match &tls.ca {
        Some(file) => Ok((roots(file)?, file.display().to_string())),
        None => Err(TlsError::Setup(format!("mode = \"{}\" needs `ca`", tls.mode.as_str()))),
    })?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = read_identity(identity)?;
            builder.with_client_auth_cert(chain, key).map_err(|e| unfit(identity, &e))?
        }
    };
    let host = address.rsplit_once(':').map_or(&**address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(ToServer {
        mode: tls.mode,
        config: Arc::new(config),
        name: ServerName::try_from(host).ok(),
        proxy_protocol: server.proxy_protocol,
        demands: AtomicBool::new(false),
    })
}

fn unfit(identity: &Identity, error: &rustls::Error) -> TlsError {
    let why = match error {
        rustls::Error::InconsistentKeys(_) => "the key is not the certificate's".to_owned(),
        other => other.to_string(),
    };
    TlsError::Identity {
        certificate: identity.certificate.display().to_string(),
        key: identity.key.display().to_string(),
        why,
    }
}

fn unreadable(file: &Path, error: &pem::Error, what: &'static str) -> TlsError {
    let file = file.display().to_string();
    match error {
        pem::Error::NoItemsFound => TlsError::Empty { file, what },
        pem::Error::Io(e) => TlsError::Unreadable { file, why: e.to_string() },
        // What else there is may quote the file, which may hold a key.
        _ => TlsError::Unreadable { file, why: "it is not valid PEM".to_owned() },
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const WHAT: &str = "certificate";
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| unreadable(file, &e, WHAT))?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { file: file.display().to_string(), what: WHAT });
    }
    Ok(certificates)
}

type KeyAndChain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_identity(identity: &Identity) -> Result<KeyAndChain, TlsError> {
    let key = PrivateKeyDer::from_pem_file(&identity.key)
        .map_err(|e| unreadable(&identity.key, &e, "unencrypted private key"))?;
    Ok((certificates(&identity.certificate)?, key))
}

fn roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|e| TlsError::Ca { file: file.display().to_string(), why: e.to_string() })?;
    }
    Ok(roots)
}

/// The certificate listeners show that are given none; one for as long as the process lives, so
/// that a reload changes nothing for clients that remember it.
fn self_made() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
    type Made = (CertificateDer<'static>, Vec<u8>);
    static MADE: OnceLock<Result<Made, String>> = OnceLock::new();
    let make = || -> Result<Made, rcgen::Error> {
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Pointsman_Auto_Generated_Server_Certificate");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2049, 12, 31);
        Ok((params.self_signed(&key)?.der().clone(), key.serialize_der()))
    };
    match MADE.get_or_init(|| make().map_err(|e| e.to_string())) {
        Ok((certificate, key)) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.clone()));
            Ok((certificate.clone(), key))
        }
        Err(why) => Err(TlsError::SelfMade(why.clone())),
    }
}
