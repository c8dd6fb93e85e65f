//! A command whose server failed: it goes elsewhere, as far as nothing can be done twice by that, or
//! the client is told.

use std::time::Instant;

use pointsman_cluster::ServerId;
use pointsman_session::Lost;
use smallvec::SmallVec;

use crate::backend::{Backend, Broken};
use crate::buffers::Buffer;
use crate::choose::Choice;
use crate::client::{Client, End};
use crate::connect::{Unusable, too_many};
use crate::job::Job;
use crate::problem::{Problem, read_only, session_lost};
use crate::recover::{Broke, Recovered};
use crate::relay::Failure;
use crate::room;

/// How often a read is sent once more after a server died under it.
const MOST_RESENDS: u32 = 2;

/// The way a command takes, this time.
pub struct Way<'a> {
    pub job: &'a Job,
    pub choice: &'a Choice,
    /// Another server would do.
    pub anywhere: bool,
    pub began: Instant,
    /// Where it ends in the client's buffer; 0: it is passed on in pieces.
    pub end: usize,
}

impl Way<'_> {
    /// All of it is here, to be sent again.
    fn is_whole(&self) -> bool {
        self.end != 0
    }
}

/// What came of its ways so far.
#[derive(Default)]
pub struct Attempts {
    /// What a replica said that the primary may know better. Without a primary it is the answer.
    pub refused: Option<Vec<u8>>,
    /// Servers that it is not to go to again.
    pub excluded: SmallVec<[ServerId; 4]>,
    sent_again: u32,
    /// How often room was made for a prepared statement.
    made_room: u32,
}

/// What to do about a server that could not be used.
pub enum Next {
    Again,
    Report(Problem),
    /// And the session ends.
    End(Problem),
}

/// What was done about one that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing the client knows of: to be tried again.
    Again,
    /// The client has its answer.
    Answered,
}

impl Client {
    /// A server could not be used for a command of which nothing was sent.
    pub(crate) async fn unusable(
        &mut self,
        unusable: Unusable,
        way: &Way<'_>,
        tried: &mut Attempts,
    ) -> Next {
        let server = way.choice.server;
        let elsewhere = way.anywhere && way.is_whole() && !way.choice.primary;
        let next = match unusable {
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
                    tried.excluded.push(server);
                    return Next::Again;
                }
                // It was the primary a moment ago.
                if way.choice.primary && self.await_change(server).await {
                    return Next::Again;
                }
                let name = self.name(server);
                let message = format!("[PM2002] can't reach server {name}: {why}");
                Next::Report(Problem::own(2003, "HY000", message))
            }
            // A replica may not know yet what the primary does (a new account, a table).
            Unusable::Refused(_) if elsewhere => {
                tried.excluded.push(server);
                Next::Again
            }
            Unusable::Refused(payload) => Next::Report(Problem::Server(payload)),
            Unusable::TooMany | Unusable::Behind if elsewhere => {
                tried.excluded.push(server);
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
        };
        match (next, tried.refused.take()) {
            (Next::Report(Problem::Own { .. }), Some(refused)) => {
                Next::Report(Problem::Server(refused))
            }
            (next, refused) => {
                tried.refused = refused;
                next
            }
        }
    }

    /// A server failed after the command was sent to it.
    pub(crate) async fn failed(
        &mut self,
        failure: Failure,
        mut backend: Box<Backend>,
        way: &Way<'_>,
        request: &Buffer,
        tried: &mut Attempts,
    ) -> Result<After, End> {
        let server = way.choice.server;
        match failure {
            Failure::Client => Err(End::Client),
            Failure::Full(payload) => {
                backend.in_step = true;
                let again = tried.made_room < room::MOST_ATTEMPTS;
                if again {
                    tried.made_room += 1;
                    self.make_room(&mut backend).await;
                }
                self.backends.push(backend);
                if again {
                    return Ok(After::Again);
                }
                self.account(way.job, way.choice.primary, server, way.began, Some(room::FULL));
                self.tell(Problem::Server(payload)).await
            }
            Failure::Behind(payload) => {
                backend.in_step = true;
                self.backends.push(backend);
                let asks = way.is_whole()
                    && self.session.transaction().is_none()
                    && self.worker.snapshot(|s| s.primary.is_some());
                if !asks {
                    return self.tell(Problem::Server(payload)).await;
                }
                tried.refused = Some(payload);
                Ok(After::Again)
            }
            Failure::ReadOnly => self.became_read_only(backend, way).await,
            Failure::Server { broken, passed, next_seq } => {
                let inquiry = self.inquiry(&backend, way.job, request, way.end, way.began);
                drop(backend);
                self.forget_backend(server);
                self.worker.shared.cluster.report_failure(server);
                let lost = self.session.lost(server.0);
                // A statement that brings servers down must not bring all of them down.
                let may_repeat = way.is_whole()
                    && passed == 0
                    && !self.info.killed.get()
                    && tried.sent_again < MOST_RESENDS;
                tried.sent_again += 1;
                if !may_repeat {
                    self.account(way.job, way.choice.primary, server, way.began, Some(2013));
                    return self.broken(server, &broken, passed, next_seq).await;
                }
                if !way.choice.primary && way.anywhere && lost == Lost::Nothing {
                    self.worker.stats.retried_reads.add(1);
                    tried.excluded.push(server);
                    return Ok(After::Again);
                }
                let broke = Broke { primary: way.choice.primary, lost, inquiry };
                match self.recover(way.job, &request.filled()[..way.end], &broke).await {
                    Recovered::Again => Ok(After::Again),
                    Recovered::Done(answer) => {
                        self.account(way.job, true, server, way.began, None);
                        self.show();
                        self.say_done(&answer).await?;
                        Ok(After::Answered)
                    }
                    Recovered::Restart(problem) => {
                        self.account(way.job, way.choice.primary, server, way.began, Some(1213));
                        self.show();
                        self.tell(problem).await
                    }
                    Recovered::Lost(problem) => {
                        self.account(way.job, way.choice.primary, server, way.began, Some(2013));
                        match problem {
                            Some(problem) => {
                                self.report(problem, 1).await?;
                                Err(End::Broken)
                            }
                            None => self.broken(server, &broken, passed, next_seq).await,
                        }
                    }
                }
            }
        }
    }

    /// A server that was taken for the primary refused a write, and did nothing else. Another is, or
    /// will be, the primary.
    async fn became_read_only(
        &mut self,
        mut backend: Box<Backend>,
        way: &Way<'_>,
    ) -> Result<After, End> {
        let server = way.choice.server;
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
        if !way.is_whole() || !self.await_change(server).await {
            return self.tell(read_only()).await;
        }
        if open && let Err(problem) = self.repeat_transaction().await {
            return self.tell(problem).await;
        }
        Ok(After::Again)
    }

    async fn tell(&mut self, problem: Problem) -> Result<After, End> {
        self.report(problem, 1).await?;
        Ok(After::Answered)
    }

    /// A server broke under a statement that can't be repeated.
    async fn broken(
        &mut self,
        server: ServerId,
        broken: &Broken,
        passed: u64,
        next_seq: Option<u8>,
    ) -> Result<After, End> {
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
