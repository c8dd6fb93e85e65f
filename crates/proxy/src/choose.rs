//! To which server a command goes.

use std::sync::Arc;
use std::time::Instant;

use pointsman_cluster::ServerId;
use pointsman_cluster::gtid::Position;
use pointsman_config::rule::Action;
use pointsman_session::{Decision, Level, Refusal, Target, Why};
use pointsman_sql::{Class, Hint, Reason, Route, Tables};
use smallvec::SmallVec;

use crate::client::Client;
use crate::job::{Job, Kind};
use crate::pick::{self, Wanted};
use crate::problem::Problem;
use crate::stats::ToPrimary;

/// A server chosen for a statement.
pub struct Choice {
    pub server: ServerId,
    pub primary: bool,
    /// A read that could not go to a replica.
    pub to_primary: Option<ToPrimary>,
}

impl Client {
    pub(crate) fn decide(&self, job: &Job) -> Result<Decision, Refusal> {
        let primary = self.worker.snapshot(|s| s.primary).map(|id| id.0);
        let to = |target| {
            Ok(Decision { target, why: Why::Text(Reason::SessionState), commit_first: None })
        };
        if let Some(server) = job.only {
            return to(Target::Server(server.0));
        }
        match job.kind {
            Kind::Other => to(Target::Primary),
            Kind::LastUsed => match self.session.transaction() {
                Some(server) => to(Target::Server(server)),
                None => to(Target::AnySession),
            },
            _ => self.session.decide(&job.statement.verdict, primary),
        }
    }

    /// Picks a server for the decision.
    pub(crate) async fn choose(
        &self,
        decision: &Decision,
        job: &Job,
        excluded: &[ServerId],
    ) -> Result<Choice, Problem> {
        match decision.target {
            Target::Server(server) => {
                let server = ServerId(server);
                let primary = self.worker.snapshot(|s| s.primary) == Some(server);
                let read = job.statement.verdict.class == Class::Read && job.executes() && primary;
                // `SELECT FOUND_ROWS(), ... FROM t`: an answer of that server, and a read as well.
                let verdict = &job.statement.verdict;
                if !primary
                    && job.executes()
                    && verdict.route == Route::LastUsed
                    && verdict.class == Class::Read
                    && verdict.tables != Tables::Known(Box::default())
                    && self.session.transaction().is_none()
                    && !self.is_fresh(server, job).await
                {
                    return self.primary(Some(ToPrimary::ReplicaBehind)).await;
                }
                Ok(Choice {
                    server,
                    primary,
                    to_primary: read.then_some(ToPrimary::Why(decision.why)),
                })
            }
            Target::Primary | Target::Proxy => {
                let read = job.statement.verdict.class == Class::Read && job.executes();
                self.primary(read.then_some(ToPrimary::Why(decision.why))).await
            }
            Target::AnySession => {
                let last = self.session.last_used().map(ServerId).filter(|s| !excluded.contains(s));
                match last.filter(|s| self.backends.iter().any(|b| b.server == *s)) {
                    Some(server) => {
                        let primary = self.worker.snapshot(|s| s.primary) == Some(server);
                        Ok(Choice { server, primary, to_primary: None })
                    }
                    None => self.replica_or_primary(None, excluded, Some(job)).await,
                }
            }
            Target::Replica => {
                if let Some(Action::Primary) = self.rule_for(&job.statement) {
                    let counted = job.executes() && job.statement.verdict.class == Class::Read;
                    return self.primary(counted.then_some(ToPrimary::Rule)).await;
                }
                if let Some(choice) = self.replica_with_all(job, excluded) {
                    return Ok(choice);
                }
                let counted = job.executes() && job.statement.verdict.class == Class::Read;
                match self.wanted(job).await {
                    Ok(position) => {
                        self.replica_or_primary(position.as_deref(), excluded, Some(job)).await
                    }
                    Err(why) => self.primary(counted.then_some(why)).await,
                }
            }
        }
    }

    /// For a causal read, a replica that has every write: the common case, and the cheapest.
    fn replica_with_all(&self, job: &Job, excluded: &[ServerId]) -> Option<Choice> {
        let shared = &self.worker.shared;
        let causal = shared.present_level(self.level_of(job)) == Level::Causal;
        if !causal || self.unsure.is_some() {
            return None;
        }
        let pick = |newest: Option<&Arc<Position>>| self.pick(newest.map(|p| &**p), excluded);
        shared.cluster.writes().with_newest(pick)?
    }

    /// The replica to read from, among those that have applied `position`.
    fn pick(&self, position: Option<&Position>, excluded: &[ServerId]) -> Option<Choice> {
        let connected = |id| self.backends.iter().any(|b| b.server == id);
        let primary_reads = self.config().routing.primary_reads;
        let wanted = Wanted { position, excluded, connected: &connected, primary_reads };
        self.worker.snapshot(|s| {
            pick::replica(s, &wanted).map(|server| Choice {
                server: server.id,
                primary: s.primary == Some(server.id),
                to_primary: None,
            })
        })
    }

    /// Whether `server` has, within `causal_timeout`, what this read must see.
    async fn is_fresh(&self, server: ServerId, job: &Job) -> bool {
        match self.wanted(job).await {
            Ok(None) => true,
            Ok(Some(position)) => {
                let narrow = self.narrow(job);
                let position = match &narrow {
                    Some(narrow) => narrow.as_deref(),
                    None => Some(&*position),
                };
                let Some(position) = position else { return true };
                let within = self.config().routing.causal_timeout;
                let cluster = &self.worker.shared.cluster;
                cluster.wait_applied(&[server], position, within).await.is_some()
            }
            Err(_) => false,
        }
    }

