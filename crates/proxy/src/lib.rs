//! The MySQL proxy: listeners, worker threads, backends, and the relay between them.
//!
//! A statement's way: [`client`] frames and classifies it, [`route`] takes it along: [`choose`] the
//! server, [`connect`] to it, [`exchange`] bytes, [`relay`] the reply back. All of a session happens on one worker thread.

mod accounts;
mod after_login;
mod answer;
mod arrival;
mod attempts;
mod await_primary;
mod backend;
mod blocked;
mod blurred;
mod buffers;
mod change_user;
mod choose;
mod classify;
mod client;
mod compression;
mod connect;
mod crc;
mod credentials;
mod doubtful;
mod dump;
mod exchange;
mod fate;
mod gone;
mod idle;
mod job;
mod kill;
mod listen;
mod login;
mod metrics;
mod pick;
mod pool;
mod prepared;
mod problem;
mod processlist;
mod proving;
mod recover;
mod relay;
mod repeat;
mod reporting;
mod room;
mod route;
mod rules;
mod seldom;
mod shared;
mod socket;
mod statement;
mod stats;
mod tables;
mod tls;
mod view;
mod watching;
mod welcome;
mod worker;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use pointsman_cluster::{Cluster, ServerId};
use pointsman_config::proxy::ProxyConfig;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

pub use listen::ListenError;
pub use tls::{Tls, TlsError};
pub use view::{SessionRow, StatementRow};

use listen::Listening;
use shared::Shared;
use worker::{Ask, Worker};

/// A running proxy.
pub struct Proxy {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// Listening sockets, bound before anything else starts, so that a busy port stops the start.
pub struct Bound(Vec<Listening>);

/// Worker threads a config asks for.
#[must_use]
pub fn worker_count(config: &ProxyConfig) -> usize {
    match config.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Binds every listener of the config; sockets that stand in `inherited` are taken from there.
pub fn bind(
    config: &ProxyConfig,
    inherited: &mut Vec<std::net::TcpListener>,
) -> Result<Bound, ListenError> {
    listen::bind(config, worker_count(config), inherited).map(Bound)
}

impl Bound {
    /// The same sockets once more, for a process that takes over.
    pub fn try_clone(&self) -> std::io::Result<Vec<std::net::TcpListener>> {
        self.0.iter().flat_map(|listening| &listening.sockets).map(|s| s.try_clone()).collect()
    }
}

impl Proxy {
    /// Starts the workers. Clients are served from here on. `beside`: another process does so, too,
    /// and the count of connection ids goes on here.
    pub fn start(
        config: ProxyConfig,
        tls: Tls,
        bound: Bound,
        cluster: Cluster,
        beside: Option<u32>,
    ) -> std::io::Result<Self> {
        let count = worker_count(&config);
        // What was acknowledged before this daemon started counts as well.
        cluster.note_astray();
        let shared = Arc::new(Shared::new(config, tls, cluster, count, beside));
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        let _ = shared.workers.set(senders);
        let mut per_worker: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
        for listening in bound.0 {
            for (i, socket) in listening.sockets.into_iter().enumerate() {
                per_worker[i % count].push((socket, listening.entrance));
            }
        }
        let mut threads = Vec::new();
        for (index, (asks, sockets)) in receivers.into_iter().zip(per_worker).enumerate() {
            let shared = Arc::clone(&shared);
            let run = move || -> std::io::Result<()> {
                // All tasks are local: no queue but its own, and no set of tasks that is a task itself.
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(tokio::runtime::LocalOptions::default())?;
                runtime.block_on(async {
                    let mut listeners = Vec::new();
                    for (socket, entrance) in sockets {
                        listeners.push((TcpListener::from_std(socket)?, entrance));
                    }
                    Rc::new(Worker::new(index, shared)).run(listeners, asks).await;
                    Ok(())
                })
            };
            let body = move || {
                if let Err(error) = run() {
                    tracing::error!(worker = index, %error, "a worker could not start");
                }
            };
            threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?);
        }
        Ok(Self { shared, threads })
    }

    #[must_use]
    pub fn config(&self) -> &ProxyConfig {
        &self.shared.config
    }

    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.shared.cluster
    }

