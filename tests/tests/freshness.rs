//! The short version of `cargo xtask freshness`.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pointsman_sandbox::Flavour;
use pointsman_tests::freshness::{
    Kind, delay, read_after_write, read_another_table, site, told_late,
};
use pointsman_tests::{Raw, Setup, Site, wait_until};

/// What changes nothing, and what only its session sees, keeps no reads from the replica, and has nothing
/// asked of the primary.
fn costs_no_question(place: &Site) {
    let forms: [&[&str]; 2] = [
        &["BEGIN", "SELECT n FROM a FOR UPDATE", "UPDATE a SET n = n", "COMMIT"],
        &["INSERT INTO own VALUES (1)"],
    ];
    let mut db = Raw::connect(place.port()).unwrap();
    db.query("CREATE TEMPORARY TABLE own (n INT)").unwrap();
    for statements in forms {
        let asked = || place.primary().status("Questions").unwrap();
        let before = asked();
        let on_replica = (0..200).filter(|_| {
            for sql in statements {
                db.query(sql).unwrap();
            }
            db.one("SELECT @@server_id FROM b").unwrap() == "2"
        });
        let on_replica = on_replica.count();
        assert!(
            on_replica >= 180,
            "of 200 reads after {statements:?} {on_replica} were the replica's"
        );
        let (asked, sent) = (asked() - before, 200 * statements.len() as u64);
        assert!(asked < sent + 120, "{asked} questions for {sent} statements: {statements:?}");
    }
}

fn short(flavour: Flavour) {
    let place = site(flavour, "causal_timeout = \"200ms\"\n").unwrap();
    let mut on_replicas = 0;
    for kind in Kind::ALL {
        let seen = read_after_write(&place, kind, 500).unwrap();
        assert_eq!((seen.reads, seen.stale), (500, 0), "{}", kind.name());
        on_replicas += seen.on_replicas;
    }
    assert!(on_replicas >= 1800, "of 2000 reads {on_replicas} were answered by the replica");
    costs_no_question(&place);
    delay(&place).unwrap();
    for kind in Kind::ALL {
        let seen = read_after_write(&place, kind, 5).unwrap();
        assert_eq!((seen.reads, seen.stale), (5, 0), "{}", kind.name());
    }
    std::thread::sleep(Duration::from_millis(1500));
    let seen = read_another_table(&place, Duration::from_secs(1)).unwrap();
    assert!(seen.share() > 90.0, "{seen:?}: writes of one table keep reads of another away");
}

#[test]
fn a_read_sees_what_was_written_before_it() {
    short(Flavour::MariaDb);
}

#[test]
fn a_read_sees_what_was_written_before_it_on_mysql() {
    short(Flavour::MySql);
}

/// What a session does that a reply would name the GTID of, if there were one, and how that is seen.
const WRITES: [(&[&str], &str); 6] = [
    (&["UPDATE a SET n = n + 1"], "SELECT n FROM a"),
    (&["BEGIN", "UPDATE a SET n = n + 1", "COMMIT"], "SELECT n FROM a"),
    (&["SET autocommit = 0", "UPDATE a SET n = n + 1", "SET autocommit = 1"], "SELECT n FROM a"),
    (&["BEGIN", "UPDATE a SET n = n + 1", "CREATE TABLE c (id INT)"], "SELECT n FROM a"),
    (&["CREATE TABLE d AS SELECT * FROM a"], "SELECT n FROM d"),
    (&["ALTER TABLE a ADD COLUMN m INT DEFAULT 7"], "SELECT m FROM a"),
];

