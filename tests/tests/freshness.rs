//! The short version of `cargo xtask freshness`.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pointsman_sandbox::Flavour;
use pointsman_tests::freshness::{
    Kind, delay, read_after_write, read_another_table, site, told_late,
};
use pointsman_tests::{Raw, Setup, Site, wait_until};

fn short(flavour: Flavour) {
    let place = site(flavour, "causal_timeout = \"200ms\"\n").unwrap();
    let mut on_replicas = 0;
    for kind in Kind::ALL {
        let seen = read_after_write(&place, kind, 500).unwrap();
        assert_eq!((seen.reads, seen.stale), (500, 0), "{}", kind.name());
        on_replicas += seen.on_replicas;
    }
    assert!(on_replicas >= 1800, "of 2000 reads {on_replicas} were answered by the replica");
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
