//! One command's way: to which server ([`crate::choose`]), over which connection
//! ([`crate::connect`]), there and back ([`crate::exchange`]), and what if that fails.

use std::sync::Arc;
use std::time::Instant;

use pointsman_cluster::ServerId;
use pointsman_session::{Lost, Refusal, Target, Why};
use pointsman_sql::{Effects, Route};
use pointsman_wire::{Capabilities, Expect, HEADER, Status, err_packet, write_packet};
use smallvec::SmallVec;

use crate::backend::Broken;
use crate::buffers::Buffer;
use crate::client::{Client, End};
use crate::connect::Unusable;
use crate::relay::{Failure, Outcome};
use crate::worker::{Statement, Waiting};

/// What a command is, as far as its way is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Query,
    Prepare,
    /// With the client's statement id, as in the next four.
    Execute(u32),
    Fetch(u32),
    Reset(u32),
    InitDb,
    SetOption(bool),
    /// Answered by the server used last.
    LastUsed,
    Other,
}

/// One command on its way.
pub struct Job {
    pub kind: Kind,
    pub statement: Arc<Statement>,
    /// Instead of the client's own packet.
    pub packet: Option<Vec<u8>>,
    /// The only server that can run it.
    pub only: Option<ServerId>,
    pub bulk: bool,
}

impl Job {
    pub fn new(kind: Kind, statement: Arc<Statement>) -> Self {
        Self { kind, statement, packet: None, only: None, bulk: false }
    }

    pub fn expect(&self, first: u8) -> Expect {
        match self.kind {
            Kind::Query | Kind::Execute(_) => Expect::Results,
            Kind::Prepare => Expect::Prepare,
            Kind::Fetch(_) => Expect::Rows,
            _ => pointsman_wire::Command::from_byte(first).expect(),
        }
    }

    /// Runs something that counts as the session's statement.
    pub fn executes(&self) -> bool {
        matches!(self.kind, Kind::Query | Kind::Execute(_))
    }
}

/// An error for the client.
pub enum Problem {
    Own {
        code: u16,
        state: &'static str,
        message: String,
    },
    /// The server's own ERR payload.
    Server(Vec<u8>),
}

impl Problem {
    pub fn packet(&self, out: &mut Vec<u8>, seq: u8) {
        match self {
            Self::Own { code, state, message } => {
                err_packet(out, seq, *code, state, message);
            }
            Self::Server(payload) => {
                write_packet(out, seq, payload);
            }
        }
    }

    pub fn own(code: u16, state: &'static str, message: impl Into<String>) -> Self {
        Self::Own { code, state, message: message.into() }
    }
}

impl Client {
    /// Sends a command where it belongs and relays the reply.
    pub async fn run(&mut self, job: Job, request: &mut Buffer, end: usize) -> Result<(), End> {
        let began = Instant::now();
        let statement = Arc::clone(&job.statement);
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
        let retryable = end != 0 && matches!(decision.target, Target::Replica | Target::AnySession);
        let mut sent_again = 0;
        let mut excluded: SmallVec<[ServerId; 4]> = SmallVec::new();
        loop {
            let choice = match self.choose(&decision, &job, &excluded).await {
                Ok(choice) => choice,
                Err(problem) => {
                    self.skip(request, end).await?;
                    return self.report(problem, 1).await;
                }
            };
            let server = choice.server;
            let mut backend = match self.ready(server, &job).await {
                Ok(backend) => backend,
                Err(Unusable::Lost(what)) => {
                    self.skip(request, end).await?;
                    return self.session_broken(what, 1).await;
                }
                Err(Unusable::Unreachable(why)) => {
                    self.worker.shared.cluster.report_failure(server);
                    if !choice.primary && retryable {
                        excluded.push(server);
                        continue;
                    }
                    self.skip(request, end).await?;
                    let name = self.name(server);
                    let message = format!("[PM2002] can't reach server {name}: {why}");
                    return self.report(Problem::own(2003, "HY000", message), 1).await;
                }
                Err(Unusable::Refused(payload)) => {
                    // A replica may not know yet what the primary does (a new account, a table).
                    if !choice.primary && retryable {
                        excluded.push(server);
                        continue;
                    }
                    self.skip(request, end).await?;
                    return self.report(Problem::Server(payload), 1).await;
                }
            };
            if job.executes() {
                self.session.sent(server.0, choice.primary, &statement.verdict);
            }
            if let Some(why) = choice.to_primary {
                self.worker.stats.read_to_primary(why);
            }
            self.info.changed.set(began);
            self.info.killed.set(false);
            let waiting =
                Waiting::begin(&self.info, server, backend.socket.raw_fd(), Some(&backend.live));
            let result = self.exchange(&mut backend, &job, request, end).await;
            drop(waiting);
            match result {
                Ok(outcome) => {
                    backend.version = self.session.variables().version();
                    if job.executes() && may_stop_tracking(&statement) {
                        // What it set for the client must not keep the session's truth from us.
                        let waiting =
                            Waiting::begin(&self.info, server, backend.socket.raw_fd(), None);
                        let tracked = backend.track().await;
                        drop(waiting);
                        if !matches!(tracked, Ok(Ok(_))) {
                            drop(backend);
                            self.forget_backend(server);
                            self.session.lost(server.0);
                            return Err(End::Broken);
                        }
                    }
                    self.backends.push(backend);
                    self.finish(&job, server, &outcome);
                    if outcome.error.is_none() && end != 0 && sets_names(&job) {
                        self.session.set_names(&request.filled()[HEADER + 1..end]);
                        if let Some(backend) = self.backends.last_mut() {
                            backend.version = self.session.variables().version();
                        }
                    }
                    self.account(&job, choice.primary, server, began, outcome.error);
                    self.show();
                    return Ok(());
                }
                Err(Failure::Client) => return Err(End::Client),
                Err(Failure::Server { broken, passed, next_seq }) => {
                    drop(backend);
                    self.forget_backend(server);
                    self.worker.shared.cluster.report_failure(server);
                    let lost = self.session.lost(server.0);
                    // A statement that brings servers down must not bring all of them down.
                    let again =
                        !choice.primary && sent_again < MOST_RESENDS && !self.info.killed.get();
                    if retryable && passed == 0 && lost == Lost::Nothing && again {
                        sent_again += 1;
                        self.worker.stats.retried_reads.add(1);
                        excluded.push(server);
                        continue;
                    }
                    self.account(&job, choice.primary, server, began, Some(2013));
                    return self.broken(server, &broken, passed, next_seq).await;
                }
            }
        }
    }

