//! Connections to servers that no session uses: given back clean, taken by the next session of the
//! same account. Each worker has its own.
//!
//! A connection is cleaned by COM_RESET_CONNECTION when it is given back, off everybody's way: its
//! transaction is rolled back, its variables, temporary tables, locks and statements are gone. Where it
//! has none of these but variables, as after most short connections, that goes out in front of its
//! next user's first statement, and is answered before that. The
//! default schema stays, so that counts when one is taken. Character sets become the server's own and
//! are set again to what they were after the login; `init_connect` is not run again, so servers that
//! have one get every session a connection of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_cluster::{AdminState, Changes, Role, ServerId, Snapshot};
use pointsman_config::proxy::Pool as Settings;
use pointsman_wire::Capabilities;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::after_login::AfterLogin;
use crate::backend::{Backend, Broken, Login};

/// Whose connection it is, and what was agreed on it: SHA-256 of account, proof, capabilities and
/// collation. Who has the same may use it.
pub type Key = [u8; 32];

/// See [`Key`]. What a client says of itself (connection attributes) does not count. `told`: the
/// server was told the client's address, which is then part of whose connection it is.
#[must_use]
pub fn key(login: &Login, told: bool) -> Key {
    let caps = login.caps - Capabilities::CONNECT_WITH_DB - Capabilities::CONNECT_ATTRS;
    let mut hash = Sha256::new();
    login.credentials.identify(&mut |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    });
    hash.update(caps.bits().to_le_bytes());
    hash.update([login.collation, u8::from(login.origin.is_some_and(|o| o.secure))]);
    if let Some(origin) = login.origin.filter(|_| told) {
        hash.update(origin.source.ip().to_canonical().to_string());
    }
    hash.finalize().into()
}

/// One worker's pool.
pub struct Pool {
    /// Most idle connections and most connections at all, per server; 0 of the latter: any number.
    max_idle: usize,
    max_open: usize,
    idle_timeout: Duration,
    max_age: Duration,
    /// See [`crate::shared::Shared::server_wide`].
    server_wide: Arc<Changes>,
    /// Sessions that wait for a connection, to whichever server.
    waiters: Cell<usize>,
    servers: RefCell<HashMap<ServerId, Rc<PerServer>>>,
}

#[derive(Default)]
struct PerServer {
    idle: RefCell<Vec<Idle>>,
    /// Connections that sessions have, that are idle, being made or being cleaned.
    open: Rc<Cell<usize>>,
    /// Rings when one was given back or closed.
    freed: Rc<Notify>,
    waiting: Cell<usize>,
    /// Since when they wait, or when the last of them got one.
    unserved: Cell<Option<Instant>>,
    /// Until when sessions that do nothing should give their connections back.
    wanted_until: Cell<Option<Instant>>,
    /// What a login with a collation leaves behind, and when that was asked.
    after_login: RefCell<HashMap<u8, Asked>>,
}

/// What was asked of a server, when, and after how many changes of global variables.
#[derive(Clone)]
struct Asked {
    at: Instant,
    server_wide: u64,
    answer: Rc<AfterLogin>,
}

/// For how long the answer to that is believed.
const BELIEVED: Duration = Duration::from_secs(60);

/// How long those who wait leave the connections to sessions that ask one thing after the other.
const TURN: Duration = Duration::from_millis(20);

/// For how long one call for connections lasts.
const WANTED: Duration = Duration::from_millis(500);

struct Idle {
    backend: Box<Backend>,
    since: Instant,
}

/// A place among the connections to a server; free again when this is dropped.
pub struct Slot {
    open: Rc<Cell<usize>>,
    freed: Rc<Notify>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
        self.freed.notify_one();
    }
}

/// A session that waits for a connection, until this is dropped.
struct Waiter<'a> {
    all: &'a Cell<usize>,
    place: &'a PerServer,
}

impl<'a> Waiter<'a> {
    fn begin(all: &'a Cell<usize>, place: &'a PerServer) -> Self {
        all.set(all.get() + 1);
        place.waiting.set(place.waiting.get() + 1);
        Self { all, place }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.all.set(self.all.get() - 1);
        self.place.waiting.set(self.place.waiting.get() - 1);
        self.place.unserved.set(Some(Instant::now()));
    }
}

