//! The short version of `cargo xtask freshness`.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pointsman_sandbox::Flavour;
use pointsman_tests::freshness::{Kind, delay, read_after_write, read_another_table, site};

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
