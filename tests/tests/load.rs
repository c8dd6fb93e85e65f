//! Sysbench in both protocols: no error, and not one write on a replica.

#![allow(clippy::unwrap_used)]

use pointsman_tests::Site;

/// Runs one test of sysbench in both protocols. Sysbench ends with the first error it sees.
fn sysbench(test: &str) {
    let site = Site::with_replicas(2);
    let oracle = site.oracle();
    site.sysbench_prepare();
    for ps_mode in ["auto", "disable"] {
        let said = site.sysbench(test, ps_mode, 3, 8);
        let line = |name: &str| {
            let line = said.lines().find(|l| l.trim().starts_with(name)).unwrap_or_default();
            line.split_whitespace().find_map(|w| w.parse::<f64>().ok()).unwrap_or(-1.0)
        };
        assert!(line("queries:") > 0.0, "{said}");
        assert_eq!(line("reconnects:"), 0.0, "{said}");
    }
    // Transactions that write the same rows do deadlock; nothing else may go wrong.
    let errors = site.metric("pointsman_statement_errors_total", &[]);
    let deadlocks = site.metric("pointsman_statement_errors_total", &[("code", "1213")]);
    assert_eq!(errors, deadlocks, "{}", site.metrics());
    oracle.check();
}

#[test]
fn oltp_read_write() {
    sysbench("oltp_read_write");
}

#[test]
fn oltp_read_only() {
    sysbench("oltp_read_only");
}

#[test]
fn oltp_point_select() {
    sysbench("oltp_point_select");
}

#[test]
fn point_selects_are_spread_over_the_replicas() {
    let site = Site::with_replicas(2);
    site.sysbench_prepare();
    site.sandbox.wait_caught_up().unwrap();
    site.sysbench("oltp_point_select", "disable", 2, 8);
    let (one, two, primary) = (site.reads("db2"), site.reads("db3"), site.reads("db1"));
    assert!(one > 100.0 && two > 100.0, "db2 {one}, db3 {two}");
    assert!(one < two * 4.0 && two < one * 4.0, "unevenly: db2 {one}, db3 {two}");
    assert!(primary < (one + two) / 20.0, "db1 {primary}");
}
