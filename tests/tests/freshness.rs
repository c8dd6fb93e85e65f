//! The short version of `cargo xtask freshness`.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pointsman_sandbox::Flavour;
use pointsman_tests::freshness::{Kind, delay, read_after_write, read_another_table, site};
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
#[test]
fn a_read_sees_what_was_written_after_the_primary_began_anew() {
    for flavour in [Flavour::MariaDb, Flavour::MySql] {
        let site = Site::with(Setup { flavour, ..Setup::default() });
        let mut db = Raw::connect(site.port()).unwrap();
        db.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY)").unwrap();
        let mut rows = 0;
        let mut write = |db: &mut Raw| {
            db.query("INSERT INTO t VALUES ()").unwrap();
            rows += 1;
            rows.to_string()
        };
        for _ in 0..100 {
            write(&mut db);
        }
        site.sandbox.wait_caught_up().unwrap();
        wait_until("the replica is read", Duration::from_secs(10), || {
            Ok(db.one("SELECT @@server_id").unwrap() == "2")
        })
        .unwrap();
        let reset = match flavour {
            Flavour::MySql => "RESET BINARY LOGS AND GTIDS",
            _ => "RESET MASTER",
        };
        site.primary().client_sql(reset).unwrap();
        for _ in 0..300 {
            let written = write(&mut db);
            assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), written, "{flavour:?}");
        }
    }
}
