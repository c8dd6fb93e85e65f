//! The monitor against real servers.

#![allow(clippy::unwrap_used)]

mod watch;

use std::time::{Duration, Instant};

use pointsman_cluster::gtid::Flavour;
use pointsman_cluster::{AdminState, Position, Role, Touched};
use pointsman_config::ProxyConfig;
use pointsman_sandbox::{Node, Options};

use watch::{DB1, DB2, DB3, LONG, Watch, role};

async fn watch(replicas: usize, more: &str) -> Watch {
    watch_with(Options { replicas, ..Options::default() }, more).await
}

async fn watch_with(options: Options, more: &str) -> Watch {
    Watch::with(options, more).await
}

fn write(w: &Watch, i: u64) -> Position {
    let sql = format!("INSERT INTO app.t VALUES ({i}); SELECT @@last_gtid");
    let gtid = w.sandbox.primary().client_sql(&sql).unwrap();
    Position::parse(Flavour::MariaDb, gtid.trim().as_bytes()).unwrap()
}

fn sql(node: &Node, text: &str) -> String {
    node.client_sql(text).unwrap()
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
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(w.told("server_down", "db2").is_some());
    w.sandbox.node(1).start().unwrap();
    w.until("db2 is back", |s| s.servers[1].takes_reads).await;
    assert!(w.told("server_up", "db2").is_some());
    for event in w.events.since(0) {
        println!("{} {} {}", event.code, event.subject, event.text);
    }
}

