//! Which account a client is, and its proof that it knows the password.

use std::net::IpAddr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use pointsman_config::proxy::AuthPlugin;
use pointsman_wire::auth::Whole;
use pointsman_wire::handshake::auth_switch;
use pointsman_wire::{auth, write_packet};
use zeroize::Zeroizing;

use crate::accounts::{self, Proof};
use crate::backend::{Origin, error_code, read_packet};
use crate::buffers::Buffer;
use crate::credentials::{Credentials, RsaKey};
use crate::login::{Denied, default_plugin, salt};
use crate::seldom::warn_seldom;
use crate::socket::Socket;
use crate::tls::Facts;
use crate::worker::Worker;

pub struct Proving<'a> {
    worker: &'a Worker,
    socket: &'a mut Socket,
    buf: &'a mut Buffer,
    origin: Origin,
    /// What protects the connection.
    tls: Option<Facts>,
    /// Sequence id of the client's newest packet.
    pub seq: u8,
    /// The password, once the client has gone the full path, which it does but once per salt.
    password: Option<Zeroizing<Vec<u8>>>,
    /// A server has turned it away.
    judged: bool,
    /// The salt to which mysql_native_password was the answer.
    pub native_salt: Option<[u8; auth::SALT]>,
}

impl<'a> Proving<'a> {
    pub fn new(
        worker: &'a Worker,
        socket: &'a mut Socket,
        buf: &'a mut Buffer,
        origin: Origin,
        seq: u8,
    ) -> Self {
        let tls = socket.tls();
        let (password, judged, native_salt) = (None, false, None);
        Self { worker, socket, buf, origin, tls, seq, password, judged, native_salt }
    }

    async fn ask(&mut self, payload: &[u8]) -> Result<Vec<u8>, Denied> {
        let mut out = Vec::new();
        write_packet(&mut out, self.seq.wrapping_add(1), payload);
        self.socket.write_all(&out).await?;
        let (seq, payload) = read_packet(self.socket, self.buf).await?;
        self.seq = seq;
        Ok(payload)
    }

    pub async fn prove(
        &mut self,
        user: &[u8],
        token: Vec<u8>,
        plugin: &[u8],
        salt: [u8; auth::SALT],
    ) -> Result<Credentials, Denied> {
        let ip = self.origin.source.ip().to_canonical();
        let shared = &self.worker.shared;
        // What was acknowledged before this login has to count for it.
        shared.cluster.catch_up_with_accounts().await;
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
                Some(Proof::Password { plugin: AuthPlugin::CachingSha2Password, .. }) => {
                    auth::CACHING_SHA2
                }
                Some(Proof::Sha2 { plugin, .. }) => plugin,
                Some(Proof::Unsupported(other)) => {
                    let message = format!(
                        "[PM3001] account '{}' uses the authentication plugin '{other}', whose proof \
                         can't be passed on to the servers; name the account and its password in a \
                         [[user]] table, or give it mysql_native_password, caching_sha2_password or \
                         sha256_password",
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
                self.password = None;
            }
            // How MySQL's clients say that there is no password.
            if wanted != auth::NATIVE && token == [0] {
                token.clear();
            }
            let mut locked = false;
            let proved = match &account {
                Some(account) if account.is_met_by(self.tls.as_ref()) => {
                    match self.check(user, &account.proof, &token, &salt).await {
                        // Told below, with the address that the client has.
                        Err(Denied::Server { payload, .. })
                            if account.locked && error_code(&payload) == LOCKED =>
                        {
                            locked = true;
                            None
                        }
                        Ok(proved) => {
                            locked = account.locked && proved.is_some();
                            proved.filter(|_| !locked)
                        }
                        Err(denied) => return Err(denied),
                    }
                }
                // All that is asked of those who may log in is asked of the others too.
                _ if wanted == auth::CACHING_SHA2 && !token.is_empty() => {
                    self.full_password(wanted, &token, &salt).await?;
                    None
                }
                _ => None,
            };
            if let Some(credentials) = proved {
                self.native_salt = (wanted == auth::NATIVE).then_some(salt);
                return Ok(credentials);
            }
            if let Some(account) = account.as_ref().filter(|a| !a.is_met_by(self.tls.as_ref())) {
                let (user, peer) = (String::from_utf8_lossy(user), self.origin.source);
                let demand = &account.demand;
                // The client is told no more than a server tells it.
                warn_seldom!(%peer, %user, ?demand, tls = ?self.tls, "[PM3002] the account demands more of the connection");
                return Err(self.access_denied(&user, ip, !token.is_empty()));
            }
            if locked {
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
                if self.went_fast(token, salt, password).await? {
                    return Ok(Some(Credentials::from_password(user, password)));
                }
                let given = self.full_password(auth::CACHING_SHA2, token, salt).await?;
                let right = given.is_some_and(|given| is_same(&given, password));
                Ok(right.then(|| Credentials::from_password(user, password)))
            }
            Proof::Sha2 { plugin, stored, counted, two } => {
                let known = shared.known.password(user, stored).filter(|_| !counted);
                if *plugin == auth::CACHING_SHA2
                    && let Some(password) = &known
                    && self.went_fast(token, salt, password).await?
                {
                    return Ok(Some(Credentials::from_password(user, password)));
                }
                let Some(given) = self.full_password(plugin, token, salt).await? else {
                    return Ok(None);
                };
                match known {
                    Some(known) if is_same(&given, &known) => {
                        Ok(Some(Credentials::from_password(user, &known)))
                    }
                    Some(_) if !two => Ok(None),
                    _ => self.ask_a_server(user, stored, &given, *counted || *two).await,
                }
            }
            Proof::Unsupported(_) => Ok(None),
        }
    }

