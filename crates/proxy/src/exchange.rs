//! A command's bytes to the server, its reply back, and what is learnt from them.

use std::sync::Arc;
use std::time::Instant;

use pointsman_cluster::gtid::Position;
use pointsman_cluster::{Astray, Touched};
use pointsman_session::Digest;
use pointsman_sql::{Class, Effects, Reason, Route};
use pointsman_wire::{
    BoundTypes, Control, ErrPacket, HEADER, Header, Layout, MAX_PAYLOAD, OkPacket, Status, Tracker,
};
use smallvec::SmallVec;

use crate::backend::{Backend, Broken, Here};
use crate::buffers::Buffer;
use crate::client::Client;
use crate::credentials::RsaKey;
use crate::fate::{Commit, Mark, commits};
use crate::job::{Job, Kind};
use crate::prepared::{Context, Prepared, PreparedStatement};
use crate::processlist;
use crate::recover::is_rollback;
use crate::relay::{Failure, Outcome, Sink, Watcher, relay};
use crate::room;
use crate::statement::execute_packet;
use crate::worker::Worker;

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

fn is_update(job: &Job) -> bool {
    job.statement.verdict.detail.as_deref().is_some_and(|word| word.eq_ignore_ascii_case("UPDATE"))
}

/// An `UPDATE` whose client counts the rows that it finds (CLIENT_FOUND_ROWS) is told as well how many
/// it changed: the second number in "Rows matched: 1  Changed: 0  Warnings: 0", in whichever language.
fn left_as_it_was(ok: &OkPacket<'_>) -> bool {
    let mut numbers = ok.info.split(|b| !b.is_ascii_digit()).filter(|number| !number.is_empty());
    numbers.nth(1) == Some(b"0")
}

/// Longest packet of a write that gets a mark: longer ones are not to be copied for it.
const MOST_MARKED: usize = 1 << 16;

/// Access denied of various kinds, and syntax errors.
const CHANGED_NOTHING: [u16; 5] = [1044, 1045, 1064, 1142, 1227];

/// A Galera node that is not, or no longer, part of its cluster refuses all statements with
/// `ER_UNKNOWN_COM_ERROR`.
const NOT_READY: u16 = 1047;

/// Takes note of what a reply brings, before the client sees it.
struct Watching<'a> {
    job: &'a Job,
    command: &'a [u8],
    prepared: &'a mut Prepared,
    worker: &'a Worker,
    primary: bool,
    /// It takes writes, or did when the open transaction began.
    writable: bool,
    wrote: &'a mut Option<(u64, Position)>,
    unsure: &'a mut Option<Astray>,
    untold: &'a mut Option<u64>,
    touched: &'a mut Touched,
    context: Context,
    client_id: Option<u32>,
    digest: Option<&'a mut Digest>,
    /// The servers are nodes of a Galera cluster.
    galera: bool,
    /// A reply that names no GTID may mean that there are none.
    tells: bool,
    /// Nobody else sees what it writes.
    temporary: bool,
    /// One was named.
    told: bool,
    /// Before it was sent.
    began: Instant,
    /// See [`Backend::committed`].
    committed: Option<SmallVec<[Commit; 1]>>,
}

