//! Everything a client can see is as on a direct connection; see `tests/compare`.

#![allow(clippy::unwrap_used)]

use anyhow::Result;
use pointsman_sandbox::Flavour;
use pointsman_tests::compare::{Case, Comparison, Report, Variant, directory, load};

/// Two halves at a time, each before servers of its own: mostly they wait.
#[track_caller]
fn compare(flavour: Flavour, variant: Variant) {
    let cases = load(&directory()).unwrap_or_else(|error| panic!("{error:#}"));
    let tell = |cases: &[Case]| -> Result<Option<Report>> {
        Comparison::start(flavour, variant)?.map(|servers| servers.run(cases)).transpose()
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
