//! Replication positions: MariaDB GTID positions and MySQL GTID sets. Pure.

/// How far a server has come, or how far a read needs one to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    MariaDb(MariaDbPosition),
}

/// `domain-server-sequence`, the newest per domain, sorted by domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MariaDbPosition {
    pub domains: smallvec::SmallVec<[(u32, u64); 1]>,
}
