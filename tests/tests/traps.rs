//! What breaks other proxies: writes that look like reads, state that comes from where nobody looks.

#![allow(clippy::unwrap_used)]

use pointsman_tests::{Raw, ServerError, Setup, Site};

fn server(db: &mut Raw) -> String {
    db.one("SELECT @@server_id").unwrap()
}

/// Runs whatever it is; results and errors don't matter, only where it went.
fn run(db: &mut Raw, sql: &str) {
    db.command(3, sql.as_bytes()).unwrap();
    while let Ok((_, more)) = db.result() {
        if !more {
            return;
        }
    }
}

#[test]
fn writes_in_disguise_reach_the_primary_only() {
    let site = Site::with(Setup {
        server_args: vec!["--log-bin-trust-function-creators=1".into()],
        ..Setup::default()
    });
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    for sql in [
        "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)",
        "CREATE SEQUENCE s",
        "CREATE FUNCTION f() RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO t (v) VALUES (99); RETURN 1; END",
        "CREATE PROCEDURE p() INSERT INTO t (v) VALUES (98)",
        "CREATE VIEW w AS SELECT f() AS x",
    ] {
        db.query(sql).unwrap();
    }
    site.sandbox.wait_caught_up().unwrap();
    for sql in [
        "SELECT f()",
        "SELECT app.f()",
        "SELECT `f`()",
        "SELECT 1 + f() FROM t",
        "SELECT * FROM w",
        "SELECT NEXTVAL(s)",
        "SELECT NEXT VALUE FOR s",
        "SELECT s.nextval",
        "SELECT SETVAL(s, 50)",
        "(SELECT * FROM t) FOR UPDATE",
        "SELECT * FROM t\nFOR\nUPDATE",
        "SELECT * FROM t /*!50000 FOR UPDATE */",
        "SELECT * FROM t /*M!100000 FOR UPDATE */",
        "SELECT * FROM t LOCK IN SHARE MODE",
        "SELECT * FROM (SELECT * FROM t FOR UPDATE) x",
        "/*!INSERT INTO t (v) VALUES (1)*/",
        "/*! INSERT*/ INTO t (v) VALUES (2)",
        "SELECT 1; INSERT INTO t (v) VALUES (3)",
        ";INSERT INTO t (v) VALUES (4)",
        "-- a comment\nINSERT INTO t (v) VALUES (5)",
        "# a comment\nINSERT INTO t (v) VALUES (6)",
        "ANALYZE UPDATE t SET v = 7 WHERE id = 1",
        "ANALYZE FORMAT=JSON DELETE FROM t WHERE id = 2",
        "EXPLAIN SELECT f()",
        "SET STATEMENT max_statement_time = 5 FOR INSERT INTO t (v) VALUES (8)",
        "DO f()",
        "CALL p()",
        "BEGIN NOT ATOMIC INSERT INTO t (v) VALUES (9); END",
        "EXECUTE IMMEDIATE 'INSERT INTO t (v) VALUES (10)'",
        "EXECUTE IMMEDIATE CONCAT('INSERT INTO t (v)', ' VALUES (11)')",
        "SELECT * FROM t INTO OUTFILE '/nonexistent/x'",
        "SELECT @x := (SELECT COUNT(*) FROM t)",
        "HANDLER t OPEN",
        "HANDLER t READ FIRST",
        "HANDLER t CLOSE",
        "CHECK TABLE t",
        "OPTIMIZE TABLE t",
        "ANALYZE TABLE t",
        "REPLACE t (id, v) SELECT 1, 12",
        "CREATE TABLE IF NOT EXISTS u SELECT * FROM t",
        "INSERT INTO t (v) VALUES (13) RETURNING id",
        "DELETE FROM t WHERE id = 3 RETURNING id",
        "SELECT GET_LOCK('x', 0)",
        "SELECT RELEASE_ALL_LOCKS()",
        "VALUES (f())",
        "WITH c AS (SELECT f()) SELECT * FROM c",
        "TRUNCATE u",
        "RENAME TABLE u TO u2",
        "FLUSH TABLES",
    ] {
        run(&mut db, sql);
        if let Ok(n) = db.one("SELECT COUNT(*) FROM t") {
            let direct = site.primary().client_sql("SELECT COUNT(*) FROM app.t").unwrap();
            assert_eq!(n, direct.trim(), "after {sql}");
        }
    }
    oracle.check();
}

