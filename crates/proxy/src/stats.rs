//! Counters that cost next to nothing: each worker writes its own, readers add them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pointsman_session::{Pin, Why};
use pointsman_sql::{Class, Reason};

use crate::rules::Matching;

/// Upper bounds of the latency buckets in microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000,
];

/// A counter with one writer: a plain load and store, no locked instruction.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only from the worker that owns it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    pub fn raise(&self, n: u64) {
        if n > self.0.load(Relaxed) {
            self.0.store(n, Relaxed);
        }
    }
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Count, sum and distribution of latencies.
#[derive(Debug, Default)]
pub struct Latency {
    pub buckets: [Counter; BOUNDS_US.len() + 1],
    pub sum_ns: Counter,
    pub max_ns: Counter,
}

impl Latency {
    pub fn record(&self, took: Duration) {
        let ns = took.as_nanos() as u64;
        let us = ns / 1000;
        let at = BOUNDS_US.iter().position(|b| us <= *b).unwrap_or(BOUNDS_US.len());
        self.buckets[at].add(1);
        self.sum_ns.add(ns);
        self.max_ns.raise(ns);
    }
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }
    /// Upper bound of the bucket below which `part` (0 to 1) of all lie, in microseconds.
    pub fn quantile_us(&self, part: f64) -> u64 {
        let wanted = (self.count() as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS_US) {
            seen += bucket.get();
            if seen >= wanted {
                return bound.min(self.max_ns.get() / 1000 + 1);
            }
        }
        self.max_ns.get() / 1000
    }
}

/// What is counted per fingerprint.
#[derive(Debug, Default)]
pub struct StatementStats {
    pub latency: Latency,
    pub errors: Counter,
    pub on_primary: Counter,
    pub rules: Matching,
}

pub const CLASSES: [Class; 4] = [Class::Read, Class::Write, Class::Session, Class::Other];

#[must_use]
pub fn class_label(class: Class) -> &'static str {
    match class {
        Class::Read => "read",
        Class::Write => "write",
        Class::Session => "session",
        Class::Other => "other",
    }
}

/// One worker's counters.
#[derive(Debug)]
pub struct WorkerStats {
    /// By server, then class.
    pub statements: Vec<[Latency; 4]>,
    pub connections_total: Counter,
    pub logins_failed: Counter,
    pub sessions: AtomicU64,
    pub retried_reads: Counter,
    pub causal_wait: Latency,
    /// Reads served by replicas that lacked writes, of other tables only.
    pub reads_by_table: Counter,
    /// Statements that fell under each `[[rule]]`, in the file's order.
    pub rules: Vec<Counter>,
    /// Statements that wait for a primary now, and how long those that waited did.
    held: AtomicU64,
    pub primary_wait: Latency,
    /// Transactions repeated on another server, by [`Repeated`].
    pub repeated: [Counter; 3],
    reads_to_primary: Vec<Counter>,
    /// Rare, so a lock is fine.
    pub rare: std::sync::Mutex<Rare>,
}

/// Counters with open label sets.
#[derive(Debug, Default, Clone)]
pub struct Rare {
    /// By server and error code.
    pub errors: std::collections::HashMap<(u16, u16), u64>,
}

/// Why a read went to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToPrimary {
    Why(Why),
    /// No replica is known to have applied what the read must see.
    ReplicaBehind,
    /// The same, and which writes those are can't be told by the tables it reads.
    ReplicaBehindAnyTable,
    /// No replica takes reads.
    NoReplica,
    /// Replicas failed under this statement.
    ReplicaFailed,
    /// `consistency = "strong"`, and the primary did not say how far it is.
    Strong,
    /// A `[[rule]]` sends it there.
    Rule,
    /// The primary's transactions have no GTIDs.
    NoGtids,
}

