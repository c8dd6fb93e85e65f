//! A PHP site as its visitors see it.

#![allow(clippy::unwrap_used)]

use pointsman_tests::Site;

#[test]
fn a_php_page_works_and_writes_only_on_the_primary() {
    let site = Site::start();
    let oracle = site.oracle();
    let said = site.php("page.php", &[]).ok();
    assert!(said.contains("the page is done, nothing failed"), "{said}");
    assert!(said.contains("outside a transaction db2 20 times; inside one db1"), "{said}");
    oracle.check();
    let seen = oracle.seen(site.replica()).unwrap();
    assert!(seen.iter().any(|s| s.contains("FROM page")), "no page was read from the replica");
    assert_eq!(site.metric("pointsman_statement_errors_total", &[("code", "1054")]), 1.0);
    assert_eq!(site.metric("pointsman_statement_errors_total", &[("code", "1146")]), 2.0);
}

#[test]
fn what_was_written_is_read_back_on_the_same_connection() {
    read_your_writes("same");
}

#[test]
fn what_was_written_is_read_back_by_the_next_connection() {
    read_your_writes("next");
}

fn read_your_writes(mode: &str) {
    const ROUNDS: u64 = 2000;
    let site = Site::start();
    let oracle = site.oracle();
    let said = site.php("read_your_writes.php", &[&ROUNDS.to_string(), mode]).json();
    println!(
        "{mode} connection: {said}; reads at db1 {}, at db2 {}",
        site.reads("db1"),
        site.reads("db2")
    );
    assert_eq!(said["rounds"], ROUNDS);
    assert_eq!(said["stale"], 0, "{said}");
    // Every read is counted, wherever it went.
    assert!(site.reads("db1") + site.reads("db2") >= ROUNDS as f64);
    oracle.check();
}

#[test]
fn many_visitors_at_once() {
    let site = Site::with_replicas(2);
    let oracle = site.oracle();
    site.php("page.php", &["quiet"]).ok();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| site.php("page.php", &["quiet"]).ok());
        }
    });
    oracle.check();
    for replica in site.sandbox.replicas() {
        assert!(site.reads(replica.name()) > 0.0, "{} took no reads", replica.name());
    }
}
