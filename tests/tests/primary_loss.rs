//! The primary dies, or is replaced: what the sessions notice of it.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pointsman_tests::{LONG, Raw, ServerError, Setup, Site, wait_until};

/// A site whose writes wait for a primary for `write_wait`.
fn site(write_wait: &str) -> Site {
    Site::with(Setup {
        config: format!("workers = 2\n[failover]\nwrite_wait = \"{write_wait}\"\n"),
        ..Setup::default()
    })
}

fn filled(site: &Site) -> Raw {
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100))").unwrap();
    db.query("INSERT INTO t (v) VALUES ('first')").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    db
}

/// Makes the replica the primary.
fn promote(site: &Site) {
    site.replica().client_sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = 0").unwrap();
    site.wait_server("db2 is the primary", "db2", |row| row["role"] == "primary");
}

fn code(error: anyhow::Error) -> u16 {
    error.downcast::<ServerError>().expect("an error packet, not a lost connection").code
}

/// COM_STMT_EXECUTE's argument with one parameter, a text.
fn execute(id: u32, text: &str) -> Vec<u8> {
    let mut out = id.to_le_bytes().to_vec();
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 1, 0xfd, 0]);
    out.push(u8::try_from(text.len()).unwrap());
    out.extend_from_slice(text.as_bytes());
    out
}

#[test]
fn writes_wait_for_the_next_primary_and_idle_sessions_notice_nothing() {
    let site = site("20s");
    let mut idle = filled(&site);
    let mut db = Raw::connect(site.port()).unwrap();
    site.primary().kill9().unwrap();
    std::thread::scope(|scope| {
        let early = scope.spawn(|| db.query("INSERT INTO t (v) VALUES ('early')").map(|_| db));
        // A login asks nothing of the primary; the first write does.
        let login = scope.spawn(|| {
            let mut db = Raw::connect(site.port())?;
            db.query("INSERT INTO t (v) VALUES ('new')").map(|_| db)
        });
        wait_until("both wait", LONG, || {
            Ok(site.metric("pointsman_statements_waiting", &[]) >= 2.0)
        })
        .unwrap();
        promote(&site);
        early.join().unwrap().unwrap();
        login.join().unwrap().unwrap();
    });
    idle.query("INSERT INTO t (v) VALUES ('idle')").unwrap();
    assert_eq!(idle.one("SELECT COUNT(*) FROM t").unwrap(), "4");
    assert_eq!(site.metric("pointsman_statements_waiting", &[]), 0.0);
}

#[test]
fn the_wait_is_bounded_and_counted_from_the_loss() {
    let site = site("2s");
    let mut db = filled(&site);
    site.primary().kill9().unwrap();
    let begin = Instant::now();
    assert_eq!(code(db.query("INSERT INTO t (v) VALUES ('x')").unwrap_err()), 1290);
    assert!(begin.elapsed() >= Duration::from_millis(1500), "{:?}", begin.elapsed());
    assert!(begin.elapsed() < LONG);
    // It has been away for long by now: nobody waits any more, and reads go on.
    let begin = Instant::now();
    assert_eq!(code(db.query("INSERT INTO t (v) VALUES ('x')").unwrap_err()), 1290);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
    site.primary().start().unwrap();
    site.wait_server("db1 is back", "db1", |row| row["role"] == "primary");
    db.query("INSERT INTO t (v) VALUES ('x')").unwrap();
}

#[test]
fn an_open_transaction_goes_on_on_the_next_primary() {
    let site = site("20s");
    drop(filled(&site));
    let mut db = Raw::connect(site.port()).unwrap();
    let mut closes = Raw::connect(site.port()).unwrap();
    let mut sets = Raw::connect(site.port()).unwrap();
    let mut manual = Raw::connect(site.port()).unwrap();

    db.query("BEGIN").unwrap();
    db.query("INSERT INTO t (v) VALUES ('text 1')").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "2");

    // Prepared, and closed again before the transaction ends, as PDO does it.
    closes.query("START TRANSACTION").unwrap();
    let (insert, ..) = closes.prepare("INSERT INTO t (v) VALUES (?)").unwrap();
    closes.command(0x17, &execute(insert, "bound 1")).unwrap();
    closes.ok().unwrap();
    closes.command(0x19, &insert.to_le_bytes()).unwrap();

    // What is set in the transaction counts from there on, and not before.
    sets.query("SET NAMES utf8mb4").unwrap();
    sets.query("BEGIN").unwrap();
    sets.query("INSERT INTO t (v) VALUES (CONCAT('a', @@sql_mode = 'ANSI_QUOTES'))").unwrap();
    sets.query("SET SESSION sql_mode = 'ANSI_QUOTES'").unwrap();
    sets.query("INSERT INTO t (v) VALUES (CONCAT('b', @@sql_mode = 'ANSI_QUOTES'))").unwrap();

    manual.query("SET autocommit = 0").unwrap();
    manual.query("INSERT INTO t (v) VALUES ('manual 1')").unwrap();

    site.primary().kill9().unwrap();
    promote(&site);

    db.query("INSERT INTO t (v) VALUES ('text 2')").unwrap();
    assert_eq!(db.one("SELECT @@server_id").unwrap(), "2");
    db.query("COMMIT").unwrap();
    let (insert, ..) = closes.prepare("INSERT INTO t (v) VALUES (?)").unwrap();
    closes.command(0x17, &execute(insert, "bound 2")).unwrap();
    closes.ok().unwrap();
    closes.query("COMMIT").unwrap();
    assert_eq!(sets.one("SELECT @@sql_mode").unwrap(), "ANSI_QUOTES");
    sets.query("COMMIT").unwrap();
    // Idle when it was lost: its COMMIT is the first to notice.
    manual.query("COMMIT").unwrap();

    let rows = site.replica().client_sql("SELECT v FROM app.t ORDER BY v").unwrap();
    let rows: Vec<_> = rows.lines().collect();
    let wanted = ["a0", "b1", "bound 1", "bound 2", "first", "manual 1", "text 1", "text 2"];
    assert_eq!(rows, wanted);
    // The keys that clients were told of are the ones that count.
    let keys = site
        .replica()
        .client_sql("SELECT id FROM app.t WHERE v IN ('text 1', 'bound 1') ORDER BY v");
    assert_eq!(keys.unwrap().lines().collect::<Vec<_>>(), ["3", "2"]);
    let done = site.metric("pointsman_transactions_replayed_total", &[("outcome", "done")]);
    assert_eq!(done, 4.0);
}

