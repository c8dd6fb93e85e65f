//! A command's bytes to the server, and its reply back.

use pointsman_session::Digest;
use pointsman_sql::{Effects, Reason};
use pointsman_wire::{BoundTypes, HEADER, Header, Layout, MAX_PAYLOAD, Status, Tracker};

use crate::backend::{Backend, Broken, Here};
use crate::buffers::Buffer;
use crate::client::Client;
use crate::credentials::RsaKey;
use crate::fate::Mark;
use crate::job::{Job, Kind};
use crate::prepared::{Context, PreparedStatement};
use crate::processlist;
use crate::relay::{Failure, Outcome, Sink, relay};
use crate::statement::execute_packet;
use crate::watching::Watching;

impl Client {
    /// Sends the command over `backend` and relays the reply. `digest` takes in what is answered.
    pub(crate) async fn exchange(
        &mut self,
        backend: &mut Backend,
        job: &Job,
        request: &mut Buffer,
        end: usize,
        digest: Option<&mut Digest>,
    ) -> Result<Outcome, Failure> {
        let server = backend.server;
        let (cut_off, primary, galera, tells) = self.worker.snapshot(|s| {
            let tells = !s.greeting.mariadb && s.group.is_none() && s.servers.len() > 1;
            (s.forbids(server), s.primary == Some(server), s.is_galera(), tells)
        });
        if cut_off {
            // Another proxy may have made another primary.
            return Err(Failure::ReadOnly);
        }
        let first = request.filled()[HEADER];
        let server_failed = |e: std::io::Error| Failure::Server {
            broken: Broken::Io(e),
            passed: 0,
            next_seq: Some(1),
        };
        let mut own_packet = None;
        backend.in_step = false;
        if let Kind::Execute(id) | Kind::Fetch(id) | Kind::Reset(id) = job.kind
            && let Some(here) = backend.statements.get_mut(&id)
        {
            let types = match (&job.kind, self.prepared.kept(id)) {
                (Kind::Execute(_), Some(PreparedStatement { types, params, .. }))
                    if !here.bound && !job.bulk && end != 0 =>
                {
                    job.types.as_ref().or(types.as_ref()).map(|types| (types, self.layout(*params)))
                }
                _ => None::<(&BoundTypes, Layout)>,
            };
            here.bound |= matches!(job.kind, Kind::Execute(_));
            here.used = self.info.statements.get();
            let len = if end == 0 { request.filled().len() } else { end };
            own_packet = execute_packet(&mut request.filled_mut()[..len], here.id, types);
            if let Kind::Execute(_) = job.kind
                && !job.long_data.packets.is_empty()
            {
                let packets = job.long_data.for_server(here.id);
                backend.send(&packets).await.map_err(server_failed)?;
            }
        }
        let writable = primary
            || self.session.transaction() == Some(backend.server.0)
                && !self.session.status().contains(Status::IN_READ_ONLY_TRANSACTION);
        // Before it is sent: whoever is acknowledged meanwhile may have met what it did.
        if self.session.transaction().is_none() {
            backend.marks.begin();
        }
        let tells = tells && writable;
        let temporary = tells && self.writes_temporary(job);
        let mut mark = None;
        let schema_change = if writable {
            if self.touch(job) {
                mark = self.mark(backend, job, end);
                if mark.is_none() {
                    backend.marks.without();
                }
            }
            self.schema_change(job)
        } else {
            None
        };
        let expect = job.expect(first);
        if end == 0 {
            self.stream(backend, request).await?;
        } else {
            let packet = job.packet.as_deref().or(own_packet.as_deref());
            let packet = packet.unwrap_or(&request.filled()[..end]);
            let sent = match mark {
                Some(mark) => backend.send_with(&mark.text(), packet, job.text_at).await,
                None => backend.send(packet).await,
            };
            sent.map_err(server_failed)?;
        }
        // What shapes replies is what was agreed with this server.
        let mut tracker = Tracker::new(expect, backend.caps);
        let Self {
            socket,
            session,
            prepared,
            login,
            worker,
            wrote,
            unsure,
            untold,
            touched,
            reporting,
            info,
            ..
        } = self;
        let command = match &job.packet {
            Some(packet) => &packet[HEADER..],
            None => &request.filled()[HEADER.min(end)..end],
        };
        let context = match job.kind {
            Kind::Prepare => Context::of(session.variables()),
            _ => Context::default(),
        };
        let mut watcher = Watching {
            job,
            command,
            prepared,
            worker,
            primary,
            writable,
            wrote,
            unsure,
            untold,
            touched,
            context,
            client_id: None,
            digest,
            galera,
            tells,
            temporary,
            told: false,
            began: info.changed.get(),
            committed: backend.committed.take(),
        };
        let mut sink = match job {
            Job { again: true, .. } => Sink::Nobody,
            Job { process_list: true, .. } => Sink::Keep(Vec::new()),
            _ => Sink::Client(socket),
        };
        let fewer = (!job.untold.is_empty()).then(|| reporting.without(&job.untold));
        let reporting = fewer.as_ref().unwrap_or(reporting);
        let result =
            relay(backend, &mut sink, session, &mut tracker, login.caps, reporting, &mut watcher)
                .await;
        if let Some(change) = schema_change
            && matches!(result, Ok(_) | Err(Failure::ReadOnly))
        {
            change.settled();
        }
        backend.committed = watcher.committed.take();
        if result.is_err() && job.statement.verdict.effects.contains(Effects::SERVER_WIDE) {
            // It may have been done all the same, and nobody says where.
            let astray = worker.shared.cluster.note_astray();
            worker.shared.server_wide.note_astray(astray);
        }
        let outcome = result?;
        backend.in_step = true;
        let (kept, client_id) = match sink {
            Sink::Keep(kept) => (Some(kept), None),
            _ => (None, watcher.client_id),
        };
        if let Some(kept) = kept {
            let holders = self.holders(backend.server).await;
            let user = self.info.user.borrow().clone();
            let seen = processlist::as_seen(kept, backend.caps, &holders, &user, || {
                self.worker.shared.rsa().map(RsaKey::pem)
            });
            self.socket.write_all(&seen).await.map_err(|_| Failure::Client)?;
        }
        if let (Some(own), Some((id, _))) = (client_id, outcome.prepared) {
            backend
                .statements
                .insert(own, Here { id, bound: false, used: self.info.statements.get() });
        }
        if self.session.transaction().is_none() {
            self.touched.clear();
        }
        Ok(outcome)
    }