impl Watcher for Watching<'_> {
    fn prepared(&mut self, _: u32, params: u16) -> u32 {
        let id = self.prepared.insert(PreparedStatement {
            command: self.command.into(),
            statement: Arc::clone(&self.job.statement),
            params,
            types: None,
            cursor_at: None,
            long_data: Default::default(),
            context: self.context.clone(),
        });
        self.client_id = Some(id);
        id
    }

    fn began(&self) -> Instant {
        self.began
    }

    fn wrote(&mut self, gtid: &[u8], began: Instant) {
        self.told = true;
        self.touched.told();
        if self.galera {
            // Each node may number by itself; see `commits_unsaid`.
            return;
        }
        let flavour = self.worker.snapshot(|s| s.greeting.flavour());
        if let Ok(position) = Position::parse(flavour, gtid) {
            self.worker.shared.cluster.check_write(&position, began);
            self.worker.shared.cluster.note_write(&position, self.touched);
            self.worker.told(&position);
            self.changed_at(&position);
            self.remember(&position);
        }
    }

    fn commits_unsaid(&self, status: Status) -> bool {
        // These commit what was open before them, whatever they begin.
        let ends = Effects::DDL
            | Effects::HIDDEN_CODE
            | Effects::MULTI
            | Effects::BEGIN
            | Effects::BEGIN_READ_ONLY
            | Effects::END
            | Effects::LOCK
            | Effects::UNLOCK
            | Effects::TEXT_PREPARE
            | Effects::SET_AUTOCOMMIT
            | Effects::SET_OTHER
            | Effects::XA;
        let verdict = &self.job.statement.verdict;
        let harmless = verdict.route == Route::AnySession
            || verdict.class == Class::Read && verdict.route == Route::AnyReplica;
        let open = status.contains(Status::IN_TRANSACTION);
        self.galera
            && self.job.executes()
            && (verdict.effects.intersects(ends) || !open && !harmless)
    }

    fn ended(&mut self, status: Status) {
        if !self.tells || self.told {
            return;
        }
        // These commit what was open before them, whatever they begin.
        let ends = Effects::DDL
            | Effects::BEGIN
            | Effects::BEGIN_READ_ONLY
            | Effects::END
            | Effects::LOCK
            | Effects::UNLOCK
            | Effects::SET_AUTOCOMMIT
            | Effects::XA;
        let effects = self.job.statement.verdict.effects;
        // What is only set is in no binary log.
        let accounts = self.changes_servers()
            && (effects.contains(Effects::DDL) || !effects.contains(Effects::SET_OTHER));
        let changed = effects.contains(Effects::DDL) && !self.temporary;
        let lasting = self.touched.is_lasting() || changed || accounts;
        let over = effects.intersects(ends) || !status.contains(Status::IN_TRANSACTION);
        if !lasting || !over || is_rollback(self.job) {
            return;
        }
        let cluster = &self.worker.shared.cluster;
        *self.untold = Some(cluster.note_untold());
        if accounts {
            self.worker.shared.server_wide.note_astray(cluster.note_astray());
        }
    }

    async fn wrote_somewhere(&mut self) {
        if self.galera {
            let cluster = &self.worker.shared.cluster;
            let position = cluster.note_numbered_write();
            self.changed_at(&position);
            self.remember(&position);
            // Another one takes the writes by now, and must not be read without this one.
            let writer = self.worker.snapshot(|s| s.primary).filter(|_| !self.primary);
            if let Some(writer) = writer {
                let within = self.worker.shared.config.monitor.timeout;
                let arrived = cluster.wait_applied(&[writer], &position, within).await;
                if arrived.is_none() {
                    *self.unsure = Some(Astray::FOR_GOOD);
                }
            }
            return;
        }
        if self.writable {
            match self.worker.note_present_position(self.touched).await {
                Some(position) => {
                    self.changed_at(&position);
                    self.remember(&position);
                }
                None => {
                    self.committed = None;
                    let write = self.worker.shared.cluster.note_astray();
                    if self.changes_servers() {
                        self.worker.shared.server_wide.note_astray(write);
                    }
                    *self.unsure = Some(write);
                }
            }
        }
    }

    fn passing(&mut self, bytes: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.bytes(bytes);
        }
    }

    fn said(&mut self, control: &Control<'_>) {
        // Who may not, or says it wrong, has changed nothing.
        let refused =
            |c: &Control<'_>| matches!(c, Control::Err(e) if CHANGED_NOTHING.contains(&e.code));
        if self.changes_servers() && !refused(control) {
            // Where that is, is not known before the packet's news are read.
            self.worker.shared.server_wide.note();
        }
        if let Control::Ok(ok) = control
            && self.tells
            && !self.temporary
            && ok.affected_rows > 0
            && self.job.statement.verdict.reason != Reason::SelectInto
            && !(is_update(self.job) && left_as_it_was(ok))
        {
            self.touched.lasting();
        }
        if let Some(digest) = &mut self.digest {
            digest.control(control);
        }
    }

    fn is_read_only(&self, error: &ErrPacket<'_>) -> bool {
        let several = Effects::MULTI | Effects::HIDDEN_CODE | Effects::TEXT_PREPARE;
        if self.galera && error.code == NOT_READY {
            // It was turned away at the door, as far as it is one statement.
            return !self.job.bulk && !self.job.statement.verdict.effects.intersects(several);
        }
        self.writable
            && error.code == 1290
            // Of these a part may have been done.
            && !self.job.bulk
            && !self.job.statement.verdict.effects.intersects(several)
            && [&b"read-only"[..], b"read_only"]
                .iter()
                .any(|word| error.message.windows(word.len()).any(|w| w == *word))
    }

    fn is_full(&self, error: &ErrPacket<'_>) -> bool {
        self.job.kind == Kind::Prepare && error.code == room::FULL
    }

    fn is_behind(&self, error: &ErrPacket<'_>) -> bool {
        // Unknown or forbidden database, unknown role, missing privilege: it may have come to be a
        // moment ago.
        let may_be_new = matches!(error.code, 1044 | 1049 | 1227 | 1959 | 3530);
        may_be_new && !self.primary && self.job.statement.verdict.route == Route::AnySession
    }

    fn may_have_written(&self, in_transaction: bool) -> bool {
        let verdict = &self.job.statement.verdict;
        // These commit what is open before they fail, or by themselves.
        let ends = Effects::DDL
            | Effects::HIDDEN_CODE
            | Effects::MULTI
            | Effects::BEGIN
            | Effects::END
            | Effects::LOCK
            | Effects::TEXT_PREPARE;
        self.writable
            && self.job.executes()
            && (verdict.class == Class::Write && !in_transaction
                || verdict.effects.intersects(ends))
    }
}

impl Watching<'_> {
    fn changes_servers(&self) -> bool {
        self.job.statement.verdict.effects.contains(Effects::SERVER_WIDE)
    }

    /// What it did is at this position, if it is a change of accounts or the like.
    fn changed_at(&self, position: &Position) {
        if self.changes_servers() {
            self.worker.shared.server_wide.note_at(position);
        }
    }

    fn remember(&mut self, position: &Position) {
        let now = self.worker.snapshot(|s| s.generation);
        match self.wrote {
            Some((generation, wrote)) if *generation == now => wrote.merge(position),
            _ => *self.wrote = Some((now, position.clone())),
        }
        *self.unsure = None;
        let committed = self.committed.get_or_insert_default();
        committed.clear();
        committed.extend(commits(position));
    }
}
