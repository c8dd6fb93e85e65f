//! Real servers and a monitor that watches them, without a proxy.

#![allow(clippy::unwrap_used, dead_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_cluster::{Cluster, Role, Server, ServerId, Snapshot};
use pointsman_config::ProxyConfig;
use pointsman_events::EventLog;
use pointsman_sandbox::{Node, Options, Sandbox};

pub const LONG: Duration = Duration::from_secs(20);
pub const DB1: ServerId = ServerId(0);
pub const DB2: ServerId = ServerId(1);
pub const DB3: ServerId = ServerId(2);

pub struct Watch {
    pub sandbox: Arc<Sandbox>,
    pub cluster: Cluster,
    pub events: Arc<EventLog>,
}

impl Watch {
    /// Watches `sandbox`; `more` is added to the config.
    pub async fn start(sandbox: Arc<Sandbox>, more: &str) -> Self {
        let text = pointsman_sandbox::proxy_config(sandbox.nodes(), 3306, 8989, more);
        let (config, _) = ProxyConfig::parse("proxy.toml", &text).unwrap();
        let events = Arc::new(EventLog::default());
        let cluster = Cluster::start(&config, events.clone());
        cluster.ready().await;
        Self { sandbox, cluster, events }
    }

    /// New servers.
    pub async fn with(options: Options, more: &str) -> Self {
        Self::start(Arc::new(Sandbox::start(options).unwrap()), more).await
    }

    /// Waits for a snapshot that `fits`.
    pub async fn until(&self, what: &str, fits: impl Fn(&Snapshot) -> bool) -> Duration {
        let begin = Instant::now();
        let mut changes = self.cluster.subscribe();
        while !fits(&self.cluster.snapshot()) {
            let waited = tokio::time::timeout(LONG, changes.changed()).await;
            assert!(
                waited.is_ok() && begin.elapsed() < LONG,
                "{what} did not happen: {:#?}\n{}\n{:?}",
                self.cluster.snapshot(),
                self.story(),
                self.cluster.failover_status()
            );
        }
        begin.elapsed()
    }

    pub fn server(&self, id: ServerId) -> Server {
        self.cluster.snapshot().server(id).unwrap().clone()
    }

    pub fn node(&self, id: ServerId) -> &Node {
        self.sandbox.node(usize::from(id.0))
    }

    pub fn sql(&self, id: ServerId, text: &str) -> String {
        self.node(id).client_sql(text).unwrap().trim().to_owned()
    }

    /// The text of the first event of this kind.
    pub fn told(&self, code: &str, server: &str) -> Option<String> {
        let mut events = self.events.since(0).into_iter();
        events.find(|e| e.code == code && e.subject == server).map(|e| e.text)
    }

    /// All events, with seconds since the first.
    pub fn story(&self) -> String {
        let begin = self.events.since(0).first().map(|e| e.at);
        let lines = self.events.since(0).into_iter().map(|e| {
            let at = begin.and_then(|begin| e.at.duration_since(begin).ok()).unwrap_or_default();
            format!("{:8.3} {} {} {}\n", at.as_secs_f64(), e.code, e.subject, e.text)
        });
        lines.collect()
    }
}

pub fn role(snapshot: &Snapshot, id: ServerId) -> Role {
    snapshot.server(id).unwrap().role
}
