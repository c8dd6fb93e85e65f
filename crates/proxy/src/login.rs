//! A client's way in: greeting, proof of password, first backend.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use pointsman_cluster::Touched;
use pointsman_config::proxy::AuthPlugin;
use pointsman_session::{Session, Transcript};
use pointsman_wire::handshake::{ChangeUser, auth_switch};
use pointsman_wire::{Malformed, auth, err_packet, write_packet};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::accounts::{self, Proof};
use crate::arrival::arrive;
use crate::backend::{Login, Origin, error_code, read_packet};
use crate::buffers::Buffer;
use crate::client::Client;
use crate::credentials::Credentials;
use crate::listen::Entrance;
use crate::prepared::Prepared;
use crate::reporting::Reporting;
use crate::seldom::warn_seldom;
use crate::socket::Socket;
use crate::tls::Facts;
use crate::worker::{SessionInfo, Worker};

/// Why a login ended.
pub enum Denied {
    /// Tell the client this.
    Error {
        seq: u8,
        code: u16,
        state: &'static str,
        message: String,
    },
    /// Tell the client what a server said: an ERR payload.
    Server {
        seq: u8,
        payload: Vec<u8>,
    },
    Gone,
}

impl From<std::io::Error> for Denied {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl Denied {
    pub fn malformed(seq: u8, _: Malformed) -> Self {
        Self::Error { seq, code: 1043, state: "08S01", message: "Bad handshake".to_owned() }
    }

    pub fn blocked(seq: u8, ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        let message = format!(
            "[PM3005] Host '{ip}' is blocked because of many connection errors; it may try again \
             after `login_block`"
        );
        Self::Error { seq, code: 1129, state: "HY000", message }
    }

    /// Whether it was the client's fault, as wrong passwords and broken packets are.
    fn is_clients_fault(&self) -> bool {
        matches!(self, Self::Error { code: 1043 | 1045, .. })
    }

    /// What to send the client, if it is still there.
    fn packet(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::Error { seq, code, state, message } => {
                err_packet(&mut out, *seq, *code, state, message);
            }
            Self::Server { seq, payload } => {
                write_packet(&mut out, *seq, payload);
            }
            Self::Gone => return None,
        }
        Some(out)
    }
}

/// Serves one client from greeting to goodbye.
pub async fn serve(worker: Rc<Worker>, stream: TcpStream, peer: SocketAddr, entrance: Entrance) {
    // In a box, so that its room is given back once it is over.
    let Some((mut client, seq)) = Box::pin(let_in(worker, stream, peer, entrance)).await else {
        return;
    };
    client.welcome_and_serve(seq).await;
}