    /// New connections, of clients and to servers, have this from now on; it must be of a config
    /// with the same listeners and servers.
    pub fn set_tls(&self, tls: Tls) {
        self.shared.tls.store(Arc::new(tls));
    }

    /// Clients connected now.
    #[must_use]
    pub fn session_count(&self) -> u64 {
        self.shared.sessions()
    }

    /// Asks every worker and waits for the answers; blocks the thread, for a moment.
    fn ask<T>(&self, make: impl Fn(Sender<T>) -> Ask) -> Vec<T> {
        let (reply, answers) = channel();
        let workers = self.shared.workers.get().map_or(&[][..], Vec::as_slice);
        let asked = workers.iter().filter(|w| w.send(make(reply.clone())).is_ok()).count();
        drop(reply);
        let patience = Duration::from_secs(1);
        (0..asked).map_while(|_| answers.recv_timeout(patience).ok()).collect()
    }

    /// All live sessions, by id.
    pub fn sessions(&self) -> Vec<SessionRow> {
        let mut rows: Vec<_> = self.ask(Ask::Sessions).into_iter().flatten().collect();
        rows.sort_by_key(|r| r.id);
        rows
    }

    /// All remembered statements, those that took most time first.
    pub fn statements(&self) -> Vec<StatementRow> {
        let mut merged: HashMap<u64, StatementRow> = HashMap::new();
        for row in self.ask(Ask::Statements).into_iter().flatten() {
            if row.count == 0 {
                continue;
            }
            merged.entry(row.fingerprint).and_modify(|m| m.merge(&row)).or_insert(row);
        }
        let mut rows: Vec<_> = merged.into_values().collect();
        rows.sort_by(|a, b| b.total.cmp(&a.total).then(a.fingerprint.cmp(&b.fingerprint)));
        rows
    }

    /// Statements ever answered by `server`.
    #[must_use]
    pub fn statements_on(&self, server: ServerId) -> u64 {
        let of = |s: &Arc<stats::WorkerStats>| {
            let by_class = s.statements.get(usize::from(server.0))?;
            Some(by_class.iter().map(stats::Latency::count).sum::<u64>())
        };
        self.shared.stats.iter().filter_map(of).sum()
    }

    /// Registers everything the proxy counts.
    pub fn register_metrics(&self, registry: &prometheus::Registry) -> prometheus::Result<()> {
        registry.register(Box::new(metrics::Collector::new(Arc::clone(&self.shared))))
    }

    /// Stops accepting, lets transactions end, closes sessions as they become idle. Returns how
    /// many were still open when `within` was over.
    pub async fn drain(&self, within: Duration) -> u64 {
        let all = async {
            let mut waiting = Vec::new();
            for worker in self.shared.workers.get().into_iter().flatten() {
                let (reply, done) = oneshot::channel();
                if worker.send(Ask::Drain(reply)).is_ok() {
                    waiting.push(done);
                }
            }
            for done in waiting {
                let _ = done.await;
            }
        };
        let _ = tokio::time::timeout(within, all).await;
        self.session_count()
    }

    /// Another process serves clients of the same databases, or does no longer. While one does, reads
    /// must see what it acknowledged, too, so the primary is asked for each.
    pub fn set_beside(&self, beside: bool) {
        if !beside {
            // Whatever it wrote, and where.
            self.shared.cluster.note_astray();
        }
        self.shared.beside.store(beside, std::sync::atomic::Ordering::SeqCst);
    }

    /// Where the count stands from which connection ids are made.
    #[must_use]
    pub fn next_id(&self) -> u32 {
        self.shared.peek_id()
    }

    /// Another process accepts clients from here on. Those that are here stay until they go by
    /// themselves, or `within` is over; then as [`Proxy::drain`].
    pub async fn retire(&self, within: Duration) -> u64 {
        for worker in self.shared.workers.get().into_iter().flatten() {
            let _ = worker.send(Ask::AcceptNoMore);
        }
        let until = tokio::time::Instant::now() + within;
        while self.session_count() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.drain(within).await
    }

    /// Whether every worker thread is alive.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.threads.iter().all(|t| !t.is_finished())
    }
}
