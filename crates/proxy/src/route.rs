//! One command's way: to which server ([`crate::choose`]), over which connection
//! ([`crate::connect`]), there and back ([`crate::exchange`]), and what if that fails.

use std::time::{Duration, Instant};

use pointsman_cluster::ServerId;
use pointsman_session::{Lost, Refusal, Target, Why};
use pointsman_sql::{Class, Effects, Route};
use pointsman_wire::{Capabilities, Status};
use smallvec::SmallVec;
use tokio::time::timeout;

use crate::backend::{Backend, Broken};
use crate::buffers::Buffer;
use crate::choose::Choice;
use crate::client::{Client, End};
use crate::connect::{Unusable, too_many};
use crate::job::{
    Job, Kind, insert_id_told, may_outlast_reset, may_stop_tracking, names, sets_names,
};
use crate::problem::{Problem, answers_gone, read_only, session_lost};
use crate::recover::{Broke, Recovered, is_rollback};
use crate::relay::{Failure, Outcome};
use crate::room;
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
        // What a replica said that the primary may know better. Without a primary it is the answer.
        let mut refused: Option<Vec<u8>> = None;
        let mut sent_again = 0;
        let mut attempts = 0;
        let mut excluded: SmallVec<[ServerId; 4]> = SmallVec::new();
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
            let anywhere = matches!(decision.target, Target::Replica | Target::AnySession);
            let choice = match refused {
                None => self.choose(&decision, &job, &excluded).await,
                Some(_) => self.primary(None).await,
            };
            let choice = match choice {
                Ok(choice) => choice,
                Err(problem) => {
                    self.skip(request, end).await?;
                    return self.report(refused.map_or(problem, Problem::Server), 1).await;
                }
            };
            let server = choice.server;
            let mut backend = match self.ready(server, &job).await {
                Ok(backend) => backend,
                Err(unusable) => {
                    let retry = Retry { anywhere, choice: &choice, whole: end != 0 };
                    match Box::pin(self.unusable(unusable, &retry, &mut excluded)).await {
                        Next::Again => continue,
                        Next::Report(problem) => {
                            self.skip(request, end).await?;
                            let problem = match (problem, refused) {
                                (Problem::Own { .. }, Some(refused)) => Problem::Server(refused),
                                (problem, _) => problem,
                            };
                            return self.report(problem, 1).await;
                        }
                        Next::End(problem) => {
                            self.skip(request, end).await?;
                            self.report(problem, 1).await?;
                            return Err(End::Broken);
                        }
                    }
                }
            };
            if job.executes() {
                self.session.sent(server.0, choice.primary, &job.statement.verdict);
                backend.outlasts_reset |= may_outlast_reset(&job.statement);
            }
            if let Some(why) = choice.to_primary {
                self.worker.stats.read_to_primary(why);
            }
            self.info.changed.set(began);
            self.info.killed.set(false);
            let mut digest = watched.then(|| self.transcript.digest()).flatten();
            let waiting =
                Waiting::begin(&self.info, server, backend.socket.raw_fd(), Some(&backend.live));
            self.info.executing.set(end != 0 && request.filled().len() == end);
            let result =
                self.exchange(&mut backend, &job, request, end, digest.as_deref_mut()).await;
            drop(waiting);
            match result {
                Ok(outcome) => {
                    if watched {
                        self.note_step(&job, request, end, &outcome, digest);
                    }
                    return self.done(backend, &job, &choice, began, request, end, &outcome).await;
                }
                Err(Failure::Client) => return Err(End::Client),
                Err(_) if self.info.gone.get() => return Err(End::Client),
                Err(Failure::Full(payload)) => {
                    backend.in_step = true;
                    let again = attempts < room::MOST_ATTEMPTS;
                    if again {
                        attempts += 1;
                        self.make_room(&mut backend).await;
                    }
                    self.backends.push(backend);
                    if !again {
                        self.account(&job, choice.primary, server, began, Some(room::FULL));
                        return self.report(Problem::Server(payload), 1).await;
                    }
                }
                Err(Failure::Behind(payload)) => {
                    backend.in_step = true;
                    self.backends.push(backend);
                    let asks = end != 0
                        && self.session.transaction().is_none()
                        && self.worker.snapshot(|s| s.primary.is_some());
                    if !asks {
                        return self.report(Problem::Server(payload), 1).await;
                    }
                    refused = Some(payload);
                }
                Err(Failure::ReadOnly) => {
                    // Nothing was done. Another is, or will be, the primary.
                    self.worker.shared.cluster.report_failure(server);
                    let open = self.session.transaction() == Some(server.0);
                    if open {
                        drop(backend);
                        self.forget_backend(server);
                        self.session.lost(server.0);
                    } else {
                        backend.in_step = true;
                        self.backends.push(backend);
                    }
                    if end == 0 {
                        return self.report(read_only(), 1).await;
                    }
                    if !self.await_change(server).await {
                        return self.report(read_only(), 1).await;
                    }
                    if open && let Err(problem) = Box::pin(self.repeat_transaction()).await {
                        return self.report(problem, 1).await;
                    }
                }
                Err(Failure::Server { broken, passed, next_seq }) => {
                    let inquiry = self.inquiry(&backend, &job, request, end, began);
                    drop(backend);
                    self.forget_backend(server);
                    self.worker.shared.cluster.report_failure(server);
                    let lost = self.session.lost(server.0);
                    let may_repeat = end != 0 && passed == 0 && !self.info.killed.get();
                    // A statement that brings servers down must not bring all of them down.
                    let may_repeat = may_repeat && sent_again < MOST_RESENDS;
                    sent_again += 1;
                    let problem = if !may_repeat {
                        None
                    } else if !choice.primary && anywhere && lost == Lost::Nothing {
                        self.worker.stats.retried_reads.add(1);
                        excluded.push(server);
                        continue;
                    } else {
                        let broke = Broke { primary: choice.primary, lost, inquiry };
                        match Box::pin(self.recover(&job, &request.filled()[..end], &broke)).await {
                            Recovered::Again => continue,
                            Recovered::Done(answer) => {
                                self.account(&job, true, server, began, None);
                                self.show();
                                return self.say_done(&answer).await;
                            }
                            Recovered::Restart(problem) => {
                                self.account(&job, choice.primary, server, began, Some(1213));
                                self.show();
                                return self.report(problem, 1).await;
                            }
                            Recovered::Lost(problem) => problem,
                        }
                    };
                    self.account(&job, choice.primary, server, began, Some(2013));
                    return match problem {
                        Some(problem) => {
                            self.report(problem, 1).await?;
                            Err(End::Broken)
                        }
                        None => self.broken(server, &broken, passed, next_seq).await,
                    };
                }
            }
        }
    }

    /// A command was answered: what remains to be done before the next.
    #[allow(clippy::too_many_arguments)]
    async fn done(
        &mut self,
        mut backend: Box<Backend>,
        job: &Job,
        choice: &Choice,
        began: Instant,
        request: &Buffer,
        end: usize,
        outcome: &Outcome,
    ) -> Result<(), End> {
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
            let tracked = backend.track().await;
            drop(waiting);
            if !matches!(tracked, Ok(Ok(_))) {
                drop(backend);
                self.forget_backend(server);
                self.session.lost(server.0);
                return Err(End::Broken);
            }
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

    /// Whether the server may end the connection after this, as it does after `COMMIT RELEASE`.
    fn may_release(&self, job: &Job) -> bool {
        job.executes()
            && job.statement.verdict.effects.contains(Effects::END)
            && (names(&job.statement, b"release")
                || self.session.variables().get(b"completion_type") == Some(b"RELEASE"))
    }

    /// A server could not be used for a command of which nothing was sent.
    async fn unusable(
        &mut self,
        unusable: Unusable,
        retry: &Retry<'_>,
        excluded: &mut SmallVec<[ServerId; 4]>,
    ) -> Next {
        let server = retry.choice.server;
        let elsewhere = retry.anywhere && retry.whole && !retry.choice.primary;
        match unusable {
            Unusable::Lost(what) => Next::End(session_lost(what)),
            Unusable::LostTransaction => {
                self.worker.shared.cluster.report_failure(server);
                match Box::pin(self.repeat_transaction()).await {
                    Ok(()) => Next::Again,
                    Err(problem) => Next::Report(problem),
                }
            }
            Unusable::Unreachable(why) => {
                self.worker.shared.cluster.report_failure(server);
                if elsewhere {
                    excluded.push(server);
                    return Next::Again;
                }
                // It was the primary a moment ago.
                if retry.choice.primary && self.await_change(server).await {
                    return Next::Again;
                }
                let name = self.name(server);
                let message = format!("[PM2002] can't reach server {name}: {why}");
                Next::Report(Problem::own(2003, "HY000", message))
            }
            // A replica may not know yet what the primary does (a new account, a table).
            Unusable::Refused(_) if elsewhere => {
                excluded.push(server);
                Next::Again
            }
            Unusable::Refused(payload) => Next::Report(Problem::Server(payload)),
            Unusable::TooMany | Unusable::Behind if elsewhere => {
                excluded.push(server);
                Next::Again
            }
            Unusable::Behind => {
                let name = self.name(server);
                let message = format!(
                    "[PM2002] can't use server {name}: it lacks a change of accounts that the \
                     primary has"
                );
                Next::Report(Problem::own(2003, "HY000", message))
            }
            Unusable::TooMany => Next::Report(too_many()),
        }
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

    /// A server broke under a statement that can't be repeated.
    async fn broken(
        &mut self,
        server: ServerId,
        broken: &Broken,
        passed: u64,
        next_seq: Option<u8>,
    ) -> Result<(), End> {
        if self.info.killed.get() {
            // As servers do: the connection just ends.
            return Err(End::Broken);
        }
        let name = self.name(server);
        tracing::debug!(server = name, %broken, passed, "connection to a server lost under a statement");
        if let Some(seq) = next_seq {
            let message =
                format!("[PM2005] lost connection to server {name} during the statement: {broken}");
            let _ = self.error(seq, 2013, "HY000", &message).await;
        }
        Err(End::Broken)
    }
}

/// What a command that could not be sent knows of its way.
struct Retry<'a> {
    anywhere: bool,
    choice: &'a Choice,
    /// All of it is here, to be sent again.
    whole: bool,
}

/// What to do about it.
enum Next {
    Again,
    Report(Problem),
    End(Problem),
}

/// Whether the server ends the connection now, which it does at once if at all.
async fn is_closed(backend: &mut Backend) -> bool {
    let _ = timeout(Duration::from_millis(500), backend.socket.readable()).await;
    backend.socket.is_stale()
}

/// How often a read is sent once more after a server died under it.
const MOST_RESENDS: u32 = 2;
