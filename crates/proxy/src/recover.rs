//! What becomes of a command whose server died under it.
//!
//! The rule: nothing is done twice. A command is sent again only if it can't have taken effect, or if
//! its effect went with the server: a statement inside a transaction that can be repeated from its
//! beginning. Where neither is certain the client is told, and its session ends, as it would have
//! without a proxy.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use pointsman_cluster::Server;
use pointsman_session::Lost;
use pointsman_sql::{Class, Effects, Reason, Route};
use pointsman_wire::HEADER;

use crate::answer::Answer;
use crate::backend::Backend;
use crate::buffers::Buffer;
use crate::client::Client;
use crate::fate::{Fate, Inquiry, is_logged_as_sent};
use crate::job::{Job, Kind};
use crate::problem::Problem;

/// How a server was lost.
pub struct Broke {
    /// It was the primary.
    pub primary: bool,
    /// What went with it.
    pub lost: Lost,
    pub inquiry: Inquiry,
}

/// What to do now.
pub enum Recovered {
    /// Send it again.
    Again,
    /// It was done: say so.
    Done(Answer),
    /// Its transaction is gone, and nothing of it was done: the client may begin again.
    Restart(Problem),
    /// The session ends; `None`: with the usual message.
    Lost(Option<Problem>),
}

impl Client {
    /// What would have to be known if the statement that is in flight on `backend` were lost.
    pub(crate) fn inquiry(
        &self,
        backend: &Backend,
        job: &Job,
        request: &Buffer,
        end: usize,
        began: Instant,
    ) -> Inquiry {
        let server = backend.server;
        let own = self.wrote.as_ref().map(|(_, position)| position.clone());
        Inquiry {
            server,
            server_id: self.worker.snapshot(|s| s.server(server).map_or(0, |s| s.server_id)),
            thread: backend.thread_id,
            before: match backend.committed {
                Some(_) if self.unsure.is_none() && !self.worker.snapshot(|s| s.anonymous) => {
                    self.worker.committed_before(began)
                }
                _ => None,
            },
            own,
            committed: backend.committed.clone().unwrap_or_default(),
            marks: backend.marks,
            texts: if self.touched.logged_as_sent() {
                self.texts(job, &request.filled()[..end.max(HEADER)])
            } else {
                None
            },
        }
    }

    /// Texts under which servers log what is in flight and the transaction it may end, if all of it is
    /// logged as it is sent (which is the caller's to know); `None` if there may be others.
    fn texts(&self, job: &Job, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
        let text = |kind: Kind, at: usize, packet: &[u8]| match kind {
            Kind::Query => {
                packet.get(at..).filter(|text| is_logged_as_sent(text)).map(<[u8]>::to_vec)
            }
            _ => None,
        };
        let mut texts = vec![text(job.kind, job.text_at, job.packet.as_deref().unwrap_or(packet))?];
        if self.session.transaction().is_some() {
            let record = self.transcript.steps().ok()?;
            for step in record.steps() {
                texts.push(text(step.command.kind, step.command.text_at, record.packet(step))?);
            }
        }
        Some(texts)
    }

    /// A server was lost with `job` in flight, of whose reply nothing was passed on. `packet`: the
    /// client's.
    pub(crate) async fn recover(&mut self, job: &Job, packet: &[u8], broke: &Broke) -> Recovered {
        match broke.lost {
            Lost::State(_) => Recovered::Lost(None),
            Lost::Nothing if !broke.primary => Recovered::Lost(None),
            Lost::Nothing if is_harmless(job) => Recovered::Again,
            Lost::Transaction if !may_commit(job) => match self.repeat_transaction().await {
                Ok(()) => Recovered::Again,
                Err(problem) => Recovered::Restart(problem),
            },
            // The transaction is gone, which is what was asked for.
            Lost::Transaction if is_rollback(job) => Recovered::Again,
            Lost::Nothing | Lost::Transaction => match self.fate(&broke.inquiry).await {
                Fate::Committed(_) if is_commit(job) => Recovered::Done(Answer::default()),
                Fate::Committed(done) if broke.lost == Lost::Nothing => {
                    match self.answer(job, packet, &done).await {
                        Some(answer) => Recovered::Done(answer),
                        None => Recovered::Lost(Some(committed_unanswered())),
                    }
                }
                Fate::Committed(_) => Recovered::Lost(Some(committed_unanswered())),
                Fate::Unknown(why) => Recovered::Lost(Some(in_doubt(why))),
                Fate::Absent if broke.lost == Lost::Nothing => Recovered::Again,
                Fate::Absent => match self.repeat_transaction().await {
                    Ok(()) => Recovered::Again,
                    Err(problem) => Recovered::Restart(problem),
                },
            },
        }
    }

