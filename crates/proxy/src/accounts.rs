//! Who may log in, and by which proof.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use pointsman_cluster::{Accounts, TlsDemand};
use pointsman_config::Secret;
use pointsman_config::proxy::{AuthPlugin, User};
use pointsman_session::Level;
use pointsman_wire::auth;
use zeroize::Zeroizing;

use crate::shared::Shared;
use crate::tls::Facts;

/// How an account's client proves itself.
pub enum Proof {
    /// Password known from the config.
    Password {
        plugin: AuthPlugin,
        password: Zeroizing<Vec<u8>>,
    },
    /// `SHA1(SHA1(password))`.
    Native([u8; 20]),
    /// caching_sha2_password or, as `plugin` says, sha256_password, with a hash only the servers can
    /// check.
    Sha2 {
        plugin: &'static str,
        stored: Zeroizing<Vec<u8>>,
        /// The servers have to see every login.
        counted: bool,
        /// There are two passwords.
        two: bool,
    },
    Empty,
    /// A plugin Pointsman does not speak.
    Unsupported(String),
}

/// The account a client's user name and address lead to.
pub struct Account {
    pub proof: Proof,
    pub locked: bool,
    /// `REQUIRE SSL` and the like.
    pub demand: TlsDemand,
}

impl Account {
    /// Whether the connection is what the account demands.
    #[must_use]
    pub fn is_met_by(&self, tls: Option<&Facts>) -> bool {
        let peer = tls.and_then(|t| t.peer.as_ref());
        match &self.demand {
            TlsDemand::None => true,
            TlsDemand::Tls => tls.is_some(),
            TlsDemand::Certificate => peer.is_some(),
            TlsDemand::Specified { cipher, issuer, subject } => {
                let same = |wanted: &str, is: Option<&String>| {
                    wanted.is_empty() || is.is_some_and(|is| is == wanted)
                };
                tls.is_some()
                    && same(cipher, tls.map(|t| &t.cipher))
                    && same(issuer, peer.map(|p| &p.issuer))
                    && same(subject, peer.map(|p| &p.subject))
            }
        }
    }
}

fn of_user(user: &User, password: &Secret) -> Account {
    let password = Zeroizing::new(password.expose().as_bytes().to_vec());
    let proof = if password.is_empty() {
        Proof::Empty
    } else {
        Proof::Password { plugin: user.plugin, password }
    };
    Account { proof, locked: false, demand: TlsDemand::None }
}

/// The `[[user]]` that a client is among `accounts`.
fn own<'a>(shared: &'a Shared, accounts: &Accounts, user: &str, peer: IpAddr) -> Option<&'a User> {
    let account = accounts.find(user, peer)?;
    shared.config.users.iter().find(|u| u.name == account.user && u.host == account.host)
}

/// What the config says of the staleness of this account's reads, if anything.
pub fn level(shared: &Shared, user: &[u8], peer: IpAddr) -> Option<Level> {
    let name = std::str::from_utf8(user).ok()?;
    own(shared, &shared.levels, name, peer)?.consistency.map(crate::shared::level)
}

/// Finds the account: those of the config first, then those of the databases.
pub fn find(shared: &Shared, user: &[u8], peer: IpAddr) -> Option<Account> {
    let name = std::str::from_utf8(user).ok()?;
    let own = own(shared, &shared.own_accounts, name, peer);
    if let Some((user, password)) = own.and_then(|user| Some((user, user.password.as_ref()?))) {
        return Some(of_user(user, password));
    }
    let accounts = shared.cluster.accounts().load();
    let account = accounts.find(name, peer)?;
    // The first way to log in that is spoken here.
    let spoken = [auth::NATIVE, auth::CACHING_SHA2, auth::SHA256];
    let method =
        account.methods.iter().find(|m| m.plugin.is_empty() || spoken.contains(&&*m.plugin));
    let plugin = method.map_or_else(|| account.plugin(), |m| &m.plugin);
    let stored = std::str::from_utf8(method.map_or(&[][..], |m| &m.auth_string)).unwrap_or("?");
    let proof = match plugin {
        "" | auth::NATIVE if stored.is_empty() => Proof::Empty,
        "" | auth::NATIVE => match auth::native_parse_hash(stored) {
            Some(stage2) => Proof::Native(stage2),
            None => Proof::Unsupported("an invalid password hash".to_owned()),
        },
        auth::CACHING_SHA2 | auth::SHA256 if stored.is_empty() => Proof::Empty,
        auth::CACHING_SHA2 | auth::SHA256 => Proof::Sha2 {
            plugin: if plugin == auth::SHA256 { auth::SHA256 } else { auth::CACHING_SHA2 },
            stored: Zeroizing::new([stored.as_bytes(), &account.retained.0].concat()),
            counted: account.counts_failures,
            two: !account.retained.0.is_empty(),
        },
        other => Proof::Unsupported(other.to_owned()),
    };
    Some(Account { proof, locked: account.locked, demand: account.tls.clone() })
}

/// Passwords that a server has accepted in full, for the fast path and for further servers.
#[derive(Default)]
pub struct Known(Mutex<HashMap<Vec<u8>, Proved>>);

struct Proved {
    /// The servers' hash it was proved against; a changed password makes it void.
    stored: Zeroizing<Vec<u8>>,
    password: Zeroizing<Vec<u8>>,
}

/// Users remembered at most.
const MOST: usize = 10_000;

impl Known {
    pub fn password(&self, user: &[u8], stored: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(user).filter(|p| p.stored[..] == *stored).map(|p| p.password.clone())
    }

    pub fn remember(&self, user: &[u8], stored: &[u8], password: &[u8]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        let proved = Proved {
            stored: Zeroizing::new(stored.to_vec()),
            password: Zeroizing::new(password.to_vec()),
        };
        known.insert(user.to_vec(), proved);
    }
}

/// The config's accounts, for finding the one that matches; passwords stay in the config.
#[must_use]
pub fn of_config<'a>(users: impl Iterator<Item = &'a User>) -> Accounts {
    Accounts::new(users.map(|user| pointsman_cluster::Account {
        user: user.name.clone(),
        host: user.host.clone(),
        methods: Vec::new(),
        locked: false,
        expired: false,
        counts_failures: false,
        retained: Default::default(),
        tls: TlsDemand::None,
    }))
}
