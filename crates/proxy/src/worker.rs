//! A worker thread: its own runtime, its own sessions, nothing shared but snapshots.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache as SnapshotCache;
use pointsman_cluster::gtid::Position;
use pointsman_cluster::{AdminState, Role, Server, ServerId, Snapshot, Touched};
use pointsman_session::transcript::Record;
use pointsman_sql::{Cache, Entry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::backend::Counted;
use crate::credentials::Credentials;
use crate::fate::Commit;
use crate::gone::has_gone;
use crate::kill::{Victim, Whom};
use crate::listen::Entrance;
use crate::login;
use crate::pool::Pool;
use crate::processlist::{Holders, Listed};
use crate::repeat::Past;
use crate::shared::Shared;
use crate::stats::{StatementStats, WorkerStats};
use crate::view::{SessionRow, StatementRow};

/// A classified statement and its counters.
pub type Statement = Entry<StatementStats>;

/// What other threads may ask of a worker.
pub enum Ask {
    /// A connection another worker accepted but has no room for.
    Serve {
        stream: std::net::TcpStream,
        peer: SocketAddr,
        entrance: Entrance,
    },
    Sessions(std::sync::mpsc::Sender<Vec<SessionRow>>),
    Statements(std::sync::mpsc::Sender<Vec<StatementRow>>),
    /// Whom a `KILL` means. What they run counts as killed from here on.
    Find(Whom, oneshot::Sender<Vec<Victim>>),
    /// The session with this id was killed.
    End(u32),
    /// Some session wants what others hold on this server: those that do nothing give it up.
    Yield(ServerId),
    /// Who has which connection to a server.
    Holders(ServerId, oneshot::Sender<Holders>),
    /// The newest commits its sessions were told of.
    Told(oneshot::Sender<Vec<Commit>>),
    /// Somebody else accepts clients now.
    AcceptNoMore,
    /// Accept no more; end sessions as they become idle. Answers when the last has gone.
    Drain(oneshot::Sender<()>),
}

/// What is known of a live session by the rest of its worker.
pub struct SessionInfo {
    pub id: u32,
    /// Who it is; a load balancer may say.
    pub peer: Cell<SocketAddr>,
    pub fd: RawFd,
    pub since: Instant,
    pub user: RefCell<String>,
    pub credentials: RefCell<Option<Credentials>>,
    pub database: RefCell<String>,
    pub statements: Cell<u64>,
    /// Since when it has been doing what it does.
    pub changed: Cell<Instant>,
    /// The server it is waiting for, if it is, and the connection's descriptor.
    pub busy: Cell<Option<(ServerId, RawFd)>>,
    /// What it is waiting for is the answer to the last that its client has said.
    pub executing: Cell<bool>,
    /// Its client has gone while that ran: the connection to the server was closed as well.
    pub gone: Cell<bool>,
    /// Someone killed what it is running: that is not to be repeated elsewhere.
    pub killed: Cell<bool>,
    /// Someone killed the session: what else its client has sent is not run.
    pub ended: Cell<bool>,
    /// COM_CHANGE_USERs that failed.
    pub failed_changes: Cell<u8>,
    /// What holds its reads, or what it has, on the primary.
    pub held: Cell<Option<&'static str>>,
    /// An open transaction, and whether it is read-only.
    pub transaction: Cell<Option<bool>>,
    /// There is another primary, and it has an open transaction, or others wait for the connections
    /// that it does not use: it should look.
    pub recalled: Cell<bool>,
    /// Wakes it while it waits so.
    pub waker: Cell<Option<Waker>>,
    /// Its connections to servers.
    pub backends: RefCell<Vec<Place>>,
    pub last_statement: RefCell<Option<Arc<Statement>>>,
}

impl SessionInfo {
    /// It has logged in, as this user.
    pub fn is_now(&self, credentials: &Credentials) {
        *self.user.borrow_mut() = String::from_utf8_lossy(&credentials.user).into_owned();
        *self.credentials.borrow_mut() = Some(credentials.clone());
    }

    fn recall(&self) {
        self.recalled.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A session's connection to a server, as the rest of its worker sees it.
pub struct Place {
    pub server: ServerId,
    /// The server's own id of the connection.
    pub thread: u32,
    pub fd: RawFd,
    /// Whether it counts as open; shared with the connection.
    pub counted: Rc<Counted>,
}

pub struct Worker {
    pub index: usize,
    pub shared: Arc<Shared>,
    pub stats: Arc<WorkerStats>,
    pub statements: RefCell<Cache<StatementStats>>,
    pub sessions: RefCell<HashMap<u32, Rc<SessionInfo>>>,
    pub draining: Cell<bool>,
    pub pool: Rc<Pool>,
    /// Since when there is no primary, if there is none.
    pub without_primary_since: Cell<Option<Instant>>,
    /// The newest primary there was.
    pub last_primary: Cell<Option<ServerId>>,
    snapshot: RefCell<SnapshotCache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    drained: RefCell<Vec<oneshot::Sender<()>>>,
    /// What was known to be committed, and since when that is known; the newest last.
    checkpoints: RefCell<VecDeque<(Instant, Arc<Position>)>>,
    /// The newest commits that sessions were told of.
    told: RefCell<VecDeque<Commit>>,
    /// Where sessions write down what their next transactions do.
    #[allow(clippy::vec_box)]
    records: RefCell<Vec<Box<Record<Past>>>>,
}

/// Most records kept for the next transactions.
const RECORDS: usize = 64;

/// Most commits kept in mind.
const TOLD: usize = 1 << 16;

/// How often a checkpoint is made, and how many are kept.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
const CHECKPOINTS: usize = 60;

impl Worker {
    pub fn new(index: usize, shared: Arc<Shared>) -> Self {
        let limits = &shared.config.limits;
        Self {
            index,
            stats: Arc::clone(&shared.stats[index]),
            statements: RefCell::new(Cache::new(limits.statement_cache, shared.seed)),
            sessions: RefCell::default(),
            draining: Cell::new(false),
            pool: Rc::new(Pool::new(
                &shared.config.pool,
                shared.stats.len(),
                Arc::clone(&shared.server_wide),
            )),
            without_primary_since: Cell::new(None),
            last_primary: Cell::new(None),
            snapshot: RefCell::new(SnapshotCache::new(Arc::clone(shared.cluster.shared()))),
            drained: RefCell::default(),
            checkpoints: RefCell::default(),
            told: RefCell::default(),
            records: RefCell::default(),
            shared,
        }
    }

    /// Runs `f` on the newest snapshot; no lock, no reference count.
    pub fn snapshot<R>(&self, f: impl FnOnce(&Snapshot) -> R) -> R {
        f(self.snapshot.borrow_mut().load())
    }

    /// Serves until drained.
    pub async fn run(
        self: Rc<Self>,
        listeners: Vec<(TcpListener, Entrance)>,
        mut asks: mpsc::UnboundedReceiver<Ask>,
    ) {
        let mut accepting = Vec::new();
        for (listener, entrance) in listeners {
            accepting.push(tokio::task::spawn_local(Rc::clone(&self).accept(listener, entrance)));
        }
        tokio::task::spawn_local(Rc::clone(&self).free_from_dead_servers());
        tokio::task::spawn_local(Rc::clone(&self).make_checkpoints());
        while let Some(ask) = asks.recv().await {
            match ask {
                Ask::Serve { stream, peer, entrance } => {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        self.serve(stream, peer, entrance);
                    }
                }
                Ask::Sessions(reply) => {
                    let rows = self
                        .sessions
                        .borrow()
                        .values()
                        .map(|s| SessionRow::of(self.index, s))
                        .collect();
                    let _ = reply.send(rows);
                }
                Ask::Statements(reply) => {
                    let cache = self.statements.borrow();
                    let _ = reply.send(cache.entries().map(StatementRow::of).collect());
                }
                Ask::Told(reply) => {
                    let _ = reply.send(self.told.borrow().iter().copied().collect());
                }
                Ask::Find(whom, reply) => {
                    let _ = reply.send(self.find(&whom));
                }
                Ask::End(id) => self.end(id),
                Ask::Yield(server) => {
                    self.pool.want(server);
                    self.ask_to_yield(server);
                }
                Ask::Holders(server, reply) => {
                    let sessions = self.sessions.borrow();
                    let _ = reply.send(Holders {
                        sessions: sessions.values().map(|s| Listed::of(s, server)).collect(),
                        idle: self.pool.threads(server),
                    });
                }
                Ask::AcceptNoMore => accepting.drain(..).for_each(|task| task.abort()),
                Ask::Drain(reply) => {
                    accepting.drain(..).for_each(|task| task.abort());
                    self.draining.set(true);
                    self.drained.borrow_mut().push(reply);
                    self.hang_up_idle();
                    self.check_drained();
                }
            }
        }
    }

    /// A position that covers everything the primary has committed by now, noted for all sessions as
    /// that of a write which changed `touched`.
    ///
    /// For where replies can't say it: servers report positions in OK packets only, not in the EOF
    /// that ends a result set (`INSERT ... RETURNING`, for clients without CLIENT_DEPRECATE_EOF), and
    /// not in ERR, which may follow writes that stay. `None` if it could not be had.
    pub async fn note_present_position(&self, touched: &Touched) -> Option<Arc<Position>> {
        let cluster = &self.shared.cluster;
        let within = self.shared.config.monitor.timeout;
        let asked = tokio::time::timeout(within, cluster.committed_position()).await;
        let position = asked.ok()??;
        cluster.note_write(&position, touched);
        Some(position)
    }

    /// Keeps in mind what was committed when, for [`Worker::committed_before`].
    async fn make_checkpoints(self: Rc<Self>) {
        loop {
            if let Some(position) = self.shared.cluster.acknowledged() {
                let mut checkpoints = self.checkpoints.borrow_mut();
                if checkpoints.len() == CHECKPOINTS {
                    checkpoints.pop_front();
                }
                checkpoints.push_back((Instant::now(), position));
            }
            self.snapshot(|s| self.pool.expire(s));
            self.follow_the_gone();
            tokio::time::sleep(CHECKPOINT_EVERY).await;
        }
    }

    /// Statements that wait (for a lock, or asleep) end when their clients go: servers look for that
    /// then, and can see only this proxy. Whoever has said something more is there, as for servers.
    fn follow_the_gone(&self) {
        for session in self.sessions.borrow().values() {
            if let Some((_, fd)) = session.busy.get()
                && session.executing.get()
                && !session.ended.get()
                && session.changed.get().elapsed() >= CHECKPOINT_EVERY
                && has_gone(session.fd)
            {
                session.gone.set(true);
                // SAFETY: a busy session holds the connection, so the descriptor is its own.
                unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
            }
        }
    }

    /// An empty record for a transaction.
    pub fn record(&self) -> Box<Record<Past>> {
        self.records.borrow_mut().pop().unwrap_or_default()
    }

    /// A transaction is over that was written down in it; it is empty again.
    pub fn keep_record(&self, record: Box<Record<Past>>) {
        let mut records = self.records.borrow_mut();
        if records.len() < RECORDS {
            records.push(record);
        }
    }

    /// A session was told that this was committed.
    pub fn told(&self, position: &Position) {
        let mut told = self.told.borrow_mut();
        for commit in crate::fate::commits(position) {
            if told.len() == TOLD {
                told.pop_front();
            }
            told.push_back(commit);
        }
    }

    /// Something that was committed before `moment`, as near to it as is known.
    pub fn committed_before(&self, moment: Instant) -> Option<Position> {
        let checkpoints = self.checkpoints.borrow();
        let newest = checkpoints.iter().rev().find(|(at, _)| *at <= moment)?;
        Some(Position::clone(&newest.1))
    }

    async fn accept(self: Rc<Self>, listener: TcpListener, entrance: Entrance) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => match self.shared.place(self.index) {
                    None => self.serve(stream, peer, entrance),
                    Some(other) => {
                        if let Ok(stream) = stream.into_std() {
                            let _ = other.send(Ask::Serve { stream, peer, entrance });
                        }
                    }
                },
                Err(e) => {
                    // Out of file descriptors, most likely: the connection stays in the queue.
                    tracing::warn!(error = %e, "can't accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn serve(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, entrance: Entrance) {
        self.stats.connections_total.add(1);
        self.stats.sessions.fetch_add(1, Relaxed);
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let _present = Present(&worker);
            login::serve(Rc::clone(&worker), stream, peer, entrance).await;
        });
    }

    pub fn enter(self: &Rc<Self>, info: &Rc<SessionInfo>) -> Registered {
        self.sessions.borrow_mut().insert(info.id, Rc::clone(info));
        Registered { worker: Rc::clone(self), id: info.id }
    }

    /// A server that hangs keeps its connections open. Once the monitor has given it up, whoever
    /// waits for it is woken as if it had closed them.
    async fn free_from_dead_servers(self: Rc<Self>) {
        let mut changes = self.shared.cluster.subscribe();
        loop {
            if self.note_primary() {
                self.recall();
            }
            self.snapshot(|s| self.pool.expire(s));
            let with = |f: &dyn Fn(&Server) -> bool| {
                self.snapshot(|s| {
                    s.servers.iter().filter(|s| f(s)).map(|s| s.id).collect::<Vec<_>>()
                })
            };
            // One whose disk is full answers, but not those who write.
            let stuck =
                |s: &Server| s.disk_full && !matches!(s.role, Role::Primary | Role::Replica);
            let dead = with(&|s| s.role == Role::Down || stuck(s));
            let out = with(&|s| s.admin == AdminState::Maintenance);
            self.close_idle_connections(&out);
            if dead.is_empty() && out.is_empty() {
                if changes.changed().await.is_err() {
                    return;
                }
                continue;
            }
            for session in self.sessions.borrow().values() {
                if let Some((server, fd)) = session.busy.get()
                    && dead.contains(&server)
                {
                    // SAFETY: a busy session holds the connection, so the descriptor is its own.
                    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
                }
            }
            // Someone may still begin to wait for one of them, for what only it can answer.
            let _ = tokio::time::timeout(Duration::from_millis(250), changes.changed()).await;
        }
    }

    /// Open transactions follow a new primary at once, whether or not their clients say something:
    /// before others are given the keys that were given to them.
    fn recall(&self) {
        for session in self.sessions.borrow().values() {
            if session.transaction.get() == Some(false) {
                session.recall();
            }
        }
    }

    /// Others wait for connections to `server`: sessions that do nothing with theirs are asked for
    /// them.
    pub fn ask_to_yield(&self, server: ServerId) {
        for session in self.sessions.borrow().values() {
            if session.transaction.get().is_none()
                && session.busy.get().is_none()
                && session.backends.borrow().iter().any(|p| p.server == server)
            {
                session.recall();
            }
        }
    }

    /// Servers in maintenance lose the connections that nothing would be lost with; the sessions
    /// find them closed and make new ones elsewhere.
    fn close_idle_connections(&self, servers: &[ServerId]) {
        for session in self.sessions.borrow().values() {
            if servers.is_empty()
                || session.transaction.get().is_some()
                || session.held.get().is_some()
            {
                continue;
            }
            for place in session.backends.borrow().iter() {
                let busy = session.busy.get().is_some_and(|(server, _)| server == place.server);
                if servers.contains(&place.server) && !busy && place.counted.is_open() {
                    // SAFETY: it is open, so the descriptor is its own.
                    unsafe { libc::shutdown(place.fd, libc::SHUT_RDWR) };
                    place.counted.give_up();
                }
            }
        }
    }

    fn check_drained(&self) {
        if self.draining.get() && self.stats.sessions.load(Relaxed) == 0 {
            self.drained.borrow_mut().drain(..).for_each(|reply| {
                let _ = reply.send(());
            });
        }
    }

    fn hang_up_idle(&self) {
        for session in self.sessions.borrow().values() {
            if session.busy.get().is_none() && session.transaction.get().is_none() {
                hang_up(session.fd);
            }
        }
    }

    fn find(&self, whom: &Whom) -> Vec<Victim> {
        let sessions = self.sessions.borrow();
        let found = sessions.values().filter(|session| whom.is(session));
        found
            .map(|session| {
                session.killed.set(true);
                Victim {
                    id: session.id,
                    credentials: session.credentials.borrow().clone(),
                    backends: session
                        .backends
                        .borrow()
                        .iter()
                        .map(|p| (p.server, p.thread))
                        .collect(),
                    busy: session.busy.get().map(|(server, _)| server),
                }
            })
            .collect()
    }

    fn end(&self, id: u32) {
        if let Some(session) = self.sessions.borrow().get(&id) {
            session.killed.set(true);
            session.ended.set(true);
            hang_up(session.fd);
        }
    }
}

/// A session's place in the register. Must go before the session's socket closes, so that no one
/// shuts down a stranger's.
pub struct Registered {
    worker: Rc<Worker>,
    id: u32,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.sessions.borrow_mut().remove(&self.id);
    }
}

/// A session waits for a server; ends with this value, however that comes about.
pub struct Waiting {
    info: Rc<SessionInfo>,
    live: Option<Arc<pointsman_cluster::Live>>,
}

impl Waiting {
    /// `live`: where the running statement is counted; `None` for commands of our own.
    pub fn begin(
        info: &Rc<SessionInfo>,
        server: ServerId,
        fd: RawFd,
        live: Option<&Arc<pointsman_cluster::Live>>,
    ) -> Self {
        info.busy.set(Some((server, fd)));
        if let Some(live) = live {
            live.running.fetch_add(1, Relaxed);
        }
        Self { info: Rc::clone(info), live: live.cloned() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.info.busy.set(None);
        self.info.executing.set(false);
        if let Some(live) = &self.live {
            live.running.fetch_sub(1, Relaxed);
        }
    }
}

/// Ends a session from outside: its next read says that the client has gone.
fn hang_up(fd: RawFd) {
    // SAFETY: the session is registered, so its socket is open and the descriptor is its own.
    unsafe { libc::shutdown(fd, libc::SHUT_RD) };
}

struct Present<'a>(&'a Worker);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.stats.sessions.fetch_sub(1, Relaxed);
        self.0.check_drained();
    }
}