    /// What a reply means beyond its bytes.
    fn finish(&mut self, job: &Job, server: ServerId, outcome: &Outcome) {
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
            }
        }
    }

    /// Shows what changed about the session to whoever asks.
    fn show(&self) {
        let info = &self.info;
        let read_only = self.session.status().contains(Status::IN_READ_ONLY_TRANSACTION);
        info.transaction.set(self.session.transaction().map(|_| read_only));
        info.held.set(self.session.held_by().map(Why::code));
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
                self.error(1, 1792, "25006", "Cannot execute statement in a READ ONLY transaction")
                    .await
            }
            Refusal::OpaqueInReadOnlyTransaction => {
                let message = "[PM2003] stored code, user variables and several statements at once are not \
                               possible in a READ ONLY transaction, which runs on a replica; use START \
                               TRANSACTION without READ ONLY";
                self.error(1, 1792, "25006", message).await
            }
        }
    }

    async fn report(&mut self, problem: Problem, seq: u8) -> Result<(), End> {
        let mut out = Vec::new();
        problem.packet(&mut out, seq);
        Ok(self.socket.write_all(&out).await?)
    }

    /// The session can't go on as if nothing had happened: say so, and end it as a server would.
    async fn session_broken(&mut self, what: &str, seq: u8) -> Result<(), End> {
        let message = format!("[PM2004] the connection to the server was lost, and with it {what}");
        let _ = self.error(seq, 2013, "HY000", &message).await;
        Err(End::Broken)
    }

    /// A server broke under a statement that can't be repeated.
    async fn broken(
        &mut self,
        server: ServerId,
        broken: &Broken,
        passed: u64,
        next_seq: Option<u8>,
    ) -> Result<(), End> {
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

/// How often a read is sent once more after a server died under it.
const MOST_RESENDS: u32 = 2;

/// Whether it may have changed what servers report to us.
fn may_stop_tracking(statement: &Statement) -> bool {
    let sets = Effects::SET_SYSVAR | Effects::SET_OTHER | Effects::MULTI | Effects::TEXT_PREPARE;
    statement.verdict.effects.intersects(sets)
        && statement.text.as_bytes().windows(14).any(|w| w.eq_ignore_ascii_case(b"session_track_"))
}

/// Whether it is a plain `SET NAMES` or `SET CHARACTER SET`.
fn sets_names(job: &Job) -> bool {
    let verdict = &job.statement.verdict;
    job.kind == Kind::Query
        && verdict.route == Route::AnySession
        && verdict.effects == Effects::SET_SYSVAR
        && ["SET NAMES", "SET CHARACTER SET", "SET CHARSET"]
            .iter()
            .any(|s| job.statement.text.starts_with(s))
}
