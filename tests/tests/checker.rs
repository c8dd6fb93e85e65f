//! The consistency checker: clients with books, faults at random. A short round each; longer ones, or
//! one particular seed: `cargo xtask checker --seconds N --seed S`.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pointsman_sandbox::Flavour;
use pointsman_tests::checker::{Place, Round, Story};

#[track_caller]
fn run(flavour: Flavour, story: Story) {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return;
    }
    let seed = u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    println!("seed {seed}");
    let round = Round { flavour, story, seed, time: Duration::from_secs(6) };
    let verdict = Place::found(move |network| round.run(network)).unwrap().unwrap();
    println!("{verdict:#?}");
    if let Some(why) = round.is_wrong(&verdict) {
        panic!("seed {seed}: {why}");
    }
}

#[test]
fn replicas_die_hang_and_fall_behind() {
    run(Flavour::MariaDb, Story::Replicas);
}

#[test]
fn replicas_die_hang_and_fall_behind_in_mysql() {
    run(Flavour::MySql, Story::Replicas);
}

#[test]
fn few_connections_are_shared_by_sessions_in_trouble() {
    run(Flavour::MariaDb, Story::Pool);
}

/// The checker's own test: without causal reads it must find stale ones.
#[test]
fn the_checker_sees_what_is_wrong() {
    run(Flavour::MariaDb, Story::Control);
}

#[test]
fn primaries_die_hang_and_are_cut_off() {
    run(Flavour::MariaDb, Story::Primaries);
}

#[test]
fn primaries_are_changed_on_purpose() {
    run(Flavour::MariaDb, Story::Switchovers);
}

#[test]
fn everything_happens() {
    run(Flavour::MariaDb, Story::Everything);
}

#[test]
fn everything_happens_to_mysql() {
    run(Flavour::MySql, Story::Everything);
}