    /// What became of a commit in flight. That can be told once there is another primary, and only
    /// if Pointsman knows what it had when it became one.
    async fn fate(&self, inquiry: &Inquiry) -> Fate {
        if self.worker.snapshot(|s| s.is_galera()) {
            return Fate::Unknown("nothing in a Galera cluster tells");
        }
        // The monitor may not have seen yet what has happened.
        while self.worker.snapshot(|s| s.primary) == Some(inquiry.server) {
            let suspect = |s: &Server| s.live.suspect.load(Relaxed);
            let lives = !self.worker.snapshot(|s| s.server(inquiry.server).is_some_and(suspect));
            if lives {
                return Fate::Unknown("the server lives, and may still be at it");
            }
            if !self.await_change(inquiry.server).await {
                return Fate::Unknown("no other primary came in time");
            }
        }
        if self.primary(None).await.is_err() {
            return Fate::Unknown("no other primary came in time");
        }
        let succession = self.worker.snapshot(|s| s.succession.clone());
        match succession.filter(|s| s.old == inquiry.server) {
            Some(succession) => self.worker.fate(inquiry, &succession).await,
            None => Fate::Unknown("the server itself is the primary again"),
        }
    }
}

/// Sending it twice, outside a transaction, does no more than sending it once.
fn is_harmless(job: &Job) -> bool {
    let verdict = &job.statement.verdict;
    match job.kind {
        Kind::Prepare | Kind::Reset(_) | Kind::InitDb | Kind::SetOption(_) | Kind::LastUsed => true,
        Kind::Fetch(_) | Kind::Other => false,
        Kind::Query | Kind::Execute(_) => {
            verdict.class == Class::Read
                && matches!(verdict.route, Route::AnyReplica | Route::AnySession)
                || verdict.route == Route::AnySession
                || pointsman_session::transcript::begins(verdict)
        }
    }
}

/// It may commit the transaction it is sent in.
fn may_commit(job: &Job) -> bool {
    let ends = Effects::ENDS | Effects::MULTI | Effects::TEXT_PREPARE | Effects::SET_OTHER;
    let verdict = &job.statement.verdict;
    match job.kind {
        Kind::Query | Kind::Execute(_) => {
            verdict.effects.intersects(ends)
                || matches!(
                    verdict.reason,
                    Reason::Procedure | Reason::Administration | Reason::Unknown | Reason::TooLong
                )
        }
        Kind::Other => true,
        _ => false,
    }
}

pub fn is_rollback(job: &Job) -> bool {
    is_end(job, "ROLLBACK")
}

fn is_commit(job: &Job) -> bool {
    is_end(job, "COMMIT")
}

/// Whether it is this statement, alone and without `AND CHAIN` or `RELEASE`.
fn is_end(job: &Job, word: &str) -> bool {
    let text = job.statement.text.trim_end_matches([';', ' ']);
    let rest = text.get(..word.len()).filter(|first| first.eq_ignore_ascii_case(word));
    let rest = rest.map(|_| text[word.len()..].trim());
    rest.is_some_and(|rest| rest.is_empty() || rest.eq_ignore_ascii_case("work"))
}

fn in_doubt(why: &str) -> Problem {
    let message = format!(
        "[PM2005] the server was lost during the statement, and whether it was done can't be told: \
         {why}"
    );
    Problem::own(2013, "HY000", message)
}

fn committed_unanswered() -> Problem {
    let message = "[PM2009] the server was lost after it had done what was asked, before it could \
                   answer: this was done, and must not be repeated";
    Problem::own(2013, "HY000", message)
}
