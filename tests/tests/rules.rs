//! `[[rule]]`: what the operator says of some statements.

#![allow(clippy::unwrap_used)]

use pointsman_tests::{APP_PASSWORD, APP_USER, Raw, Setup, Site, caps};

const RULES: &str = r#"
[routing]
max_lag = "1h"
causal_timeout = "20ms"
[[user]]
name = "app"
password = "app-secret"
[[rule]]
name = "no-sleep"
match = '\bSLEEP\('
refuse = "SLEEP() is not for this site"
[[rule]]
name = "logs"
match = 'from log\b'
consistency = "eventual"
[[rule]]
name = "not-mine"
user = ["cron", "root"]
primary = true
[[rule]]
name = "carts"
user = "app"
match = 'from carts'
primary = true
"#;

#[test]
fn each_does_what_it_says_and_no_write_leaves_the_primary() {
    let site = Site::with(Setup { config: RULES.into(), ..Setup::default() });
    let login = || Raw::login(site.port(), APP_USER, APP_PASSWORD, Some("app"), caps()).unwrap();
    let mut db = login();
    for table in ["log", "carts", "goods"] {
        db.query(&format!("CREATE TABLE {table} (id INT PRIMARY KEY)")).unwrap();
    }
    site.sandbox.wait_caught_up().unwrap();
    let server = |db: &mut Raw, rest: &str| db.one(&format!("SELECT @@server_id {rest}")).unwrap();
    assert_eq!(server(&mut db, "FROM (SELECT 1) one"), "2");
    assert_eq!(db.query("SELECT * FROM carts").unwrap().len(), 0);

    // From here on the replica has nothing new.
    site.replica().client_sql("STOP SLAVE SQL_THREAD").unwrap();
    for table in ["log", "carts", "goods"] {
        db.query(&format!("INSERT INTO {table} VALUES (1)")).unwrap();
    }
    let rows =
        |db: &mut Raw, table: &str| db.query(&format!("SELECT * FROM {table}")).unwrap().len();
    assert_eq!(rows(&mut db, "log"), 0, "it may be stale, and the replica has it");
    assert_eq!(rows(&mut db, "log /* pointsman consistency=causal */"), 1, "a comment is nearer");
    assert_eq!(rows(&mut db, "goods"), 1);
    db.query("START TRANSACTION").unwrap();
    assert_eq!(rows(&mut db, "log"), 1, "transactions stay together");
    db.query("UPDATE log SET id = 2 WHERE id IN (SELECT id FROM (SELECT * FROM log) l)").unwrap();
    db.query("COMMIT").unwrap();
    assert_eq!(site.primary().client_sql("SELECT id FROM app.log").unwrap().trim(), "2");

    let refused = |error: anyhow::Error| {
        let error = format!("{error:#}");
        assert!(error.contains("1148") && error.contains("not for this site"), "{error}");
    };
    refused(db.query("SELECT SLEEP(0)").unwrap_err());
    refused(db.prepare("DO SLEEP(?)").unwrap_err());
    assert_eq!(db.one("SELECT 'SLEEP(0)'").unwrap(), "SLEEP(0)", "a text is not code");

    // Reads of the carts are kept to the primary even when the replica has all.
    site.replica().client_sql("START SLAVE SQL_THREAD").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    let before = site.metric("pointsman_reads_to_primary_total", &[("reason", "rule")]);
    assert_eq!(server(&mut db, "FROM carts"), "1");
    let after = site.metric("pointsman_reads_to_primary_total", &[("reason", "rule")]);
    assert_eq!(after - before, 1.0);
    assert_eq!(site.metric("pointsman_rule_statements_total", &[("rule", "no-sleep")]), 2.0);
    assert_eq!(site.metric("pointsman_rule_statements_total", &[("rule", "not-mine")]), 0.0);
}
