//! One command's way: to which server ([`crate::choose`]), over which connection
//! ([`crate::connect`]), there and back ([`crate::exchange`]). What if that fails: [`crate::attempts`].

use std::time::{Duration, Instant};

use pointsman_cluster::ServerId;
use pointsman_session::{Refusal, Target, Why};
use pointsman_sql::{Class, Effects, Route};
use pointsman_wire::{Capabilities, StateChange, Status};
use tokio::time::timeout;

use crate::attempts::{After, Attempts, Next, Way};
use crate::backend::Backend;
use crate::blurred::Blurred;
use crate::buffers::Buffer;
use crate::client::{Client, End};
use crate::job::{
    Job, Kind, insert_id_told, may_outlast_reset, may_stop_tracking, names, sets_autocommit,
    sets_names, shows_tracking,
};
use crate::problem::{Problem, answers_gone};
use crate::recover::is_rollback;
use crate::relay::{Failure, Outcome};
use crate::worker::Waiting;

impl Client {
    /// Sends a command where it belongs and relays the reply. What a server's death leaves undone is
    /// done on another, as far as nothing can be done twice by that.
    pub async fn run(&mut self, job: Job, request: &mut Buffer, end: usize) -> Result<(), End> {
        let began = Instant::now();
        self.trouble.set(None);
        if let Some(problem) = self.owed.take()
            && !is_rollback(&job)
        {
            self.skip(request, end).await?;
            return self.report(*problem, 1).await;
        }
        if self.session.answers_gone()
            && job.statement.verdict.route == Route::LastUsed
            && job.statement.verdict.effects.contains(Effects::DIAGNOSTICS)
        {
            self.skip(request, end).await?;
            return self.report(answers_gone(), 1).await;
        }
        if let Err(problem) = self.ask_rules(&job) {
            self.skip(request, end).await?;
            return self.report(problem, 1).await;
        }
        let watched = self.watch_transaction(&job);
        let mut tried = Attempts::default();
        loop {
            if let Some(deposed) = self.deposed()
                && let Err(problem) = Box::pin(self.follow_primary(deposed)).await
            {
                self.skip(request, end).await?;
                return self.report(problem, 1).await;
            }
            let decision = match self.decide(&job) {
                Ok(decision) => decision,
                Err(refusal) => {
                    self.skip(request, end).await?;
                    return self.refuse(refusal).await;
                }
            };
            if let Some(replica) = decision.commit_first
                && let Err(problem) = self.commit_on(ServerId(replica)).await
            {
                self.skip(request, end).await?;
                return self.report(problem, 1).await;
            }
            let choice = match tried.refused {
                None => self.choose(&decision, &job, &tried.excluded).await,
                Some(_) => self.primary(None).await,
            };
            let choice = match choice {
                Ok(choice) => choice,
                Err(problem) => {
                    self.skip(request, end).await?;
                    return self.report(tried.refused.map_or(problem, Problem::Server), 1).await;
                }
            };
            let way = Way {
                job: &job,
                choice: &choice,
                anywhere: matches!(decision.target, Target::Replica | Target::AnySession),
                began,
                end,
            };
            let server = choice.server;
            let mut backend = match self.ready(server, &job).await {
                Ok(backend) => backend,
                Err(unusable) => match Box::pin(self.unusable(unusable, &way, &mut tried)).await {
                    Next::Again => continue,
                    Next::Report(problem) => {
                        self.skip(request, end).await?;
                        return self.report(problem, 1).await;
                    }
                    Next::End(problem) => {
                        self.skip(request, end).await?;
                        self.report(problem, 1).await?;
                        return Err(End::Broken);
                    }
                },
            };
            if job.executes() {
                self.session.sent(server.0, choice.primary, &job.statement.verdict);
                backend.outlasts_reset |= may_outlast_reset(&job.statement);
            }
            if let Some(why) = choice.to_primary {
                self.worker.stats.read_to_primary(why);
            }
            let shows = job.statement.verdict.effects.contains(Effects::TRACKING)
                && Box::pin(self.show_tracking(&job, request, end, &mut backend)).await;
            self.info.changed.set(began);
            self.info.killed.set(false);
            let mut digest = watched.then(|| self.transcript.digest()).flatten();
            let waiting =
                Waiting::begin(&self.info, server, backend.socket.raw_fd(), Some(&backend.live));
            self.info.executing.set(end != 0 && request.filled().len() == end);
            let result =
                self.exchange(&mut backend, &job, request, end, digest.as_deref_mut()).await;
            drop(waiting);
            if shows
                && !matches!(result, Err(Failure::Server { .. } | Failure::Client))
                && !Box::pin(self.track_again(&mut backend, false)).await
            {
                return Err(self.lose(backend));
            }
            match result {
                Ok(outcome) => {
                    if watched {
                        self.note_step(&job, request, end, &outcome, digest);
                    }
                    return self.done(backend, &way, request, &outcome).await;
                }
                Err(_) if self.info.gone.get() => return Err(End::Client),
                Err(failure) => {
                    let failed = self.failed(failure, backend, &way, request, &mut tried);
                    if Box::pin(failed).await? == After::Answered {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// A command was answered: what remains to be done before the next.
    async fn done(
        &mut self,
        mut backend: Box<Backend>,
        way: &Way<'_>,
        request: &Buffer,
        outcome: &Outcome,
    ) -> Result<(), End> {
        let Way { job, choice, began, end, .. } = *way;
        let server = choice.server;
        backend.version = self.session.variables().version();
        if job.executes() && may_stop_tracking(&job.statement) {
            // What it set for the client must not keep the session's truth from us.
            let waiting = Waiting::begin(&self.info, server, backend.socket.raw_fd(), None);
            // Whatever else it is set to is of our own doing.
            for (name, value) in backend.tracked().await.unwrap_or_default() {
                if names(&job.statement, name) {
                    self.reporting.note(name, &value);
                }
            }
            drop(waiting);
            // In a transaction it is set only by what begins that, too.
            let gtids = names(&job.statement, b"session_track_gtids")
                && (outcome.error.is_none()
                    || job.statement.verdict.effects.contains(Effects::MULTI));
            if !self.track_again(&mut backend, gtids).await {
                return Err(self.lose(backend));
            }
        }
        let mut blurred = outcome.blurred;
        if blurred.is_any() {
            blurred.was_meant(sets_autocommit(job), sets_names(job));
        }
        if blurred.is_any() && !Box::pin(self.resolve(blurred, &mut backend)).await {
            return Err(self.lose(backend));
        }
        if outcome.error.is_none() && self.may_release(job) && is_closed(&mut backend).await {
            return Err(End::Broken);
        }
        self.backends.push(backend);
        // Not all that change it say so: INSERT ... RETURNING, LAST_INSERT_ID(n), procedures.
        let verdict = &job.statement.verdict;
        if outcome.insert_id != 0
            || choice.primary
                && verdict.route == Route::Primary
                && verdict.class != Class::Session
                && job.executes()
        {
            let matters = outcome.insert_id != 0 || self.session.was_told_insert_id();
            let told = matters.then(|| insert_id_told(job, outcome.insert_id)).flatten();
            self.session.note_insert(told);
        }
        self.finish(job, server, outcome);
        if outcome.error.is_none() && end != 0 && sets_names(job) {
            self.session.set_names(&request.filled()[job.text_at..end]);
            if let Some(backend) = self.backends.last_mut() {
                backend.version = self.session.variables().version();
            }
        }
        self.account(job, choice.primary, server, began, outcome.error);
        self.show();
        Ok(())
    }

    /// Before a statement that shows what servers report of the session: has the server have it as the
    /// client set it. True: it does, and must [`Client::track_again`].
    async fn show_tracking(
        &self,
        job: &Job,
        request: &Buffer,
        end: usize,
        backend: &mut Backend,
    ) -> bool {
        let sent = request.filled().get(job.text_at..end).filter(|_| job.kind == Kind::Query);
        let text = sent.unwrap_or(job.statement.text.as_bytes());
        let asks = job.executes() || job.kind == Kind::Prepare;
        if !asks || !shows_tracking(&job.statement, text) {
            return false;
        }
        // In a transaction MySQL does not let that be set.
        let gtids = !backend.mariadb
            && self.session.transaction().is_none()
            && self.session.status().contains(Status::AUTOCOMMIT);
        let set = [b"\x03", &self.reporting.as_set(gtids)[..]].concat();
        // Where that fails, the statement shows what we have set.
        let _ = self.own_command(backend, &set).await;
        true
    }

    /// `gtids`: even where a transaction is open, in which MySQL does not let that be set.
    async fn track_again(&self, backend: &mut Backend, gtids: bool) -> bool {
        let _waiting = Waiting::begin(&self.info, backend.server, backend.socket.raw_fd(), None);
        let gtids = gtids || self.session.transaction().is_none();
        let tracks =
            if gtids { backend.track().await } else { backend.track_all_but_gtids().await };
        matches!(tracks, Ok(Ok(_)))
    }

    /// Its state can't be told any more, and so neither can the session's.
    fn lose(&mut self, backend: Box<Backend>) -> End {
        let server = backend.server;
        drop(backend);
        self.forget_backend(server);
        self.session.lost(server.0);
        End::Broken
    }

    /// Learns what a server has reported by other variables' names. False: the connection is lost.
    async fn resolve(&mut self, blurred: Blurred, backend: &mut Backend) -> bool {
        let _waiting = Waiting::begin(&self.info, backend.server, backend.socket.raw_fd(), None);
        let known = self.session.variables().clone();
        let is_known = |name: &[u8]| known.get(name).is_some();
        let changed = |change: StateChange<'_>| self.session.changed(change);
        let Ok(said) = blurred.resolve(backend, is_known, changed).await else { return false };
        if !said {
            // Then it is the primary's alone.
            self.session.changed(StateChange::Variable { name: b"timestamp", value: b"" });
        }
        backend.version = self.session.variables().version();
        true
    }

    /// Whether the server may end the connection after this, as it does after `COMMIT RELEASE`.
    fn may_release(&self, job: &Job) -> bool {
        job.executes()
            && job.statement.verdict.effects.contains(Effects::END)
            && (names(&job.statement, b"release")
                || self.session.variables().get(b"completion_type") == Some(b"RELEASE"))
    }

    /// What a reply means beyond its bytes.
    pub(crate) fn finish(&mut self, job: &Job, server: ServerId, outcome: &Outcome) {
        if let Kind::Execute(id) = job.kind
            && let Some(statement) = self.prepared.get_mut(id)
        {
            statement.cursor_at = (outcome.error.is_none() && outcome.cursor).then_some(server);
        }
        if outcome.error.is_some() {
            return;
        }
        if let Kind::SetOption(on) = job.kind {
            self.session.set_multi_statements(on);
            self.login.caps.set(Capabilities::MULTI_STATEMENTS, on);
            if let Some(backend) = self.backends.last_mut() {
                backend.version = self.session.variables().version();
                backend.option_set = true;
            }
        }
    }

    /// Shows what changed about the session to whoever asks.
    pub(crate) fn show(&self) {
        let info = &self.info;
        let read_only = self.session.status().contains(Status::IN_READ_ONLY_TRANSACTION);
        info.transaction.set(self.session.transaction().map(|_| read_only));
        let held = self.session.held_by().map(Why::code);
        info.held.set(held.or_else(|| self.session.lives_on_primary()));
        if let Some(schema) = self.session.variables().schema()
            && info.database.borrow().as_bytes() != schema
        {
            *info.database.borrow_mut() = String::from_utf8_lossy(schema).into_owned();
        }
    }

    pub fn name(&self, server: ServerId) -> String {
        self.worker.snapshot(|s| s.server(server).map_or_else(String::new, |s| s.name.to_string()))
    }

    async fn refuse(&mut self, refusal: Refusal) -> Result<(), End> {
        match refusal {
            Refusal::ReadOnlyTransaction => {
                let message = if self.worker.snapshot(|s| s.greeting.mariadb) {
                    "Cannot execute statement in a READ ONLY transaction"
                } else {
                    "Cannot execute statement in a READ ONLY transaction."
                };
                self.error(1, 1792, "25006", message).await
            }
            Refusal::OpaqueInReadOnlyTransaction => {
                let message = "[PM2003] stored code, user variables and several statements at once are not \
                               possible in a READ ONLY transaction, which runs on a replica; use START \
                               TRANSACTION without READ ONLY";
                self.error(1, 1792, "25006", message).await
            }
        }
    }

    pub(crate) async fn report(&mut self, problem: Problem, seq: u8) -> Result<(), End> {
        let mut out = Vec::new();
        problem.packet(&mut out, seq);
        Ok(self.socket.write_all(&out).await?)
    }
}

/// Whether the server ends the connection now, which it does at once if at all.
async fn is_closed(backend: &mut Backend) -> bool {
    let _ = timeout(Duration::from_millis(500), backend.socket.readable()).await;
    backend.socket.is_stale()
}
