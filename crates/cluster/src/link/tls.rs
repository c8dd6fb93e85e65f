//! TLS of the monitor's own connections.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use mysql_async::{
    ClientIdentity, Conn, DriverError, Error as SqlError, Opts, OptsBuilder, SslOpts,
};
use pointsman_config::tls::{ServerTls, ServerTlsMode};

/// How to connect, with and without TLS.
#[derive(Debug)]
pub(super) struct Ways {
    mode: ServerTlsMode,
    plain: Opts,
    secure: Opts,
    /// The server has turned the plain way away, and not the secure one.
    demands: AtomicBool,
}

impl Ways {
    pub(super) fn new(plain: Opts, tls: &ServerTls) -> Self {
        let secure = OptsBuilder::from_opts(plain.clone()).ssl_opts(options(tls)).into();
        Self { mode: tls.mode, plain, secure, demands: AtomicBool::new(false) }
    }

    /// Connects as the mode says. A monitor has no client to follow: where sessions do so, it uses
    /// TLS if it must.
    pub(super) async fn connect(&self) -> Result<Conn, SqlError> {
        match self.mode {
            ServerTlsMode::Disabled => Conn::new(self.plain.clone()).await,
            ServerTlsMode::AsClient if self.demands.load(Relaxed) => {
                match Conn::new(self.secure.clone()).await {
                    Err(SqlError::Driver(DriverError::NoClientSslFlagFromServer)) => {
                        self.demands.store(false, Relaxed);
                        Conn::new(self.plain.clone()).await
                    }
                    done => done,
                }
            }
            ServerTlsMode::AsClient => match Conn::new(self.plain.clone()).await {
                Err(SqlError::Server(refused)) if may_demand_tls(refused.code) => {
                    let secure = Conn::new(self.secure.clone()).await;
                    self.demands.store(secure.is_ok(), Relaxed);
                    // The first refusal says more than that the second way is no way either.
                    secure.map_err(|_| SqlError::Server(refused))
                }
                done => done,
            },
            ServerTlsMode::Preferred => match Conn::new(self.secure.clone()).await {
                Err(SqlError::Driver(DriverError::NoClientSslFlagFromServer)) => {
                    Conn::new(self.plain.clone()).await
                }
                done => done,
            },
            ServerTlsMode::Required | ServerTlsMode::VerifyCa | ServerTlsMode::VerifyIdentity => {
                Conn::new(self.secure.clone()).await
            }
        }
    }
}

/// `require_secure_transport`; and what an account with `REQUIRE SSL` is told.
fn may_demand_tls(code: u16) -> bool {
    matches!(code, 3159 | 1045)
}

fn options(tls: &ServerTls) -> SslOpts {
    // The library wants some CA to be there, even if none is asked.
    let mut options = SslOpts::default().with_disable_built_in_roots(tls.ca.is_some());
    if let Some(ca) = &tls.ca {
        options = options.with_root_certs(vec![ca.clone().into()]);
    }
    if let Some(identity) = &tls.identity {
        let (certificate, key) = (identity.certificate.clone(), identity.key.clone());
        let identity = ClientIdentity::new(certificate.into(), key.into());
        options = options.with_client_identity(Some(identity));
    }
    match tls.mode {
        ServerTlsMode::VerifyIdentity => options,
        // A wrong name is forgiven only if the library finds this word in the error's text, which in
        // rustls's present wording is so only if it is the name itself (mysql_async 0.37, rustls
        // 0.23). Names are compared after all else was found right.
        ServerTlsMode::VerifyCa => options
            .with_danger_skip_domain_validation(true)
            .with_danger_tls_hostname_override(Some("NotValidForName")),
        ServerTlsMode::AsClient
        | ServerTlsMode::Disabled
        | ServerTlsMode::Preferred
        | ServerTlsMode::Required => options.with_danger_accept_invalid_certs(true),
    }
}
