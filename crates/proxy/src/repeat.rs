//! Repeating an open transaction on another server, unseen by its client.

use std::sync::Arc;

use pointsman_cluster::ServerId;
use pointsman_session::transcript::{Answered, Record, begins};
use pointsman_session::{Digest, Transcript};
use pointsman_sql::Class;
use pointsman_wire::{BoundTypes, HEADER, Layout, Status, write_packet};

use crate::backend::Backend;
use crate::buffers::Buffer;
use crate::client::Client;
use crate::connect::Unusable;
use crate::job::{Job, Kind};
use crate::prepared::LongData;
use crate::problem::Problem;
use crate::relay::{Failure, Outcome};
use crate::stats::Repeated;
use crate::worker::{Statement, Waiting};

/// What is kept of a command that was answered, beside its packet, to send it again.
pub struct Past {
    pub kind: Kind,
    pub text_at: usize,
    statement: Arc<Statement>,
    bulk: bool,
    /// For an execution: the types its packet does not name.
    types: Option<BoundTypes>,
    /// What was sent for it in advance, if anything.
    long_data: Option<Box<LongData>>,
}

impl Past {
    fn job(&self) -> Job {
        let mut job = Job::new(self.kind, Arc::clone(&self.statement));
        job.text_at = self.text_at;
        job.bulk = self.bulk;
        job.types = self.types.clone();
        job.long_data = self.long_data.as_deref().cloned().unwrap_or_default();
        job.again = true;
        job
    }
}

/// Why one attempt did not succeed.
enum Missed {
    /// This server was lost, too.
    Server,
    Differs,
    Problem(Problem),
}

impl Client {
    /// Whether what this command does, and what is answered, is to be remembered in case the open
    /// transaction, or the one that it begins, has to be repeated.
    pub(crate) fn watch_transaction(&mut self, job: &Job) -> bool {
        let kept = matches!(
            job.kind,
            Kind::Query | Kind::Execute(_) | Kind::InitDb | Kind::SetOption(_) | Kind::Fetch(_)
        );
        if !kept || self.config().failover.replay_max_size == 0 {
            return false;
        }
        if self.session.transaction().is_some() {
            return true;
        }
        let autocommit = self.session.status().contains(Status::AUTOCOMMIT);
        let may_begin = job.executes() && (!autocommit || begins(&job.statement.verdict));
        if may_begin {
            self.transcript.prepare(&self.session, || self.worker.record());
        }
        may_begin
    }

    /// A watched command was answered.
    pub(crate) fn note_step(
        &mut self,
        job: &Job,
        request: &Buffer,
        end: usize,
        outcome: &Outcome,
        digest: Option<Box<Digest>>,
    ) {
        if self.session.transaction().is_none() {
            self.transcript.put_back(digest);
            if let Some(record) = self.transcript.clear() {
                self.worker.keep_record(record);
            }
            self.prepared.forget_closed();
            return;
        }
        if end == 0 {
            self.transcript.spoil(pointsman_session::Spoilt::TooLong);
            return;
        }
        if let Kind::Fetch(_) = job.kind {
            let why = "a cursor was read in it";
            self.transcript.spoil(pointsman_session::Spoilt::Statement(why));
            return;
        }
        let verdict = &job.statement.verdict;
        let failed = outcome.error.is_some();
        if begins(verdict) && !failed {
            self.session.began_anew();
        }
        let packet = job.packet.as_deref().unwrap_or(&request.filled()[..end]);
        let answered = Answered {
            verdict,
            failed,
            packet,
            more: job.long_data.packets.len(),
            // Without one, nothing is kept.
            digest: digest.as_ref().map_or(0, |digest| digest.finish()),
            insert_id: outcome.insert_id,
        };
        let limit = self.worker.shared.config.failover.replay_max_size;
        let prepared = &self.prepared;
        let attributes = self.layout(0).attributes;
        self.transcript.add(&answered, limit, || {
            let statement = match job.kind {
                Kind::Execute(id) => prepared.kept(id),
                _ => None,
            };
            let types = statement.filter(|s| {
                let layout = Layout { params: s.params, attributes };
                BoundTypes::in_place(&packet[HEADER.min(packet.len())..], layout).is_none()
            });
            Past {
                kind: job.kind,
                text_at: job.text_at,
                statement: Arc::clone(&job.statement),
                bulk: job.bulk,
                types: types.and_then(|s| s.types.clone()),
                long_data: (!job.long_data.packets.is_empty())
                    .then(|| Box::new(job.long_data.clone())),
            }
        });
        self.transcript.put_back(digest);
    }