#[test]
fn transactions_begun_where_the_text_does_not_show_it() {
    let site = Site::start();
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    db.query("CREATE PROCEDURE begins() START TRANSACTION").unwrap();
    db.query("CREATE PROCEDURE off() SET autocommit = 0").unwrap();
    for (begin, end) in [
        ("CALL begins()", "ROLLBACK"),
        ("EXECUTE IMMEDIATE 'START TRANSACTION'", "ROLLBACK"),
        ("CALL off()", "ROLLBACK; SET autocommit = 1"),
        ("BEGIN NOT ATOMIC START TRANSACTION; END", "ROLLBACK"),
        ("XA START 'x'", "XA END 'x'; XA ROLLBACK 'x'"),
    ] {
        let mut db = Raw::connect(site.port()).unwrap();
        run(&mut db, begin);
        run(&mut db, "INSERT INTO t VALUES (1)");
        assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1", "{begin}");
        assert_eq!(server(&mut db), "1", "{begin}");
        run(&mut db, end);
        assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "0", "{begin}: {end}");
    }
    // Characteristics of the next transaction only.
    db.query("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").unwrap();
    db.query("BEGIN").unwrap();
    db.query("INSERT INTO t VALUES (2)").unwrap();
    db.query("ROLLBACK").unwrap();
    db.query("SET SESSION TRANSACTION READ ONLY").unwrap();
    let refused = db.query("INSERT INTO t VALUES (3)").unwrap_err();
    assert_eq!(refused.downcast::<ServerError>().unwrap().code, 1792);
    db.query("SET SESSION TRANSACTION READ WRITE").unwrap();
    db.query("INSERT INTO t VALUES (4)").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
    oracle.check();
}

#[test]
fn servers_that_begin_with_autocommit_off() {
    let site = Site::with(Setup { server_args: vec!["--autocommit=0".into()], ..Setup::default() });
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    db.query("INSERT INTO t VALUES (1)").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
    db.query("ROLLBACK").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "0");
    db.query("INSERT INTO t VALUES (1)").unwrap();
    db.query("COMMIT").unwrap();
    db.query("SET autocommit = 1").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    assert_eq!(server(&mut db), "2");
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
}

#[test]
fn the_last_prepared_statement_goes_by_the_id_minus_one() {
    let site = Site::start();
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    // MariaDB: prepare and execute sent together, before the id is known.
    for (sql, rows) in
        [("SELECT @@server_id", 1), ("INSERT INTO t VALUES (1)", 0), ("SELECT id FROM t", 1)]
    {
        let (_, columns, _) = db.prepare(sql).unwrap();
        let mut execute = u32::MAX.to_le_bytes().to_vec();
        execute.extend_from_slice(&[0, 1, 0, 0, 0]);
        db.command(0x17, &execute).unwrap();
        let (got, _) = db.result().unwrap_or_else(|e| panic!("{sql} ({columns} columns): {e:#}"));
        assert_eq!(got.len(), rows, "{sql}");
    }
    oracle.check();
}

#[test]
fn statements_with_ever_new_texts_are_answered_in_bounded_memory() {
    let site = Site::with(Setup {
        config: "workers = 1\n[limits]\nstatement_cache = 100\n".into(),
        ..Setup::default()
    });
    let mut db = Raw::connect(site.port()).unwrap();
    for i in 0..3000 {
        let sql = format!("SELECT {i} AS a{i}, 'x' AS b{}", i % 7);
        assert_eq!(db.one(&sql).unwrap(), i.to_string());
    }
    let rows = site.cli(&["statements", "--json"]).json();
    assert!(rows.as_array().unwrap().len() < 1000, "the cache is bounded");
}

/// The witness itself: what all other tests rely on.
#[test]
fn a_write_on_a_replica_would_be_seen() {
    for sql in ["INSERT INTO t VALUES (1)", "SELECT * FROM t FOR UPDATE", "BEGIN"] {
        let site = Site::start();
        Raw::connect(site.port()).unwrap().query("CREATE TABLE t (id INT)").unwrap();
        site.sandbox.wait_caught_up().unwrap();
        let oracle = site.oracle();
        Raw::connect(site.replica().port()).unwrap().query(sql).unwrap();
        let check = std::panic::AssertUnwindSafe(|| oracle.check());
        let seen = std::panic::catch_unwind(check).unwrap_err();
        let message = seen.downcast_ref::<String>().unwrap();
        assert!(message.contains(sql), "{message}");
    }
}