/// A client that has proved who it is, and the sequence id of the OK that is still owed.
async fn let_in(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    entrance: Entrance,
) -> Option<(Box<Client>, u8)> {
    let mut socket = Socket::accepted(stream);
    let limits = &worker.shared.config.limits;
    if worker.shared.sessions() > limits.max_connections as u64 {
        let _ = refuse(&mut socket, 0, 1040, "08004", "Too many connections").await;
        return None;
    }
    if worker.shared.blocked.admit(peer.ip()).is_err() {
        if let Some(packet) = Denied::blocked(0, peer.ip()).packet() {
            let _ = socket.write_all(&packet).await;
        }
        return None;
    }
    let id = worker.shared.next_id();
    let info = Rc::new(SessionInfo {
        id,
        peer: Cell::new(peer),
        fd: socket.raw_fd(),
        since: Instant::now(),
        user: RefCell::default(),
        credentials: RefCell::default(),
        database: RefCell::default(),
        statements: Cell::new(0),
        changed: Cell::new(Instant::now()),
        busy: Cell::new(None),
        killed: Cell::new(false),
        ended: Cell::new(false),
        held: Cell::new(None),
        recalled: Cell::new(false),
        waker: Cell::new(None),
        transaction: Cell::new(None),
        backends: RefCell::default(),
        last_statement: RefCell::default(),
    });
    // Declared after the socket, so that it goes first.
    let registered = worker.enter(&info);
    let logged_in = log_in(&worker, &mut socket, &info, entrance);
    let (login, seq) = match timeout(limits.login_timeout, logged_in).await {
        Ok(Ok(logged_in)) => {
            worker.shared.blocked.succeeded(info.peer.get().ip());
            logged_in
        }
        Ok(Err(denied)) => {
            let peer = info.peer.get();
            if denied.is_clients_fault() && worker.shared.blocked.failed(peer.ip()) {
                warn_seldom!(
                    %peer,
                    "[PM3005] too many failed logins in a row: the host is turned away for a while"
                );
            }
            if let Some(packet) = denied.packet() {
                worker.stats.logins_failed.add(1);
                let _ = socket.write_all(&packet).await;
            }
            return None;
        }
        Err(_) => return None,
    };
    let autocommit = worker.snapshot(|s| s.greeting.autocommit);
    let mut session = Session::new(autocommit);
    if let Some(database) = &login.database {
        session.set_schema(database);
        *info.database.borrow_mut() = String::from_utf8_lossy(database).into_owned();
    }
    info.is_now(&login.credentials);
    let mut client = Box::new(Client {
        _registered: registered,
        worker,
        socket,
        info,
        login,
        session,
        backends: Vec::new(),
        prepared: Prepared::default(),
        wrote: None,
        unsure: None,
        touched: Touched::default(),
        level: entrance.level,
        rules: Default::default(),
        entrance,
        transcript: Transcript::default(),
        owed: None,
        repeating: false,
        trouble: Cell::new(None),
        reporting: Reporting::default(),
        login_names: None,
    });
    client.settle_level();
    client.settle_rules();
    Some((client, seq))
}

async fn refuse(
    socket: &mut Socket,
    seq: u8,
    code: u16,
    state: &str,
    message: &str,
) -> std::io::Result<()> {
    let mut out = Vec::new();
    err_packet(&mut out, seq, code, state, message);
    socket.write_all(&out).await
}

/// The servers' own default.
pub fn default_plugin(mariadb: bool) -> &'static str {
    if mariadb { auth::NATIVE } else { auth::CACHING_SHA2 }
}

/// 20 random bytes; no NUL, which ends strings, and no `$`, which servers avoid too.
pub fn salt() -> [u8; auth::SALT] {
    std::array::from_fn(|_| {
        loop {
            let byte = rand::random::<u8>() & 0x7f;
            if byte != 0 && byte != b'$' {
                break byte;
            }
        }
    })
}

/// Greets and checks the password; gives how to log in to servers in the client's name, and the
/// sequence id of the OK that is still owed.
async fn log_in(
    worker: &Worker,
    socket: &mut Socket,
    info: &SessionInfo,
    entrance: Entrance,
) -> Result<(Login, u8), Denied> {
    let mut buf = Buffer::borrow();
    let arrival = arrive(worker, socket, &mut buf, info, entrance).await?;
    let (response, origin) = (arrival.response, arrival.origin);
    let mut proving = Proving::new(worker, socket, &mut buf, origin, arrival.seq);
    let plugin = response.plugin.clone().unwrap_or_else(|| auth::NATIVE.as_bytes().to_vec());
    let credentials = proving.prove(&response.user, response.token, &plugin, arrival.salt).await?;
    let seq = proving.seq.wrapping_add(1);
    let login = Login {
        credentials,
        caps: arrival.caps,
        collation: response.collation,
        database: response.database,
        attributes: response.attributes,
        origin: Some(origin),
        compression: arrival.compression,
    };
    Ok((login, seq))
}

