//! All connections that a server allows are taken, by something else: error 1040 for whoever comes next.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use pointsman_sandbox::Flavour;
use pointsman_tests::{LONG, Node, Setup, Site, connect, wait_until};

/// Whatever is asked of a full server is answered, or refused, in less.
const SOON: Duration = Duration::from_secs(3);

fn site(flavour: Flavour, failover: bool) -> Option<Site> {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return None;
    }
    let site = Site::with(Setup {
        flavour,
        failover,
        // A read that no replica could answer in time would have to go to the primary.
        config:
            "workers = 2\n[routing]\ncausal_timeout = \"2s\"\n[failover]\nwrite_wait = \"1s\"\n"
                .into(),
        ..Setup::default()
    });
    site.primary().client_sql("CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    Some(site)
}

fn code(error: &mysql_async::Error) -> u16 {
    match error {
        mysql_async::Error::Server(e) => e.code,
        other => panic!("{other}"),
    }
}

/// Takes all connections that there are.
async fn fill(node: &Node, taken: &mut Vec<Conn>) {
    loop {
        match connect(node.port()).await {
            Ok(conn) => taken.push(conn),
            Err(error) => {
                assert_eq!(code(&error), 1040, "{error}");
                return;
            }
        }
    }
}

/// Few more than there are now. Afterwards nobody may ask as root, who would take the one that is
/// left for administrators.
fn allow_few(node: &Node) {
    let connected = node.status("Threads_connected").unwrap();
    node.client_sql(&format!("SET GLOBAL max_connections = {}", connected.max(10) + 2)).unwrap();
}

/// A new session's write: done or refused, soon.
async fn write(site: &Site) -> Result<(), mysql_async::Error> {
    let begun = Instant::now();
    let done = match connect(site.port()).await {
        Ok(mut db) => db.query_drop("INSERT INTO t VALUES ()").await,
        Err(error) => Err(error),
    };
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    done
}

async fn read(site: &Site) -> String {
    let begun = Instant::now();
    let mut db = connect(site.port()).await.unwrap();
    let server: Option<u64> = db.query_first("SELECT @@server_id FROM t LIMIT 1").await.unwrap();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    server.map_or_else(String::new, |id| id.to_string())
}

/// The primary is full: who is connected goes on, whoever comes is told as by the server itself, nobody
/// replaces it. `failover`: Pointsman's account may, and has the connection kept for administrators.
async fn full_primary(flavour: Flavour, failover: bool) {
    let Some(mut site) = site(flavour, failover) else { return };
    if failover {
        wait_until("Pointsman may fail over", LONG, || {
            Ok(!site.cli(&["status"]).stdout.contains("can't replace it"))
        })
        .unwrap();
    }
    let mut session = connect(site.port()).await.unwrap();
    session.query_drop("INSERT INTO t VALUES ()").await.unwrap();
    // It keeps its connection.
    session.query_drop("SET @a = 1").await.unwrap();
    allow_few(site.primary());
    let mut taken = Vec::new();
    fill(site.primary(), &mut taken).await;

    let begun = Instant::now();
    let mut refused = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        session.query_drop("INSERT INTO t VALUES ()").await.unwrap();
        if let Err(error) = write(&site).await {
            assert_eq!(code(&error), 1040, "{error}");
            refused += 1;
        }
        assert_eq!(read(&site).await, "2");
    }
    println!("{flavour:?}: a full primary refused {refused} writes of new sessions in 5 s");
    assert!(refused > 0);
    assert_eq!(site.server("db1")["role"], "primary");

    // A Pointsman that starts beside it.
    drop(session);
    site.proxy.kill9().unwrap();
    fill(site.primary(), &mut taken).await;
    site.restart_proxy().unwrap();
    wait_until("it runs", LONG, || Ok(site.admin_json("servers").is_ok())).unwrap();
    site.wait_server("db2 is found", "db2", |row| row["role"] == "replica" && row["reads"] == true);
    if failover {
        site.wait_server("db1 is found", "db1", |row| row["role"] == "primary");
    }
    // Nobody is let in before the primary has said how far it is.
    if let Err(error) = write(&site).await {
        println!("{flavour:?}, beside a new Pointsman: {error}");
        assert!(matches!(code(&error), 1040 | 1290), "{error}");
    }
    assert_eq!(site.metric("pointsman_failovers_total", &[("kind", "failover")]), 0.0);

    for conn in taken {
        conn.disconnect().await.unwrap();
    }
    let begun = Instant::now();
    while let Err(error) = write(&site).await {
        assert!(begun.elapsed() < LONG, "{error}\n{}", site.cli(&["status"]).stdout);
    }
    while read(&site).await != "2" {
        assert!(begun.elapsed() < LONG, "reads do not come back");
    }
    assert_eq!(site.metric("pointsman_failovers_total", &[("kind", "failover")]), 0.0);
}

#[tokio::test]
async fn a_full_primary_is_told_of_and_not_replaced() {
    full_primary(Flavour::MariaDb, true).await;
}

#[tokio::test]
async fn a_full_primary_is_told_of_and_not_replaced_in_mysql() {
    full_primary(Flavour::MySql, true).await;
}

#[tokio::test]
async fn a_full_primary_is_found_once_there_is_room() {
    full_primary(Flavour::MariaDb, false).await;
}

#[tokio::test]
async fn a_full_primary_is_found_once_there_is_room_in_mysql() {
    full_primary(Flavour::MySql, false).await;
}

/// Reads go elsewhere, and come back.
async fn full_replica(flavour: Flavour) {
    let Some(site) = site(flavour, false) else { return };
    site.primary().client_sql("INSERT INTO app.t VALUES ()").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    assert_eq!(read(&site).await, "2");
    allow_few(site.replica());
    let mut taken = Vec::new();
    fill(site.replica(), &mut taken).await;
    // More at once than connections that were there before.
    let mut sessions = Vec::new();
    let mut elsewhere = 0;
    for _ in 0..20 {
        let mut db = connect(site.port()).await.unwrap();
        let server: Option<u64> = db.query_first("SELECT @@server_id FROM t").await.unwrap();
        elsewhere += u64::from(server == Some(1));
        db.query_drop("INSERT INTO t VALUES ()").await.unwrap();
        sessions.push(db);
    }
    println!("{flavour:?}: {elsewhere} of 20 reads went to the primary, the replica being full");
    assert!(elsewhere > 0);
    for conn in taken {
        conn.disconnect().await.unwrap();
    }
    drop(sessions);
    let begun = Instant::now();
    while read(&site).await != "2" {
        assert!(begun.elapsed() < LONG, "reads do not come back");
    }
}

#[tokio::test]
async fn reads_go_elsewhere_from_a_full_replica() {
    full_replica(Flavour::MariaDb).await;
}

#[tokio::test]
async fn reads_go_elsewhere_from_a_full_replica_in_mysql() {
    full_replica(Flavour::MySql).await;
}
