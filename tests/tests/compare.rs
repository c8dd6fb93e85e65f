//! Everything a client can see is as on a direct connection; see `tests/compare`.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use anyhow::Result;
use pointsman_sandbox::{Flavour, newer_mariadb};
use pointsman_tests::compare::{Case, Comparison, Report, Variant, directory, load};

/// Two halves at a time, each before servers of its own: mostly they wait.
#[track_caller]
fn compare(flavour: Flavour, mariadb: Option<PathBuf>, variant: Variant) {
    let cases = load(&directory()).unwrap_or_else(|error| panic!("{error:#}"));
    let tell = |cases: &[Case]| -> Result<Option<Report>> {
        Comparison::start(flavour, mariadb.clone(), variant)?
            .map(|servers| servers.run(cases))
            .transpose()
    };
    let (first, second) = cases.split_at(cases.len() / 2);
    let reports = std::thread::scope(|scope| {
        let other = scope.spawn(|| tell(second));
        [tell(first), other.join().unwrap()]
    });
    for report in reports {
        let Some(report) = report.unwrap_or_else(|error| panic!("{error:#}")) else { return };
        assert!(report.differences.is_empty(), "{report}");
        println!("{report}");
    }
}

#[test]
fn mariadb_with_an_old_client() {
    compare(Flavour::MariaDb, None, Variant::Old);
}

#[test]
fn mariadb_with_a_new_client() {
    compare(Flavour::MariaDb, None, Variant::New);
}

/// It reports changes of a session's variables otherwise, resets connections otherwise, and says more
/// at logins.
#[test]
fn a_newer_mariadb_with_a_new_client() {
    let Some(root) = newer_mariadb() else { return println!("skipped: no newer MariaDB here") };
    compare(Flavour::MariaDb, Some(root), Variant::New);
}

#[test]
fn mysql_with_an_old_client() {
    compare(Flavour::MySql, None, Variant::Old);
}

#[test]
fn mysql_with_a_new_client() {
    compare(Flavour::MySql, None, Variant::New);
}