#[tokio::test]
async fn a_stopped_replica_falls_behind_loses_its_reads_and_comes_back() {
    let w = watch(1, "[routing]\nmax_lag = \"1s\"\n").await;
    sql(w.sandbox.primary(), "CREATE TABLE app.t (id INT)");
    w.until("db2 takes reads", |s| s.servers[1].takes_reads).await;
    let db2 = w.sandbox.node(1);
    sql(db2, "STOP SLAVE");
    write(&w, 1);
    let took = w.until("db2 is behind", |s| !s.servers[1].takes_reads).await;
    println!("lost its reads after {took:?}: {}", w.server(DB2).why);
    assert!(took > Duration::from_millis(700) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(w.server(DB2).role, Role::Replica);
    let lag = w.server(DB2).lag.unwrap();
    w.until("lag grows", |s| s.servers[1].lag.unwrap() > lag + Duration::from_millis(500)).await;
    assert!(w.told("replica_lagging", "db2").is_some());
    sql(db2, "START SLAVE");
    let took = w.until("db2 is fresh", |s| s.servers[1].takes_reads).await;
    println!("fresh after {took:?}");
    assert!(w.told("replica_fresh", "db2").is_some());

    // Writing all the time, a healthy replica is not behind.
    for i in 0..20 {
        write(&w, i);
        let lag = w.server(DB2).lag.unwrap();
        assert!(lag < Duration::from_secs(1), "{lag:?}");
    }

    // SQL_DELAY, of which Seconds_Behind_Master tells in whole seconds only.
    sql(db2, "STOP SLAVE; CHANGE MASTER TO MASTER_DELAY=60; START SLAVE");
    write(&w, 100);
    w.until("the delay shows", |s| !s.servers[1].takes_reads).await;
    println!("{}", w.server(DB2).why);
}

#[tokio::test]
async fn writable_replicas_and_second_primaries_are_seen_for_what_they_are() {
    let w = watch(2, "").await;
    w.until("the set is known", |s| s.primary == Some(DB1)).await;
    sql(w.sandbox.node(1), "SET GLOBAL read_only = 0");
    w.until("db2 is writable", |s| s.servers[1].read_only == Some(false)).await;
    assert_eq!(w.server(DB2).role, Role::Replica);
    assert!(w.server(DB2).why.contains("set read_only=1"), "{}", w.server(DB2).why);
    assert!(w.told("replica_writable", "db2").is_some());

    sql(w.sandbox.node(1), "STOP SLAVE; RESET SLAVE ALL");
    w.until("db2 stands alone", |s| role(s, DB2) == Role::Standalone).await;
    println!("{}", w.server(DB2).why);
    assert_eq!(w.cluster.snapshot().primary, Some(DB1));
    assert!(w.told("two_writable", "db2").is_some());

    sql(w.sandbox.node(1), "SET GLOBAL read_only = 1");
    w.sandbox.node(1).replicate_from(w.sandbox.primary()).unwrap();
    w.until("db2 is a replica again", |s| s.servers[1].takes_reads).await;

    // Another server's data breaks replication.
    sql(w.sandbox.primary(), "CREATE TABLE app.u (id INT PRIMARY KEY)");
    w.sandbox.wait_caught_up().unwrap();
    sql(w.sandbox.node(2), "SET sql_log_bin = 0; INSERT INTO app.u VALUES (1)");
    sql(w.sandbox.primary(), "INSERT INTO app.u VALUES (1)");
    w.until("db3 is broken", |s| role(s, DB3) == Role::Standalone).await;
    assert!(w.server(DB3).why.contains("1062"), "{}", w.server(DB3).why);
    sql(w.sandbox.node(2), "SET sql_log_bin = 0; DELETE FROM app.u; START SLAVE");
    w.until("db3 is mended", |s| s.servers[2].takes_reads).await;
}

#[tokio::test]
async fn a_hanging_server_is_down_after_the_timeout_and_holds_up_nobody() {
    let w = watch(2, "").await;
    w.until("all serve", |s| s.servers[1].takes_reads && s.servers[2].takes_reads).await;
    sql(w.sandbox.primary(), "CREATE TABLE app.t (id INT)");
    w.sandbox.node(1).pause().unwrap();
    let begin = Instant::now();
    w.cluster.report_failure(DB2);
    assert!(w.server(DB2).live.suspect.load(std::sync::atomic::Ordering::Relaxed));
    // Meanwhile the others are as quick as ever.
    let position = write(&w, 1);
    let found = w.cluster.wait_applied(&[DB2, DB3], &position, LONG).await;
    assert_eq!(found, Some(DB3));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    w.until("db2 is down", |s| role(s, DB2) == Role::Down).await;
    let took = begin.elapsed();
    println!("hanging replica down after {took:?}: {}", w.server(DB2).why);
    assert!(took > Duration::from_millis(1500) && took < Duration::from_secs(4), "{took:?}");
    w.sandbox.node(1).unpause().unwrap();
    w.until("db2 is back", |s| s.servers[1].takes_reads).await;
    assert!(!w.server(DB2).live.suspect.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(w.cluster.wait_applied(&[DB2], &position, LONG).await, Some(DB2));
}

#[tokio::test]
async fn a_dead_primary_is_missed_and_a_promoted_one_found() {
    let w = watch(2, "").await;
    w.until("the set is known", |s| s.primary == Some(DB1)).await;
    sql(w.sandbox.primary(), "CREATE TABLE app.t (id INT)");
    let position = write(&w, 1);
    w.cluster.note_write(&position, &Touched::default());
    w.sandbox.wait_caught_up().unwrap();
    let generation = w.cluster.snapshot().generation;
    w.sandbox.primary().kill9().unwrap();
    w.until("db1 is missed", |s| s.primary.is_none()).await;
    println!("{}", w.cluster.snapshot().no_primary_why);
    assert!(w.server(DB2).takes_reads && w.server(DB3).takes_reads);
    let (db2, db3) = (w.sandbox.node(1), w.sandbox.node(2));
    sql(db2, "STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0");
    db3.replicate_from(db2).unwrap();
    w.until("db2 is the primary", |s| s.primary == Some(DB2) && s.servers[2].takes_reads).await;
    assert!(w.cluster.snapshot().generation > generation);
    sql(db2, "INSERT INTO app.t VALUES (2)");
    w.sandbox.primary().start().unwrap();
    w.until("db1 is seen", |s| role(s, DB1) == Role::Standalone).await;
    println!("{}", w.server(DB1).why);
    assert_eq!(w.cluster.snapshot().primary, Some(DB2));
    for event in w.events.since(0) {
        println!("{} {} {}", event.code, event.subject, event.text);
    }
}

#[tokio::test]
async fn a_replica_that_comes_back_empty_is_not_believed_to_have_anything() {
    let w = watch(1, "").await;
    w.until("the set is known", |s| s.servers[1].takes_reads).await;
    sql(w.sandbox.primary(), "CREATE TABLE app.t (id INT)");
    let position = write(&w, 1);
    w.cluster.note_write(&position, &Touched::default());
    assert_eq!(w.cluster.wait_applied(&[DB2], &position, LONG).await, Some(DB2));
    w.sandbox.node(1).reinstall().unwrap();
    // No accounts, so the monitor can't even log in.
    w.until("db2 is down", |s| role(s, DB2) == Role::Down).await;
    assert!(!w.server(DB2).live.has_applied(&position));
    let wait = w.cluster.wait_applied(&[DB2], &position, Duration::from_millis(300)).await;
    assert_eq!(wait, None);
}

#[tokio::test]
async fn the_feed_knows_within_milliseconds() {
    let w = watch(2, "").await;
    w.until("all serve", |s| s.servers[1].takes_reads && s.servers[2].takes_reads).await;
    sql(w.sandbox.primary(), "CREATE TABLE app.t (id INT)");
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(w.sandbox.primary().port())
        .user(Some("app"))
        .pass(Some("app-secret"))
        .prefer_socket(false);
    let mut conn = mysql_async::Conn::new(opts).await.unwrap();
    let mut waits = Vec::new();
    for i in 0..300 {
        use mysql_async::prelude::Queryable as _;
        conn.query_drop(format!("INSERT INTO app.t VALUES ({i})")).await.unwrap();
        let done = Instant::now();
        let gtid: String = conn.query_first("SELECT @@last_gtid").await.unwrap().unwrap();
        let position = Position::parse(Flavour::MariaDb, gtid.as_bytes()).unwrap();
        w.cluster.note_write(&position, &Touched::default());
        assert!(w.cluster.acknowledged().unwrap().covers(&position));
        let on = w.cluster.wait_applied(&[DB2, DB3], &position, LONG).await.unwrap();
        waits.push(done.elapsed());
        let node = w.sandbox.node(usize::from(on.0));
        if i % 50 == 0 {
            assert_eq!(
                sql(node, &format!("SELECT id FROM app.t WHERE id = {i}")).trim(),
                i.to_string()
            );
        }
        // Strong reads see no less.
        let committed = w.cluster.committed_position().await.unwrap();
        assert!(committed.covers(&position));
    }
    waits.sort_unstable();
    let (median, p95, worst) = (waits[150], waits[285], waits[299]);
    println!("known on a replica after: median {median:?}, p95 {p95:?}, worst {worst:?}");
    assert!(median < Duration::from_millis(5), "{median:?}");
}

#[tokio::test]
async fn a_feed_whose_connection_was_killed_goes_on() {
    let w = watch(1, "").await;
    w.until("the set is known", |s| s.servers[1].takes_reads).await;
    sql(w.sandbox.primary(), "CREATE TABLE app.t (id INT)");
    let position = write(&w, 1);
    w.cluster.note_write(&position, &Touched::default());
    assert_eq!(w.cluster.wait_applied(&[DB2], &position, LONG).await, Some(DB2));
    sql(w.sandbox.node(1), "KILL USER pointsman");
    let position = write(&w, 2);
    let begin = Instant::now();
    w.cluster.note_write(&position, &Touched::default());
    assert_eq!(w.cluster.wait_applied(&[DB2], &position, LONG).await, Some(DB2));
    println!("after a killed connection: {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(2));
    assert!(w.told("server_down", "db2").is_none(), "killing a connection is no outage");
}

#[tokio::test]
async fn operators_take_servers_out() {
    let w = watch(1, "").await;
    w.until("the set is known", |s| s.servers[1].takes_reads).await;
    w.cluster.set_admin("db2", AdminState::Draining).unwrap();
    assert!(!w.server(DB2).takes_reads);
    w.cluster.set_admin("db2", AdminState::Running).unwrap();
    assert!(w.server(DB2).takes_reads);
    w.cluster.set_admin("db1", AdminState::Maintenance).unwrap();
    assert_eq!(w.cluster.snapshot().primary, None);
    let error = w.cluster.set_admin("db9", AdminState::Running).unwrap_err().to_string();
    assert_eq!(error, "no server is named \"db9\"; there are db1, db2");
}

#[tokio::test]
async fn a_new_max_lag_and_weight_need_no_restart_and_a_new_server_does() {
    let w = watch(1, "").await;
    w.until("the set is known", |s| s.servers[1].takes_reads).await;
    let text = pointsman_sandbox::proxy_config(w.sandbox.nodes(), 3306, 8989, "");
    let (mut config, _) = ProxyConfig::parse("proxy.toml", &text).unwrap();
    config.servers[1].weight = 0;
    w.cluster.reconfigure(&config).unwrap();
    assert!(!w.server(DB2).takes_reads);
    config.servers[1].address = "127.0.0.1:1".parse().unwrap();
    let error = w.cluster.reconfigure(&config).unwrap_err().to_string();
    assert!(error.starts_with("[[server]] changed"), "{error}");
}

#[tokio::test]
async fn accounts_are_found_as_the_server_finds_them() {
    let w = watch(0, "").await;
    let hosts = [
        "%",
        "127.0.0.1",
        "127.0.0.0/255.255.255.0",
        "127.0.0.0/255.0.0.0",
        "127.0.0.%",
        "127.%",
        "127.0.0._",
        "1%1",
        "%.1",
        "127._._._",
        "___._._._",
        "_27.0.0.1",
        "127.%.1",
        "10.%",
    ];
    let mut setup = String::new();
    for host in hosts {
        setup += &format!("CREATE USER who@'{host}' IDENTIFIED BY 'x';");
    }
    // A narrower one would lock out the monitor too.
    setup += "CREATE USER ''@'%' IDENTIFIED BY 'x'; CREATE ROLE boss";
    let db1 = w.sandbox.primary();
    sql(db1, &setup);
    let ip = "127.0.0.1".parse().unwrap();
    for _ in 0..hosts.len() + 1 {
        w.cluster.refresh_accounts().await;
        let accounts = w.cluster.accounts().load_full();
        let ours = accounts.find("who", ip).map(|a| format!("{}@{}", a.user, a.host));
        let output = std::process::Command::new("mariadb")
            .args(["--no-defaults", "-h127.0.0.1", "-uwho", "-px", "-NBe", "SELECT CURRENT_USER()"])
            .arg(format!("-P{}", db1.port()))
            .output()
            .unwrap();
        let theirs = output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        println!("{theirs:?}");
        assert_eq!(ours, theirs);
        let Some(theirs) = theirs else { return };
        let (user, host) = theirs.split_once('@').unwrap();
        sql(db1, &format!("DROP USER '{user}'@'{host}'"));
    }
    panic!("more accounts than were made");
}

#[tokio::test]
async fn nothing_is_left_running_when_the_handle_goes() {
    let w = watch(1, "").await;
    w.until("the set is known", |s| s.servers[1].takes_reads).await;
    let again = w.cluster.clone();
    let Watch { sandbox, cluster, .. } = w;
    drop(cluster);
    drop(again);
    let gone = || sql(sandbox.primary(), "SHOW PROCESSLIST").matches("pointsman").count() == 0;
    let begin = Instant::now();
    while !gone() {
        assert!(begin.elapsed() < LONG);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_replica_that_is_slow_to_stop_is_not_down() {
    let w = watch(1, "").await;
    w.until("the set is known", |s| s.servers[1].takes_reads).await;
    sql(
        w.sandbox.primary(),
        "CREATE TABLE app.m (id INT) ENGINE=MyISAM; SET SESSION binlog_format = STATEMENT; \
         INSERT INTO app.m SELECT SLEEP(4)",
    );
    w.until("the replica is at it", |s| s.servers[1].lag > Some(Duration::ZERO)).await;
    // Waits for the statement, which can't be rolled back, to end; and with it whoever asks for the
    // status of replication.
    let sandbox = w.sandbox.clone();
    let run = |sql: &'static str, after| {
        let sandbox = sandbox.clone();
        tokio::task::spawn_blocking(move || {
            std::thread::sleep(after);
            let begin = Instant::now();
            sandbox.node(1).client_sql(sql).unwrap();
            begin.elapsed()
        })
    };
    let stop = run("STOP SLAVE", Duration::ZERO);
    let show = run("SHOW ALL SLAVES STATUS", Duration::from_millis(200));
    println!("STOP SLAVE took {:?}, SHOW {:?}", stop.await.unwrap(), show.await.unwrap());
    w.until("that it is stopped shows", |s| s.servers[1].why.contains("stopped")).await;
    assert!(w.told("server_down", "db2").is_none());
    assert_eq!(w.server(DB2).role, Role::Replica);
}

#[tokio::test]
async fn noting_writes_is_cheap_from_several_threads() {
    let w = watch(2, "").await;
    w.until("all serve", |s| s.servers[1].takes_reads && s.servers[2].takes_reads).await;
    let position = w.cluster.committed_position().await.unwrap();
    let Position::MariaDb(start) = &*position else { panic!("{position}") };
    let start = start.domains[0].sequence;
    const EACH: u64 = 100_000;
    let begin = Instant::now();
    let writers = [0, 1].map(|thread| {
        let cluster = w.cluster.clone();
        tokio::task::spawn_blocking(move || {
            let mut position = Position::empty(Flavour::MariaDb);
            for i in 0..EACH {
                let text = format!("0-1-{}", start + i * 2 + thread);
                position = Position::MariaDb(text.parse().unwrap());
                cluster.note_write(&position, &Touched::default());
            }
            assert!(cluster.acknowledged().unwrap().covers(&position));
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    let each = begin.elapsed() / u32::try_from(EACH).unwrap();
    println!("note_write, 2 threads at once, with parsing: {each:?}");
    assert!(each < Duration::from_micros(100), "{each:?}");
}

/// A small file system; unmounted when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir.path());
        mount.status().is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// With its disk full a replica does not answer `SHOW ALL SLAVES STATUS`, and all else it does.
#[tokio::test]
async fn a_replica_with_a_full_disk_falls_behind_but_is_not_down() {
    let Some(disk) = Mount::new("2m") else {
        println!("skipped: may not mount");
        return;
    };
    let options = Options {
        replicas: 1,
        extra_args: vec![
            format!("--relay-log={}/relay", disk.0.path().display()),
            "--binlog-format=ROW".to_owned(),
        ],
        ..Options::default()
    };
    let w = watch_with(options, "[routing]\nmax_lag = \"1s\"\n").await;
    w.until("the set is known", |s| s.servers[1].takes_reads).await;
    sql(
        w.sandbox.primary(),
        "CREATE TABLE app.b (b LONGBLOB); INSERT INTO app.b VALUES (REPEAT('x', 1000000)); \
         INSERT INTO app.b VALUES (REPEAT('x', 1000000)); \
         INSERT INTO app.b VALUES (REPEAT('x', 1000000))",
    );
    w.until("it falls behind", |s| !s.servers[1].takes_reads).await;
    let far = Duration::from_secs(6);
    w.until("it falls far behind", |s| s.servers[1].lag.is_none_or(|lag| lag > far)).await;
    println!("{}", w.server(DB2).why);
    assert_eq!(w.server(DB2).role, Role::Replica);
    assert!(w.told("server_down", "db2").is_none());
    let asking = sql(w.sandbox.node(1), "SHOW PROCESSLIST").matches("SHOW ALL SLAVES").count();
    assert_eq!(asking, 1, "it is not asked again and again");
}
