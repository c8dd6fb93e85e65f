//! Logging in to a server.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use pointsman_cluster::Server;
use pointsman_wire::compressed::Algorithm;
use pointsman_wire::handshake::{
    Greeting, Response, parse_auth_switch, parse_auth_switch_data, ssl_request,
};
use pointsman_wire::{Capabilities, Malformed, OkPacket, auth, proxy_protocol, write_packet};
use smallvec::SmallVec;
use tokio::time::timeout;

use super::{Backend, Broken, Counted, MUST_CHANGE_PASSWORD, error_code, read_packet};
use crate::buffers::Buffer;
use crate::credentials::Credentials;
use crate::fate::Marks;
use crate::pool;
use crate::socket::Socket;
use crate::tls::ToServer;

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// Nothing there, or nothing in time.
    Unreachable(io::Error),
    /// The server said no: its ERR payload.
    Refused(Vec<u8>),
    /// It asked for a proof that the client did not give us.
    NoProof(String),
    Malformed(Malformed),
    /// TLS as configured is not to be had with this server.
    Tls(String),
}

impl From<io::Error> for ConnectError {
    fn from(e: io::Error) -> Self {
        Self::Unreachable(e)
    }
}

impl From<Malformed> for ConnectError {
    fn from(e: Malformed) -> Self {
        Self::Malformed(e)
    }
}

/// How a session wants its connections.
pub struct Login {
    pub credentials: Credentials,
    /// What the client agreed on with us.
    pub caps: Capabilities,
    pub collation: u8,
    pub database: Option<Vec<u8>>,
    pub attributes: Option<Vec<u8>>,
    /// For whom; `None`: for ourselves.
    pub origin: Option<Origin>,
    /// How the client's connection is compressed, once it is in.
    pub compression: Option<Algorithm>,
}

/// Where a client comes from.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    pub source: SocketAddr,
    /// What it connected to; where no server is told, the listener's address may do.
    pub destination: SocketAddr,
    /// Its connection is encrypted.
    pub secure: bool,
}

/// The longest packet we say we take, in bytes.
const MAX_PACKET: u32 = 1 << 30;

fn switches_to(payload: &[u8], plugin: &str) -> bool {
    parse_auth_switch_data(payload).is_ok_and(|(wanted, _)| wanted == plugin.as_bytes())
}

fn no_full_proof() -> ConnectError {
    ConnectError::NoProof("caching_sha2_password (full)".to_owned())
}

async fn resolve(address: &str) -> io::Result<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    tokio::net::lookup_host(address)
        .await?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

