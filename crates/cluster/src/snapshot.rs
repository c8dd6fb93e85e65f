//! What is known of the servers right now: immutable, replaced as a whole, read without locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::gtid::Position;

/// A server's place in the config, from 0. Stays the same while the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u16);

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// What the operator asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AdminState {
    #[default]
    Running,
    /// No new sessions and reads; what runs may end.
    Draining,
    /// Out altogether.
    Maintenance,
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
    /// `@@version`, empty when unknown.
    pub version: Arc<str>,
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
    /// Newest position this server is known to have applied.
    pub applied: ArcSwapOption<Position>,
}

/// All servers at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every change.
    pub version: u64,
    /// Indexed by [`ServerId`].
    pub servers: Vec<Server>,
    /// The only server that may take writes, if there is exactly one.
    pub primary: Option<ServerId>,
    /// Why there is no primary, for people and error messages; empty if there is one.
    pub no_primary_why: Arc<str>,
    /// Version, character set and so on that clients are greeted with.
    pub greeting: Greeting,
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

impl Snapshot {
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<&Server> {
        self.servers.get(usize::from(id.0))
    }
    #[must_use]
    pub fn primary(&self) -> Option<&Server> {
        self.primary.and_then(|id| self.server(id))
    }
}
