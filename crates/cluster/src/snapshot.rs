//! What is known of the servers right now: immutable, replaced as a whole, read without locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::gtid::{Flavour, Position};
use crate::member::Kind;

/// A server's place in the config, from 0. Stays the same while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u16);

/// What a server is for. [`crate::roles`] says how that is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The one server that takes writes.
    Primary,
    /// Follows the primary and may take reads.
    Replica,
    /// Up, but neither: a second writable server, a replica of a stranger, replication broken.
    Standalone,
    /// Does not answer.
    Down,
    /// Not looked at yet.
    Unknown,
}

impl Role {
    /// As in metrics and in `pointsman servers`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Standalone => "standalone",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

/// What the operator asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminState {
    #[default]
    Running,
    /// No new sessions and reads; what runs may end. A draining primary still takes writes: they
    /// have nowhere else to go.
    Draining,
    /// Out altogether. A primary keeps its role but is not [`Snapshot::primary`].
    Maintenance,
}

impl AdminState {
    /// As in metrics and in `pointsman servers`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }
}

/// One server in a [`Snapshot`].
#[derive(Debug, Clone)]
pub struct Server {
    pub id: ServerId,
    pub name: Arc<str>,
    /// `host:port` as configured.
    pub address: Arc<str>,
    pub role: Role,
    pub admin: AdminState,
    /// Replication lag behind the primary; `None` when unknown or meaningless.
    pub lag: Option<Duration>,
    /// Whether reads may go there: a running replica within `max_lag`. Never the primary.
    pub takes_reads: bool,
    /// Why it is what it is, for `pointsman servers`: one sentence.
    pub why: Arc<str>,
    /// Share of the reads.
    pub weight: u32,
    /// `@@server_id`, 0 when unknown.
    pub server_id: u32,
    /// Its binary log has rows, not statements: `@@binlog_format` is `ROW`.
    pub logs_rows: bool,
    /// `@@version`, empty when unknown.
    pub version: Arc<str>,
    /// The server it replicates from, if that is in the config.
    pub source: Option<ServerId>,
    /// It was the primary, or was to become it, and is none, however writable it is.
    pub kept_out: bool,
    /// Writes wait for space on its disk, and have for a while.
    pub disk_full: bool,
    /// `@@read_only`; `None` when unknown.
    pub read_only: Option<bool>,
    /// As a member of a cluster that elects for itself, in its own words: "Synced", "ONLINE". `None`
    /// if it is none, or does not answer.
    pub state: Option<Arc<str>>,
    /// Everything about the server that changes between snapshots.
    pub live: Arc<Live>,
}

/// Shared counters and flags of one server, written by all workers; each on its own terms.
#[derive(Debug, Default)]
pub struct Live {
    /// Set by whoever saw a connection fail; cleared by the monitor's next good look.
    pub suspect: AtomicBool,
    /// Statements sent and not yet answered.
    pub running: AtomicU32,
    /// Open connections from this proxy.
    pub connections: AtomicU32,
    /// Statements ever answered.
    pub statements: AtomicU64,
    /// Newest position this server is known to have applied. `None` while nothing is known, as
    /// after its connection broke: it may come back with other data.
    pub applied: ArcSwapOption<Position>,
}

impl Live {
    /// Whether the server is known to have applied all of `position`. Lock-free.
    #[must_use]
    #[inline]
    pub fn has_applied(&self, position: &Position) -> bool {
        self.applied.load().as_ref().is_some_and(|applied| applied.covers(position))
    }
}

/// Until when this proxy may write: kept current between snapshots, for a process that is stopped and
/// wakes up with an old one.
#[derive(Debug)]
pub struct Permit {
    base: Instant,
    /// Milliseconds since `base`.
    until: AtomicU64,
}

