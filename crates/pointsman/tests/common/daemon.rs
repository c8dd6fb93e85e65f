//! A daemon that only pretends, served over real sockets.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::common::{Run, RunExt, pointsman};
use pointsman_admin::console::Console;
use pointsman_admin::http::Http;
use pointsman_admin::rows::{ConfigRow, ServerRow, SessionRow, StatementRow};
use pointsman_admin::{Action, AdminError, BoxFuture, Code, Daemon, Query, Status, Table, View};
use pointsman_events::EventLog;
use prometheus::{IntCounterVec, Opts, Registry};

pub struct Fake {
    pub states: Mutex<Vec<(&'static str, &'static str)>>,
    pub ready: Mutex<Result<(), String>>,
    pub events: EventLog,
    registry: Registry,
    started: SystemTime,
}

impl Fake {
    fn new() -> Self {
        let registry = Registry::new();
        let statements = IntCounterVec::new(
            Opts::new("pointsman_statements_total", "Statements answered."),
            &["server", "class"],
        )
        .unwrap();
        statements.with_label_values(&["db1", "write"]).inc_by(3);
        registry.register(Box::new(statements)).unwrap();
        Self {
            states: Mutex::new(vec![("db1", "up"), ("db2", "up")]),
            ready: Mutex::new(Ok(())),
            events: EventLog::default(),
            registry,
            started: SystemTime::now(),
        }
    }

    fn set(&self, server: &str, state: &'static str) -> Result<String, AdminError> {
        let mut states = self.states.lock().unwrap();
        let known: Vec<&str> = states.iter().map(|(name, _)| *name).collect();
        let Some(found) = states.iter_mut().find(|(name, _)| *name == server) else {
            return Err(AdminError::unknown_server(server, known));
        };
        found.1 = state;
        self.events.push("admin_state", server, format!("{server} is {state}"));
        Ok(format!("{server} is {state}"))
    }
}

impl Daemon for Fake {
    fn status(&self) -> Status {
        Status {
            kind: "proxy",
            version: "1.2.3".to_owned(),
            started: self.started,
            ready: self.ready.lock().unwrap().clone(),
            headlines: vec!["db1 is the primary".to_owned(), "2 of 2 servers up".to_owned()],
        }
    }

    fn table(&self, view: View, query: &Query) -> Result<Table, AdminError> {
        Ok(match view {
            View::Servers => self
                .states
                .lock()
                .unwrap()
                .iter()
                .enumerate()
                .map(|(i, (name, state))| ServerRow {
                    name: (*name).to_owned(),
                    address: format!("192.168.4.{}:3306", 11 + i * 11),
                    role: if i == 0 { "primary" } else { "replica" }.to_owned(),
                    state: (*state).to_owned(),
                    reads: i > 0,
                    lag: (i > 0).then_some(Duration::from_micros(1500)),
                    running: 1,
                    connections: 4,
                    statements: 1000 + i as u64,
                    version: Some("10.11.6-MariaDB".to_owned()),
                    server_id: Some(i as u64 + 1),
                    why: if i == 0 { "writable" } else { "replicates from db1" }.to_owned(),
                })
                .collect(),
            View::Sessions => [SessionRow {
                id: 7,
                user: "shop\x1b[2J".to_owned(),
                client: "192.168.4.33:51000".to_owned(),
                servers: "db1 db2".to_owned(),
                state: "idle".to_owned(),
                idle: Some(Duration::from_secs(75)),
                ..SessionRow::default()
            }]
            .into_iter()
            .collect(),
            View::Statements => (1..=3)
                .map(|i| StatementRow {
                    fingerprint: format!("{i:016x}"),
                    class: "read".to_owned(),
                    route: "any_replica".to_owned(),
                    reason: "plain_read".to_owned(),
                    count: i,
                    total: Duration::from_millis(i * 10),
                    text: format!("SELECT {i}"),
                    ..StatementRow::default()
                })
                .collect(),
            View::Events => Table::events(&self.events, query),
            View::Config => {
                [ConfigRow { key: "routing.max_lag".to_owned(), value: "10s".to_owned() }]
                    .into_iter()
                    .collect()
            }
        })
    }

    fn act(&self, action: Action) -> BoxFuture<'_, Result<String, AdminError>> {
        Box::pin(async move {
            match action {
                Action::Drain(server) => self.set(&server, "draining"),
                Action::Maintain(server) => self.set(&server, "maintenance"),
                Action::Resume(server) => self.set(&server, "up"),
                Action::Reload => Err(AdminError::new(Code::BadConfig, "proxy.toml:3:1: no")),
                Action::Switchover { .. } | Action::Failover { .. } | Action::Rejoin { .. } => {
                    Err(AdminError::not_available("changing the primary"))
                }
            }
        })
    }

    fn metrics(&self) -> &Registry {
        &self.registry
    }

    fn ready(&self) -> Result<(), String> {
        self.ready.lock().unwrap().clone()
    }
}

/// A fake daemon being served until it is dropped.
pub struct Served {
    pub daemon: Arc<Fake>,
    pub http: SocketAddr,
    pub console: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    pub fn start(token: Option<&str>) -> Self {
        Self::start_at(token, 0)
    }

    /// On this HTTP port.
    pub fn start_at(token: Option<&str>, port: u16) -> Self {
        let daemon = Arc::new(Fake::new());
        let token = token.map(str::to_owned);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let served = daemon.clone();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let any = |port| SocketAddr::from(([127, 0, 0, 1], port));
                let http = Http::bind(any(port), token.clone()).await.unwrap();
                let console = Console::bind(any(0), token).await.unwrap();
                tell.send((http.address(), console.address())).unwrap();
                tokio::spawn(console.serve(served.clone(), std::future::pending()));
                http.serve(served, async {
                    let _ = stopped.await;
                })
                .await;
            });
        });
        let (http, console) = told.recv().unwrap();
        Self { daemon, http, console, stop: Some(stop), thread: Some(thread) }
    }

    /// `pointsman ARGS` against this daemon.
    pub fn cli(&self, args: &[&str]) -> Run {
        self.cli_command(args).run()
    }

    pub fn cli_command(&self, args: &[&str]) -> Command {
        let mut command = pointsman(args);
        command.env("POINTSMAN_ADMIN", format!("http://{}", self.http));
        command
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
