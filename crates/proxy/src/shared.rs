//! What all workers see.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use pointsman_cluster::{Accounts, Changes, Cluster, ServerId};
use pointsman_config::proxy::{Consistency, ProxyConfig};
use pointsman_session::Level;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::accounts::Known;
use crate::blocked::Blocked;
use crate::credentials::RsaKey;
use crate::doubtful::Doubtful;
use crate::fate::Told;
use crate::stats::WorkerStats;
use crate::tls::{Tls, ToServer};
use crate::worker::Ask;

pub struct Shared {
    pub config: ProxyConfig,
    pub cluster: Cluster,
    /// Replaced as a whole by a reload.
    pub tls: ArcSwap<Tls>,
    pub stats: Vec<Arc<WorkerStats>>,
    pub workers: OnceLock<Vec<UnboundedSender<Ask>>>,
    /// Fingerprints agree among workers, and can't be foreseen.
    pub seed: u64,
    pub rsa: OnceLock<Option<RsaKey>>,
    /// Passwords of caching_sha2_password accounts that were proved in full.
    pub known: Known,
    /// Hosts whose logins fail.
    pub blocked: Blocked,
    /// Logins that wait for the accounts to be read again.
    pub doubtful: Doubtful,
    /// Accounts of the config.
    pub own_accounts: Accounts,
    /// Those whose reads have a level of their own.
    pub levels: Accounts,
    /// When it was changed what new connections to servers begin with: see
    /// [`pointsman_sql::Effects::SERVER_WIDE`].
    pub server_wide: Arc<Changes>,
    /// Some server is told which address clients connected to.
    pub tells_destination: bool,
    next_id: AtomicU32,
    /// Another process serves clients of the same databases: see [`crate::Proxy::set_beside`].
    pub beside: AtomicBool,
    /// Transactions that are being repeated on a new primary.
    repeating: AtomicU32,
}

/// The least connection id, and how many there are: all of them positive where they are taken for
/// signed numbers. The first is drawn by lot, so that those of a proxy's former life, and of other
/// proxies, are others.
const FIRST_ID: u32 = 1 << 30;
const IDS: u32 = 1 << 30;

/// How many more sessions than the emptiest worker one may have before it passes a client on.
const SLACK: u64 = 1;

impl Shared {
    pub fn new(
        config: ProxyConfig,
        tls: Tls,
        cluster: Cluster,
        workers: usize,
        beside: Option<u32>,
    ) -> Self {
        let servers = config.servers.len();
        let server_wide = Arc::clone(cluster.changes());
        let rules = config.rules.len();
        let users = config.users.iter();
        let own_accounts =
            crate::accounts::of_config(users.clone().filter(|u| u.password.is_some()));
        let levels = crate::accounts::of_config(users.filter(|u| u.consistency.is_some()));
        let limits = &config.limits;
        let blocked = Blocked::new(limits.max_login_errors, limits.login_block);
        let doubtful = Doubtful::new(limits.max_connections);
        let tells_destination = config.servers.iter().any(|s| s.proxy_protocol);
        Self {
            config,
            cluster,
            tls: ArcSwap::from_pointee(tls),
            stats: (0..workers).map(|_| Arc::new(WorkerStats::new(servers, rules))).collect(),
            workers: OnceLock::new(),
            seed: rand::random(),
            rsa: OnceLock::new(),
            known: Known::default(),
            blocked,
            doubtful,
            own_accounts,
            levels,
            server_wide,
            tells_destination,
            next_id: AtomicU32::new(beside.unwrap_or_else(|| rand::random_range(0..IDS / 2))),
            beside: AtomicBool::new(beside.is_some()),
            repeating: AtomicU32::new(0),
        }
    }

    /// TLS towards a server.
    pub fn tls_to(&self, server: ServerId) -> Option<Arc<ToServer>> {
        self.tls.load().server(usize::from(server.0)).cloned()
    }

    /// What a read may miss, given what its session may: writes that another process acknowledged
    /// are not known here, so they are asked for.
    pub fn present_level(&self, level: Level) -> Level {
        match level {
            Level::Causal if self.beside.load(Relaxed) => Level::Strong,
            other => other,
        }
    }

    /// How many ids have been given, from wherever counting began.
    pub fn peek_id(&self) -> u32 {
        self.next_id.load(Relaxed)
    }

    /// A connection id no live session has, short of a billion connections; nor any connection of a
    /// server, as long as that has not had as many. So `KILL` knows whose id it is given.
    pub fn next_id(&self) -> u32 {
        FIRST_ID + self.next_id.fetch_add(1, Relaxed) % IDS
    }

    /// A transaction is to be repeated, before statements that only waited go on; until this is
    /// dropped.
    pub fn goes_first(&self) -> impl Drop + '_ {
        self.repeating.fetch_add(1, Relaxed);
        First(&self.repeating)
    }

    pub fn anyone_goes_first(&self) -> bool {
        self.repeating.load(Relaxed) > 0
    }

    /// Commits that sessions of any worker were told of, the newest of each.
    pub async fn told(&self) -> Told {
        let mut told = Told::default();
        for worker in self.workers.get().into_iter().flatten() {
            let (reply, answer) = oneshot::channel();
            if worker.send(Ask::Told(reply)).is_ok() {
                told.extend(answer.await.unwrap_or_default());
            }
        }
        told
    }

    pub fn sessions(&self) -> u64 {
        self.stats.iter().map(|s| s.sessions.load(Relaxed)).sum()
    }

    /// Who should serve a client that worker `mine` accepted; `None`: itself.
    pub fn place(&self, mine: usize) -> Option<&UnboundedSender<Ask>> {
        let load = |s: &Arc<WorkerStats>| s.sessions.load(Relaxed);
        let own = load(&self.stats[mine]);
        let (least, at) = self.stats.iter().enumerate().map(|(i, s)| (load(s), i)).min()?;
        if own <= least + SLACK {
            return None;
        }
        self.workers.get()?.get(at)
    }

    pub fn rsa(&self) -> Option<&RsaKey> {
        self.rsa
            .get_or_init(|| {
                RsaKey::generate()
                    .inspect_err(|_| tracing::error!("can't generate an RSA key"))
                    .ok()
            })
            .as_ref()
    }
}

struct First<'a>(&'a AtomicU32);

impl Drop for First<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The config's word for the session's.
#[must_use]
pub fn level(consistency: Consistency) -> Level {
    match consistency {
        Consistency::Eventual => Level::Eventual,
        Consistency::Session => Level::Session,
        Consistency::Causal => Level::Causal,
        Consistency::Strong => Level::Strong,
    }
}
