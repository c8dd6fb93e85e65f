//! One command's way: to which server, over which connection, and what if that fails.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use pointsman_cluster::ServerId;
use pointsman_cluster::gtid::Position;
use pointsman_session::{Decision, Level, Lost, Refusal, Restore, Target, Why};
use pointsman_sql::{Class, Effects, Reason, Route, Tables};
use pointsman_wire::{
    BoundTypes, Capabilities, Expect, HEADER, Header, MAX_PAYLOAD, Status, Tracker, err_packet,
    write_packet,
};
use smallvec::SmallVec;

use crate::backend::{Backend, Broken, ConnectError, Here, error_code};
use crate::buffers::Buffer;
use crate::client::{Client, End, execute_packet};
use crate::pick::{self, Wanted};
use crate::prepared::{Context, LongData, Prepared, PreparedStatement};
use crate::relay::{Failure, Outcome, Watcher, relay};
use crate::stats::ToPrimary;
use crate::worker::{Place, Statement, Waiting, Worker};

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

    fn expect(&self, first: u8) -> Expect {
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

    fn own(code: u16, state: &'static str, message: impl Into<String>) -> Self {
        Self::Own { code, state, message: message.into() }
    }
}

/// Why a server could not be used for a statement.
enum Unusable {
    /// Not reached, or it broke at once: another may do.
    Unreachable(String),
    /// It said no.
    Refused(Vec<u8>),
    /// The session had something there that is gone now.
    Lost(&'static str),
}

/// A server chosen for a statement.
struct Choice {
    server: ServerId,
    primary: bool,
    /// A read that could not go to a replica.
    to_primary: Option<ToPrimary>,
}

impl Client {
    /// Sends a command where it belongs and relays the reply.
    pub async fn run(&mut self, job: Job, request: &mut Buffer, end: usize) -> Result<(), End> {
        let began = Instant::now();
        let statement = Arc::clone(&job.statement);
        let decision = match self.decide(&job) {
            Ok(decision) => decision,
            Err(refusal) => {
                self.drain_streamed(request, end).await?;
                return self.refuse(refusal).await;
            }
        };
        if let Some(replica) = decision.commit_first
            && let Err(problem) = self.commit_on(ServerId(replica)).await
        {
            self.drain_streamed(request, end).await?;
            return self.report(problem, 1).await;
        }
        let retryable = end != 0 && matches!(decision.target, Target::Replica | Target::AnySession);
        let mut sent_again = 0;
        let mut excluded: SmallVec<[ServerId; 4]> = SmallVec::new();
        loop {
            let choice = match self.choose(&decision, &job, &excluded).await {
                Ok(choice) => choice,
                Err(problem) => {
                    self.drain_streamed(request, end).await?;
                    return self.report(problem, 1).await;
                }
            };
            let server = choice.server;
            let mut backend = match self.ready(server, &job).await {
                Ok(backend) => backend,
                Err(Unusable::Lost(what)) => {
                    self.drain_streamed(request, end).await?;
                    return self.session_broken(what, 1).await;
                }
                Err(Unusable::Unreachable(why)) => {
                    self.worker.shared.cluster.report_failure(server);
                    if !choice.primary && retryable {
                        excluded.push(server);
                        continue;
                    }
                    self.drain_streamed(request, end).await?;
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
                    self.drain_streamed(request, end).await?;
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

    fn decide(&self, job: &Job) -> Result<Decision, Refusal> {
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
    async fn choose(
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
                    && !self.is_fresh(server).await
                {
                    return self.primary(Some(ToPrimary::ReplicaBehind));
                }
                Ok(Choice {
                    server,
                    primary,
                    to_primary: read.then_some(ToPrimary::Why(decision.why)),
                })
            }
            Target::Primary | Target::Proxy => {
                let read = job.statement.verdict.class == Class::Read && job.executes();
                self.primary(read.then_some(ToPrimary::Why(decision.why)))
            }
            Target::AnySession => {
                let last = self.session.last_used().map(ServerId).filter(|s| !excluded.contains(s));
                match last.filter(|s| self.backends.iter().any(|b| b.server == *s)) {
                    Some(server) => {
                        let primary = self.worker.snapshot(|s| s.primary) == Some(server);
                        Ok(Choice { server, primary, to_primary: None })
                    }
                    None => self.replica_or_primary(None, excluded, false).await,
                }
            }
            Target::Replica => {
                let counted = job.executes() && job.statement.verdict.class == Class::Read;
                match self.wanted().await {
                    Ok(position) => {
                        self.replica_or_primary(position.as_deref(), excluded, counted).await
                    }
                    Err(why) => self.primary(counted.then_some(why)),
                }
            }
        }
    }

    /// Whether `server` has, within `causal_timeout`, what this session's reads must see.
    async fn is_fresh(&self, server: ServerId) -> bool {
        match self.wanted().await {
            Ok(None) => true,
            Ok(Some(position)) => {
                let within = self.config().routing.causal_timeout;
                let cluster = &self.worker.shared.cluster;
                cluster.wait_applied(&[server], &position, within).await.is_some()
            }
            Err(_) => false,
        }
    }

    /// What a replica must have applied to serve this session's reads; an error if that can't be
    /// told, and only the primary is certain to have it.
    async fn wanted(&self) -> Result<Option<Arc<Position>>, ToPrimary> {
        if self.level == Level::Eventual {
            return Ok(None);
        }
        if self.unsure {
            return Err(ToPrimary::ReplicaBehind);
        }
        match self.level {
            Level::Eventual => Ok(None),
            Level::Session => match &self.wrote {
                // A position from before a change of primary may name what was lost with the old one.
                Some((generation, _)) if *generation != self.worker.snapshot(|s| s.generation) => {
                    Err(ToPrimary::ReplicaBehind)
                }
                Some((_, position)) => Ok(Some(Arc::new(position.clone()))),
                None => Ok(None),
            },
            Level::Causal => Ok(self.worker.shared.cluster.acknowledged()),
            Level::Strong => {
                self.worker.note_present_position().await.map(Some).ok_or(ToPrimary::Strong)
            }
        }
    }

    fn primary(&self, to_primary: Option<ToPrimary>) -> Result<Choice, Problem> {
        self.worker.snapshot(|s| match s.primary {
            Some(server) => Ok(Choice { server, primary: true, to_primary }),
            None => {
                let why = &s.no_primary_why;
                Err(Problem::own(
                    1290,
                    "HY000",
                    format!("[PM2001] there is no primary to write to: {why}"),
                ))
            }
        })
    }

    async fn replica_or_primary(
        &self,
        position: Option<&Position>,
        excluded: &[ServerId],
        counted: bool,
    ) -> Result<Choice, Problem> {
        let connected = |id| self.backends.iter().any(|b| b.server == id);
        let primary_reads = self.config().routing.primary_reads;
        let pick = |position| {
            let wanted = Wanted { position, excluded, connected: &connected, primary_reads };
            self.worker.snapshot(|s| {
                pick::replica(s, &wanted).map(|server| Choice {
                    server: server.id,
                    primary: s.primary == Some(server.id),
                    to_primary: None,
                })
            })
        };
        if let Some(choice) = pick(position) {
            return Ok(choice);
        }
        let Some(behind) = pick(None).filter(|_| position.is_some()) else {
            let why =
                if excluded.is_empty() { ToPrimary::NoReplica } else { ToPrimary::ReplicaFailed };
            return self.primary(counted.then_some(why));
        };
        // A moment's wait on a replica that is about to have it keeps the read off the primary.
        if let Some(position) = position {
            let began = Instant::now();
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
            self.worker.stats.causal_wait.record(began.elapsed());
            if let Some(server) = arrived {
                return Ok(Choice { server, ..behind });
            }
        }
        self.primary(counted.then_some(ToPrimary::ReplicaBehind))
    }

    /// A connection to `server` that is in step with the session and knows the job's statement.
    async fn ready(&mut self, server: ServerId, job: &Job) -> Result<Box<Backend>, Unusable> {
        let mut backend = match self.backends.iter().position(|b| b.server == server) {
            Some(at) => {
                let backend = self.backends.swap_remove(at);
                if backend.socket.is_stale() {
                    drop(backend);
                    self.forget_backend(server);
                    match self.session.lost(server.0) {
                        Lost::Nothing if job.only.is_none() => self.connect(server).await?,
                        Lost::Nothing => return Err(Unusable::Lost("a cursor or long data")),
                        Lost::Transaction => return Err(Unusable::Lost("an open transaction")),
                        Lost::State(what) => return Err(Unusable::Lost(what)),
                    }
                } else {
                    backend
                }
            }
            None => self.connect(server).await?,
        };
        if let Kind::Execute(id) | Kind::Fetch(id) | Kind::Reset(id) = job.kind
            && !backend.statements.contains_key(&id)
            && let Some(statement) = self.prepared.get(id)
        {
            let (command, context) = (statement.command.clone(), statement.context.clone());
            backend = self.in_context(backend, &context).await?;
            match self.own_command(&mut backend, &command).await {
                Ok(Ok((here, _, _))) => {
                    backend.statements.insert(id, Here { id: here, bound: false });
                }
                Ok(Err(payload)) => {
                    self.backends.push(backend);
                    return Err(Unusable::Refused(payload));
                }
                Err(broken) => return Err(self.gone(backend, &broken)),
            }
        }
        if backend.version != self.session.variables().version() {
            backend = self.bring_up_to_date(backend).await?;
        }
        Ok(backend)
    }

    /// A command of our own; the session counts as waiting for the server meanwhile, so that one
    /// that hangs does not hold it for ever.
    async fn own_command(
        &self,
        backend: &mut Backend,
        payload: &[u8],
    ) -> Result<Result<(u32, u16, u16), Vec<u8>>, Broken> {
        let _waiting = Waiting::begin(&self.info, backend.server, backend.socket.raw_fd(), None);
        backend.command(payload).await
    }

    /// The connection broke under a command of our own: what went with it decides.
    fn gone(&mut self, backend: Box<Backend>, broken: &Broken) -> Unusable {
        let server = backend.server;
        drop(backend);
        self.forget_backend(server);
        match self.session.lost(server.0) {
            Lost::Nothing => Unusable::Unreachable(broken.to_string()),
            Lost::Transaction => Unusable::Lost("an open transaction"),
            Lost::State(what) => Unusable::Lost(what),
        }
    }

    /// Gives the server the schema and `sql_mode` that a statement was prepared under, if the
    /// session has others by now; it is brought up to date afterwards.
    async fn in_context(
        &mut self,
        mut backend: Box<Backend>,
        context: &Context,
    ) -> Result<Box<Backend>, Unusable> {
        if *context == Context::of(self.session.variables()) {
            return Ok(backend);
        }
        let mut commands = Vec::new();
        if let Some(schema) = &context.schema {
            commands.push([b"\x02", &schema[..]].concat());
        }
        commands.push(match &context.sql_mode {
            Some(mode) => [b"\x03SET sql_mode='", &mode[..], b"'"].concat(),
            None => b"\x03SET sql_mode=DEFAULT".to_vec(),
        });
        backend.version = 0;
        for command in commands {
            match self.own_command(&mut backend, &command).await {
                Ok(Ok(_)) => {}
                Ok(Err(payload)) => {
                    self.backends.push(backend);
                    return Err(Unusable::Refused(payload));
                }
                Err(broken) => return Err(self.gone(backend, &broken)),
            }
        }
        Ok(backend)
    }

    async fn connect(&mut self, server: ServerId) -> Result<Box<Backend>, Unusable> {
        let target = self.worker.snapshot(|s| s.server(server).cloned());
        let Some(target) = target else {
            return Err(Unusable::Unreachable("it is not configured any more".to_owned()));
        };
        match Backend::connect(&target, &self.login, self.config().limits.connect_timeout).await {
            Ok(backend) => {
                let place = Place {
                    server,
                    thread: backend.thread_id,
                    fd: backend.socket.raw_fd(),
                    counted: Rc::clone(&backend.counted),
                };
                self.info.backends.borrow_mut().push(place);
                Ok(Box::new(backend))
            }
            Err(ConnectError::Refused(payload)) => {
                // 1040 too many connections, 1129 host blocked, 1203 user's limit: it is up, but not for us.
                if matches!(error_code(&payload), 1040 | 1053 | 1129 | 1203)
                    && self.worker.snapshot(|s| s.primary) != Some(server)
                {
                    return Err(Unusable::Unreachable("it refuses connections".to_owned()));
                }
                Err(Unusable::Refused(payload))
            }
            Err(ConnectError::Unreachable(e)) => Err(Unusable::Unreachable(e.to_string())),
            Err(ConnectError::NoProof(plugin)) => Err(Unusable::Unreachable(format!(
                "it asks for {plugin}, for which the client's login gave no proof; \
                 name the account and its password in a [[user]] table"
            ))),
            Err(ConnectError::Malformed(e)) => Err(Unusable::Unreachable(e.to_string())),
        }
    }

    fn forget_backend(&mut self, server: ServerId) {
        self.info.backends.borrow_mut().retain(|p| p.server != server);
    }

    async fn bring_up_to_date(
        &mut self,
        mut backend: Box<Backend>,
    ) -> Result<Box<Backend>, Unusable> {
        let from = backend.version;
        let mut steps: VecDeque<_> = self.session.variables().restore(from).into();
        let mut one_by_one = false;
        while let Some(step) = steps.pop_front() {
            let mut payload;
            let is_set = matches!(step, Restore::Set(_));
            match step {
                Restore::Schema(name) => {
                    payload = vec![0x02];
                    payload.extend_from_slice(&name);
                }
                Restore::Set(sql) => {
                    payload = vec![0x03];
                    payload.extend_from_slice(&sql);
                }
                Restore::MultiStatements(on) => payload = vec![0x1b, u8::from(!on), 0],
            }
            match self.own_command(&mut backend, &payload).await {
                Ok(Ok(_)) => {}
                // A server of another version may lack a variable or a value. The others count.
                Ok(Err(_)) if is_set && !one_by_one => {
                    one_by_one = true;
                    steps = self.session.variables().restore_each(from).into();
                }
                Ok(Err(payload)) if is_set && is_unknown_to_server(error_code(&payload)) => {
                    tracing::debug!(
                        server = backend.server.0,
                        "a session variable can't be carried"
                    );
                }
                Ok(Err(payload)) => {
                    self.backends.push(backend);
                    return Err(Unusable::Refused(payload));
                }
                Err(broken) => return Err(self.gone(backend, &broken)),
            }
        }
        backend.version = self.session.variables().version();
        Ok(backend)
    }

    /// Sends the command over `backend` and relays the reply.
    async fn exchange(
        &mut self,
        backend: &mut Backend,
        job: &Job,
        request: &mut Buffer,
        end: usize,
    ) -> Result<Outcome, Failure> {
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
            let types = match (&job.kind, self.prepared.get(id)) {
                (Kind::Execute(_), Some(PreparedStatement { types: Some(types), params, .. }))
                    if !here.bound && !job.bulk && end != 0 =>
                {
                    Some((types, *params))
                }
                _ => None::<(&BoundTypes, u16)>,
            };
            here.bound |= matches!(job.kind, Kind::Execute(_));
            let len = if end == 0 { request.filled().len() } else { end };
            own_packet = execute_packet(&mut request.filled_mut()[..len], here.id, types);
            if let (Kind::Execute(_), Some(statement)) = (job.kind, self.prepared.get(id))
                && !statement.long_data.packets.is_empty()
            {
                let packets = statement.long_data.for_server(here.id);
                backend.send(&packets).await.map_err(server_failed)?;
            }
        }
        let expect = job.expect(first);
        if end == 0 {
            self.stream(backend, request).await?;
        } else {
            let packet = job.packet.as_deref().or(own_packet.as_deref());
            let packet = packet.unwrap_or(&request.filled()[..end]);
            backend.send(packet).await.map_err(server_failed)?;
        }
        // What shapes replies is what was agreed with this server.
        let mut tracker = Tracker::new(expect, backend.caps);
        let Self { socket, session, prepared, login, worker, wrote, unsure, .. } = self;
        let command = match &job.packet {
            Some(packet) => &packet[HEADER..],
            None => &request.filled()[HEADER.min(end)..end],
        };
        let primary = worker.snapshot(|s| s.primary) == Some(backend.server);
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
            wrote,
            unsure,
            context,
            client_id: None,
        };
        let outcome =
            relay(backend, socket, session, &mut tracker, login.caps, &mut watcher).await?;
        backend.in_step = true;
        if let (Some(own), Some((id, _))) = (watcher.client_id, outcome.prepared) {
            backend.statements.insert(own, Here { id, bound: false });
        }
        Ok(outcome)
    }

    /// Passes a command on in pieces, as it arrives.
    async fn stream(&mut self, backend: &mut Backend, request: &mut Buffer) -> Result<(), Failure> {
        let server_failed = |e: std::io::Error| Failure::Server {
            broken: Broken::Io(e),
            passed: 0,
            next_seq: None,
        };
        loop {
            while Header::parse(request.filled()).is_none() {
                if !self.socket.read(request).await.is_ok_and(|n| n > 0) {
                    return Err(Failure::Client);
                }
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
                return Ok(());
            }
        }
    }

    async fn drain_streamed(&mut self, request: &mut Buffer, end: usize) -> Result<(), End> {
        if end != 0 {
            return Ok(());
        }
        loop {
            while Header::parse(request.filled()).is_none() {
                if self.socket.read(request).await? == 0 {
                    return Err(End::Client);
                }
            }
            let len = Header::parse(request.filled()).map_or(0, |h| h.len);
            let mut left = HEADER + len;
            while left > 0 {
                if request.is_empty() && self.socket.read(request).await? == 0 {
                    return Err(End::Client);
                }
                let n = left.min(request.filled().len());
                request.consume(n);
                left -= n;
            }
            if len < MAX_PAYLOAD {
                return Ok(());
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

    async fn commit_on(&mut self, replica: ServerId) -> Result<(), Problem> {
        let Some(at) = self.backends.iter().position(|b| b.server == replica) else {
            return Ok(());
        };
        let mut backend = self.backends.swap_remove(at);
        match self.own_command(&mut backend, b"\x03COMMIT").await {
            Ok(Ok(_)) => {
                self.session.replied(replica.0, backend.status);
                self.backends.push(backend);
                Ok(())
            }
            Ok(Err(payload)) => {
                self.backends.push(backend);
                Err(Problem::Server(payload))
            }
            // A read-only transaction that is gone is ended too.
            Err(_) => {
                self.forget_backend(replica);
                self.session.lost(replica.0);
                Ok(())
            }
        }
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

    /// The first connection, made at login: it lets the server itself say whether it accepts the
    /// client and its schema. Gives the status to greet with.
    pub async fn first_backend(&mut self) -> Result<Status, Problem> {
        let mut excluded: SmallVec<[ServerId; 4]> = SmallVec::new();
        loop {
            let choice = self.replica_or_primary(None, &excluded, false).await?;
            match self.connect(choice.server).await {
                Ok(backend) => {
                    let status = backend.status
                        & (Status::AUTOCOMMIT | Status::NO_BACKSLASH_ESCAPES | Status::ANSI_QUOTES);
                    self.session.replied(choice.server.0, status);
                    let mut backend = backend;
                    backend.version = self.session.variables().version();
                    self.backends.push(backend);
                    return Ok(status);
                }
                Err(Unusable::Refused(payload)) if choice.primary => {
                    return Err(Problem::Server(payload));
                }
                Err(Unusable::Unreachable(why)) if choice.primary => {
                    self.worker.shared.cluster.report_failure(choice.server);
                    let name = self.name(choice.server);
                    return Err(Problem::own(
                        2003,
                        "HY000",
                        format!("[PM2002] can't reach server {name}: {why}"),
                    ));
                }
                Err(Unusable::Unreachable(_)) => {
                    self.worker.shared.cluster.report_failure(choice.server);
                    excluded.push(choice.server);
                }
                Err(_) => excluded.push(choice.server),
            }
        }
    }
}

/// How often a read is sent once more after a server died under it.
const MOST_RESENDS: u32 = 2;

/// "I don't know that variable, that value, or that character set."
fn is_unknown_to_server(code: u16) -> bool {
    matches!(code, 1115 | 1193 | 1227 | 1228 | 1229 | 1231 | 1232 | 1238 | 1273)
}

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

/// Takes note of what a reply brings, before the client sees it.
struct Watching<'a> {
    job: &'a Job,
    command: &'a [u8],
    prepared: &'a mut Prepared,
    worker: &'a Worker,
    primary: bool,
    wrote: &'a mut Option<(u64, Position)>,
    unsure: &'a mut bool,
    context: Context,
    client_id: Option<u32>,
}

impl Watcher for Watching<'_> {
    fn prepared(&mut self, _: u32, params: u16) -> u32 {
        let id = self.prepared.insert(PreparedStatement {
            command: self.command.into(),
            statement: Arc::clone(&self.job.statement),
            params,
            types: None,
            cursor_at: None,
            long_data: LongData::default(),
            context: self.context.clone(),
        });
        self.client_id = Some(id);
        id
    }

    fn wrote(&mut self, gtid: &[u8]) {
        let flavour = self.worker.snapshot(|s| s.greeting.flavour());
        if let Ok(position) = Position::parse(flavour, gtid) {
            self.worker.shared.cluster.note_write(&position);
            self.remember(&position);
        }
    }

    async fn wrote_somewhere(&mut self) {
        if self.primary {
            match self.worker.note_present_position().await {
                Some(position) => self.remember(&position),
                None => *self.unsure = true,
            }
        }
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
        self.primary
            && self.job.executes()
            && (verdict.class == Class::Write && !in_transaction
                || verdict.effects.intersects(ends))
    }
}

impl Watching<'_> {
    fn remember(&mut self, position: &Position) {
        let now = self.worker.snapshot(|s| s.generation);
        match self.wrote {
            Some((generation, wrote)) if *generation == now => wrote.merge(position),
            _ => *self.wrote = Some((now, position.clone())),
        }
        *self.unsure = false;
    }
}
