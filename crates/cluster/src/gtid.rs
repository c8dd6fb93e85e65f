//! Replication positions: MariaDB GTID positions and MySQL GTID sets. Pure.
//!
//! Sources: <https://mariadb.com/kb/en/gtid/>,
//! <https://dev.mysql.com/doc/refman/8.4/en/replication-gtids-concepts.html>.

mod history;
mod mariadb;
mod mysql;

use std::fmt;

pub use history::History;
pub use mariadb::{Gtid, MariaDbPosition, REBUILD_DOMAIN};
pub use mysql::{MySqlGtidSet, Source};

/// Which kind of database server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    #[default]
    MariaDb,
    MySql,
}

/// How far a server has come, or how far a read needs one to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    MariaDb(MariaDbPosition),
    MySql(MySqlGtidSet),
    /// Of a Galera cluster: a number that grows with what was done. Which one depends on where it
    /// stands: the cluster's own (`wsrep_last_committed`) in reports, that of the newest write this
    /// process saw where causality is concerned.
    Number(u64),
}

impl Position {
    /// Nothing at all: what a server without a single transaction has.
    #[must_use]
    pub fn empty(flavour: Flavour) -> Self {
        match flavour {
            Flavour::MariaDb => Self::MariaDb(MariaDbPosition::default()),
            Flavour::MySql => Self::MySql(MySqlGtidSet::default()),
        }
    }

    /// Reads a position as the server writes it: a single GTID, `@@gtid_binlog_pos`,
    /// `@@gtid_executed`, what session tracking reports. Empty text is the empty position.
    ///
    /// # Errors
    /// The text is no such position.
    pub fn parse(flavour: Flavour, text: &[u8]) -> Result<Self, ParseError> {
        let text = std::str::from_utf8(text).map_err(|_| ParseError::new("bytes"))?;
        match flavour {
            Flavour::MariaDb => text.parse().map(Self::MariaDb),
            Flavour::MySql => text.parse().map(Self::MySql),
        }
    }

    #[must_use]
    pub fn flavour(&self) -> Flavour {
        match self {
            Self::MariaDb(_) | Self::Number(_) => Flavour::MariaDb,
            Self::MySql(_) => Flavour::MySql,
        }
    }

    /// Of a Galera cluster.
    #[must_use]
    pub fn is_numbered(&self) -> bool {
        matches!(self, Self::Number(_))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::MariaDb(position) => position.domains.is_empty(),
            Self::MySql(set) => set.is_empty(),
            Self::Number(number) => *number == 0,
        }
    }

    /// How many numbers it takes to say it: a measure of its size.
    #[must_use]
    pub fn parts(&self) -> usize {
        match self {
            Self::MariaDb(position) => position.domains.len(),
            Self::MySql(set) => set.sources().map(|(_, intervals)| intervals.len()).sum(),
            Self::Number(_) => 1,
        }
    }

    /// Whether a server at this position has applied all of `other`. Positions of different
    /// flavours can't be compared: then only the empty one is covered.
    #[must_use]
    #[inline]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::MariaDb(own), Self::MariaDb(other)) => own.covers(other),
            (Self::MySql(own), Self::MySql(other)) => own.covers(other),
            (Self::Number(own), Self::Number(other)) => own >= other,
            (_, other) => other.is_empty(),
        }
    }

    /// Whether whoever was at `before` and is here now has begun a new history. In MariaDB the end of
    /// a whole domain (`FLUSH BINARY LOGS DELETE_DOMAIN_ID`) begins none in others.
    #[must_use]
    pub fn began_anew_since(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::MariaDb(own), Self::MariaDb(before)) => own.fell_behind(before),
            (own, before) => !own.covers(before),
        }
    }

    /// Makes this cover `other` too. A position of the other flavour replaces this one: then the
    /// server was exchanged for another.
    pub fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::MariaDb(own), Self::MariaDb(other)) => own.merge(other),
            (Self::MySql(own), Self::MySql(other)) => own.merge(other),
            (Self::Number(own), Self::Number(other)) => *own = (*own).max(*other),
            (own, other) => *own = other.clone(),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MariaDb(position) => position.fmt(f),
            Self::MySql(set) => set.fmt(f),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// Not a GTID position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a GTID position: wrong {what}")]
pub struct ParseError {
    what: &'static str,
}

impl ParseError {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what }
    }
}

/// Digits only: no sign, no blanks.
pub(crate) fn number(text: &str, what: &'static str) -> Result<u64, ParseError> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError::new(what));
    }
    text.parse().map_err(|_| ParseError::new(what))
}
