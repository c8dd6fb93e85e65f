//! The I/O around [`crate::roles`]: watches the servers and publishes what it finds.
//!
//! The monitor's user needs, on MariaDB: `GRANT SLAVE MONITOR ON *.*` (to see replication),
//! `GRANT SELECT ON mysql.global_priv` (accounts; `mysql.user` before 10.4). On MySQL:
//! `GRANT REPLICATION CLIENT ON *.*`, `GRANT SELECT ON mysql.user`.

mod agreement;
mod applied;
mod catalog;
mod feed;
mod oracle;
mod prober;
pub(crate) mod rounds;
mod shared;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use pointsman_config::proxy::{Agree, Monitor, ProxyConfig, Writer};
use pointsman_events::EventLog;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::accounts::Accounts;
use crate::accounts::changes::Changes;
use crate::failover::{self, Driver, Request};
use crate::gtid::Position;
use crate::link::Target;
use crate::quorum;
use crate::roles::{Member, Settings, Topology};
use crate::snapshot::{AdminState, Live, ServerId, Snapshot};
use crate::writes::{Astray, LastWrites, Touched};
use agreement::Agreement;
use applied::Applied;
pub(crate) use applied::advance;
use rounds::Rounds;

/// The watched servers: a handle to clone at will. When the last one is dropped, watching ends.
#[derive(Clone)]
pub struct Cluster {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
    failover: AbortHandle,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// There is no server of that name in the config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no server is named {name:?}; there are {}", .known.join(", "))]
pub struct UnknownServer {
    pub name: String,
    pub known: Vec<String>,
}

/// A change of the config that can't be made while servers are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} changed; names, addresses and the monitor's settings need a restart")]
pub struct NeedsRestart {
    pub what: &'static str,
}

/// What the tasks and the handles share.
pub(crate) struct Shared {
    topology: Mutex<Topology>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    version: watch::Sender<u64>,
    /// Every server was looked at.
    looked: watch::Sender<bool>,
    /// And the accounts were read, or could not be.
    ready: watch::Sender<bool>,
    pub(crate) watched: Vec<Watched>,
    /// What clients were told is done.
    pub(crate) writes: Arc<LastWrites>,
    /// Why reads can't be told apart by table, if they should and can't.
    pub(crate) no_catalog: ArcSwapOption<String>,
    /// Numbers the writes to a Galera cluster.
    numbers: AtomicU64,
    /// Newest position that somebody waits for.
    wanted: ArcSwapOption<Position>,
    /// Rings whenever some server has applied more.
    progress: Notify,
    events: Arc<EventLog>,
    accounts: Arc<ArcSwap<Accounts>>,
    /// Reads of the accounts.
    pub(crate) account_rounds: Rounds<()>,
    /// When they were changed.
    pub(crate) changes: Arc<Changes>,
    pub(crate) oracle: Rounds<Option<Arc<Position>>>,
    pub(crate) failover: Driver,
    /// Rings when something was learnt of a server, for [`crate::failover`].
    pub(crate) news: Notify,
    /// What is agreed with other proxies; `None` if this is the only one.
    quorum: Option<Mutex<Agreement>>,
    /// It is agreed for the first time.
    agreed: watch::Sender<bool>,
    interval: Duration,
    timeout: Duration,
    /// What can't change while watching.
    fixed: Fixed,
}

#[derive(PartialEq, Eq)]
struct Fixed {
    servers: Vec<(String, String)>,
    monitor: Monitor,
}

impl Fixed {
    fn new(config: &ProxyConfig) -> Self {
        let servers = config.servers.iter().map(|s| (s.name.clone(), s.address.to_string()));
        Self { servers: servers.collect(), monitor: config.monitor.clone() }
    }
}

pub(crate) struct Watched {
    pub(crate) id: ServerId,
    pub(crate) target: Target,
    /// The same with the account that changes the primary.
    pub(crate) actor: Target,
    live: Arc<Live>,
    applied: Applied,
    wake_prober: Notify,
    wake_feed: Notify,
    pub(crate) wake_ballot: Notify,
    /// Somebody waits for what it finds out.
    hurry_feed: Notify,
}

impl Cluster {
    /// Starts watching. Tasks are spawned on the current tokio runtime, which needs its I/O and time
    /// drivers and should do little else, so that busy clients do not make servers look slow.
    ///
    /// # Panics
    /// Outside a tokio runtime, or with more than 65,535 servers.
    #[must_use]
    pub fn start(config: &ProxyConfig, events: Arc<EventLog>) -> Self {
        let monitor = &config.monitor;
        let settings = settings(config);
        let members = config
            .servers
            .iter()
            .map(|server| Member {
                name: server.name.as_str().into(),
                address: server.address.to_string().into(),
                weight: server.weight,
                promote: server.promote,
            })
            .collect();
        let topology = Topology::new(settings, members, Instant::now());
        let actor = failover::account(config);
        let watched = config
            .servers
            .iter()
            .zip(topology.live())
            .enumerate()
            .map(|(i, (server, live))| Watched {
                id: ServerId(u16::try_from(i).expect("at most 65535 servers")),
                target: Target::new(&server.address.to_string(), &monitor.user, &monitor.password),
                actor: Target::new(&server.address.to_string(), &actor.user, &actor.password),
                live: live.clone(),
                applied: Applied::new(live.clone()),
                wake_prober: Notify::new(),
                wake_feed: Notify::new(),
                wake_ballot: Notify::new(),
                hurry_feed: Notify::new(),
            })
            .collect::<Vec<_>>();
        for (watched, server) in watched.iter().zip(&config.servers) {
            watched.target.set_tls(&server.tls);
            watched.actor.set_tls(&server.tls);
        }
        let (driver, requests) = Driver::new();
        let mut topology = topology;
        let quorum = (config.failover.agree != Agree::Never).then(|| {
            let names = config.servers.iter().map(|server| server.name.as_str().into()).collect();
            let lenient = config.failover.agree == Agree::Met;
            let agreement = Agreement::new(names, lenient, &mut topology);
            Mutex::new(agreement)
        });
        let shared = Arc::new(Shared {
            failover: driver,
            news: Notify::new(),
            agreed: watch::Sender::new(quorum.is_none()),
            quorum,
            snapshot: Arc::new(ArcSwap::new(topology.snapshot().clone())),
            topology: Mutex::new(topology),
            fixed: Fixed::new(config),
            version: watch::Sender::new(0),
            looked: watch::Sender::new(false),
            ready: watch::Sender::new(false),
            watched,
            writes: Arc::new(LastWrites::new(config.routing.by_table)),
            no_catalog: ArcSwapOption::empty(),
            numbers: AtomicU64::new(0),
            wanted: ArcSwapOption::empty(),
            progress: Notify::new(),
            events,
            accounts: Arc::default(),
            account_rounds: Rounds::default(),
            changes: Arc::default(),
            oracle: Rounds::default(),
            // Whatever the config allows: no busy loops.
            interval: monitor.interval.max(Duration::from_millis(10)),
            timeout: monitor.timeout.max(Duration::from_millis(10)),
        });
        let mut tasks = Vec::new();
        for i in 0..shared.watched.len() {
            tasks.push(tokio::spawn(prober::run(shared.clone(), i)).abort_handle());
            tasks.push(tokio::spawn(feed::run(shared.clone(), i)).abort_handle());
            if shared.quorum.is_some() {
                let ballot = quorum::ballot::run(shared.clone(), i);
                tasks.push(tokio::spawn(ballot).abort_handle());
            }
        }
        let loader = crate::accounts::loader::run(shared.clone(), monitor.accounts_interval);
        tasks.push(tokio::spawn(loader).abort_handle());
        let watch = crate::accounts::watch::run(shared.clone());
        tasks.push(tokio::spawn(watch).abort_handle());
        tasks.push(tokio::spawn(oracle::run(shared.clone())).abort_handle());
        tasks.push(tokio::spawn(catalog::run(shared.clone())).abort_handle());
        if config.failover.handle_events {
            let watch = failover::watch_events(shared.clone(), actor.user.clone());
            tasks.push(tokio::spawn(watch).abort_handle());
        }
        let failover = failover::run(shared.clone(), config.clone(), requests);
        let failover = tokio::spawn(failover).abort_handle();
        tasks.push(failover.clone());
        Self { handle: Arc::new(Handle { shared, tasks, failover }) }
    }

