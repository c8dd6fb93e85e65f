//! Servers die, hang, fall behind and come back; the site stays up.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pointsman_sandbox::Flavour;
use pointsman_tests::{LONG, Load, Raw, ServerError, Setup, Site, SmallDisk, wait_until};

/// Runs PHP requests while `during` does something to the site; nothing may fail or be stale.
#[track_caller]
fn under_load(site: &Site, during: impl FnOnce()) -> serde_json::Value {
    let loads: Vec<_> = (0..2).map(|_| Load::start(site).unwrap()).collect();
    // Enough requests before, for the replica to be in the midst of some.
    let before = site.reads("db2");
    wait_until("the load runs", LONG, || Ok(site.reads("db2") > before + 50.0)).unwrap();
    during();
    let after = site.reads("db1") + site.reads("db2");
    wait_until("the load goes on", LONG, || {
        Ok(site.reads("db1") + site.reads("db2") > after + 200.0)
    })
    .unwrap();
    let mut last = serde_json::Value::Null;
    for load in loads {
        last = load.stop().unwrap();
        assert_eq!(last["failed"], 0, "{last}\n{}", site.cli(&["events"]).stdout);
        assert_eq!(last["stale"], 0, "{last}");
    }
    last
}

#[test]
fn a_replica_killed_under_load_costs_no_request() {
    let site = Site::start();
    let oracle = site.oracle();
    under_load(&site, || {
        for _ in 0..3 {
            site.replica().kill9().unwrap();
            site.wait_server("db2 is down", "db2", |row| row["role"] == "down");
            site.replica().start().unwrap();
            site.wait_server("db2 takes reads again", "db2", |row| row["reads"] == true);
        }
    });
    let events = site.cli(&["events", "--json"]).json().to_string();
    assert!(events.contains("db2"), "{events}");
    site.sandbox.wait_caught_up().unwrap();
    oracle.check();
}

#[test]
fn a_replica_killed_under_sysbench_costs_no_error() {
    let site = Site::with_replicas(2);
    site.sysbench_prepare();
    site.sandbox.wait_caught_up().unwrap();
    for ps_mode in ["disable", "auto"] {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| site.sysbench("oltp_point_select", ps_mode, 4, 8));
            let before = site.reads("db2");
            wait_until("sysbench runs", LONG, || Ok(site.reads("db2") > before + 100.0)).unwrap();
            site.replica().kill9().unwrap();
            site.wait_server("db2 is down", "db2", |row| row["role"] == "down");
            let said = run.join().unwrap();
            assert!(said.contains("ignored errors:                      0 "), "{said}");
        });
        site.replica().start().unwrap();
        site.wait_replicas().unwrap();
    }
}

#[test]
fn a_replica_that_hangs_is_left_alone_until_it_answers_again() {
    let site = Site::start();
    under_load(&site, || {
        site.replica().pause().unwrap();
        site.wait_server("db2 is given up", "db2", |row| row["reads"] == false);
        let begin = Instant::now();
        let mut db = Raw::connect(site.port()).unwrap();
        assert_eq!(db.one("SELECT @@server_id").unwrap(), "1");
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "a read waited for a server known to hang"
        );
        site.replica().unpause().unwrap();
        site.wait_server("db2 takes reads again", "db2", |row| row["reads"] == true);
    });
}

#[test]
fn a_replica_that_is_stopped_or_too_far_behind_gets_no_reads_and_comes_back() {
    let site = Site::with(Setup {
        config: "workers = 2\n[routing]\nconsistency = \"eventual\"\nmax_lag = \"1s\"\n".into(),
        ..Setup::default()
    });
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    assert_eq!(db.one("SELECT @@server_id").unwrap(), "2");

    // Stopped: once there is something it has not applied.
    site.replica().client_sql("STOP SLAVE SQL_THREAD").unwrap();
    db.query("INSERT INTO t VALUES (0)").unwrap();
    site.wait_server("stopped replication is seen", "db2", |row| row["reads"] == false);
    assert_eq!(db.one("SELECT @@server_id").unwrap(), "1");
    assert!(site.metric("pointsman_reads_to_primary_total", &[("reason", "no_replica")]) > 0.0);
    db.query("INSERT INTO t VALUES (1)").unwrap();
    site.replica().client_sql("START SLAVE SQL_THREAD").unwrap();
    site.wait_server("it comes back", "db2", |row| row["reads"] == true);
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "2");

    site.replica().client_sql("STOP SLAVE IO_THREAD").unwrap();
    db.query("INSERT INTO t VALUES (0)").unwrap();
    site.wait_server("a stopped IO thread is seen", "db2", |row| row["reads"] == false);
    site.replica().client_sql("START SLAVE IO_THREAD").unwrap();
    site.wait_server("it comes back", "db2", |row| row["reads"] == true);

    // Behind, though everything runs.
    site.replica()
        .client_sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 4; START SLAVE")
        .unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = Raw::connect(site.port()).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                writer.query("INSERT INTO t VALUES (2)").unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let check = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            site.wait_server("its lag is seen", "db2", |row| {
                row["reads"] == false && row["lag_ms"].as_f64().is_some_and(|ms| ms > 1000.0)
            });
            assert_eq!(db.one("SELECT @@server_id").unwrap(), "1");
        }));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Err(panic) = check {
            std::panic::resume_unwind(panic);
        }
    });
    site.replica()
        .client_sql("STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 0; START SLAVE")
        .unwrap();
    site.wait_server("it comes back", "db2", |row| row["reads"] == true);
}