    /// Only the servers can check this one: tries the password on them.
    async fn ask_a_server(
        &mut self,
        user: &[u8],
        stored: &[u8],
        password: &[u8],
        counted: bool,
    ) -> Result<Option<Credentials>, Denied> {
        let shared = &self.worker.shared;
        let credentials = Credentials::from_password(user, password);
        let Some(_turn) = shared.doubtful.turn().await else {
            return Err(self.denied(1040, "08004", "Too many connections".to_owned()));
        };
        // Another client may have proved it meanwhile.
        if let Some(known) = shared.known.password(user, stored).filter(|_| !counted) {
            return Ok(is_same(password, &known).then_some(credentials));
        }
        match crate::change_user::try_log_in(self.worker, &credentials, self.origin).await {
            Ok(()) => {
                shared.known.remember(user, stored, password);
                Ok(Some(credentials))
            }
            // Named in our words: the server speaks of the proxy's address.
            Err(Some(payload)) if error_code(&payload) == 1045 => {
                self.judged = true;
                Ok(None)
            }
            // Too many connections, a certificate it lacks: not the password's fault.
            Err(Some(payload)) => Err(Denied::Server { seq: self.seq.wrapping_add(1), payload }),
            Err(None) => {
                let message = "[PM2002] can't reach any server to check the password".to_owned();
                Err(self.denied(2003, "HY000", message))
            }
        }
    }

    /// caching_sha2_password's fast path against a password that is known; if that fails, the full
    /// one is next, as with servers.
    async fn went_fast(
        &mut self,
        token: &[u8],
        salt: &[u8; auth::SALT],
        password: &[u8],
    ) -> Result<bool, Denied> {
        let stage2 = auth::sha2_stage2(&auth::sha2_stage1(password));
        if self.password.is_some() || auth::sha2_verify(token, salt, &stage2).is_none() {
            return Ok(false);
        }
        let mut out = Vec::new();
        self.seq = write_packet(&mut out, self.seq.wrapping_add(1), &[1, auth::SHA2_FAST_OK])
            .wrapping_sub(1);
        self.socket.write_all(&out).await?;
        Ok(true)
    }

    /// The full path: the password, through TLS or RSA-encrypted. `first`: what the client answered
    /// to the salt.
    async fn full_password(
        &mut self,
        plugin: &str,
        first: &[u8],
        salt: &[u8; auth::SALT],
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Denied> {
        if let Some(given) = &self.password {
            return Ok(Some(given.clone()));
        }
        // In sha256_password that is the only path, and the client goes ahead.
        let answer = match plugin {
            auth::SHA256 => first.to_vec(),
            _ => self.ask(&[1, auth::SHA2_FULL]).await?,
        };
        let answer = Zeroizing::new(answer);
        let shared = &self.worker.shared;
        let secure = self.tls.is_some();
        let sealed = if secure { 0 } else { shared.rsa().map_or(0, RsaKey::ciphertext_size) };
        let given = match auth::whole_password(&answer, plugin, secure, sealed) {
            Whole::Clear(password) => Some(Zeroizing::new(password.to_vec())),
            Whole::Malformed => None,
            Whole::Sealed(sealed) => shared.rsa().and_then(|rsa| rsa.password(sealed, salt)),
            Whole::WantsKey => {
                let Some(rsa) = shared.rsa() else { return Ok(None) };
                let mut key = vec![1];
                key.extend_from_slice(rsa.pem());
                rsa.password(&self.ask(&key).await?, salt)
            }
            // MariaDB's client does so if it wanted TLS, whether or not it got it. Servers turn that
            // away, and so do we: accepted, nobody would notice that passwords can be overheard.
            Whole::Exposed => {
                let message = "[PM3003] the client sent its password unencrypted over a \
                               connection without TLS; the mariadb client must be told --skip-ssl"
                    .to_owned();
                return Err(self.denied(1045, "28000", message));
            }
        };
        self.password.clone_from(&given);
        Ok(given)
    }
}

/// MySQL's "Account is locked", which is said only to those who know the password.
const LOCKED: u16 = 3118;

fn is_same(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}