/// COM_CHANGE_USER: the new login, and the sequence id of the OK owed; or the ERR to send.
pub async fn change_user(
    worker: &Worker,
    socket: &mut Socket,
    old: &Login,
    payload: &[u8],
) -> std::io::Result<Result<(Login, u8), Vec<u8>>> {
    let mut buf = Buffer::borrow();
    let Some(origin) = old.origin else { return Err(std::io::ErrorKind::NotConnected.into()) };
    let mut proving = Proving::new(worker, socket, &mut buf, origin, 0);
    let result = match ChangeUser::parse(payload, old.caps) {
        Err(e) => Err(Denied::malformed(1, e)),
        Ok(change) => {
            // The token was made for the salt of the first greeting, which is not kept: ask anew.
            let credentials = proving.prove(&change.user, Vec::new(), b"", [0; auth::SALT]).await;
            credentials.map(|credentials| Login {
                credentials,
                caps: old.caps,
                collation: change.collation.map_or(old.collation, |c| c as u8),
                database: change.database,
                attributes: change.attributes,
                origin: old.origin,
                compression: old.compression,
            })
        }
    };
    match result {
        Ok(login) => Ok(Ok((login, proving.seq.wrapping_add(1)))),
        Err(denied) => match denied.packet() {
            Some(packet) => Ok(Err(packet)),
            None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        },
    }
}

struct Proving<'a> {
    worker: &'a Worker,
    socket: &'a mut Socket,
    buf: &'a mut Buffer,
    origin: Origin,
    /// What protects the connection.
    tls: Option<Facts>,
    /// Sequence id of the client's newest packet.
    seq: u8,
    /// The client has gone the full path of caching_sha2_password, which it does but once.
    judged: bool,
}

impl<'a> Proving<'a> {
    fn new(
        worker: &'a Worker,
        socket: &'a mut Socket,
        buf: &'a mut Buffer,
        origin: Origin,
        seq: u8,
    ) -> Self {
        let tls = socket.tls();
        Self { worker, socket, buf, origin, tls, seq, judged: false }
    }

    async fn ask(&mut self, payload: &[u8]) -> Result<Vec<u8>, Denied> {
        let mut out = Vec::new();
        write_packet(&mut out, self.seq.wrapping_add(1), payload);
        self.socket.write_all(&out).await?;
        let (seq, payload) = read_packet(self.socket, self.buf).await?;
        self.seq = seq;
        Ok(payload)
    }