    fn shared_state(&self) -> &Shared {
        &self.handle.shared
    }

    /// Says, right after the start, that this process takes over from another one.
    pub fn take_over(&self) {
        self.shared_state().succeed();
    }

    /// Leaves changes of the primary to another process from here on; goes on watching.
    pub fn leave_failover(&self) {
        self.handle.failover.abort();
        self.shared_state().resign();
    }

    /// Waits until every server has answered, or failed to, at least once, the accounts have been
    /// read, or could not be, and it is agreed with other proxies that this one may write, or not
    /// within the monitor's timeout.
    pub async fn ready(&self) {
        let shared = self.shared_state();
        // The senders live as long as this handle.
        let _ = shared.ready.subscribe().wait_for(|ready| *ready).await;
        let mut agreed = shared.agreed.subscribe();
        let _ = tokio::time::timeout(shared.timeout, agreed.wait_for(|agreed| *agreed)).await;
    }

    /// All servers right now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared_state().snapshot.load_full()
    }

    /// Where the newest snapshot is, for `arc_swap::Cache`.
    #[must_use]
    pub fn shared(&self) -> &Arc<ArcSwap<Snapshot>> {
        &self.shared_state().snapshot
    }

    /// Changes whenever the snapshot does; the value is [`Snapshot::version`].
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared_state().version.subscribe()
    }

    /// The log that changes are written to.
    #[must_use]
    pub fn events(&self) -> &Arc<EventLog> {
        &self.shared_state().events
    }

    /// The servers' accounts, for `arc_swap::Cache`. Empty until first read.
    #[must_use]
    pub fn accounts(&self) -> &Arc<ArcSwap<Accounts>> {
        &self.shared_state().accounts
    }

    /// When accounts, privileges and global variables were changed.
    #[must_use]
    pub fn changes(&self) -> &Arc<Changes> {
        &self.shared_state().changes
    }

    /// Reads the accounts again, at most once per second unless they were changed, however many
    /// ask; returns when a read that began after this call has ended, well or not.
    pub async fn refresh_accounts(&self) {
        self.shared_state().account_rounds.ask().await;
    }

    /// Waits until the accounts were read after the newest change known by now, or could not be.
    pub async fn catch_up_with_accounts(&self) {
        let shared = self.shared_state();
        if !shared.changes.are_unread() {
            return;
        }
        let count = shared.changes.count();
        tokio::select! {
            () = shared.changes.read_since(count) => {}
            () = shared.account_rounds.ask() => {}
        }
    }

    /// Takes a server out of work or back. The snapshot shows it at once.
    ///
    /// # Errors
    /// There is no such server.
    pub fn set_admin(&self, name: &str, admin: AdminState) -> Result<(), UnknownServer> {
        let id = self.find(name)?;
        self.shared_state().update(|topology| topology.set_admin(id, admin));
        Ok(())
    }

    /// Lets a server be the primary although it lacks transactions that were seen before.
    ///
    /// # Errors
    /// There is no such server.
    pub fn accept(&self, name: &str) -> Result<(), UnknownServer> {
        let id = self.find(name)?;
        self.shared_state().update(|topology| topology.accept(id));
        Ok(())
    }

    /// What somebody orders who has just changed something is judged by how things are now.
    async fn order(&self, request: Request) -> Result<String, String> {
        let shared = self.shared_state();
        shared.failover.wait_tended().await;
        prober::look_now(shared).await;
        shared.failover.ask(request).await
    }

    /// Makes another server the primary in good order; returns what was done, in one sentence.
    ///
    /// # Errors
    /// Why it was not done; then the primary is the one before.
    pub async fn switchover(&self, to: Option<String>) -> Result<String, String> {
        self.order(Request::Switchover { to, rehearse: false }).await
    }

    /// What [`Cluster::switchover`] would do, a line for each step.
    ///
    /// # Errors
    /// Why it would not do it.
    pub async fn rehearse_switchover(&self, to: Option<String>) -> Result<String, String> {
        self.order(Request::Switchover { to, rehearse: true }).await
    }

    /// Makes another server the primary because the present one is lost; with `force` even if it is
    /// not, or if the other one is not known to have all that could be saved.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn failover(&self, to: Option<String>, force: bool) -> Result<String, String> {
        self.order(Request::Failover { to, force }).await
    }

    /// Makes a server that has nothing of its own a replica of the primary. `rebuild`: gives it another
    /// server's data first, which is only begun when this returns; with `force` even if it has not
    /// diverged.
    ///
    /// # Errors
    /// Why it was not done, with the transactions that only it has, if there are such.
    pub async fn rejoin(
        &self,
        server: String,
        rebuild: bool,
        force: bool,
    ) -> Result<String, String> {
        self.order(Request::Rejoin { server, rebuild, force }).await
    }

    /// What is going on about the primary, or why nothing is although there is none: short
    /// sentences.
    #[must_use]
    pub fn failover_status(&self) -> Arc<Vec<String>> {
        self.shared_state().failover.status()
    }

    /// Changes of the primary made by this process: because it was lost, and planned ones.
    #[must_use]
    pub fn failovers(&self) -> (u64, u64) {
        self.shared_state().failover.changes()
    }

    /// Takes over `max_lag`, the weights and TLS of a config read anew.
    ///
    /// # Errors
    /// Other servers, or another `[monitor]`: that takes a restart. Nothing is changed then.
    pub fn reconfigure(&self, config: &ProxyConfig) -> Result<(), NeedsRestart> {
        let shared = self.shared_state();
        let new = Fixed::new(config);
        if new.servers != shared.fixed.servers {
            return Err(NeedsRestart { what: "[[server]]" });
        }
        if new != shared.fixed {
            return Err(NeedsRestart { what: "[monitor]" });
        }
        let settings = settings(config);
        let weights: Vec<_> = config.servers.iter().map(|server| server.weight).collect();
        shared.update(|topology| topology.reconfigure(settings, &weights));
        for (watched, server) in shared.watched.iter().zip(&config.servers) {
            watched.target.set_tls(&server.tls);
            watched.actor.set_tls(&server.tls);
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<ServerId, UnknownServer> {
        let snapshot = self.snapshot();
        snapshot.find(name).map(|server| server.id).ok_or_else(|| UnknownServer {
            name: name.to_owned(),
            known: snapshot.servers.iter().map(|server| server.name.to_string()).collect(),
        })
    }

    /// A connection to this server failed: new reads keep clear of it until the monitor, which
    /// looks at once, has seen it well.
    pub fn report_failure(&self, id: ServerId) {
        if let Some(watched) = self.shared_state().watched.get(usize::from(id.0)) {
            watched.live.suspect.store(true, Ordering::Relaxed);
            watched.wake_prober.notify_one();
        }
    }

    /// A client is told that its write is done: later causal reads must see it. Starts the feeds, so
    /// that replicas are known to have it as soon as they do. Cheap, and from any thread.
    pub fn note_write(&self, position: &Position, touched: &Touched) {
        self.shared_state().note_write(position, touched);
    }

    /// A client is about to be told that its write, sent after `began`, is done at `position`. If the
    /// primary had that before, its history was begun anew: no replica gets reads until it was seen to
    /// follow that. Cheap, and from any thread.
    pub fn check_write(&self, position: &Position, began: Instant) {
        let shared = self.shared_state();
        if shared.writes.is_set_back(position, began) {
            shared.update(|topology| topology.distrust_replicas(Instant::now()));
            shared.look_everywhere();
        }
    }

    /// A client is about to be told that its write is done, and nobody knows where: until the primary
    /// has said where it stands, causal reads have to go there. See [`LastWrites::any_astray`].
    pub fn note_astray(&self) -> Astray {
        let shared = self.shared_state();
        let write = shared.writes.note_astray();
        shared.oracle.ring();
        write
    }

    /// A client is about to be told by MySQL that its write is done, and that has named no GTID: until
    /// the primary has said that its transactions have GTIDs, reads have to go there.
    pub fn note_untold(&self) -> u64 {
        let shared = self.shared_state();
        let number = shared.writes.note_untold();
        shared.oracle.ring();
        number
    }

    /// A client of a Galera cluster is about to be told that its write is done; returns the position
    /// that stands for it. Cheap, and from any thread.
    pub fn note_numbered_write(&self) -> Position {
        self.shared_state().number_write()
    }

    /// The last write to each table.
    #[must_use]
    pub fn writes(&self) -> &Arc<LastWrites> {
        &self.shared_state().writes
    }

    /// Why reads wait for all writes and not only for those to their tables, if that is for want of
    /// something.
    #[must_use]
    pub fn not_by_table(&self) -> Option<Arc<String>> {
        self.shared_state().no_catalog.load_full()
    }

    /// The newest write noted, of whichever client.
    #[must_use]
    pub fn acknowledged(&self) -> Option<Arc<Position>> {
        self.shared_state().writes.newest()
    }

    /// Whether a server that has applied `applied` has every write noted. Lock-free.
    #[must_use]
    pub fn acknowledged_within(&self, applied: &Position) -> bool {
        self.shared_state().writes.all_within(applied)
    }

    /// What the primary has committed by now, asked of it after this call: what a strong read must
    /// see. `None` if there is no primary or it does not answer in time. Costs one round trip, which
    /// is shared by all that ask meanwhile.
    pub async fn committed_position(&self) -> Option<Arc<Position>> {
        self.shared_state().oracle.ask().await
    }

    /// Somebody needs replicas to have `position`: finds out when they do.
    pub fn want(&self, position: &Position) {
        let shared = self.shared_state();
        let noted = shared.writes.newest().is_some_and(|newest| newest.covers(position));
        if !noted {
            applied::advance(&shared.wanted, position);
        }
        shared.ring_feeds(position, |watched| watched.hurry_feed.notify_one());
    }

    /// Waits until one of these servers has applied `position`; the first of them that has, or
    /// `None` after `timeout`. Wakes up within a round trip of it being so.
    pub async fn wait_applied(
        &self,
        any_of: &[ServerId],
        position: &Position,
        timeout: Duration,
    ) -> Option<ServerId> {
        let shared = self.shared_state();
        let has = || {
            any_of.iter().copied().find(|id| {
                let watched = shared.watched.get(usize::from(id.0));
                watched.is_some_and(|watched| watched.live.has_applied(position))
            })
        };
        if let Some(id) = has() {
            return Some(id);
        }
        self.want(position);
        // Also of those that are not fed by themselves.
        for id in any_of {
            if let Some(watched) = shared.watched.get(usize::from(id.0)) {
                watched.wake_feed.notify_one();
            }
        }
        let wait = async {
            loop {
                let progress = shared.progress.notified();
                tokio::pin!(progress);
                progress.as_mut().enable();
                if let Some(id) = has() {
                    return id;
                }
                progress.await;
            }
        };
        tokio::time::timeout(timeout, wait).await.ok()
    }
}

fn settings(config: &ProxyConfig) -> Settings {
    Settings {
        timeout: config.monitor.timeout,
        max_lag: config.routing.max_lag,
        donors: config.group.available_when_donor,
        first_writes: config.group.writer == Writer::First,
    }
}