    /// The server with the open transaction is lost: does the same again on another, up to where it
    /// was. An error is for the client; its transaction is gone then, and nothing else.
    pub(crate) async fn repeat_transaction(&mut self) -> Result<(), Problem> {
        let transcript = std::mem::take(&mut self.transcript);
        self.repeating = true;
        let result = self.repeat(&transcript).await;
        self.repeating = false;
        let outcome = match &result {
            Ok(()) => Repeated::Done,
            Err((outcome, _)) => *outcome,
        };
        self.worker.stats.repeated[outcome as usize].add(1);
        if result.is_ok() {
            self.transcript = transcript;
        } else {
            self.prepared.forget_closed();
        }
        result.map_err(|(_, problem)| problem)
    }

    /// While this lasts, statements that waited for a primary let it go first: what they insert could
    /// take the keys that the transaction was given before.
    async fn repeat(&mut self, transcript: &Transcript<Past>) -> Result<(), (Repeated, Problem)> {
        let record = match transcript.steps() {
            Ok(record) => record,
            Err(why) => return Err((Repeated::Refused, restart(why.text()))),
        };
        let shared = Arc::clone(&self.worker.shared);
        let _first = shared.goes_first();
        loop {
            let present = self.session.rewind();
            let missed = match self.repeat_once(record).await {
                Ok(()) => return Ok(()),
                Err(missed) => missed,
            };
            self.session.unwind(present);
            match missed {
                Missed::Server => {}
                Missed::Differs => {
                    let why = "a statement was answered otherwise than before";
                    return Err((Repeated::Differs, restart(why)));
                }
                Missed::Problem(problem) => return Err((Repeated::Refused, problem)),
            }
        }
    }

