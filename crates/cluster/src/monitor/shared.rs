//! What the tasks share: what they find goes in, and what follows from it is published.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Shared, Watched};
use crate::accounts::Accounts;
use crate::gtid::Position;
use crate::roles::Topology;
use crate::snapshot::{Role, ServerId, Snapshot};
use crate::writes::Touched;

impl Shared {
    pub(crate) fn topology(&self) -> MutexGuard<'_, Topology> {
        self.topology.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and publishes what follows from it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Topology)) {
        let mut topology = self.topology();
        change(&mut topology);
        let events = topology.evaluate(Instant::now());
        let old = self.snapshot.load_full();
        let new = topology.snapshot();
        if let Some((seen, committed)) = topology.primary_seen() {
            self.writes.set_floor(seen, committed);
        }
        match (self.writes.is_anonymous(), new.anonymous) {
            (false, true) => self.writes.become_anonymous(),
            (true, false) => {
                self.writes.end_anonymous(topology.primary_seen().map(|(_, committed)| committed));
                self.oracle.ring();
            }
            _ => {}
        }
        if !Arc::ptr_eq(&old, new) {
            if old.generation != new.generation && !new.is_galera() {
                // Before anybody can write to the new primary and note that.
                self.writes.restart(topology.primary_position());
                self.changes.restart(topology.primary_position(), &self.writes);
                self.oracle.ring();
                self.wanted.store(None);
            }
            self.snapshot.store(new.clone());
            self.version.send_replace(new.version);
            for (watched, (old, new)) in
                self.watched.iter().zip(old.servers.iter().zip(&new.servers))
            {
                if old.role != new.role {
                    watched.wake_feed.notify_one();
                }
            }
            if new.is_galera() && new.primary.is_none() {
                // Whoever is to take the writes has to prove itself first.
                self.watched.iter().for_each(|watched| watched.wake_feed.notify_one());
            }
            if old.primary.is_some() && new.primary.is_none() {
                // What do the replicas say of it?
                self.look_everywhere();
            }
        }
        if topology.all_looked_at() {
            self.looked.send_if_modified(|looked| !std::mem::replace(looked, true));
        }
        // Under the lock, so that events are in order.
        for event in events {
            let subject = event
                .server
                .and_then(|id| new.server(id))
                .map_or_else(String::new, |server| server.name.to_string());
            tracing::info!(code = event.code, server = subject, "{}", event.text);
            self.events.push(event.code, subject, event.text);
        }
        self.news.notify_one();
    }

    /// Looks at all servers now rather than at the next tick.
    pub(crate) fn look_everywhere(&self) {
        for watched in &self.watched {
            watched.wake_prober.notify_one();
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub(crate) async fn all_looked_at(&self) {
        let _ = self.looked.subscribe().wait_for(|looked| *looked).await;
    }

    pub(crate) fn announce_ready(&self) {
        self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    pub(crate) fn publish_accounts(&self, accounts: Accounts) {
        if **self.accounts.load() != accounts {
            self.accounts.store(Arc::new(accounts));
        }
    }

    pub(crate) fn has_accounts(&self) -> bool {
        !self.accounts.load().is_empty()
    }

    /// An event about no server in particular.
    pub(crate) fn tell(&self, code: &'static str, text: String) {
        tracing::info!(code, "{text}");
        self.events.push(code, "", text);
    }

    /// An event about one server.
    pub(crate) fn tell_of(&self, code: &'static str, id: ServerId, text: String) {
        let snapshot = self.snapshot.load();
        let name = snapshot.server(id).map_or_else(String::new, |server| server.name.to_string());
        tracing::info!(code, server = name, "{text}");
        self.events.push(code, name, text);
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether it matters what this server has applied. Of a Galera cluster's writer, too: others
    /// may have been written to before it, and it gets that later.
    pub(super) fn is_fed(&self, id: ServerId) -> bool {
        let snapshot = self.snapshot.load();
        let galera = snapshot.is_galera();
        snapshot.server(id).is_some_and(|server| {
            server.role == Role::Replica || galera && server.role == Role::Primary
        })
    }

    /// See [`Topology::wants_proof`].
    pub(super) fn wanted_proof(&self, id: ServerId) -> Option<u64> {
        let open = self.snapshot.load().primary.is_none();
        open.then(|| self.topology().wants_proof(id)).flatten()
    }

    pub(super) fn note_write(&self, position: &Position, touched: &Touched) {
        self.writes.note(position, touched);
        self.ring_feeds(position, |_| ());
    }

    /// The position of a write to a Galera cluster, or of everything that was written before.
    pub(super) fn number_write(&self) -> Position {
        let position = Position::Number(self.numbers.fetch_add(1, Ordering::SeqCst) + 1);
        // Another member that takes the writes next may be behind in what is known of the tables.
        let mut touched = Touched::default();
        touched.anything();
        self.note_write(&position, &touched);
        position
    }

    /// What a Galera node proves to have applied that catches up from now on: all writes noted so
    /// far.
    pub(super) fn number(&self) -> Position {
        Position::Number(self.numbers.load(Ordering::SeqCst))
    }

    /// `also`: what else to do to those that have not applied it yet.
    pub(super) fn ring_feeds(&self, position: &Position, also: impl Fn(&Watched)) {
        let snapshot = self.snapshot.load();
        for (watched, server) in self.watched.iter().zip(&snapshot.servers) {
            if server.role == Role::Replica && !watched.live.has_applied(position) {
                watched.wake_feed.notify_one();
                also(watched);
            }
        }
    }

    /// What the feeds should find out about: all writes noted and all positions waited for.
    pub(super) fn target(&self) -> Option<Arc<Position>> {
        let (acknowledged, wanted) = (self.writes.newest(), self.wanted.load_full());
        match (acknowledged, wanted) {
            (Some(a), Some(w)) if !a.covers(&w) => {
                let mut both = Position::clone(&a);
                both.merge(&w);
                Some(Arc::new(both))
            }
            (Some(position), _) | (None, Some(position)) => Some(position),
            (None, None) => None,
        }
    }
}
