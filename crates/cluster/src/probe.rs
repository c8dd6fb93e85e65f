//! What one look at a server brings back. Pure: filled in by the monitor, judged by [`crate::roles`].

use std::sync::Arc;

use crate::gtid::{Flavour, History, Position};
use crate::member::Membership;

/// The outcome of one look.
#[derive(Debug, Clone)]
pub enum Look {
    Answer(Box<Report>),
    /// Nobody listens at its address: it is down, no need to wait for a timeout.
    Refused(String),
    /// No answer: too slow, connection lost, login refused. Down only if that goes on.
    Failed(String),
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub flavour: Flavour,
    /// `@@server_id`.
    pub server_id: u32,
    pub read_only: bool,
    /// Somebody's write waits until there is space on its disk. Only asked of servers that are writable.
    pub disk_full: bool,
    /// `@@version`.
    pub version: Arc<str>,
    /// Id of the default collation; 0 if it has none.
    pub collation: u16,
    /// Global `autocommit`.
    pub autocommit: bool,
    /// Its global `binlog_format` is `ROW`, as always in MySQL.
    pub logs_rows: bool,
    /// `@@gtid_mode`; empty in MariaDB, which has none.
    pub gtid_mode: Arc<str>,
    /// What others can replicate from it: `@@gtid_binlog_pos`, `@@gtid_executed`.
    pub committed: Position,
    /// `@@gtid_binlog_state`: the newest of each server per domain. Empty in MySQL, whose sets say all.
    pub state: Arc<str>,
    /// What it has applied as a replica: `@@gtid_slave_pos`, `@@gtid_executed`.
    pub applied: Position,
    /// Whom it replicates from, running or not.
    pub channels: Vec<Channel>,
    /// How it takes part in a cluster that elects for itself; `None` if in none. Of a Galera node
    /// `committed` and `applied` are `wsrep_last_committed`.
    pub membership: Option<Membership>,
    /// Counts the connections made to the server. A higher one than last time: it may have been
    /// restarted in between.
    pub connection: u64,
}

impl Report {
    /// All transactions it is known to have.
    #[must_use]
    pub fn standing(&self) -> Position {
        let mut all = self.committed.clone();
        all.merge(&self.applied);
        all
    }

    /// Whether what is written there has GTIDs: always in MariaDB.
    #[must_use]
    pub fn has_gtids(&self) -> bool {
        has_gtids(&self.gtid_mode)
    }

    /// All that it ever had, to be compared with others'. `None` if it does not tell, or as a member
    /// of a cluster.
    #[must_use]
    pub fn history(&self) -> Option<History> {
        match &self.applied {
            _ if self.membership.is_some() || !self.has_gtids() => None,
            Position::MySql(set) => Some(History::MySql(set.clone())),
            applied => History::parse(Flavour::MariaDb, &self.state, &applied.to_string()).ok(),
        }
    }

    /// It was being given another server's data, and has not got all.
    #[must_use]
    pub fn is_half_rebuilt(&self) -> bool {
        [&self.applied, &self.committed].into_iter().any(|position| match position {
            Position::MariaDb(position) => position.is_half_rebuilt(),
            _ => false,
        })
    }
}

/// Whether new transactions get GTIDs in this `@@gtid_mode`; empty: of MariaDB.
/// <https://dev.mysql.com/doc/refman/8.4/en/replication-mode-change-online-concepts.html>
pub(crate) fn has_gtids(mode: &str) -> bool {
    !matches!(mode, "OFF" | "OFF_PERMISSIVE")
}

/// The thread that fetches from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoThread {
    Running,
    /// Tries to reach the source.
    Connecting,
    Stopped,
}

/// One line of `SHOW ALL SLAVES STATUS` or `SHOW REPLICA STATUS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Empty for the default connection.
    pub name: String,
    pub source_host: String,
    pub source_port: u16,
    /// As the source said when last connected; 0 if never.
    pub source_server_id: u32,
    pub io: IoThread,
    pub sql_running: bool,
    pub io_error: Option<Error>,
    pub sql_error: Option<Error>,
    /// It asks for what it lacks by GTIDs (`Auto_Position` in MySQL, where it is never given what has
    /// none), instead of for what comes next in a file.
    pub auto_position: bool,
    /// `Seconds_Behind_Master`.
    pub seconds_behind: Option<u64>,
    /// What it has fetched.
    pub received: Option<Position>,
}

/// An error number and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub code: u32,
    pub text: String,
}

impl Error {
    /// Client errors (2000 to 2999): the source could not be reached, which may heal by itself.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        (2000..3000).contains(&self.code)
    }
}

impl Channel {
    /// Stopped by an error that no retry will heal.
    #[must_use]
    pub fn broken(&self) -> Option<&Error> {
        let sql = self.sql_error.as_ref().filter(|_| !self.sql_running);
        let io = self
            .io_error
            .as_ref()
            .filter(|error| self.io == IoThread::Stopped && !error.is_connection());
        sql.or(io)
    }

    /// Stopped on purpose, both halves.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.io == IoThread::Stopped && !self.sql_running && self.broken().is_none()
    }
}