/// MySQL with a `gtid_mode` that gives transactions no GTIDs, whose replica replicates by file and position.
#[test]
fn a_read_sees_what_was_written_without_gtids() {
    let mut site = site(Flavour::MySql, "causal_timeout = \"200ms\"\n").unwrap();
    let set = |site: &Site, db: usize, mode: &str| {
        let sql = format!("SET GLOBAL gtid_mode = {mode}");
        site.sandbox.node(db).client_sql(&sql).unwrap();
    };
    let primary_is = |site: &Site, what: &str, words: &str| {
        site.wait_server(what, "db1", |row| row["why"].as_str().unwrap().ends_with(words));
    };
    let fresh = |site: &Site, n: u64| {
        for kind in Kind::ALL {
            let seen = read_after_write(site, kind, n).unwrap();
            assert_eq!((seen.reads, seen.stale), (n, 0), "{}", kind.name());
        }
    };
    let ask = |site: &Site, level: &str| {
        let mut db = Raw::connect(site.port()).unwrap();
        db.one(&format!("SELECT /* pointsman consistency={level} */ @@server_id FROM a")).unwrap()
    };
    (0..2).for_each(|db| set(&site, db, "ON_PERMISSIVE"));
    site.replica()
        .client_sql(
            "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_AUTO_POSITION = 0, SOURCE_DELAY = 1; \
             START REPLICA",
        )
        .unwrap();
    site.wait_replicas().unwrap();

    // Turned off under way: at the very next write, long before the next look.
    for (statements, read) in WRITES {
        let mut writer = Raw::connect(site.port()).unwrap();
        let mut other = Raw::connect(site.port()).unwrap();
        writer.query("UPDATE a SET n = 0").unwrap();
        wait_until("the replica is read", Duration::from_secs(10), || {
            Ok(other.one("SELECT @@server_id FROM a")? == "2")
        })
        .unwrap();
        set(&site, 0, "OFF_PERMISSIVE");
        for sql in statements {
            writer.query(sql).unwrap();
        }
        let want = site.primary().client_sql(&format!("USE app; {read}")).unwrap();
        for db in [&mut other, &mut writer] {
            assert_eq!(db.one(read).unwrap(), want.trim(), "{statements:?}");
        }
        primary_is(&site, "it is told", "set gtid_mode = ON on all servers");
        fresh(&site, 5);
        for level in ["session", "causal", "strong"] {
            assert_eq!(ask(&site, level), "1", "{level}");
        }
        // Turned on again: replicas may still lack what has none.
        set(&site, 0, "ON_PERMISSIVE");
        primary_is(&site, "it is told", "no replica can take over");
        assert_eq!(ask(&site, "causal"), "1");
        writer.query("UPDATE b SET n = n + 1").unwrap();
        primary_is(&site, "it is over", "replicates from nobody");
        let want = site.primary().client_sql(&format!("USE app; {read}")).unwrap();
        let by_session = format!("/* pointsman consistency=session */ {read}");
        assert_eq!(writer.one(&by_session).unwrap(), want.trim(), "{statements:?}, by session");
    }
    fresh(&site, 5);
    assert!(site.metric("pointsman_reads_to_primary_total", &[("reason", "no_gtids")]) > 0.0);

    // Off from the beginning.
    for db in [0, 1] {
        set(&site, db, "OFF_PERMISSIVE");
    }
    let same = "SELECT n FROM app.a UNION ALL SELECT n FROM app.b";
    wait_until("the replica has everything", Duration::from_secs(10), || {
        Ok(site.primary().client_sql(same)? == site.replica().client_sql(same)?)
    })
    .unwrap();
    let reset = "RESET BINARY LOGS AND GTIDS";
    site.replica().client_sql(&format!("STOP REPLICA; {reset}")).unwrap();
    site.primary().client_sql(reset).unwrap();
    for db in [0, 1] {
        set(&site, db, "OFF");
    }
    site.replica()
        .client_sql(
            "CHANGE REPLICATION SOURCE TO SOURCE_LOG_FILE = 'binlog.000001', SOURCE_LOG_POS = 4; \
             START REPLICA",
        )
        .unwrap();
    site.restart_proxy().unwrap();
    site.proxy.wait_ready().unwrap();
    fresh(&site, 20);
    site.wait_replicas().unwrap();
    fresh(&site, 20);
    assert_eq!(ask(&site, "eventual"), "2");
    let refused = site.cli(&["switchover", "--to", "db2"]);
    assert!(refused.stderr.contains("db1 have no GTIDs"), "{refused:?}");
    assert!(site.cli(&["status"]).stdout.contains("no GTIDs (gtid_mode = OFF)"));

    // Its replica may lack what was acknowledged.
    site.primary().kill9().unwrap();
    wait_until("it is told that nobody can take over", Duration::from_secs(10), || {
        Ok(site.cli(&["events"]).stdout.contains("db1 is lost and can't be replaced: transactions"))
    })
    .unwrap();
    site.primary().start().unwrap();
    site.proxy.wait_ready().unwrap();
    fresh(&site, 5);
    assert_eq!(site.replica().client_sql("SELECT @@read_only").unwrap().trim(), "1");
}

/// Nobody could lack anything, so nobody has to ask again and again.
#[test]
fn one_server_alone_needs_no_gtids() {
    let args = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"].map(str::to_owned).to_vec();
    let site = Site::with(Setup {
        flavour: Flavour::MySql,
        replicas: 0,
        server_args: args,
        ..Setup::default()
    });
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT PRIMARY KEY)").unwrap();
    let before = site.primary().status("Connections").unwrap();
    for id in 0..100 {
        db.query(&format!("INSERT INTO t VALUES ({id})")).unwrap();
        assert!(db.query(&format!("INSERT INTO t VALUES ({id})")).is_err());
        assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), (id + 1).to_string());
    }
    let made = site.primary().status("Connections").unwrap() - before;
    assert!(made < 10, "{made} connections");
    assert!(!site.cli(&["status"]).stdout.contains("gtid_mode"));
}

