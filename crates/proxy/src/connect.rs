//! Over which connection a command goes: made, brought into step with the session, given up.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use pointsman_cluster::accounts::changes::Unknown;
use pointsman_cluster::{Position, ServerId};
use pointsman_session::{Lost, Restore};
use pointsman_wire::Capabilities;

use crate::backend::{Backend, Broken, ConnectError, Here, error_code};
use crate::client::Client;
use crate::job::{Job, Kind};
use crate::pool::{self, Taken};
use crate::prepared::Context;
use crate::problem::Problem;
use crate::room;
use crate::seldom::warn_seldom;
use crate::worker::{Place, Waiting};

/// Why a server could not be used for a statement.
pub enum Unusable {
    /// Not reached, or it broke at once: another may do.
    Unreachable(String),
    /// It said no.
    Refused(Vec<u8>),
    /// The session had something there that is gone now.
    Lost(&'static str),
    /// The session had a transaction open there, and nothing in flight.
    LostTransaction,
    /// As many connections as `[pool] max_connections` allows are in use, and none came free.
    TooMany,
    /// A replica that has not applied the newest change of accounts: a login there may be wrong.
    Behind,
}

impl Client {
    /// A connection to `server` that is in step with the session and knows the job's statement.
    pub(crate) async fn ready(
        &mut self,
        server: ServerId,
        job: &Job,
    ) -> Result<Box<Backend>, Unusable> {
        let mut backend = match self.backends.iter().position(|b| b.server == server) {
            Some(at) => {
                let mut backend = self.backends.swap_remove(at);
                // No statement makes it forget its schema, as the session has (DROP DATABASE).
                let astray = backend.schema.is_some()
                    && self.session.variables().schema().is_some_and(<[u8]>::is_empty);
                if astray || backend.socket.is_stale() {
                    drop(backend);
                    self.forget_backend(server);
                    match self.session.lost(server.0) {
                        Lost::Nothing if job.only.is_none() => {
                            Box::pin(self.new_here(server)).await?
                        }
                        Lost::Nothing => return Err(Unusable::Lost("an open cursor")),
                        Lost::Transaction => return Err(Unusable::LostTransaction),
                        Lost::State(what) => return Err(Unusable::Lost(what)),
                    }
                } else {
                    backend
                }
            }
            // In a box: what is seldom done, and takes kilobytes, is not to make every statement's
            // future as large.
            None => Box::pin(self.new_here(server)).await?,
        };
        if backend.sandboxed.is_some() {
            backend = self.try_to_leave_sandbox(backend).await?;
        }
        backend = self.prepare_there(backend, job).await?;
        if backend.version != self.session.variables().version() {
            backend = self.bring_up_to_date(backend).await?;
        }
        Ok(backend)
    }

    /// Sees to it that the server has the statement that `job` is about.
    pub(crate) async fn prepare_there(
        &mut self,
        mut backend: Box<Backend>,
        job: &Job,
    ) -> Result<Box<Backend>, Unusable> {
        if let Kind::Execute(id) | Kind::Fetch(id) | Kind::Reset(id) = job.kind
            && !backend.statements.contains_key(&id)
            && let Some(statement) = self.prepared.kept(id)
        {
            let (command, context) = (statement.command.clone(), statement.context.clone());
            backend = self.in_context(backend, &context).await?;
            let mut attempts = 0;
            loop {
                match self.own_command(&mut backend, &command).await {
                    Ok(Ok((here, _, _))) => {
                        let used = self.info.statements.get();
                        backend.statements.insert(id, Here { id: here, bound: false, used });
                        break;
                    }
                    Ok(Err(payload))
                        if error_code(&payload) == room::FULL && attempts < room::MOST_ATTEMPTS =>
                    {
                        attempts += 1;
                        self.make_room(&mut backend).await;
                    }
                    Ok(Err(payload)) => {
                        self.backends.push(backend);
                        return Err(Unusable::Refused(payload));
                    }
                    Err(broken) => return Err(self.gone(backend, &broken)),
                }
            }
        }
        Ok(backend)
    }