/// What a session gets.
pub enum Taken {
    /// A connection of the same account.
    Backend(Box<Backend>),
    /// Leave to make one.
    Slot(Slot),
    /// As many as allowed are open, and none came free in time.
    TooMany,
}

impl Pool {
    #[must_use]
    pub fn new(settings: &Settings, workers: usize, server_wide: Arc<Changes>) -> Self {
        let share = |n: usize| n.div_ceil(workers.max(1));
        Self {
            max_idle: share(settings.max_idle),
            max_open: share(settings.max_connections),
            idle_timeout: settings.idle_timeout,
            max_age: settings.max_age,
            server_wide,
            waiters: Cell::new(0),
            servers: RefCell::default(),
        }
    }

    fn of(&self, server: ServerId) -> Rc<PerServer> {
        Rc::clone(self.servers.borrow_mut().entry(server).or_default())
    }

    /// Whether sessions that do nothing should give their connections back.
    pub fn is_short_of(&self, server: ServerId) -> bool {
        self.servers.borrow().get(&server).is_some_and(|s| {
            s.waiting.get() > 0 || s.wanted_until.get().is_some_and(|until| Instant::now() < until)
        })
    }

    /// Whether those who wait have waited for so long that busy sessions should give theirs back too,
    /// between two statements.
    pub fn is_starved(&self, server: ServerId) -> bool {
        self.waiters.get() > 0
            && self.servers.borrow().get(&server).is_some_and(|s| {
                let since = s.unserved.get().filter(|_| s.waiting.get() > 0);
                since.is_some_and(|since| since.elapsed() >= TURN)
            })
    }

    /// Some session wants what others hold on a server: for a moment, it counts as short.
    pub fn want(&self, server: ServerId) {
        self.of(server).wanted_until.set(Some(Instant::now() + WANTED));
    }

    /// Waits until a connection was given back and cleaned, or closed, but no longer than `within`.
    pub async fn someone_gave(&self, server: ServerId, within: Duration) {
        let place = self.of(server);
        let _ = timeout(within, place.freed.notified()).await;
        if place.waiting.get() > 0 {
            // It is still there for whoever waits for a connection.
            place.freed.notify_one();
        }
    }

    /// A connection to `server` for whoever has this key and default schema, or leave to make one.
    /// Waits `within`, if as many as allowed are open; `short` is called when that begins.
    pub async fn take(
        &self,
        server: ServerId,
        key: &Key,
        schema: Option<&[u8]>,
        within: Duration,
        short: impl Fn(),
    ) -> Taken {
        let place = self.of(server);
        // First come, first served: what was given back is for whoever has waited longest.
        let mut is_next = place.waiting.get() == 0;
        if is_next && let Some(taken) = self.try_take(&place, key, schema) {
            return taken;
        }
        if is_next {
            place.unserved.set(Some(Instant::now()));
        }
        let _waiter = Waiter::begin(&self.waiters, &place);
        let wait = async {
            loop {
                // Before looking, so that nothing is missed.
                let freed = place.freed.notified();
                if is_next && let Some(taken) = self.try_take(&place, key, schema) {
                    return taken;
                }
                is_next = true;
                short();
                freed.await;
            }
        };
        timeout(within, wait).await.unwrap_or(Taken::TooMany)
    }

    fn try_take(&self, place: &PerServer, key: &Key, schema: Option<&[u8]>) -> Option<Taken> {
        let mut idle = place.idle.borrow_mut();
        // The newest first, so that those that are not needed grow old.
        let same = |i: &Idle, exact: bool| {
            i.backend.key == *key
                && match i.backend.schema.as_deref() {
                    None => !exact || schema.is_none(),
                    here => here == schema || !exact && schema.is_some(),
                }
        };
        loop {
            let at = idle
                .iter()
                .rposition(|i| same(i, true))
                .or_else(|| idle.iter().rposition(|i| same(i, false)));
            let Some(at) = at else { break };
            let mut found = idle.remove(at).backend;
            if !found.socket.is_stale() && self.is_present(&found) {
                return Some(Taken::Backend(found));
            }
        }
        if self.max_open > 0 && place.open.get() >= self.max_open {
            // One of another account makes room.
            if idle.is_empty() {
                return None;
            }
            drop(idle.remove(0));
        }
        place.open.set(place.open.get() + 1);
        Some(Taken::Slot(Slot { open: Rc::clone(&place.open), freed: Rc::clone(&place.freed) }))
    }

