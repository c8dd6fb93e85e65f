//! Semi-synchronous replication with both roles in every server's configuration, as sites have it who
//! want any of them to become the primary.

#![allow(clippy::unwrap_used)]

use pointsman_sandbox::Flavour;
use pointsman_tests::checker::Place;
use pointsman_tests::{LONG, wait_until};

fn place(flavour: Flavour) -> Option<Place> {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return None;
    }
    let place = Place::start(None, flavour, "", true, true).unwrap();
    place.site.primary().client_sql("CREATE TABLE app.t (id INT PRIMARY KEY)").unwrap();
    place.site.sandbox.wait_caught_up().unwrap();
    Some(place)
}

/// It would wait for a minute for the confirmation of the first transaction it applies.
fn a_replica_applies_after_its_restart(flavour: Flavour) {
    let Some(place) = place(flavour) else { return };
    let site = &place.site;
    let (primary, replica) = (site.primary(), site.sandbox.node(1));
    replica.kill9().unwrap();
    site.sql("INSERT INTO app.t VALUES (1)");
    replica.start().unwrap();
    replica.wait_applied(&primary.position().unwrap(), LONG).unwrap();
    wait_until("it is told", LONG, || {
        Ok(site.cli(&["events"]).stdout.contains("semi_sync_released"))
    })
    .unwrap();
    site.sql("INSERT INTO app.t VALUES (2)");
    replica.wait_applied(&primary.position().unwrap(), LONG).unwrap();
}

#[test]
fn a_replica_applies_after_its_restart_on_mariadb() {
    a_replica_applies_after_its_restart(Flavour::MariaDb);
}

#[test]
fn a_replica_applies_after_its_restart_on_mysql() {
    a_replica_applies_after_its_restart(Flavour::MySql);
}

/// A replica that has not applied what it received, since it waits, is the candidate.
fn such_a_replica_can_take_over(flavour: Flavour) {
    let Some(place) = place(flavour) else { return };
    let site = &place.site;
    let (old, replica) = (site.primary(), site.sandbox.node(1));
    replica.kill9().unwrap();
    site.sql("INSERT INTO app.t VALUES (1)");
    replica.start().unwrap();
    wait_until("it is known to be back", LONG, || {
        Ok(place.in_role("replica")?.iter().any(|name| name == replica.name()))
    })
    .unwrap();
    let role = replica.name();
    // Refused until it is connected to its source again.
    let done = wait_until("it is the primary", LONG, || {
        Ok(site.cli(&["switchover", "--to", role]).stdout.contains("is the primary now"))
    });
    assert!(done.is_ok(), "{}", site.cli(&["events"]).stdout);
    assert_eq!(place.primary().unwrap().name(), role);
    assert_ne!(old.name(), role);
}

#[test]
fn such_a_replica_can_take_over_on_mariadb() {
    such_a_replica_can_take_over(Flavour::MariaDb);
}

/// From its first transaction on: else that would be lost if it died, too, just then.
fn what_the_next_primary_commits_is_confirmed(flavour: Flavour) {
    let Some(place) = place(flavour) else { return };
    let site = &place.site;
    let old = site.primary();
    old.kill9().unwrap();
    for id in 0..50 {
        site.sql(&format!("INSERT INTO app.t VALUES ({id})"));
    }
    let new = place.primary().unwrap();
    assert_ne!(new.name(), old.name());
    let count = |what: &str| new.status(&format!("rpl_semi_sync_%_{what}_tx")).unwrap();
    let (confirmed, not) = (count("yes"), count("no"));
    assert!(confirmed >= 50 && not == 0, "{confirmed} confirmed, {not} not");
}

#[test]
fn what_the_next_primary_commits_is_confirmed_on_mariadb() {
    what_the_next_primary_commits_is_confirmed(Flavour::MariaDb);
}

#[test]
fn what_the_next_primary_commits_is_confirmed_on_mysql() {
    what_the_next_primary_commits_is_confirmed(Flavour::MySql);
}