impl Permit {
    /// One that has lapsed.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { base: now, until: AtomicU64::new(0) }
    }

    pub fn set(&self, until: Instant) {
        let ms = until.saturating_duration_since(self.base).as_millis();
        self.until.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    #[must_use]
    pub fn has_lapsed(&self, now: Instant) -> bool {
        let ms = now.saturating_duration_since(self.base).as_millis();
        ms >= u128::from(self.until.load(Ordering::Relaxed))
    }
}

/// All servers at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every change.
    pub version: u64,
    /// Counts up whenever positions noted before lose their meaning: another server became the
    /// primary, or it came back with other transactions. Whoever keeps a position of a write keeps
    /// this beside it, and forgets the position when this differs.
    pub generation: u64,
    /// Indexed by [`ServerId`].
    pub servers: Vec<Server>,
    /// The only server that may take writes, if there is exactly one. Its role is
    /// [`Role::Primary`], and no other server has that role.
    pub primary: Option<ServerId>,
    /// Why there is no primary, for people and error messages; empty if there is one.
    pub no_primary_why: Arc<str>,
    /// While the primary is being changed in good order: the old one, on which open transactions
    /// may still end. There is no [`Snapshot::primary`] then.
    pub switching: Option<ServerId>,
    /// This proxy must not write to this server, which was the primary when it last might, nor go on
    /// with a transaction there: see [`crate::quorum`]. There is no [`Snapshot::primary`] then.
    pub cut_off: Option<ServerId>,
    /// Until when the primary may be written to; `None` if that does not end by itself.
    pub permit: Option<Arc<Permit>>,
    /// The primary's transactions have no GTIDs (MySQL calls them anonymous), or the newest of them may
    /// have none: no replica is known to have them, and none can take over.
    pub anonymous: bool,
    /// The newest change of the primary; `None` before the first.
    pub succession: Option<Arc<Succession>>,
    /// The kind of cluster, if the servers are members of one that elects for itself.
    pub group: Option<Kind>,
    /// Version, character set and so on that clients are greeted with.
    pub greeting: Greeting,
}

/// One server took over from another as the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Succession {
    /// [`Snapshot::generation`] since then.
    pub generation: u64,
    pub old: ServerId,
    pub new: ServerId,
    /// All that the new primary had when it was made writable: whatever of the old one's
    /// transactions is not in here is lost. `None` if that is not known, since somebody else
    /// promoted it.
    pub inherited: Option<Position>,
}

/// What a client is told at login, as the primary (or, lacking one, any server) would tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// As in the server's own handshake packet, `5.5.5-` prefix included where MariaDB sends it.
    pub server_version: Arc<str>,
    /// Default collation id (low byte in the handshake).
    pub collation: u16,
    /// Global `autocommit`.
    pub autocommit: bool,
    /// `major * 10000 + minor * 100 + patch`.
    pub version: u32,
    pub mariadb: bool,
}

impl Default for Greeting {
    fn default() -> Self {
        Self {
            server_version: Arc::from("5.5.5-10.11.0-MariaDB"),
            collation: 45,
            autocommit: true,
            version: 101_100,
            mariadb: true,
        }
    }
}

impl Greeting {
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        if self.mariadb { Flavour::MariaDb } else { Flavour::MySql }
    }
}

impl Snapshot {
    /// The servers are nodes of a Galera cluster.
    #[must_use]
    pub fn is_galera(&self) -> bool {
        self.group == Some(Kind::Galera)
    }

    /// Whether nothing may be sent to `server` for now, since another proxy may have made another
    /// primary.
    #[must_use]
    #[inline]
    pub fn forbids(&self, server: ServerId) -> bool {
        self.cut_off == Some(server)
            || self.primary == Some(server)
                && self.permit.as_ref().is_some_and(|permit| permit.has_lapsed(Instant::now()))
    }

    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.get(usize::from(id.0))
    }
    #[must_use]
    pub fn primary(&self) -> Option<&Server> {
        self.primary.and_then(|id| self.server(id))
    }
    /// By the name in the config.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| &*server.name == name)
    }
}