    async fn repeat_once(&mut self, record: &Record<Past>) -> Result<(), Missed> {
        let steps = record.steps();
        let Some(first) = steps.first().map(|step| step.command.job()) else { return Ok(()) };
        let first = &first;
        let decision = self.decide(first).map_err(|_| Missed::Differs)?;
        let choice = self.choose(&decision, first, &[]).await.map_err(Missed::Problem)?;
        let server = choice.server;
        // A connection that has moved on with the session can't be taken back to the beginning.
        self.backends.retain(|b| b.server != server);
        self.forget_backend(server);
        let mut backend = match self.ready(server, first).await {
            Ok(backend) => backend,
            Err(Unusable::Unreachable(_)) => {
                self.worker.shared.cluster.report_failure(server);
                return match self.await_change(server).await {
                    true => Err(Missed::Server),
                    false => Err(Missed::Problem(restart("no primary came in time"))),
                };
            }
            Err(Unusable::Refused(payload)) => {
                return Err(Missed::Problem(Problem::Server(payload)));
            }
            Err(Unusable::TooMany) => {
                return Err(Missed::Problem(restart("no connection was free")));
            }
            Err(Unusable::Behind) => {
                return Err(Missed::Problem(restart("the primary is none any more")));
            }
            Err(Unusable::Lost(_) | Unusable::LostTransaction) => return Err(Missed::Differs),
        };
        let mut request = Buffer::borrow();
        for (i, step) in steps.iter().enumerate() {
            let job = &step.command.job();
            if i > 0 {
                backend = match self.prepare_there(backend, job).await {
                    Ok(backend) => backend,
                    Err(_) => return Err(Missed::Server),
                };
            }
            let given_key = step.insert_id != 0 && job.statement.verdict.class == Class::Write;
            if given_key && !self.set_insert_id(&mut backend, step.insert_id).await {
                return Err(self.given_up(backend));
            }
            let packet = record.packet(step);
            request.consume(request.filled().len());
            request.append(packet);
            if job.executes() {
                self.session.sent(server.0, choice.primary, &job.statement.verdict);
            }
            let mut digest = Digest::default();
            let end = packet.len();
            let waiting =
                Waiting::begin(&self.info, server, backend.socket.raw_fd(), Some(&backend.live));
            let result =
                self.exchange(&mut backend, job, &mut request, end, Some(&mut digest)).await;
            drop(waiting);
            match result {
                Ok(outcome) if digest.finish() == step.digest => {
                    // It may not have been used.
                    if given_key && !self.set_insert_id(&mut backend, 0).await {
                        return Err(self.given_up(backend));
                    }
                    self.finish(job, server, &outcome);
                    if outcome.error.is_none() && crate::job::sets_names(job) {
                        self.session.set_names(&packet[job.text_at..]);
                    }
                }
                Err(Failure::Server { .. } | Failure::ReadOnly | Failure::Full(_)) => {
                    drop(self.given_up(backend));
                    self.worker.shared.cluster.report_failure(server);
                    return match self.await_change(server).await {
                        true => Err(Missed::Server),
                        false => Err(Missed::Problem(restart("no primary came in time"))),
                    };
                }
                Ok(_) | Err(Failure::Client | Failure::Behind(_)) => {
                    return Err(self.given_up(backend));
                }
            }
        }
        for step in steps {
            // What the client has closed since is closed here as well.
            if let Kind::Execute(id) = step.command.kind
                && self.prepared.get(id).is_none()
                && let Some(here) = backend.statements.remove(&id)
            {
                let mut payload = [0x19, 0, 0, 0, 0];
                payload[1..].copy_from_slice(&here.id.to_le_bytes());
                write_packet(&mut backend.pending, 0, &payload);
            }
        }
        backend.version = self.session.variables().version();
        if self.session.transaction() != Some(server.0) {
            return Err(self.given_up(backend));
        }
        self.backends.push(backend);
        Ok(())
    }
}

impl Client {
    /// Has the next INSERT take this AUTO_INCREMENT value: the client may have put it to use already.
    /// 0: whichever comes next.
    async fn set_insert_id(&mut self, backend: &mut Backend, id: u64) -> bool {
        let set = format!("\x03SET insert_id={id}");
        matches!(self.own_command(backend, set.as_bytes()).await, Ok(Ok(_)))
    }

    /// The server with the open transaction, if another has become the primary since it began.
    pub(crate) fn deposed(&self) -> Option<ServerId> {
        let at = ServerId(self.session.transaction()?);
        let writes = !self.session.status().contains(Status::IN_READ_ONLY_TRANSACTION);
        let primary = self.worker.snapshot(|s| s.primary)?;
        (writes && primary != at).then_some(at)
    }

    /// Leaves that server, and does there nothing more, before any harm is done.
    pub(crate) async fn follow_primary(&mut self, deposed: ServerId) -> Result<(), Problem> {
        self.backends.retain(|b| b.server != deposed);
        self.forget_backend(deposed);
        self.session.lost(deposed.0);
        self.repeat_transaction().await
    }

    /// The attempt failed; what it did on the server goes with the connection.
    fn given_up(&mut self, backend: Box<Backend>) -> Missed {
        let server = backend.server;
        drop(backend);
        self.forget_backend(server);
        self.session.lost(server.0);
        Missed::Differs
    }
}

/// Error 1213 says that the transaction was rolled back and may be tried again, which is so, and
/// which applications know how to do.
fn restart(why: &str) -> Problem {
    let message = format!(
        "[PM2010] the server with this transaction was lost, and the transaction could not be \
         repeated on another ({why}); nothing of it was done: try restarting it"
    );
    Problem::own(1213, "40001", message)
}