    /// Made since global variables, accounts or privileges were last changed, as far as is known.
    fn is_present(&self, backend: &Backend) -> bool {
        backend.server_wide == self.server_wide.count()
    }

    /// Whether connections are kept at all.
    fn is_on(&self) -> bool {
        self.max_idle > 0 || self.max_open > 0
    }

    /// Finds out how a new connection is, which has just logged in, to make it like that again.
    pub async fn learn(&self, backend: &mut Backend, collation: u8) -> Result<(), Broken> {
        if !self.is_on() {
            return Ok(());
        }
        let place = self.of(backend.server);
        let known = place.after_login.borrow().get(&collation).cloned();
        let present = |asked: &Asked| {
            asked.at.elapsed() < BELIEVED && asked.server_wide == backend.server_wide
        };
        if let Some(known) = known.filter(present) {
            backend.after_login = Some(known.answer);
            return Ok(());
        }
        // Who has an expired password may ask nothing. That says nothing about others.
        if let Some(answer) = AfterLogin::ask(backend, collation).await?.map(Rc::new) {
            backend.after_login = Some(Rc::clone(&answer));
            let asked = Asked { at: Instant::now(), server_wide: backend.server_wide, answer };
            place.after_login.borrow_mut().insert(collation, asked);
        }
        Ok(())
    }

    /// Takes a connection back, and cleans it; closes it if it is not worth that. `spotless`: its last
    /// user has left nothing on it that the server, or anybody, would feel; it is cleaned with the next
    /// user's first statement then, which spares both sides a round trip.
    pub fn give(self: &Rc<Self>, mut backend: Box<Backend>, within: Duration, spotless: bool) {
        let place = self.of(backend.server);
        let wanted = place.waiting.get() > 0 || place.idle.borrow().len() < self.max_idle;
        let young = backend.born.elapsed() < self.max_age;
        let good = young && self.is_present(&backend) && backend.in_step && backend.may_be_shared();
        if !(wanted && good) || backend.socket.is_stale() {
            return;
        }
        // Statements take room on the server.
        if spotless && backend.statements.is_empty() && backend.clean_later() {
            place.idle.borrow_mut().push(Idle { backend, since: Instant::now() });
            place.freed.notify_one();
            return;
        }
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if !timeout(within, backend.clean()).await.unwrap_or(false) {
                return;
            }
            let mut idle = place.idle.borrow_mut();
            if idle.len() < pool.max_idle || place.waiting.get() > 0 {
                idle.push(Idle { backend, since: Instant::now() });
                place.freed.notify_one();
            }
        });
    }

    /// The server's ids of the connections that nobody uses.
    pub fn threads(&self, server: ServerId) -> Vec<u32> {
        let place = self.of(server);
        let idle = place.idle.borrow();
        idle.iter().map(|i| i.backend.thread_id).collect()
    }

    /// Closes what has been idle for long, is old, or leads to a server that is out of work.
    pub fn expire(&self, snapshot: &Snapshot) {
        let in_work = |server: ServerId| {
            snapshot.server(server).is_some_and(|s| {
                s.admin == AdminState::Running && !matches!(s.role, Role::Down | Role::Standalone)
            })
        };
        for (server, place) in self.servers.borrow().iter() {
            let keep = in_work(*server);
            place.idle.borrow_mut().retain(|i| {
                keep && i.since.elapsed() < self.idle_timeout
                    && i.backend.born.elapsed() < self.max_age
                    && self.is_present(&i.backend)
            });
        }
    }
}