#[test]
fn reads_wait_for_no_replica_when_there_is_none() {
    let site = Site::start();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    site.replica().stop().unwrap();
    for i in 0..50 {
        assert_eq!(db.one("SELECT @@server_id").unwrap(), "1");
        db.query(&format!("INSERT INTO t VALUES ({i})")).unwrap();
        assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), (i + 1).to_string());
    }
    // New connections as well.
    assert_eq!(Raw::connect(site.port()).unwrap().one("SELECT @@server_id").unwrap(), "1");
    site.replica().start().unwrap();
    site.wait_server("it comes back", "db2", |row| row["reads"] == true);
    wait_until("reads go there again", LONG, || Ok(db.one("SELECT @@server_id")? == "2")).unwrap();
}

#[test]
fn without_a_primary_reads_go_on_and_writes_say_what_is_wrong() {
    let mut site = Site::with(Setup {
        config: "workers = 2\n[failover]\nwrite_wait = \"500ms\"\n".into(),
        ..Setup::default()
    });
    let mut db = Raw::connect(site.port()).unwrap();
    let mut idle = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    db.query("INSERT INTO t VALUES (1)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    assert_eq!(db.one("SELECT @@server_id").unwrap(), "2");
    site.primary().kill9().unwrap();
    site.wait_server("the primary's death is seen", "db1", |row| row["role"] == "down");
    assert_ne!(pointsman_tests::http_get(site.admin(), "/readyz").unwrap().0, 200);
    assert_eq!(idle.one("SELECT @@server_id").unwrap(), "2", "an idle session reads on");
    let mut fresh = Raw::connect(site.port()).unwrap();
    assert_eq!(fresh.one("SELECT COUNT(*) FROM t").unwrap(), "1", "a new one too");
    let begin = Instant::now();
    let refused = fresh.query("INSERT INTO t VALUES (2)").unwrap_err();
    println!("after {:?}: {refused}", begin.elapsed());
    let refused =
        refused.downcast::<ServerError>().expect("an error packet, not a lost connection");
    assert!(refused.message.contains("primary"), "{refused}");
    assert!(begin.elapsed() < LONG, "bounded");
    assert!(site.proxy.is_running());

    site.primary().start().unwrap();
    site.proxy.wait_ready().unwrap();
    let mut fresh = Raw::connect(site.port()).unwrap();
    fresh.query("INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(fresh.one("SELECT COUNT(*) FROM t").unwrap(), "2");
    idle.query("INSERT INTO t VALUES (4)").unwrap();
}

#[test]
fn a_transaction_that_loses_its_primary_is_repeated_whole_or_not_at_all() {
    for (config, rows) in [("", "2"), ("[failover]\nreplay_max_size = \"0B\"\n", "0")] {
        let mut site =
            Site::with(Setup { config: format!("workers = 2\n{config}"), ..Setup::default() });
        let mut db = Raw::connect(site.port()).unwrap();
        db.query("CREATE TABLE t (id INT)").unwrap();
        db.query("BEGIN").unwrap();
        db.query("INSERT INTO t VALUES (1)").unwrap();
        site.primary().kill9().unwrap();
        site.primary().start().unwrap();
        site.proxy.wait_ready().unwrap();
        // Whatever is said next in this session, it must not pass for a part of the lost transaction.
        let next = db.query("INSERT INTO t VALUES (2)");
        assert_eq!(next.is_ok(), rows != "0", "{next:?}");
        let _ = db.query("COMMIT");
        let mut other = Raw::connect(site.port()).unwrap();
        assert_eq!(other.one("SELECT COUNT(*) FROM t").unwrap(), rows);
    }
}

#[test]
fn a_second_writable_server_gets_no_writes() {
    let site = Site::with_replicas(2);
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    // Somebody detaches db3 and makes it writable.
    let stray = &site.sandbox.replicas()[1];
    stray.client_sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0").unwrap();
    site.wait_server("db3 is no replica any more", "db3", |row| row["reads"] == false);
    for i in 0..20 {
        db.query(&format!("INSERT INTO t VALUES ({i})")).unwrap();
        assert_ne!(db.one("SELECT @@server_id").unwrap(), "3");
    }
    assert_eq!(stray.client_sql("SELECT COUNT(*) FROM app.t").unwrap().trim(), "0");
    assert_eq!(site.server("db1")["role"], "primary");
}

#[test]
fn reads_in_flight_on_a_dying_replica_are_repeated_unseen() {
    let site = Site::start();
    let mut readers: Vec<_> = (0..8).map(|_| Raw::connect(site.port()).unwrap()).collect();
    for db in &mut readers {
        // Answers nothing for a while.
        db.command(3, b"SELECT COUNT(*), @@server_id FROM seq_1_to_3000000 a WHERE a.seq % 7 = 3")
            .unwrap();
    }
    wait_until("they run at the replica", LONG, || {
        let n = site.replica().client_sql(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app' AND command = 'Query'",
        )?;
        Ok(n.trim() != "0")
    })
    .unwrap();
    site.replica().kill9().unwrap();
    for db in &mut readers {
        let (rows, _) = db.result().unwrap();
        let row = pointsman_tests::lenenc_row(&rows[0]).unwrap();
        assert_eq!(row[0].as_deref(), Some("428572"));
    }
    assert!(site.metric("pointsman_reads_retried_total", &[]) >= 1.0);
}

/// What it fetches and applies waits for space: it falls behind, reads go elsewhere, and `status` says why.
/// `restart`: by then an administrator has restarted it; servers look for space once a minute.
fn full_replica(flavour: Flavour, restart: bool) {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return;
    }
    let server_args = match flavour {
        Flavour::MySql => vec!["--performance-schema=ON".to_owned()],
        _ => vec![],
    };
    let config = "workers = 2\n[routing]\nmax_lag = \"1s\"\n".into();
    let site =
        Site::with(Setup { flavour, failover: true, config, server_args, ..Setup::default() });
    site.sql("CREATE TABLE b (id INT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB)");
    site.sandbox.wait_caught_up().unwrap();
    // What it answers questions with is elsewhere.
    site.replica().configure(&[&format!("--tmpdir={}", site.sandbox.dir().display())]);
    let Some(disk) = SmallDisk::under(site.replica()).unwrap() else {
        println!("skipped: only root may mount a small disk");
        return;
    };
    site.wait_server("it is back", "db2", |row| row["reads"] == true);
    disk.fill().unwrap();
    let mut rows = 0;
    let mut write = || {
        rows += 1;
        site.sql("INSERT INTO b (b) VALUES (REPEAT('x', 2000000))");
        assert_eq!(site.sql("SELECT COUNT(*) FROM b").trim(), rows.to_string());
    };
    (0..4).for_each(|_| write());
    let told = wait_until("it is told why it is behind", LONG, || {
        write();
        // MariaDB may also give up altogether.
        let died = flavour == Flavour::MariaDb && !site.replica().is_running();
        Ok(died || site.cli(&["events"]).stdout.contains("db2's disk is full: it applies nothing"))
    });
    if let Err(error) = told {
        let db2 = site.replica();
        let list = match flavour {
            Flavour::MySql => {
                "SELECT name, processlist_state, processlist_time FROM performance_schema.threads \
                 WHERE processlist_state IS NOT NULL; \
                 SELECT * FROM performance_schema.error_log ORDER BY logged DESC LIMIT 5"
            }
            _ => "SHOW FULL PROCESSLIST",
        };
        println!("{}{}", db2.client_sql(list).unwrap(), db2.stderr_tail());
        println!("{}", site.server("db2"));
        db2.kill9().unwrap();
        panic!("{error:#}");
    }
    site.wait_server("it gets no reads", "db2", |row| row["reads"] == false);
    let why = site.server("db2")["why"].to_string();
    println!("{why}");
    assert!(why.contains("its disk is full") || !site.replica().is_running(), "{why}");
    write();
    assert_eq!(site.sql("SELECT @@server_id FROM b LIMIT 1").trim(), "1");

    disk.free().unwrap();
    if restart && site.replica().is_running() {
        site.replica().kill9().unwrap();
    }
    site.replica().start().unwrap();
    let begun = Instant::now();
    wait_until("it takes reads again", Duration::from_secs(150), || {
        Ok(site.server("db2")["reads"] == true)
    })
    .unwrap();
    println!("it took reads again {:?} after there was space", begun.elapsed());
    assert!(!site.server("db2")["why"].as_str().unwrap().contains("full"));
    assert_eq!(site.metric("pointsman_failovers_total", &[]), 0.0);
}

#[test]
fn a_replica_whose_disk_is_full_says_so() {
    full_replica(Flavour::MariaDb, true);
}

#[test]
fn a_replica_whose_disk_is_full_says_so_in_mysql() {
    full_replica(Flavour::MySql, true);
}

/// A minute or two: `cargo test -p pointsman-tests --test failures -- --ignored by_itself --nocapture`.
#[test]
#[ignore = "servers look for space once a minute"]
fn a_replica_whose_disk_was_full_goes_on_by_itself() {
    full_replica(Flavour::MariaDb, false);
    full_replica(Flavour::MySql, false);
}
