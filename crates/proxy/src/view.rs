//! Sessions and statements as operators see them.

use std::sync::Arc;
use std::time::Duration;

use pointsman_cluster::ServerId;
use pointsman_sql::{Class, Route};

use crate::stats::{Latency, StatementStats};
use crate::worker::{SessionInfo, Statement};

/// One line of `pointsman sessions`.
#[derive(Debug, Clone)]
pub struct SessionRow {
    pub id: u32,
    pub worker: usize,
    pub user: String,
    pub client: String,
    pub database: String,
    /// Servers it is connected to, with their connection ids.
    pub backends: Vec<(ServerId, u32)>,
    /// The server it is waiting for.
    pub busy: Option<ServerId>,
    /// An open transaction, and whether it is read-only.
    pub transaction: Option<bool>,
    /// What holds its reads, or what it has, on the primary.
    pub held: Option<&'static str>,
    pub statements: u64,
    /// How long it has been idle or busy.
    pub state_for: Duration,
    pub connected_for: Duration,
    pub last_statement: Option<String>,
}

impl SessionRow {
    pub fn of(worker: usize, info: &SessionInfo) -> Self {
        Self {
            id: info.id,
            worker,
            user: info.user.borrow().clone(),
            client: info.peer.get().to_string(),
            database: info.database.borrow().clone(),
            backends: info.backends.borrow().iter().map(|p| (p.server, p.thread)).collect(),
            busy: info.busy.get().map(|(server, _)| server),
            transaction: info.transaction.get(),
            held: info.held.get(),
            statements: info.statements.get(),
            state_for: info.changed.get().elapsed(),
            connected_for: info.since.elapsed(),
            last_statement: info.last_statement.borrow().as_ref().map(|s| s.text.to_string()),
        }
    }
}

/// One line of `pointsman statements`.
#[derive(Debug, Clone)]
pub struct StatementRow {
    pub fingerprint: u64,
    pub text: String,
    pub class: Class,
    pub route: Route,
    pub reason: &'static str,
    pub count: u64,
    pub errors: u64,
    pub on_primary: u64,
    pub total: Duration,
    pub max: Duration,
    /// Per bucket of [`crate::stats::BOUNDS_US`].
    pub buckets: Vec<u64>,
}

impl StatementRow {
    pub fn of(entry: &Arc<Statement>) -> Self {
        let StatementStats { latency, errors, on_primary, rules: _ } = &entry.stats;
        Self {
            fingerprint: entry.fingerprint,
            text: entry.text.to_string(),
            class: entry.verdict.class,
            route: entry.verdict.route,
            reason: entry.verdict.reason.code(),
            count: latency.count(),
            errors: errors.get(),
            on_primary: on_primary.get(),
            total: Duration::from_nanos(latency.sum_ns.get()),
            max: Duration::from_nanos(latency.max_ns.get()),
            buckets: latency.buckets.iter().map(crate::stats::Counter::get).collect(),
        }
    }

    /// Adds what another worker counted for the same fingerprint.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.errors += other.errors;
        self.on_primary += other.on_primary;
        self.total += other.total;
        self.max = self.max.max(other.max);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(a, b)| *a += b);
    }

    /// 95% took no longer than this (a bucket's bound).
    #[must_use]
    pub fn p95(&self) -> Duration {
        let latency = Latency::default();
        latency.buckets.iter().zip(&self.buckets).for_each(|(c, n)| c.add(*n));
        latency.max_ns.add(self.max.as_nanos() as u64);
        Duration::from_micros(latency.quantile_us(0.95))
    }
}
