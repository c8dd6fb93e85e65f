//! Everything a client can see is as on a direct connection; see `tests/compare`.

#![allow(clippy::unwrap_used)]

use pointsman_sandbox::Flavour;
use pointsman_tests::compare::{Comparison, Variant, directory, load};

#[track_caller]
fn compare(flavour: Flavour, variant: Variant) {
    let cases = load(&directory()).unwrap_or_else(|error| panic!("{error:#}"));
    let Some(comparison) = Comparison::start(flavour, variant).unwrap() else { return };
    let report = comparison.run(&cases).unwrap_or_else(|error| panic!("{error:#}"));
    assert!(report.differences.is_empty(), "{report}");
    println!("{report}");
}

#[test]
fn mariadb_with_an_old_client() {
    compare(Flavour::MariaDb, Variant::Old);
}

#[test]
fn mariadb_with_a_new_client() {
    compare(Flavour::MariaDb, Variant::New);
}

#[test]
fn mysql_with_an_old_client() {
    compare(Flavour::MySql, Variant::Old);
}

#[test]
fn mysql_with_a_new_client() {
    compare(Flavour::MySql, Variant::New);
}