#[test]
fn a_transaction_that_would_be_answered_otherwise_may_be_restarted() {
    let site = site("20s");
    let mut db = filled(&site);
    db.query("BEGIN").unwrap();
    assert_eq!(db.one("SELECT @@server_id").unwrap(), "1");
    db.query("INSERT INTO t (v) VALUES ('lost')").unwrap();
    site.primary().kill9().unwrap();
    promote(&site);
    assert_eq!(code(db.query("INSERT INTO t (v) VALUES ('lost too')").unwrap_err()), 1213);
    // As after a deadlock: the session lives, and the transaction can be begun again.
    db.query("BEGIN").unwrap();
    db.query("INSERT INTO t (v) VALUES ('kept')").unwrap();
    db.query("COMMIT").unwrap();
    let rows = site.replica().client_sql("SELECT v FROM app.t ORDER BY id").unwrap();
    assert_eq!(rows.lines().collect::<Vec<_>>(), ["first", "kept"]);
    let label = [("outcome", "differs")];
    assert_eq!(site.metric("pointsman_transactions_replayed_total", &label), 1.0);
}

#[test]
fn what_can_not_be_repeated_is_not() {
    let site = site("20s");
    let mut db = filled(&site);
    db.query("CREATE PROCEDURE p() INSERT INTO t (v) VALUES ('by p')").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    let begin = |with: &str| {
        let mut db = Raw::connect(site.port()).unwrap();
        db.query("BEGIN").unwrap();
        db.query("INSERT INTO t (v) VALUES ('x')").unwrap();
        db.query(with).unwrap();
        db
    };
    let mut lost = [
        begin("CALL p()"),
        begin("DO GET_LOCK('l', 1)"),
        begin("PREPARE s FROM 'SELECT 1'"),
        begin(&format!("INSERT INTO t (v) SELECT LEFT('{}', 10)", "y".repeat(2 << 20))),
    ];
    site.primary().kill9().unwrap();
    promote(&site);
    for db in &mut lost {
        let error = db.query("INSERT INTO t (v) VALUES ('half')").unwrap_err();
        assert_eq!(code(error), 1213);
        let _ = db.query("COMMIT");
    }
    assert_eq!(site.replica().client_sql("SELECT COUNT(*) FROM app.t").unwrap().trim(), "1");
}

#[test]
fn a_primary_that_becomes_read_only_is_waited_for_or_left() {
    let site = site("20s");
    let mut db = filled(&site);
    let mut open = Raw::connect(site.port()).unwrap();
    open.query("BEGIN").unwrap();
    open.query("INSERT INTO t VALUES (100, 'open 1')").unwrap();
    // The account is none that may write all the same.
    site.primary().client_sql("SET GLOBAL read_only = 1").unwrap();
    std::thread::scope(|scope| {
        let wait = scope.spawn(|| db.query("INSERT INTO t (v) VALUES ('waited')").map(|_| db));
        wait_until(
            "it waits",
            LONG,
            || Ok(site.metric("pointsman_statements_waiting", &[]) >= 1.0),
        )
        .unwrap();
        promote(&site);
        wait.join().unwrap().unwrap();
    });
    open.query("INSERT INTO t (v) VALUES ('open 2')").unwrap();
    open.query("COMMIT").unwrap();
    let rows = site.replica().client_sql("SELECT v FROM app.t ORDER BY v").unwrap();
    assert_eq!(rows.lines().collect::<Vec<_>>(), ["first", "open 1", "open 2", "waited"]);
    assert_eq!(site.primary().client_sql("SELECT COUNT(*) FROM app.t").unwrap().trim(), "1");
}