    async fn prove(
        &mut self,
        user: &[u8],
        token: Vec<u8>,
        plugin: &[u8],
        salt: [u8; auth::SALT],
    ) -> Result<Credentials, Denied> {
        let ip = self.origin.source.ip().to_canonical();
        let shared = &self.worker.shared;
        let mut refreshed = false;
        let (mut token, mut plugin, mut salt) = (token, plugin.to_vec(), salt);
        loop {
            let account = accounts::find(shared, user, ip);
            // It may have been made, unlocked or given another plugin a moment ago. Looked up before
            // asking: by the wrong plugin first and then by the right one is more than some clients
            // put up with.
            let usable = account.as_ref().is_some_and(|a| {
                !a.locked
                    && a.is_met_by(self.tls.as_ref())
                    && !matches!(a.proof, Proof::Unsupported(_))
            });
            if !usable && !refreshed {
                refreshed = true;
                if self.read_accounts_again().await {
                    continue;
                }
            }
            // An unknown user is asked for a password too, as servers do.
            let wanted = match account.as_ref().map(|a| &a.proof) {
                Some(
                    Proof::Password { plugin: AuthPlugin::CachingSha2Password, .. }
                    | Proof::Sha2 { .. },
                ) => auth::CACHING_SHA2,
                Some(Proof::Unsupported(other)) => {
                    let message = format!(
                        "[PM3001] account '{}' uses the authentication plugin '{other}', whose proof \
                         can't be passed on to the servers; name the account and its password in a \
                         [[user]] table, or give it mysql_native_password or caching_sha2_password",
                        String::from_utf8_lossy(user)
                    );
                    return Err(self.denied(1045, "28000", message));
                }
                // Nor does one without a password say how: MySQL 9 and its clients know no other way.
                Some(Proof::Empty) | None => {
                    default_plugin(self.worker.snapshot(|s| s.greeting.mariadb))
                }
                Some(_) => auth::NATIVE,
            };
            if plugin != wanted.as_bytes() {
                salt = self::salt();
                token = self.ask(&auth_switch(wanted, &salt)).await?;
                plugin = wanted.as_bytes().to_vec();
            }
            // How its clients say that there is no password.
            if wanted == auth::CACHING_SHA2 && token == [0] {
                token.clear();
            }
            let proved = match &account {
                Some(account) if !account.locked && account.is_met_by(self.tls.as_ref()) => {
                    self.check(user, &account.proof, &token, &salt).await?
                }
                _ => None,
            };
            if let Some(credentials) = proved {
                return Ok(credentials);
            }
            if let Some(account) = account.as_ref().filter(|a| !a.is_met_by(self.tls.as_ref())) {
                let (user, peer) = (String::from_utf8_lossy(user), self.origin.source);
                let demand = &account.demand;
                // The client is told no more than a server tells it.
                warn_seldom!(%peer, %user, ?demand, tls = ?self.tls, "[PM3002] the account demands more of the connection");
                return Err(self.access_denied(&user, ip, !token.is_empty()));
            }
            if account.as_ref().is_some_and(|a| a.locked) {
                let name = String::from_utf8_lossy(user).into_owned();
                return Err(if self.worker.snapshot(|s| s.greeting.mariadb) {
                    self.denied(4151, "HY000", "Access denied, this account is locked".to_owned())
                } else {
                    let message =
                        format!("Access denied for user '{name}'@'{ip}'. Account is locked.");
                    self.denied(3118, "HY000", message)
                });
            }
            // The account may be newer than what was read of them; not if a server has judged.
            if refreshed || self.judged {
                let user = String::from_utf8_lossy(user);
                return Err(self.access_denied(&user, ip, !token.is_empty()));
            }
            refreshed = true;
            if !self.read_accounts_again().await {
                let user = String::from_utf8_lossy(user);
                return Err(self.access_denied(&user, ip, !token.is_empty()));
            }
        }
    }

    /// Waits until the accounts have been read again. False: too many others do.
    async fn read_accounts_again(&self) -> bool {
        let shared = &self.worker.shared;
        let Some(_place) = shared.doubtful.enter() else {
            let peer = self.origin.source;
            warn_seldom!(
                %peer,
                "too many logins fail: the accounts are not read again before others are turned away"
            );
            return false;
        };
        shared.cluster.refresh_accounts().await;
        true
    }

    fn access_denied(&self, user: &str, ip: IpAddr, password: bool) -> Denied {
        let used = if password { "YES" } else { "NO" };
        let message = format!("Access denied for user '{user}'@'{ip}' (using password: {used})");
        self.denied(1045, "28000", message)
    }

    fn denied(&self, code: u16, state: &'static str, message: String) -> Denied {
        Denied::Error { seq: self.seq.wrapping_add(1), code, state, message }
    }