impl Backend {
    /// Connects and logs in; `within` bounds all of it.
    pub async fn connect(
        server: &Server,
        tls: Option<&ToServer>,
        login: &Login,
        within: Duration,
    ) -> Result<Self, ConnectError> {
        let secure = login.origin.is_some_and(|o| o.secure);
        let log_in = async {
            match Self::log_in(server, tls, login, secure).await {
                Err(ConnectError::Refused(payload))
                    if tls.is_some_and(|t| t.may_demand(secure, error_code(&payload))) =>
                {
                    match Self::log_in(server, tls, login, true).await {
                        Ok(backend) => {
                            if let Some(tls) = tls.filter(|_| backend.socket.is_secure()) {
                                tls.demands.store(true, Relaxed);
                            }
                            Ok(backend)
                        }
                        Err(_) => Err(ConnectError::Refused(payload)),
                    }
                }
                done => done,
            }
        };
        match timeout(within, log_in).await {
            Ok(done) => done,
            Err(_) => Err(ConnectError::Unreachable(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn log_in(
        server: &Server,
        tls: Option<&ToServer>,
        login: &Login,
        secure: bool,
    ) -> Result<Self, ConnectError> {
        let mut socket = Socket::connect(resolve(&server.address).await?).await?;
        if let (Some(origin), true) = (&login.origin, tls.is_some_and(|t| t.proxy_protocol)) {
            let line = proxy_protocol::line(origin.source, origin.destination);
            socket.write_all(&line).await?;
        }
        let mut buf = Buffer::borrow();
        let (_, payload) = read_packet(&mut socket, &mut buf).await?;
        if payload.first() == Some(&0xff) {
            return Err(ConnectError::Refused(with_sqlstate(payload)));
        }
        let greeting = Greeting::parse(&payload)?;
        let credentials = &login.credentials;
        // CLIENT_SESSION_TRACK whether or not the client wants it: the session's truth.
        let mut caps = (login.caps | Capabilities::SESSION_TRACK | Capabilities::PLUGIN_AUTH)
            & greeting.capabilities
            & (Capabilities::OFFERED | Capabilities::LONG_PASSWORD);
        caps.set(Capabilities::CONNECT_WITH_DB, login.database.is_some());
        if login.attributes.is_none() {
            caps -= Capabilities::CONNECT_ATTRS;
        }
        let (plugin, token) = match credentials.token(&greeting.plugin, &greeting.salt) {
            Some(token) => (greeting.plugin.clone(), token),
            // Offer what can be proved; the server asks for another by AuthSwitchRequest.
            None => {
                let native = auth::NATIVE.as_bytes().to_vec();
                let token = credentials.token(&native, &greeting.salt).unwrap_or_default();
                (native, token)
            }
        };
        let mut seq = 1;
        if let Some(tls) = tls
            && tls.wanted(secure, greeting.capabilities.contains(Capabilities::SSL))?
        {
            let request = ssl_request(caps | Capabilities::SSL, MAX_PACKET, login.collation);
            let mut out = Vec::new();
            seq = write_packet(&mut out, seq, &request);
            socket.write_all(&out).await?;
            let session = tls.session().map_err(|e| ConnectError::Tls(e.to_string()))?;
            socket.secure(session, &mut buf).await.map_err(|e| match e.kind() {
                io::ErrorKind::InvalidData => ConnectError::Tls(e.to_string()),
                _ => ConnectError::Unreachable(e),
            })?;
        }
        let response = Response {
            capabilities: caps
                | if socket.is_secure() { Capabilities::SSL } else { Capabilities::empty() },
            max_packet: MAX_PACKET,
            collation: login.collation,
            user: credentials.user.clone(),
            token,
            database: login.database.clone(),
            plugin: Some(plugin),
            attributes: login.attributes.clone(),
            zstd_level: None,
        };
        let mut out = Vec::new();
        write_packet(&mut out, seq, &response.build());
        socket.write_all(&out).await?;

        let mut salt = greeting.salt;
        // Of parsec, once the server has asked for it.
        let mut parsec = None;
        let (status, welcome) = loop {
            let (seq, payload) = read_packet(&mut socket, &mut buf).await?;
            let answer = match payload.first() {
                Some(0x00) => break (OkPacket::parse(&payload, caps)?.status, payload),
                Some(0xff) => return Err(ConnectError::Refused(payload)),
                Some(0xfe) if switches_to(&payload, auth::ED25519) => {
                    let (plugin, salt) = parse_auth_switch_data(&payload)?;
                    credentials.ed25519(salt.get(..32).unwrap_or(salt)).ok_or_else(|| {
                        ConnectError::NoProof(String::from_utf8_lossy(plugin).into_owned())
                    })?
                }
                // Without a password its first packet, empty, is all that is wanted.
                Some(0xfe) if switches_to(&payload, auth::PARSEC) => {
                    let (_, salt) = parse_auth_switch_data(&payload)?;
                    parsec = salt.first_chunk::<32>().copied();
                    Vec::new()
                }
                Some(0x01 | b'P') if parsec.is_some() => {
                    let salt = auth::ParsecSalt::parse(&payload).ok_or(Malformed("parsec salt"))?;
                    let token = parsec.and_then(|theirs| credentials.parsec(&salt, &theirs));
                    token.ok_or_else(|| ConnectError::NoProof(auth::PARSEC.to_owned()))?
                }
                Some(0xfe) => {
                    let (plugin, new_salt) = parse_auth_switch(&payload)?;
                    salt = new_salt;
                    let first = if plugin != auth::SHA256.as_bytes() {
                        None
                    } else if socket.is_secure() {
                        credentials.clear()
                    } else {
                        credentials.clear().map(|_| vec![auth::SHA256_REQUEST_KEY])
                    };
                    let token = || credentials.token(&plugin, &salt);
                    first.or_else(token).ok_or_else(|| {
                        ConnectError::NoProof(String::from_utf8_lossy(&plugin).into_owned())
                    })?
                }
                Some(0x01) => match payload.get(1) {
                    Some(&auth::SHA2_FAST_OK) => continue,
                    Some(&auth::SHA2_FULL) if socket.is_secure() => {
                        credentials.clear().ok_or_else(no_full_proof)?
                    }
                    Some(&auth::SHA2_FULL) => vec![auth::SHA2_REQUEST_KEY],
                    _ => credentials.encrypted(&payload[1..], &salt).ok_or_else(no_full_proof)?,
                },
                _ => return Err(Malformed("login").into()),
            };
            let mut out = Vec::new();
            write_packet(&mut out, seq.wrapping_add(1), &answer);
            socket.write_all(&out).await?;
        };
        let mariadb = greeting.server_version.windows(7).any(|w| w == b"MariaDB");
        let mut backend = Self {
            server: server.id,
            socket,
            caps,
            thread_id: greeting.connection_id,
            version: 0,
            statements: HashMap::new(),
            pending: Vec::new(),
            owed: false,
            owes_schema: false,
            status,
            first_status: status,
            welcome: welcome.into(),
            live: Arc::clone(&server.live),
            counted: Counted::new(&server.live),
            mariadb,
            blurs: mariadb && major_version(&greeting.server_version) > 10,
            told_gtid: Vec::new(),
            unsaid: None,
            in_step: true,
            schema: login.database.as_deref().map(Into::into),
            key: pool::key(login, tls.is_some_and(|t| t.proxy_protocol)),
            born: Instant::now(),
            server_wide: 0,
            slot: None,
            committed: Some(SmallVec::new()),
            marks: Marks::default(),
            option_set: false,
            outlasts_reset: false,
            sandboxed: None,
            after_login: None,
        };
        match backend.track().await {
            Ok(Ok(_)) => {
                backend.first_status = backend.status;
                Ok(backend)
            }
            Ok(Err(payload)) if error_code(&payload) == MUST_CHANGE_PASSWORD => {
                backend.sandboxed = Some(payload.into());
                // Nobody else's, even when it is out of that.
                backend.outlasts_reset = true;
                Ok(backend)
            }
            Ok(Err(payload)) => Err(ConnectError::Refused(payload)),
            Err(Broken::Io(e)) => Err(e.into()),
            Err(Broken::Malformed(e)) => Err(e.into()),
        }
    }
}

/// Of a MariaDB; before 11 its version began with that of a MySQL that replicates from it.
fn major_version(version: &[u8]) -> u32 {
    let version = version.strip_prefix(b"5.5.5-").unwrap_or(version);
    let digits = version.split(|b| !b.is_ascii_digit()).next().unwrap_or_default();
    str::from_utf8(digits).ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// An error instead of a greeting has no SQLSTATE, which the client, whose login is over, expects.
fn with_sqlstate(mut payload: Vec<u8>) -> Vec<u8> {
    if payload.len() >= 3 && payload.get(3) != Some(&b'#') {
        let state = match u16::from_le_bytes([payload[1], payload[2]]) {
            // ER_CON_COUNT_ERROR, ER_SERVER_SHUTDOWN
            1040 => b"#08004",
            1053 => b"#08S01",
            _ => b"#HY000",
        };
        payload.splice(3..3, state.iter().copied());
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mariadb_says_its_version_in_two_ways() {
        assert_eq!(major_version(b"5.5.5-10.11.6-MariaDB-0+deb12u1"), 10);
        assert_eq!(major_version(b"11.8.3-MariaDB-log"), 11);
        assert_eq!(major_version(b"MariaDB"), 0);
    }

    #[test]
    fn errors_instead_of_a_greeting_get_a_sqlstate() {
        let full = b"\xff\x10\x04Too many connections".to_vec();
        assert_eq!(with_sqlstate(full), b"\xff\x10\x04#08004Too many connections");
        let whole = b"\xff\x10\x04#08004Too many connections".to_vec();
        assert_eq!(with_sqlstate(whole.clone()), whole);
    }
}
