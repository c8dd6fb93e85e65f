//! The databases' own accounts, matched to clients the way the server does it. Pure, but for
//! [`loader`].
//!
//! # Which account a client gets
//!
//! As in the server: accounts are sorted by how many hosts their pattern can match, fewest first
//! (literal hosts and addresses with a netmask, then patterns, then `%`); of equal ones the named
//! user comes before the anonymous one. The first that fits user and host is the account, even if
//! another one would accept the password.
//!
//! A client's address is matched as the server matches one with `skip_name_resolve`: host patterns
//! are compared with the IP address. Accounts for host *names* therefore match nobody, except
//! `localhost`, which matches loopback addresses, as it does through reverse lookup, unless the server
//! has `skip_name_resolve` on: there it is for the socket alone.

pub mod changes;
pub mod loader;
mod pattern;
pub(crate) mod watch;

use std::fmt;
use std::net::IpAddr;

use pattern::HostPattern;

/// One way to log in to an account.
#[derive(Clone, PartialEq, Eq)]
pub struct Method {
    /// `mysql_native_password`, `caching_sha2_password`, `ed25519`, ...
    pub plugin: String,
    /// What the plugin compares with: usually a hash of the password. Secret. Empty: no password.
    pub auth_string: Vec<u8>,
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

/// See [`Account::retained`]; never printed.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Retained(pub Vec<u8>);

impl fmt::Debug for Retained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "some" })
    }
}

/// `user`@`host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Empty: the anonymous account.
    pub user: String,
    pub host: String,
    /// In the order the server tries them; never empty.
    pub methods: Vec<Method>,
    /// `ACCOUNT LOCK`.
    pub locked: bool,
    /// The password must be changed before anything else.
    pub expired: bool,
    /// `FAILED_LOGIN_ATTEMPTS` (MySQL): the server counts wrong passwords, and blocks it after some.
    pub counts_failures: bool,
    /// The hash of a second password (MySQL's `RETAIN CURRENT PASSWORD`). Secret. Empty: there is none.
    pub retained: Retained,
    /// `REQUIRE ...`: what the account demands of the connection.
    pub tls: TlsDemand,
}

/// `REQUIRE NONE`, `SSL`, `X509`, or any of `SUBJECT`, `ISSUER` and `CIPHER`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum TlsDemand {
    #[default]
    None,
    Tls,
    /// And a certificate that its CA has signed.
    Certificate,
    /// And that these are equal to what is said here; the empty ones may be anything.
    Specified {
        cipher: String,
        issuer: String,
        subject: String,
    },
}

impl Account {
    /// Of the first way to log in.
    #[must_use]
    pub fn plugin(&self) -> &str {
        self.methods.first().map_or("", |method| &method.plugin)
    }

    /// Of the first way to log in. Secret.
    #[must_use]
    pub fn auth_string(&self) -> &[u8] {
        self.methods.first().map_or(&[], |method| &method.auth_string)
    }

    /// The way to log in with this plugin, if it is one.
    #[must_use]
    pub fn method(&self, plugin: &str) -> Option<&Method> {
        self.methods.iter().find(|method| method.plugin == plugin)
    }
}

/// All accounts, in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    accounts: Vec<(HostPattern, Account)>,
    /// `skip_name_resolve` is on.
    addresses_only: bool,
}

impl Accounts {
    #[must_use]
    pub fn new(accounts: impl IntoIterator<Item = Account>) -> Self {
        let mut accounts: Vec<_> =
            accounts.into_iter().map(|a| (HostPattern::new(&a.host), a)).collect();
        accounts.sort_by(|(a, x), (b, y)| {
            // Equal ones in the reverse order of their names, and so `localhost` before `127.0.0.1`.
            a.cmp_breadth(b)
                .then_with(|| x.user.is_empty().cmp(&y.user.is_empty()))
                .then_with(|| y.host.cmp(&x.host))
                .then_with(|| x.user.cmp(&y.user))
        });
        Self { accounts, addresses_only: false }
    }

    /// The same on a server with this `skip_name_resolve`.
    #[must_use]
    pub fn skip_name_resolve(self, on: bool) -> Self {
        Self { addresses_only: on, ..self }
    }

    /// The account of a client that logs in as `user` from `ip`, if any.
    #[must_use]
    pub fn find(&self, user: &str, ip: IpAddr) -> Option<&Account> {
        let ip = ip.to_canonical();
        self.accounts
            .iter()
            .find(|(pattern, account)| {
                (account.user == user || account.user.is_empty())
                    && pattern.matches(ip, !self.addresses_only)
            })
            .map(|(_, account)| account)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Account> {
        self.accounts.iter().map(|(_, account)| account)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
}

impl PartialEq for Accounts {
    fn eq(&self, other: &Self) -> bool {
        self.addresses_only == other.addresses_only && self.iter().eq(other.iter())
    }
}

#[cfg(test)]
mod tests;