impl ToPrimary {
    /// Every reason, in the order of [`ToPrimary::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        let why = Reason::ALL.iter().map(|r| Why::Text(*r));
        let pins = Pin::ALL.into_iter().map(Why::Pinned);
        let rest = [Why::Transaction, Why::AutocommitOff, Why::TemporaryTable, Why::PrimaryState];
        let own = [
            Self::ReplicaBehind,
            Self::NoReplica,
            Self::ReplicaFailed,
            Self::Strong,
            Self::ReplicaBehindAnyTable,
            Self::Rule,
            Self::NoGtids,
        ];
        why.chain(pins).chain(rest).map(Self::Why).chain(own)
    }

    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Why(why) => why.code(),
            Self::ReplicaBehind => "replica_behind",
            Self::ReplicaBehindAnyTable => "replica_behind_any_table",
            Self::NoReplica => "no_replica",
            Self::ReplicaFailed => "replica_failed",
            Self::Strong => "strong",
            Self::Rule => "rule",
            Self::NoGtids => "no_gtids",
        }
    }

    fn index(self) -> usize {
        let (reasons, pins) = (Reason::ALL.len(), Pin::ALL.len());
        match self {
            Self::Why(Why::Text(r)) => r as usize,
            Self::Why(Why::Pinned(p)) => reasons + p as usize,
            Self::Why(Why::Transaction) => reasons + pins,
            Self::Why(Why::AutocommitOff) => reasons + pins + 1,
            Self::Why(Why::TemporaryTable) => reasons + pins + 2,
            Self::Why(Why::PrimaryState) => reasons + pins + 3,
            Self::ReplicaBehind => reasons + pins + 4,
            Self::NoReplica => reasons + pins + 5,
            Self::ReplicaFailed => reasons + pins + 6,
            Self::Strong => reasons + pins + 7,
            Self::ReplicaBehindAnyTable => reasons + pins + 8,
            Self::Rule => reasons + pins + 9,
            Self::NoGtids => reasons + pins + 10,
        }
    }
}

/// See [`WorkerStats::hold`].
pub struct Held<'a> {
    stats: &'a WorkerStats,
    since: Instant,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.stats.held.fetch_sub(1, Relaxed);
        self.stats.primary_wait.record(self.since.elapsed());
    }
}

/// What came of repeating a transaction whose server was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    /// The client noticed nothing.
    Done,
    /// It was answered otherwise than at first.
    Differs,
    /// It could not be repeated.
    Refused,
}

impl Repeated {
    pub const ALL: [Self; 3] = [Self::Done, Self::Differs, Self::Refused];

    /// As in metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Differs => "differs",
            Self::Refused => "refused",
        }
    }
}

impl WorkerStats {
    #[must_use]
    pub fn new(servers: usize, rules: usize) -> Self {
        Self {
            statements: (0..servers).map(|_| Default::default()).collect(),
            connections_total: Counter::default(),
            logins_failed: Counter::default(),
            sessions: AtomicU64::new(0),
            retried_reads: Counter::default(),
            causal_wait: Latency::default(),
            reads_by_table: Counter::default(),
            rules: (0..rules).map(|_| Counter::default()).collect(),
            held: AtomicU64::new(0),
            primary_wait: Latency::default(),
            repeated: Default::default(),
            reads_to_primary: ToPrimary::all().map(|_| Counter::default()).collect(),
            rare: std::sync::Mutex::default(),
        }
    }

    /// A statement waits for a primary, until this is dropped.
    pub fn hold(&self) -> Held<'_> {
        self.held.fetch_add(1, Relaxed);
        Held { stats: self, since: Instant::now() }
    }

    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    pub fn read_to_primary(&self, why: ToPrimary) {
        self.reads_to_primary[why.index()].add(1);
    }

    /// Reads that went to the primary, by reason's code.
    pub fn reads_to_primary(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ToPrimary::all().zip(&self.reads_to_primary).map(|(why, n)| (why.code(), n.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        for (i, why) in ToPrimary::all().enumerate() {
            assert_eq!(why.index(), i, "{}", why.code());
        }
    }

    #[test]
    fn quantiles_are_bucket_bounds() {
        let latency = Latency::default();
        for us in [50, 50, 50, 900] {
            latency.record(Duration::from_micros(us));
        }
        assert_eq!(latency.quantile_us(0.5), 100);
        assert_eq!(latency.quantile_us(0.99), 901);
    }
}
