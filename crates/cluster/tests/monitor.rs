//! The monitor against real servers.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_cluster::gtid::Flavour;
use pointsman_cluster::{Cluster, Position, Role, Server, ServerId, Snapshot};
use pointsman_config::ProxyConfig;
use pointsman_events::EventLog;
use pointsman_sandbox::{Node, Options, Sandbox};

const LONG: Duration = Duration::from_secs(20);
const DB1: ServerId = ServerId(0);
const DB2: ServerId = ServerId(1);
const DB3: ServerId = ServerId(2);

struct Watch {
    sandbox: Sandbox,
    cluster: Cluster,
    events: Arc<EventLog>,
}

async fn watch(replicas: usize, more: &str) -> Watch {
    let sandbox = Sandbox::start(Options { replicas, ..Options::default() }).unwrap();
    let text = pointsman_sandbox::proxy_config(sandbox.nodes(), 3306, 8989, more);
    let (config, _) = ProxyConfig::parse("proxy.toml", &text).unwrap();
    let events = Arc::new(EventLog::default());
    let cluster = Cluster::start(&config, events.clone());
    cluster.ready().await;
    Watch { sandbox, cluster, events }
}

impl Watch {
    /// Waits for a snapshot that `fits`.
    async fn until(&self, what: &str, fits: impl Fn(&Snapshot) -> bool) -> Duration {
        let begin = Instant::now();
        let mut changes = self.cluster.subscribe();
        while !fits(&self.cluster.snapshot()) {
            let waited = tokio::time::timeout(LONG, changes.changed()).await;
            assert!(
                waited.is_ok() && begin.elapsed() < LONG,
                "{what} did not happen: {:#?}",
                self.cluster.snapshot()
            );
        }
        begin.elapsed()
    }

    fn server(&self, id: ServerId) -> Server {
        self.cluster.snapshot().server(id).unwrap().clone()
    }

    fn told(&self, code: &str, server: &str) -> Option<String> {
        let mut events = self.events.since(0).into_iter();
        events.find(|e| e.code == code && e.subject == server).map(|e| e.text)
    }

    fn write(&self, i: u64) -> Position {
        let sql = format!("INSERT INTO app.t VALUES ({i}); SELECT @@last_gtid");
        let gtid = self.sandbox.primary().client_sql(&sql).unwrap();
        Position::parse(Flavour::MariaDb, gtid.trim().as_bytes()).unwrap()
    }
}

fn sql(node: &Node, text: &str) -> String {
    node.client_sql(text).unwrap()
}

fn role(snapshot: &Snapshot, id: ServerId) -> Role {
    snapshot.server(id).unwrap().role
}

#[tokio::test]
async fn roles_are_discovered_and_a_dead_replica_is_noticed() {
    let w = watch(2, "").await;
    w.until("the set is known", |s| {
        s.primary == Some(DB1) && s.servers[1].takes_reads && s.servers[2].takes_reads
    })
    .await;
    let db2 = w.server(DB2);
    assert_eq!((db2.server_id, db2.source, db2.read_only), (2, Some(DB1), Some(true)));
    assert_eq!(db2.lag, Some(Duration::ZERO));
    let greeting = w.cluster.snapshot().greeting.clone();
    assert!(greeting.server_version.starts_with("5.5.5-10."), "{greeting:?}");
    assert_eq!(greeting.collation, 45);

    w.sandbox.node(1).kill9().unwrap();
    let took = w.until("db2 is down", |s| role(s, DB2) == Role::Down).await;
    println!("killed replica down after {took:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert!(w.told("server_down", "db2").is_some());
    w.sandbox.node(1).start().unwrap();
    w.until("db2 is back", |s| s.servers[1].takes_reads).await;
    assert!(w.told("server_up", "db2").is_some());
    for event in w.events.since(0) {
        println!("{} {} {}", event.code, event.subject, event.text);
    }
}
