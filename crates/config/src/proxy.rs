//! `proxy.toml`: the configuration of `pointsman proxy`.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use crate::Secret;

/// All of `proxy.toml`. Only `[[listener]]`, `[[server]]` and `[monitor]` must be written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    #[serde(rename = "listener")]
    pub listeners: Vec<Listener>,
    #[serde(rename = "server")]
    pub servers: Vec<Server>,
    /// Accounts beside, or instead of, those of the databases.
    #[serde(rename = "user", default)]
    pub users: Vec<User>,
    pub monitor: Monitor,
    #[serde(default)]
    pub routing: Routing,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub admin: Admin,
    #[serde(default)]
    pub console: Console,
    /// Worker threads; 0 is one per core.
    #[serde(default)]
    pub workers: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub address: SocketAddr,
    /// Overrides `[routing] consistency` for clients of this listener.
    pub consistency: Option<Consistency>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub name: String,
    /// `host:port`; the host may be a name.
    pub address: String,
    /// Share of the reads among replicas, 0 to 100. 0: no reads.
    #[serde(default = "default_weight")]
    pub weight: u32,
}

fn default_weight() -> u32 {
    1
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    pub password: Secret,
    /// Host pattern as in MySQL's accounts; `%` is anywhere.
    #[serde(default = "default_host")]
    pub host: String,
    /// How clients prove the password.
    #[serde(default)]
    pub plugin: AuthPlugin,
}

fn default_host() -> String {
    "%".to_owned()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum AuthPlugin {
    #[default]
    #[serde(rename = "mysql_native_password")]
    NativePassword,
    #[serde(rename = "caching_sha2_password")]
    CachingSha2Password,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    pub user: String,
    pub password: Secret,
    /// Time between two looks at a server.
    #[serde(default = "default_interval", with = "crate::duration")]
    pub interval: Duration,
    /// A server that has not answered for this long is down.
    #[serde(default = "default_timeout", with = "crate::duration")]
    pub timeout: Duration,
    /// How often accounts are read again; a failed login reads them at once.
    #[serde(default = "default_accounts_interval", with = "crate::duration")]
    pub accounts_interval: Duration,
}

fn default_interval() -> Duration {
    Duration::from_millis(250)
}
fn default_timeout() -> Duration {
    Duration::from_secs(2)
}
fn default_accounts_interval() -> Duration {
    Duration::from_secs(30)
}

/// What a read may miss. Each level includes the promises of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Any replica within `max_lag`.
    Eventual,
    /// A session sees its own writes.
    Session,
    /// A read sees every write this proxy acknowledged before it.
    #[default]
    Causal,
    /// A read sees every transaction the primary had committed when the read arrived.
    Strong,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    pub consistency: Consistency,
    /// A replica further behind than this gets no reads.
    #[serde(with = "crate::duration")]
    pub max_lag: Duration,
    /// How long a read waits for a replica to catch up before it goes to the primary.
    #[serde(with = "crate::duration")]
    pub causal_timeout: Duration,
    /// Whether the primary takes its share of the reads even while replicas can serve them.
    pub primary_reads: bool,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            consistency: Consistency::default(),
            max_lag: Duration::from_secs(10),
            causal_timeout: Duration::from_millis(50),
            primary_reads: false,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most clients at once; the next one is refused with error 1040.
    pub max_connections: usize,
    /// A backend connection not made within this is a failure.
    #[serde(with = "crate::duration")]
    pub connect_timeout: Duration,
    /// A client that does not finish its login within this is dropped.
    #[serde(with = "crate::duration")]
    pub login_timeout: Duration,
    /// On SIGTERM: how long open transactions may take to finish.
    #[serde(with = "crate::duration")]
    pub drain_timeout: Duration,
    /// Statements longer than this many bytes are not looked into; they go to the primary.
    #[serde(with = "crate::size")]
    pub max_statement: usize,
    /// Fingerprints remembered per worker.
    pub statement_cache: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            connect_timeout: Duration::from_secs(1),
            login_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            max_statement: 4 << 20,
            statement_cache: 10_000,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    pub address: SocketAddr,
    /// Demanded from every caller; must be set when `address` is not loopback.
    pub token: Option<Secret>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 8989)), token: None }
    }
}

/// The SQL console: `mysql -h 127.0.0.1 -P 8990`. Loopback only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// `None` (written `address = ""`) turns it off.
    pub address: Option<SocketAddr>,
}

impl Default for Console {
    fn default() -> Self {
        Self { address: Some(SocketAddr::from(([127, 0, 0, 1], 8990))) }
    }
}