    /// As [`Client::connect`], with what the session inserted last known there.
    async fn new_here(&mut self, server: ServerId) -> Result<Box<Backend>, Unusable> {
        let mut backend = self.connect(server).await?;
        let id = self.session.insert_id();
        if id != 0 && self.worker.snapshot(|s| s.primary) == Some(server) {
            let command = format!("\x03DO LAST_INSERT_ID({id})");
            match self.own_command(&mut backend, command.as_bytes()).await {
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

    /// A connection of this session's account: one that nobody uses, or a new one. Not in step yet.
    pub(crate) async fn connect(&mut self, server: ServerId) -> Result<Box<Backend>, Unusable> {
        // The one it logged in to may be gone by now.
        if let Some(schema) = self.session.variables().schema() {
            self.login.database = Some(schema).filter(|s| !s.is_empty()).map(<[u8]>::to_vec);
        }
        let told =
            self.config().servers.get(usize::from(server.0)).is_some_and(|s| s.proxy_protocol);
        let key = pool::key(&self.login, told);
        let schema = self.session.variables().schema().filter(|s| !s.is_empty());
        let settings = &self.config().pool;
        let worker = &self.worker;
        let taken = worker.pool.take(server, &key, schema, settings.wait_timeout, || {
            worker.ask_to_yield(server);
        });
        let slot = match taken.await {
            Taken::Backend(backend) => {
                self.register(&backend);
                return Ok(backend);
            }
            Taken::Slot(slot) => slot,
            Taken::TooMany => return Err(Unusable::TooMany),
        };
        let target = self.worker.snapshot(|s| s.server(server).cloned());
        let Some(target) = target else {
            return Err(Unusable::Unreachable("it is not configured any more".to_owned()));
        };
        let within = self.config().limits.connect_timeout;
        let tls = self.worker.shared.tls_to(server);
        let server_wide = self.worker.shared.server_wide.count();
        if !self.has_accounts(server).await {
            return Err(Unusable::Behind);
        }
        match Backend::connect(&target, tls.as_deref(), &self.login, within).await {
            Ok(backend)
                if self.login.caps.contains(Capabilities::QUERY_ATTRIBUTES)
                    && !backend.caps.contains(Capabilities::QUERY_ATTRIBUTES) =>
            {
                Err(Unusable::Unreachable(
                    "it is older than the query attributes in use".to_owned(),
                ))
            }
            Ok(mut backend) => {
                // The new password will be given to the primary, and lift nothing elsewhere.
                if let Some(error) = &backend.sandboxed
                    && self.worker.snapshot(|s| s.primary) != Some(server)
                {
                    return Err(Unusable::Refused(error.to_vec()));
                }
                backend.slot = Some(slot);
                backend.server_wide = server_wide;
                let learnt = self.worker.pool.learn(&mut backend, self.login.collation).await;
                learnt.map_err(|broken| Unusable::Unreachable(broken.to_string()))?;
                self.register(&backend);
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
            Err(ConnectError::Tls(why)) => {
                let server = &target.name;
                warn_seldom!(%server, why, "TLS with a server failed");
                Err(Unusable::Unreachable(format!("TLS failed: {why}")))
            }
        }
    }

    /// Whether a server has, or gets within `causal_timeout`, the newest change of accounts and
    /// privileges: a login that meets older ones is not as on the primary.
    async fn has_accounts(&self, server: ServerId) -> bool {
        if self.worker.snapshot(|s| s.primary) == Some(server) {
            return true;
        }
        match self.accounts_at() {
            Ok(None) => true,
            Ok(Some(position)) => {
                let within = self.config().routing.causal_timeout;
                let cluster = &self.worker.shared.cluster;
                cluster.wait_applied(&[server], &position, within).await.is_some()
            }
            Err(_) => false,
        }
    }

    /// What a replica must have applied for a login.
    pub(crate) fn accounts_at(&self) -> Result<Option<Arc<Position>>, Unknown> {
        let shared = &self.worker.shared;
        shared.server_wide.needed(shared.cluster.writes())
    }

    /// Whether the session has given its account a new password is seen by what the server takes now.
    async fn try_to_leave_sandbox(
        &mut self,
        mut backend: Box<Backend>,
    ) -> Result<Box<Backend>, Unusable> {
        let _waiting = Waiting::begin(&self.info, backend.server, backend.socket.raw_fd(), None);
        match backend.track().await {
            Ok(answer) => {
                backend.sandboxed = answer.err().map(Into::into);
                Ok(backend)
            }
            Err(broken) => Err(self.gone(backend, &broken)),
        }
    }

    fn register(&self, backend: &Backend) {
        self.info.backends.borrow_mut().push(Place {
            server: backend.server,
            thread: backend.thread_id,
            fd: backend.socket.raw_fd(),
            counted: Rc::clone(&backend.counted),
        });
    }

    /// Gives all connections back: the session is over, or begins anew.
    pub(crate) fn give_back(&mut self) {
        self.info.backends.borrow_mut().clear();
        if self.info.killed.get() {
            // Somebody's KILL may still be on its way: it must not hit the next session.
            self.backends.clear();
            return;
        }
        let within = self.config().limits.connect_timeout;
        let spotless = self.session.leaves_nothing() && !self.prepared.has_cursor();
        for backend in self.backends.drain(..) {
            self.worker.pool.give(backend, within, spotless);
        }
    }

    /// Other sessions wait for connections: gives back those that nothing would be lost with.
    pub(crate) async fn yield_connections(&mut self) {
        let killed = self.info.killed.get();
        if killed || self.session.transaction().is_some() || self.prepared.has_cursor() {
            return;
        }
        let within = self.config().limits.connect_timeout;
        let pool = Rc::clone(&self.worker.pool);
        let (give, keep) =
            std::mem::take(&mut self.backends).into_iter().partition::<Vec<_>, _>(|backend| {
                pool.is_short_of(backend.server) && !self.session.needs(backend.server.0)
            });
        self.backends = keep;
        for mut backend in give {
            if self.session.may_know_insert_id(backend.server.0) {
                match self.ask_insert_id(&mut backend).await {
                    Ok(Some(id)) => self.session.keep_insert_id(id),
                    Ok(None) => {
                        self.backends.push(backend);
                        continue;
                    }
                    Err(broken) => {
                        self.gone(backend, &broken);
                        continue;
                    }
                }
            }
            self.forget_backend(backend.server);
            self.session.yielded(backend.server.0);
            // Who was killed meanwhile may still be hit there.
            if !self.info.killed.get() {
                pool.give(backend, within, false);
            }
        }
    }

    /// `LAST_INSERT_ID()` there. `None`: the server does not say.
    async fn ask_insert_id(&self, backend: &mut Backend) -> Result<Option<u64>, Broken> {
        let _waiting = Waiting::begin(&self.info, backend.server, backend.socket.raw_fd(), None);
        let row = backend.row(b"\x03SELECT LAST_INSERT_ID()").await?;
        let id = row.first().and_then(Option::as_deref).and_then(|id| str::from_utf8(id).ok());
        Ok(id.and_then(|id| id.parse().ok()))
    }

    pub(crate) async fn bring_up_to_date(
        &mut self,
        mut backend: Box<Backend>,
    ) -> Result<Box<Backend>, Unusable> {
        let from = backend.version;
        let mut steps: VecDeque<_> = self.session.variables().restore(from).into();
        let mut one_by_one = false;
        while let Some(step) = steps.pop_front() {
            let mut payload;
            let is_set = matches!(step, Restore::Set(_));
            let mut schema = None;
            match step {
                Restore::Schema(name) if backend.schema.as_deref() == Some(&name) => continue,
                Restore::Schema(name) => {
                    payload = vec![0x02];
                    payload.extend_from_slice(&name);
                    schema = Some(name);
                }
                Restore::Set(sql) => {
                    payload = vec![0x03];
                    payload.extend_from_slice(&sql);
                }
                Restore::MultiStatements(on) => {
                    payload = vec![0x1b, u8::from(!on), 0];
                    backend.option_set = true;
                }
            }
            match self.own_command(&mut backend, &payload).await {
                Ok(Ok(_)) if schema.is_some() => backend.schema = schema,
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

    /// Gives the server the schema and `sql_mode` that a statement was prepared under, if the
    /// session has others by now; it is brought up to date afterwards.
    pub(crate) async fn in_context(
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
            backend.schema = None;
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

    /// A command of our own; the session counts as waiting for the server meanwhile, so that one
    /// that hangs does not hold it for ever.
    pub(crate) async fn own_command(
        &self,
        backend: &mut Backend,
        payload: &[u8],
    ) -> Result<Result<(u32, u16, u16), Vec<u8>>, Broken> {
        let _waiting = Waiting::begin(&self.info, backend.server, backend.socket.raw_fd(), None);
        backend.command(payload).await
    }

    /// The connection broke under a command of our own: what went with it decides.
    pub(crate) fn gone(&mut self, backend: Box<Backend>, broken: &Broken) -> Unusable {
        let server = backend.server;
        drop(backend);
        self.forget_backend(server);
        match self.session.lost(server.0) {
            Lost::Nothing => Unusable::Unreachable(broken.to_string()),
            Lost::Transaction => Unusable::LostTransaction,
            Lost::State(what) => Unusable::Lost(what),
        }
    }

    pub(crate) fn forget_backend(&mut self, server: ServerId) {
        self.info.backends.borrow_mut().retain(|p| p.server != server);
    }

    pub(crate) async fn commit_on(&mut self, replica: ServerId) -> Result<(), Problem> {
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
}

pub(crate) fn too_many() -> Problem {
    let message = "[PM2011] all connections to the server are taken; `max_connections` in [pool] \
                   sets how many there may be";
    Problem::own(1040, "08004", message)
}

/// "I don't know that variable, that value, or that character set."
fn is_unknown_to_server(code: u16) -> bool {
    matches!(code, 1115 | 1193 | 1227 | 1228 | 1229 | 1231 | 1232 | 1238 | 1273)
}