    /// What the statement may miss: as its comment says, else as a rule does, else as its session may.
    fn level_of(&self, job: &Job) -> Level {
        match job.statement.verdict.hint {
            Some(Hint::Eventual) => Level::Eventual,
            Some(Hint::Session) => Level::Session,
            Some(Hint::Causal) => Level::Causal,
            Some(Hint::Strong) => Level::Strong,
            // The verdict has seen to it.
            Some(Hint::Primary | Hint::Unknown) | None => match self.rule_for(&job.statement) {
                Some(Action::Consistency(level)) => crate::shared::level(*level),
                _ => self.level,
            },
        }
    }

    /// What a replica must have applied to serve this read; an error if that can't be
    /// told, and only the primary is certain to have it.
    async fn wanted(&self, job: &Job) -> Result<Option<Arc<Position>>, ToPrimary> {
        let level = self.level_of(job);
        if level == Level::Eventual {
            return Ok(None);
        }
        let writes = self.worker.shared.cluster.writes();
        if writes.is_anonymous() {
            return Err(ToPrimary::NoGtids);
        }
        if let Some(write) = self.unsure {
            if !writes.is_found(write) {
                return Err(ToPrimary::ReplicaBehind);
            }
            if level == Level::Session {
                return Ok(writes.newest());
            }
        }
        match self.worker.shared.present_level(level) {
            Level::Eventual => Ok(None),
            Level::Session => {
                if self.untold.is_some_and(|n| !writes.is_cleared(n)) && !self.all_told().await {
                    return Err(ToPrimary::ReplicaBehind);
                }
                // What it wrote while nobody could say where is before this.
                let until = writes.anonymous_until();
                match &self.wrote {
                    // A position from before a change of primary may name what was lost with the old one.
                    Some((generation, _))
                        if *generation != self.worker.snapshot(|s| s.generation) =>
                    {
                        Err(ToPrimary::ReplicaBehind)
                    }
                    Some((_, position)) => {
                        let mut position = position.clone();
                        until.iter().for_each(|until| position.merge(until));
                        Ok(Some(Arc::new(position)))
                    }
                    None => Ok(until),
                }
            }
            Level::Causal => match writes.with_newest(|newest| newest.cloned()) {
                Some(newest) => Ok(newest),
                None if writes.is_only_untold() && self.all_told().await => Ok(writes.newest()),
                None => Err(ToPrimary::ReplicaBehind),
            },
            Level::Strong => {
                let within = self.config().monitor.timeout;
                let asked = self.worker.shared.cluster.committed_position();
                let asked = tokio::time::timeout(within, asked).await;
                asked.ok().flatten().map(Some).ok_or(ToPrimary::Strong)
            }
        }
    }

    /// Asks the primary whether its transactions have GTIDs: then clients were told of all that there are.
    async fn all_told(&self) -> bool {
        let within = self.config().routing.causal_timeout;
        let asked = self.worker.shared.cluster.committed_position();
        tokio::time::timeout(within, asked).await.is_ok_and(|position| position.is_some())
    }

    /// What of all writes matters to the tables that a causal read names; `None` if that can't be
    /// told. Only asked when no replica has all writes.
    fn narrow(&self, job: &Job) -> Option<Option<Arc<Position>>> {
        if self.worker.shared.present_level(self.level_of(job)) != Level::Causal {
            return None;
        }
        let tables = self.read_tables(job)?;
        let writes = self.worker.shared.cluster.writes();
        let needed = writes.needed(&tables);
        // Else what is known of tables may have been forgotten in between.
        (!writes.any_astray()).then_some(needed)
    }

    pub(crate) async fn replica_or_primary(
        &self,
        position: Option<&Position>,
        excluded: &[ServerId],
        job: Option<&Job>,
    ) -> Result<Choice, Problem> {
        let counted = job.is_some_and(|j| j.executes() && j.statement.verdict.class == Class::Read);
        let pick = |position| self.pick(position, excluded);
        if let Some(choice) = pick(position) {
            return Ok(choice);
        }
        let Some(behind) = pick(None).filter(|_| position.is_some()) else {
            let why =
                if excluded.is_empty() { ToPrimary::NoReplica } else { ToPrimary::ReplicaFailed };
            return self.primary(counted.then_some(why)).await;
        };
        let narrow = job.and_then(|job| self.narrow(job));
        let position = match &narrow {
            Some(narrow) => {
                let narrow = narrow.as_deref();
                if let Some(choice) = pick(narrow) {
                    if counted {
                        self.worker.stats.reads_by_table.add(1);
                    }
                    return Ok(choice);
                }
                narrow
            }
            None => position,
        };
        // A moment's wait on a replica that is about to have it keeps the read off the primary.
        if let Some(position) = position {
            let waited_from = Instant::now();
            let within = self.config().routing.causal_timeout;
            let candidates: SmallVec<[ServerId; 4]> = self.worker.snapshot(|s| {
                s.servers
                    .iter()
                    .filter(|s| s.takes_reads && !excluded.contains(&s.id))
                    .map(|s| s.id)
                    .collect()
            });
            let cluster = &self.worker.shared.cluster;
            let arrived = cluster.wait_applied(&candidates, position, within).await;
            self.worker.stats.causal_wait.record(waited_from.elapsed());
            if let Some(server) = arrived {
                return Ok(Choice { server, ..behind });
            }
        }
        let why = match narrow {
            None if job.is_some_and(|job| self.level_of(job) == Level::Causal) => {
                ToPrimary::ReplicaBehindAnyTable
            }
            _ => ToPrimary::ReplicaBehind,
        };
        self.primary(counted.then_some(why)).await
    }
}
