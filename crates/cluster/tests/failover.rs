//! Failover against real servers, without a proxy before them.

#![allow(clippy::unwrap_used)]

mod watch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pointsman_cluster::Role;
use pointsman_sandbox::{Flavour, Options, Sandbox};

use watch::{DB1, DB2, DB3, LONG, Watch, role};

async fn watch(flavour: Flavour, replicas: usize, more: &str) -> Option<Watch> {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return None;
    }
    let options = Options { flavour, replicas, failover: true, ..Options::default() };
    let sandbox = Arc::new(Sandbox::start(options).unwrap());
    sandbox.primary().client_sql("CREATE TABLE app.t (id INT)").unwrap();
    sandbox.wait_caught_up().unwrap();
    let w = Watch::start(sandbox, more).await;
    w.until("the set is known", |s| {
        s.primary == Some(DB1) && s.servers[1..].iter().all(|server| server.takes_reads)
    })
    .await;
    let begin = Instant::now();
    while !w.cluster.failover_status().is_empty() && begin.elapsed() < LONG {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(*w.cluster.failover_status(), Vec::<String>::new());
    Some(w)
}

async fn a_killed_primary_is_replaced(flavour: Flavour) {
    let Some(w) = watch(flavour, 2, "").await else { return };
    w.sql(DB1, "INSERT INTO app.t VALUES (1)");
    w.sandbox.wait_caught_up().unwrap();
    w.node(DB1).kill9().unwrap();
    w.cluster.report_failure(DB1);
    let took = w.until("another primary", |s| s.primary.is_some_and(|id| id != DB1)).await;
    println!("{flavour:?}: a new primary {took:?} after the kill");
    let all = w.until("the other follows", |s| s.servers[1..].iter().any(|s| s.takes_reads)).await;
    println!("all replicas follow {all:?} later");
    let snapshot = w.cluster.snapshot();
    let new = snapshot.primary.unwrap();
    let succession = snapshot.succession.clone().unwrap();
    assert_eq!((succession.old, succession.new), (DB1, new));
    assert!(succession.inherited.is_some());
    let other = if new == DB2 { DB3 } else { DB2 };
    w.until("it follows the new one", |s| s.server(other).unwrap().source == Some(new)).await;
    w.sql(new, "INSERT INTO app.t VALUES (2)");
    let position = w.node(new).position().unwrap();
    w.node(other).wait_applied(&position, LONG).unwrap();
    assert_eq!(w.sql(other, "SELECT SUM(id) FROM app.t"), "3");
    assert_eq!(w.cluster.failovers(), (1, 0));

    // The old one comes back, writable and with nothing of its own.
    w.node(DB1).start().unwrap();
    w.until("db1 follows", |s| {
        role(s, DB1) == Role::Replica && s.server(DB1).unwrap().source == Some(new)
    })
    .await;
    assert_eq!(w.cluster.snapshot().primary, Some(new));
    if let Err(error) = w.node(DB1).wait_applied(&position, LONG) {
        panic!("{error:#}\n{}", w.story());
    }
    assert_eq!(w.sql(DB1, "SELECT SUM(id) FROM app.t; SELECT @@read_only"), "3\n1");
    println!("{}", w.story());
    assert!(took < Duration::from_millis(800), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_and_comes_back_as_a_replica() {
    a_killed_primary_is_replaced(Flavour::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_is_replaced_in_mysql() {
    a_killed_primary_is_replaced(Flavour::MySql).await;
}

async fn a_switchover_and_back(flavour: Flavour) {
    let Some(w) = watch(flavour, 2, "").await else { return };
    let plan = w.cluster.rehearse_switchover(Some("db3".to_owned())).await.unwrap();
    println!("{plan}");
    for (old, new, name) in [(DB1, DB3, "db3"), (DB3, DB1, "db1")] {
        w.sql(old, &format!("INSERT INTO app.t VALUES ({})", new.0));
        let begin = Instant::now();
        let said = w.cluster.switchover(Some(name.to_owned())).await.unwrap();
        println!("{flavour:?}: {said}; {:?} in all", begin.elapsed());
        let snapshot = w.cluster.snapshot();
        assert_eq!((snapshot.primary, snapshot.switching), (Some(new), None));
        w.until("both follow", |s| {
            s.servers.iter().all(|s| s.id == new || (s.takes_reads && s.source == Some(new)))
        })
        .await;
        w.sql(new, "INSERT INTO app.t VALUES (100)");
        let position = w.node(new).position().unwrap();
        for id in [DB1, DB2, DB3] {
            if id != new {
                w.node(id).wait_applied(&position, LONG).unwrap();
            }
            let read_only = if id == new { "0" } else { "1" };
            assert_eq!(w.sql(id, "SELECT @@read_only"), read_only);
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
    println!("{}", w.story());
    assert_eq!(w.cluster.failovers(), (0, 2));
    assert_eq!(w.sql(DB2, "SELECT COUNT(*) FROM app.t"), "4");
    let why = w.cluster.switchover(Some("db1".to_owned())).await.unwrap_err();
    assert_eq!(why, "db1 is the primary already");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_goes_there_and_back() {
    a_switchover_and_back(Flavour::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_goes_there_and_back_in_mysql() {
    a_switchover_and_back(Flavour::MySql).await;
}

async fn a_silent_primary_is_replaced(flavour: Flavour) {
    let Some(w) = watch(flavour, 1, "").await else { return };
    w.node(DB1).pause().unwrap();
    let took = w.until("another primary", |s| s.primary == Some(DB2)).await;
    println!("{flavour:?}: a new primary {took:?} after the old one froze\n{}", w.story());
    // MySQL is slow to stop a replica that is just connecting to a source that hangs.
    let limit = if flavour == Flavour::MySql { 8 } else { 4 };
    assert!(took < Duration::from_secs(limit), "{took:?}");
    // It wakes up and believes that it is the primary; it has nothing of its own.
    w.sql(DB2, "INSERT INTO app.t VALUES (1)");
    w.node(DB1).unpause().unwrap();
    w.until("db1 follows", |s| s.server(DB1).unwrap().source == Some(DB2)).await;
    w.until("db1 takes reads", |s| s.server(DB1).unwrap().takes_reads).await;
    let position = w.node(DB2).position().unwrap();
    w.node(DB1).wait_applied(&position, LONG).unwrap();
    println!("{}", w.story());
    assert_eq!(w.sql(DB1, "SELECT COUNT(*) FROM app.t; SELECT @@read_only"), "1\n1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_freezes_is_replaced() {
    a_silent_primary_is_replaced(Flavour::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_freezes_is_replaced_in_mysql() {
    a_silent_primary_is_replaced(Flavour::MySql).await;
}

async fn a_diverged_primary_is_kept_out(flavour: Flavour) {
    let Some(w) = watch(flavour, 1, "").await else { return };
    // A transaction that no replica has.
    let stop =
        if flavour == Flavour::MySql { "STOP REPLICA IO_THREAD" } else { "STOP SLAVE IO_THREAD" };
    w.sql(DB2, stop);
    w.until("that is seen", |s| s.servers[1].why.contains("stopped fetching")).await;
    w.sql(DB1, "INSERT INTO app.t VALUES (66)");
    w.sql(DB2, &stop.replace("STOP", "START").replace("IO_THREAD", "SQL_THREAD"));
    w.node(DB1).kill9().unwrap();
    w.cluster.report_failure(DB1);
    w.until("db1 is lost", |s| s.primary.is_none()).await;
    // Its replication was stopped before, so who knows what it lacks.
    let why = w.cluster.failover(None, false).await.unwrap_err();
    assert_eq!(why, "db2's replication was stopped before");
    let said = w.cluster.failover(Some("db2".to_owned()), true).await.unwrap();
    println!("{said}");
    w.sql(DB2, "INSERT INTO app.t VALUES (1)");
    w.node(DB1).start().unwrap();
    let begin = Instant::now();
    while !w.story().contains("server_diverged db1") && begin.elapsed() < LONG {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{}{:?}", w.story(), w.cluster.failover_status());
    assert!(w.story().contains("server_diverged db1"));
    assert_eq!(w.cluster.snapshot().primary, Some(DB2));
    assert_eq!(w.sql(DB1, "SELECT SUM(id) FROM app.t; SELECT @@read_only"), "66\n1");
    let why = w.cluster.rejoin("db1".to_owned(), false, false).await.unwrap_err();
    assert!(why.contains("transactions that db2 lacks"), "{why}");
    assert_eq!(role(&w.cluster.snapshot(), DB1), Role::Standalone);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diverged_former_primary_is_fenced_and_kept_out() {
    a_diverged_primary_is_kept_out(Flavour::MariaDb).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diverged_former_primary_is_fenced_and_kept_out_in_mysql() {
    a_diverged_primary_is_kept_out(Flavour::MySql).await;
}
