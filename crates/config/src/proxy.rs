//! `proxy.toml`: the configuration of `pointsman proxy`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::Secret;
use crate::rule::Rule;
use crate::tls::{ClientTls, Network, ServerTls};

/// All of `proxy.toml`. Only `[[listener]]`, `[[server]]` and `[monitor]` must be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    pub listeners: Vec<Listener>,
    pub servers: Vec<Server>,
    /// Accounts beside, or instead of, those of the databases.
    pub users: Vec<User>,
    /// Of these the first that is for a statement counts.
    pub rules: Vec<Rule>,
    pub monitor: Monitor,
    pub routing: Routing,
    pub failover: Failover,
    pub group: Group,
    pub pool: Pool,
    pub limits: Limits,
    pub admin: Admin,
    pub console: Console,
    /// Worker threads; 0 is one per core.
    pub workers: usize,
}

/// One address clients connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    /// Overrides `[routing] consistency` for clients of this listener.
    pub consistency: Option<Consistency>,
    pub tls: ClientTls,
    /// Whose PROXY protocol headers are believed.
    pub proxy_protocol: Vec<Network>,
}

/// One database server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub name: String,
    /// `host:port`; the host may be a name.
    pub address: String,
    /// Share of the reads among replicas, 0 to 100. 0: no reads.
    pub weight: u32,
    /// Whether it may become the primary.
    pub promote: bool,
    pub tls: ServerTls,
    /// It is told the client's address by a PROXY protocol header.
    pub proxy_protocol: bool,
}

/// An account beside those of the databases, or what holds for one of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    /// `None`: an account of the databases, with the password that it has there.
    pub password: Option<Secret>,
    /// Host pattern as in MySQL's accounts; `%` is anywhere.
    pub host: String,
    /// How clients prove the password.
    pub plugin: AuthPlugin,
    /// Overrides that of the listener and of `[routing]` for its sessions.
    pub consistency: Option<Consistency>,
}

/// How a client proves that it knows a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthPlugin {
    #[default]
    NativePassword,
    CachingSha2Password,
}

/// How the servers are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    pub user: String,
    pub password: Secret,
    /// Time between two looks at a server.
    pub interval: Duration,
    /// A server that has not answered for this long is down.
    pub timeout: Duration,
    /// How often accounts are read again; a failed login reads them at once.
    pub accounts_interval: Duration,
}

impl Monitor {
    /// Default of `interval`.
    pub const INTERVAL: Duration = Duration::from_millis(250);
    /// Default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(2);
    /// Default of `accounts_interval`.
    pub const ACCOUNTS_INTERVAL: Duration = Duration::from_secs(30);
}

/// What a read may miss. Each level includes the promises of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
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

/// Which server a statement goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    pub consistency: Consistency,
    /// A replica further behind than this gets no reads.
    pub max_lag: Duration,
    /// How long a read waits for a replica to catch up before it goes to the primary.
    pub causal_timeout: Duration,
    /// Whether the primary takes its share of the reads even while replicas can serve them.
    pub primary_reads: bool,
    /// Whether a causal read waits only for writes to the tables it reads, where that is certain.
    pub by_table: bool,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            consistency: Consistency::default(),
            max_lag: Duration::from_secs(10),
            causal_timeout: Duration::from_millis(50),
            primary_reads: false,
            by_table: true,
        }
    }
}