    /// The mark of a write that is about to be sent, if it is to have one: see [`crate::fate`].
    fn mark(&self, backend: &mut Backend, job: &Job, end: usize) -> Option<Mark> {
        let wanted = job.kind == Kind::Query
            && job.packet.is_none()
            && (HEADER..=MOST_MARKED).contains(&end)
            && job.statement.verdict.reason == Reason::WriteKeyword
            && self.touched.logged_as_sent()
            && self.config().failover.note_statements
            && self.worker.snapshot(|s| s.server(backend.server).is_some_and(|s| s.logs_rows))
            // Whoever traces or profiles statements is shown them.
            && self.session.variables().get(b"optimizer_trace").is_none()
            && self.session.variables().get(b"profiling").is_none();
        if wanted { backend.marks.next() } else { None }
    }

    /// Passes a command on in pieces, as it arrives.
    pub(crate) async fn stream(
        &mut self,
        backend: &mut Backend,
        request: &mut Buffer,
    ) -> Result<(), Failure> {
        let server_failed = |e: std::io::Error| Failure::Server {
            broken: Broken::Io(e),
            passed: 0,
            next_seq: None,
        };
        let compressed = self.login.compression.is_some();
        for seq in (0..=u8::MAX).cycle() {
            while Header::parse(request.filled()).is_none() {
                if !self.socket.read(request).await.is_ok_and(|n| n > 0) {
                    return Err(Failure::Client);
                }
            }
            if compressed {
                request.filled_mut()[HEADER - 1] = seq;
            }
            let len = Header::parse(request.filled()).map_or(0, |h| h.len);
            let mut left = HEADER + len;
            while left > 0 {
                if request.is_empty() {
                    request.widen();
                    if !self.socket.read(request).await.is_ok_and(|n| n > 0) {
                        return Err(Failure::Client);
                    }
                }
                let n = left.min(request.filled().len());
                backend.send(&request.filled()[..n]).await.map_err(server_failed)?;
                request.consume(n);
                left -= n;
            }
            if len < MAX_PAYLOAD {
                break;
            }
        }
        Ok(())
    }
}

/// Longest packet of a write that gets a mark: longer ones are not to be copied for it.
const MOST_MARKED: usize = 1 << 16;