    async fn check(
        &mut self,
        user: &[u8],
        proof: &Proof,
        token: &[u8],
        salt: &[u8; auth::SALT],
    ) -> Result<Option<Credentials>, Denied> {
        let shared = &self.worker.shared;
        match proof {
            Proof::Empty => Ok(token.is_empty().then(|| Credentials::from_password(user, b""))),
            _ if token.is_empty() => Ok(None),
            Proof::Native(stage2) => Ok(auth::native_verify(token, salt, stage2)
                .map(|stage1| Credentials::from_native(user, stage1))),
            Proof::Password { plugin: AuthPlugin::NativePassword, password } => {
                let stage2 = auth::native_stage2(&auth::native_stage1(password));
                Ok(auth::native_verify(token, salt, &stage2)
                    .map(|_| Credentials::from_password(user, password)))
            }
            Proof::Password { plugin: AuthPlugin::CachingSha2Password, password } => {
                self.check_sha2(user, token, salt, password).await
            }
            Proof::Sha2 { stored } => match shared.known.password(user, stored) {
                Some(password) => self.check_sha2(user, token, salt, &password).await,
                None => {
                    // Only the servers can check this one: take the password and try it on them.
                    let Some(password) = self.full_password(salt).await? else { return Ok(None) };
                    let credentials = Credentials::from_password(user, &password);
                    match crate::change_user::try_log_in(self.worker, &credentials, self.origin)
                        .await
                    {
                        Ok(()) => {
                            shared.known.remember(user, stored, &password);
                            Ok(Some(credentials))
                        }
                        // Named in our words: the server speaks of the proxy's address.
                        Err(Some(payload)) if error_code(&payload) == 1045 => Ok(None),
                        // An expired password, too many connections: not the password's fault.
                        Err(Some(payload)) => {
                            Err(Denied::Server { seq: self.seq.wrapping_add(1), payload })
                        }
                        Err(None) => {
                            let message =
                                "[PM2002] can't reach any server to check the password".to_owned();
                            Err(self.denied(2003, "HY000", message))
                        }
                    }
                }
            },
            Proof::Unsupported(_) => Ok(None),
        }
    }

    /// caching_sha2_password's fast path against a password that is known.
    async fn check_sha2(
        &mut self,
        user: &[u8],
        token: &[u8],
        salt: &[u8; auth::SALT],
        password: &[u8],
    ) -> Result<Option<Credentials>, Denied> {
        let stage2 = auth::sha2_stage2(&auth::sha2_stage1(password));
        if auth::sha2_verify(token, salt, &stage2).is_none() {
            return Ok(None);
        }
        let mut out = Vec::new();
        self.seq = write_packet(&mut out, self.seq.wrapping_add(1), &[1, auth::SHA2_FAST_OK])
            .wrapping_sub(1);
        self.socket.write_all(&out).await?;
        Ok(Some(Credentials::from_password(user, password)))
    }

    /// caching_sha2_password's full path: the password, through TLS or RSA-encrypted.
    async fn full_password(
        &mut self,
        salt: &[u8; auth::SALT],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Denied> {
        self.judged = true;
        let mut answer = self.ask(&[1, auth::SHA2_FULL]).await?;
        if self.tls.is_some() && answer != [auth::SHA2_REQUEST_KEY] {
            let mut password = Zeroizing::new(answer);
            return Ok((password.pop() == Some(0)).then_some(password));
        }
        let Some(rsa) = self.worker.shared.rsa() else { return Ok(None) };
        if answer == [auth::SHA2_REQUEST_KEY] {
            let mut key = vec![1];
            key.extend_from_slice(rsa.pem());
            answer = self.ask(&key).await?;
        } else if answer.len() != rsa.ciphertext_size() {
            // MariaDB's client does so if it wanted TLS, whether or not it got it. Servers turn that
            // away, and so do we: accepted, nobody would notice that passwords can be overheard.
            let message = "[PM3003] the client sent its password unencrypted over a connection \
                           without TLS; the mariadb client must be told --skip-ssl"
                .to_owned();
            return Err(self.denied(1045, "28000", message));
        }
        Ok(rsa.password(&answer, salt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client that says nothing takes, beside what it has said and what the kernel keeps.
    #[test]
    fn an_idle_client_takes_little_room() {
        fn of<F, A>(_: impl Fn(A) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        let task = of(|(worker, stream, peer, entrance)| serve(worker, stream, peer, entrance));
        assert!(task <= 256, "{task}");
        let client = std::mem::size_of::<Client>();
        assert!(client <= 784, "{client}");
    }
}