/// How the primary is replaced, and what becomes of clients meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    /// Whether a dead primary is replaced without being told to. `None`: if the account may.
    pub auto: Option<bool>,
    /// Whether several proxies agree on who acts, and one that can't reach most of the servers writes
    /// nothing. Else there must be no other that replaces primaries.
    pub agree: Agree,
    /// The account that promotes and re-points servers; the monitor's if `None`.
    pub user: Option<Account>,
    /// What a former primary replicates with; the account above if `None`.
    pub replication_user: Option<Account>,
    /// What a server's data are read and written with when it is rebuilt; the first if `None`.
    pub rebuild_user: Option<Account>,
    /// A program with its arguments that rebuilds a server; empty: Pointsman does it itself.
    pub rebuild_command: Vec<String>,
    /// Whether a former primary that comes back with nothing of its own follows the new one.
    pub auto_rejoin: bool,
    /// How long a replica that is to be promoted may take to apply what it received, before the
    /// operator is told; it goes on.
    pub apply_timeout: Duration,
    /// A planned change that takes longer is undone.
    pub switchover_timeout: Duration,
    /// In a planned change, how long open transactions may take to end.
    pub transaction_wait: Duration,
    /// How long a statement that needs the primary waits for one, from the moment the last one was
    /// lost. Zero: not at all.
    pub write_wait: Duration,
    /// Most bytes of statements kept per open transaction, to repeat it on the next primary. Zero:
    /// transactions are not repeated.
    pub replay_max_size: usize,
    /// Whether scheduled events are enabled at a new primary and disabled at the old one.
    pub handle_events: bool,
    /// Whether MySQL servers are made to note statements in their binary logs.
    pub note_statements: bool,
}

/// A user of the databases and its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub user: String,
    pub password: Secret,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            auto: None,
            agree: Agree::default(),
            user: None,
            replication_user: None,
            rebuild_user: None,
            rebuild_command: Vec::new(),
            auto_rejoin: true,
            apply_timeout: Duration::from_secs(30),
            switchover_timeout: Duration::from_secs(5),
            transaction_wait: Duration::from_millis(500),
            write_wait: Duration::from_secs(10),
            replay_max_size: 1 << 20,
            handle_events: true,
            note_statements: true,
        }
    }
}

/// How members of a cluster that elects for itself (Galera, Group Replication) are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Who takes the writes where every member could.
    pub writer: Writer,
    /// Whether Galera nodes that give their data to a joining one, or are desynced, are read from.
    pub available_when_donor: bool,
}

/// Whether there are other proxies before the same servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Agree {
    /// `false`: surely not.
    #[default]
    Never,
    /// `"when-met"`: not before one is met.
    Met,
    /// `true`
    Always,
}

impl Agree {
    /// As in the config.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "false",
            Self::Met => "when-met",
            Self::Always => "true",
        }
    }
}

/// Who takes the writes where every member could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Writer {
    /// The same as before, for as long as it can; at the beginning the first in the config.
    #[default]
    Stay,
    /// The first in the config that can, also when it comes back. Several proxies then agree.
    First,
}

/// Connections to servers, between sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Most idle connections kept per server. 0: none.
    pub max_idle: usize,
    /// Most connections per server, idle or not; beyond that, sessions share. 0: any number.
    pub max_connections: usize,
    /// An idle connection is closed after this.
    pub idle_timeout: Duration,
    /// A connection is not kept longer than this, so that what an account may do is asked anew.
    pub max_age: Duration,
    /// How long a session waits for a connection when all are taken.
    pub wait_timeout: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_idle: 100,
            max_connections: 0,
            idle_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(600),
            wait_timeout: Duration::from_secs(10),
        }
    }
}

/// How much, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most clients at once; the next one is refused with error 1040.
    pub max_connections: usize,
    /// A backend connection not made within this is a failure.
    pub connect_timeout: Duration,
    /// A client that does not finish its login within this is dropped.
    pub login_timeout: Duration,
    /// Failed logins in a row from one host until it is turned away with error 1129; 0: never.
    pub max_login_errors: u32,
    /// For how long it is.
    pub login_block: Duration,
    /// On SIGTERM: how long open transactions may take to finish.
    pub drain_timeout: Duration,
    /// Statements longer than this many bytes are not looked into; they go to the primary.
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
            max_login_errors: 0,
            login_block: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            max_statement: 4 << 20,
            statement_cache: 10_000,
        }
    }
}

/// The HTTP API and the dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// `None` (written `address = ""`) turns it off.
    pub address: Option<SocketAddr>,
}

impl Default for Console {
    fn default() -> Self {
        Self { address: Some(SocketAddr::from(([127, 0, 0, 1], 8990))) }
    }
}