/// A replica that asks by GTID stops at what has none and, started again, goes on behind it.
#[test]
fn a_replica_that_was_not_sent_what_has_no_gtid_is_not_read() {
    let site = site(Flavour::MySql, "").unwrap();
    let set = |mode: &str| {
        let sql = format!("SET GLOBAL gtid_mode = {mode}");
        (0..2).for_each(|db| drop(site.sandbox.node(db).client_sql(&sql).unwrap()));
    };
    let mut db = Raw::connect(site.port()).unwrap();
    set("ON_PERMISSIVE");
    set("OFF_PERMISSIVE");
    db.query("UPDATE a SET n = 7").unwrap();
    site.wait_server("it stops", "db2", |row| row["role"] == "standalone");
    set("ON_PERMISSIVE");
    set("ON");
    site.replica().client_sql("START REPLICA").unwrap();
    site.wait_server("the look", "db1", |row| row["why"].as_str().unwrap().contains("again"));
    db.query("UPDATE b SET n = 8").unwrap();
    wait_until("it goes on", Duration::from_secs(10), || {
        Ok(site.replica().client_sql("SELECT n FROM app.b")?.trim() == "8")
    })
    .unwrap();
    assert_eq!(site.replica().client_sql("SELECT n FROM app.a").unwrap().trim(), "0");
    site.wait_server("it is told", "db2", |row| {
        row["reads"] == false
            && row["why"]
                .as_str()
                .unwrap()
                .contains("may lack what its primary wrote without GTIDs")
    });
    assert_eq!(db.one("SELECT n FROM a").unwrap(), "7");
    let refused = site.cli(&["switchover", "--to", "db2"]);
    assert!(refused.stderr.contains("may lack"), "{refused:?}");
    let refused = site.cli(&["failover", "--to", "db2"]);
    assert!(!refused.stderr.is_empty(), "{refused:?}");
}

/// The primary's positions start from the beginning, which its replica seems to have reached long ago.
/// Once the primary has come as far again, the replica goes on from there.
fn began_anew(flavour: Flavour) {
    let site = Site::with(Setup { flavour, ..Setup::default() });
    let [reset, stop, again, start] = match flavour {
        Flavour::MySql => [
            "RESET BINARY LOGS AND GTIDS",
            "STOP REPLICA",
            "RESET REPLICA; RESET BINARY LOGS AND GTIDS; SET GLOBAL super_read_only = OFF",
            "SET GLOBAL super_read_only = ON; START REPLICA",
        ],
        _ => [
            "RESET MASTER",
            "STOP SLAVE",
            "RESET MASTER; SET GLOBAL gtid_slave_pos = ''",
            "START SLAVE",
        ],
    };
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY)").unwrap();
    let mut rows = 0;
    let mut write = |db: &mut Raw, n: u32| {
        for _ in 0..n {
            db.query("INSERT INTO t VALUES ()").unwrap();
            rows += 1;
            assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), rows.to_string(), "{flavour:?}");
        }
    };
    let is_read = |what: &str| {
        let mut db = Raw::connect(site.port()).unwrap();
        wait_until(what, Duration::from_secs(10), || {
            Ok(db.one("SELECT @@server_id").unwrap() == "2")
        })
        .unwrap();
    };
    write(&mut db, 100);
    is_read("the replica is read");
    site.replica().client_sql(stop).unwrap();
    site.primary().client_sql(reset).unwrap();
    write(&mut db, 300);
    site.replica().client_sql(start).unwrap();
    let copied = || Ok(site.replica().client_sql("SELECT COUNT(*) FROM app.t")? != "100");
    wait_until("the replica goes on, with a gap", Duration::from_secs(10), copied).unwrap();
    write(&mut db, 100);
    site.wait_server("the gap is told", "db2", |row| {
        row["reads"] == false && row["why"].as_str().unwrap().contains("it has not")
    });
    let repair = format!("{stop}; {again}; SET sql_log_bin = 0; DELETE FROM app.t WHERE id > 100");
    site.replica().client_sql(&repair).unwrap();
    site.wait_server("its beginning is seen", "db2", |row| {
        row["why"].as_str().unwrap().contains("it has begun anew")
    });
    site.replica().client_sql(start).unwrap();
    is_read("the replica has begun anew, too");
    write(&mut db, 100);
}

#[test]
fn a_read_sees_what_was_written_after_the_primary_began_anew() {
    began_anew(Flavour::MariaDb);
}

#[test]
fn a_read_sees_what_was_written_after_the_primary_of_mysql_began_anew() {
    began_anew(Flavour::MySql);
}

#[test]
fn what_a_failed_statement_committed_is_told_late() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        told_late(&Site::with(Setup { flavour, ..Setup::default() }));
    }
}
