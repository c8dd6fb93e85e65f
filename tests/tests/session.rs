//! A session behaves as on one server, whichever servers its statements go to.

#![allow(clippy::unwrap_used)]

use pointsman_sandbox::Flavour;
use pointsman_tests::{APP_PASSWORD, APP_USER, Raw, ServerError, Setup, Site, caps};

const REPLICA: &str = "2";
const PRIMARY: &str = "1";

/// A site whose reads wait for the replica, however long its disk is busy: where they go is the session's
/// doing then, not the load's.
fn site() -> Site {
    let config = "workers = 2\n[routing]\nmax_lag = \"1h\"\ncausal_timeout = \"1m\"\n".into();
    Site::with(Setup { config, ..Setup::default() })
}

fn table(site: &Site) -> Raw {
    let mut db = Raw::connect(site.port()).unwrap();
    db.query(
        "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(100)) CHARACTER SET utf8mb4",
    )
    .unwrap();
    db
}

/// Where an ordinary read goes now.
fn server(db: &mut Raw) -> String {
    db.one("SELECT @@server_id").unwrap()
}

fn code(error: anyhow::Error) -> u16 {
    error.downcast::<ServerError>().unwrap().code
}

#[test]
fn a_transaction_is_whole_and_stays_at_the_primary() {
    let site = site();
    let oracle = site.oracle();
    let mut db = table(&site);
    assert_eq!(server(&mut db), REPLICA);
    for begin in
        ["BEGIN", "START TRANSACTION", "START TRANSACTION READ WRITE", "/* x */ begin work"]
    {
        db.query(begin).unwrap();
        assert_eq!(server(&mut db), PRIMARY, "{begin}");
        db.query("INSERT INTO t (v) VALUES ('a')").unwrap();
        assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1", "{begin}");
        db.query("SAVEPOINT s").unwrap();
        db.query("INSERT INTO t (v) VALUES ('b')").unwrap();
        db.query("ROLLBACK TO SAVEPOINT s").unwrap();
        assert_eq!(server(&mut db), PRIMARY, "{begin}, after ROLLBACK TO SAVEPOINT");
        assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1", "{begin}");
        db.query("ROLLBACK").unwrap();
        assert_eq!(server(&mut db), REPLICA, "{begin}, after ROLLBACK");
        assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "0", "{begin}");
    }
    // COMMIT AND CHAIN begins the next one at once; DDL commits.
    db.query("BEGIN").unwrap();
    db.query("COMMIT AND CHAIN").unwrap();
    assert_eq!(server(&mut db), PRIMARY);
    db.query("CREATE TABLE u (id INT)").unwrap();
    assert_eq!(server(&mut db), REPLICA);
    // Several statements at once leave a transaction open.
    db.command(3, b"SELECT 1; BEGIN; SELECT 2").unwrap();
    while db.result().unwrap().1 {}
    assert_eq!(server(&mut db), PRIMARY);
    db.query("COMMIT").unwrap();
    assert_eq!(server(&mut db), REPLICA);
    oracle.check();
}

#[test]
fn autocommit_off_keeps_everything_at_the_primary_until_it_is_on_again() {
    let site = site();
    let oracle = site.oracle();
    let mut db = table(&site);
    for (off, on) in [
        ("SET autocommit=0", "SET autocommit=1"),
        ("SET @@session.autocommit = OFF", "SET SESSION autocommit = DEFAULT"),
        ("SET NAMES utf8mb4, autocommit = 0", "SET autocommit = ON"),
    ] {
        db.query(off).unwrap();
        assert_eq!(server(&mut db), PRIMARY, "{off}");
        db.query("INSERT INTO t (v) VALUES ('x')").unwrap();
        db.query("ROLLBACK").unwrap();
        assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "0");
        db.query("COMMIT").unwrap();
        assert_eq!(server(&mut db), PRIMARY, "{off}, after COMMIT");
        db.query("COMMIT").unwrap();
        db.query(on).unwrap();
        assert_eq!(server(&mut db), REPLICA, "{on}");
    }
    // Through a prepared statement of text, where only the server's flags tell.
    db.query("PREPARE p FROM 'SET autocommit=0'").unwrap();
    db.query("EXECUTE p").unwrap();
    db.query("INSERT INTO t (v) VALUES ('x')").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
    assert_eq!(server(&mut db), PRIMARY);
    db.query("ROLLBACK").unwrap();
    oracle.check();
}

#[test]
fn a_read_only_transaction_runs_whole_on_a_replica() {
    let site = site();
    let oracle = site.oracle();
    let mut db = table(&site);
    db.query("INSERT INTO t (v) VALUES ('before')").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    db.query("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
    assert_eq!(server(&mut db), REPLICA);
    let mut other = Raw::connect(site.port()).unwrap();
    other.query("INSERT INTO t (v) VALUES ('meanwhile')").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1", "one snapshot");
    let refused = db.query("INSERT INTO t (v) VALUES ('never')").unwrap_err();
    assert_eq!(code(refused), 1792, "as a server refuses it");
    db.query("COMMIT").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "2");
    oracle.check();
}

#[test]
fn session_variables_go_with_the_session() {
    let site = site();
    let oracle = site.oracle();
    let mut db = table(&site);
    db.query("INSERT INTO t (v) VALUES ('Zug')").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    // (change, question, answer), asked of the replica, then of the primary.
    let cases = [
        ("SET NAMES latin1", "@@character_set_client", "latin1"),
        ("SET NAMES utf8mb4 COLLATE utf8mb4_bin", "@@collation_connection", "utf8mb4_bin"),
        (
            "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'",
            "@@sql_mode",
            "ANSI_QUOTES,NO_BACKSLASH_ESCAPES",
        ),
        ("SET time_zone = '+05:00'", "@@time_zone", "+05:00"),
        ("SET foreign_key_checks = 0", "@@foreign_key_checks", "0"),
        ("SET SESSION group_concat_max_len = 4242", "@@group_concat_max_len", "4242"),
        ("SET @@session.max_join_size = 12345", "@@max_join_size", "12345"),
        ("SET lc_time_names = 'de_DE'", "@@lc_time_names", "de_DE"),
        (
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "@@tx_isolation",
            "READ-COMMITTED",
        ),
        ("SET time_zone = '+01:00', foreign_key_checks = 1", "@@time_zone", "+01:00"),
        ("SET time_zone = DEFAULT", "@@time_zone", "SYSTEM"),
    ];
    for (change, question, answer) in cases {
        db.query(change).unwrap();
        let ask = format!("SELECT {question}, @@server_id");
        let read = db.query(&ask).unwrap();
        assert_eq!(read[0][0].as_deref(), Some(answer), "{change}");
        db.query("BEGIN").unwrap();
        let write = db.query(&ask).unwrap();
        assert_eq!(write[0][0].as_deref(), Some(answer), "{change}, at the primary");
        assert_eq!(write[0][1].as_deref(), Some(PRIMARY));
        db.query("COMMIT").unwrap();
    }
    // Sixty changes, one after another: the last wins.
    for n in 0..60 {
        db.query(&format!("SET group_concat_max_len = {}", 5000 + n)).unwrap();
    }
    assert_eq!(db.one("SELECT @@group_concat_max_len").unwrap(), "5059");
    // A mode that changes how statements are read is honoured by the proxy as well.
    db.query("SET sql_mode = 'ANSI_QUOTES'").unwrap();
    assert_eq!(db.one("SELECT \"v\" FROM \"t\"").unwrap(), "Zug");
    // Another session starts afresh, even on a connection to a server that was used before.
    drop(db);
    let mut next = Raw::connect(site.port()).unwrap();
    assert_eq!(next.one("SELECT @@group_concat_max_len").unwrap(), "1048576");
    assert_eq!(next.one("SELECT @@foreign_key_checks").unwrap(), "1");
    oracle.check();
}

#[test]
fn the_schema_goes_with_the_session() {
    let site = site();
    site.primary()
        .client_sql(
            "CREATE DATABASE b; GRANT ALL ON b.* TO 'app'@'%'; CREATE TABLE b.only_here (id INT)",
        )
        .unwrap();
    site.sandbox.wait_caught_up().unwrap();
    let mut db = Raw::connect(site.port()).unwrap();
    assert_eq!(db.one("SELECT DATABASE()").unwrap(), "app");
    db.query("USE b").unwrap();
    assert_eq!(db.one("SELECT DATABASE()").unwrap(), "b");
    assert_eq!(db.one("SELECT COUNT(*) FROM only_here").unwrap(), "0");
    db.query("INSERT INTO only_here VALUES (1)").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM only_here").unwrap(), "1");
    // COM_INIT_DB
    db.command(2, b"app").unwrap();
    db.ok().unwrap();
    assert_eq!(db.one("SELECT DATABASE()").unwrap(), "app");
    db.command(2, b"nothing").unwrap();
    assert_eq!(code(db.ok().unwrap_err()), 1044);
    assert_eq!(db.one("SELECT DATABASE()").unwrap(), "app");
}

#[test]
fn temporary_tables_are_found_where_they_live() {
    let site = site();
    let oracle = site.oracle();
    let mut db = table(&site);
    db.query("CREATE TEMPORARY TABLE temp (id INT)").unwrap();
    db.query("INSERT INTO temp VALUES (1), (2)").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM temp").unwrap(), "2");
    assert_eq!(db.one("SELECT COUNT(*) FROM temp JOIN t ON t.id = temp.id").unwrap(), "0");
    // One that hides a real table.
    db.query("INSERT INTO t (v) VALUES ('real')").unwrap();
    db.query("CREATE TEMPORARY TABLE t (v INT)").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "0");
    db.query("DROP TEMPORARY TABLE t").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
    db.query("CREATE OR REPLACE TEMPORARY TABLE temp AS SELECT 7 AS id").unwrap();
    assert_eq!(db.one("SELECT id FROM temp").unwrap(), "7");
    db.query("DROP TABLE temp").unwrap();
    assert_eq!(code(db.query("SELECT * FROM temp").unwrap_err()), 1146);
    // Made by a procedure, which the text does not show.
    db.query("CREATE PROCEDURE make() BEGIN CREATE TEMPORARY TABLE hidden (id INT); INSERT INTO hidden VALUES (5); END").unwrap();
    db.query("CALL make()").unwrap();
    assert_eq!(db.one("SELECT id FROM hidden").unwrap(), "5");
    oracle.check();
}

#[test]
fn user_variables_are_seen_wherever_they_were_set() {
    let site = site();
    let oracle = site.oracle();
    let mut db = table(&site);
    db.query("SET @a = 42").unwrap();
    assert_eq!(db.one("SELECT @a").unwrap(), "42");
    db.query("SELECT @b := 7").unwrap();
    assert_eq!(db.one("SELECT @b + 1").unwrap(), "8");
    db.query("INSERT INTO t (v) VALUES (@c := 'in')").unwrap();
    assert_eq!(db.one("SELECT v FROM t WHERE v = @c").unwrap(), "in");
    db.query("SELECT COUNT(*) FROM t INTO @n").unwrap();
    assert_eq!(db.one("SELECT @n").unwrap(), "1");
    db.query("CREATE PROCEDURE setit() SET @p = 'from a procedure'").unwrap();
    db.query("CALL setit()").unwrap();
    assert_eq!(db.one("SELECT @p").unwrap(), "from a procedure");
    // Reads that name none may leave the primary in between.
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
    assert_eq!(db.one("SELECT @a").unwrap(), "42");
    oracle.check();
}

#[test]
fn locks_hold_until_they_are_released() {
    let site = site();
    let oracle = site.oracle();
    let mut db = table(&site);
    db.query("LOCK TABLES t WRITE").unwrap();
    db.query("INSERT INTO t (v) VALUES ('locked')").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
    assert_eq!(server(&mut db), PRIMARY);
    assert_eq!(code(db.query("SELECT * FROM mysql_is_not_locked").unwrap_err()), 1100);
    db.query("UNLOCK TABLES").unwrap();
    assert_eq!(server(&mut db), REPLICA);

    assert_eq!(db.one("SELECT GET_LOCK('deploy', 1)").unwrap(), "1");
    let mut other = Raw::connect(site.port()).unwrap();
    assert_eq!(other.one("SELECT GET_LOCK('deploy', 0)").unwrap(), "0", "held by the other");
    assert_eq!(other.one("SELECT IS_FREE_LOCK('deploy')").unwrap(), "0");
    let me = db.greeting.connection_id.to_string();
    assert_eq!(db.one("SELECT CONNECTION_ID()").unwrap(), me);
    assert_eq!(db.one("SELECT RELEASE_LOCK('deploy')").unwrap(), "1");
    assert_eq!(other.one("SELECT GET_LOCK('deploy', 0)").unwrap(), "1");
    // Ended by the end of the session.
    drop(other);
    assert_eq!(db.one("SELECT GET_LOCK('deploy', 10)").unwrap(), "1");

    // Rows locked in a transaction are locked for others.
    db.query("BEGIN").unwrap();
    db.query("SELECT * FROM t FOR UPDATE").unwrap();
    let mut third = Raw::connect(site.port()).unwrap();
    assert_eq!(code(third.query("SELECT * FROM t FOR UPDATE NOWAIT").unwrap_err()), 1205);
    db.query("COMMIT").unwrap();
    oracle.check();
}

#[test]
fn what_asks_about_the_last_statement_is_answered_by_its_server() {
    let site = site();
    let oracle = site.oracle();
    let mut db = table(&site);
    db.query("INSERT INTO t (v) VALUES ('a'), ('b'), ('c')").unwrap();
    assert_eq!(db.one("SELECT ROW_COUNT()").unwrap(), "3");
    assert_eq!(db.one("SELECT LAST_INSERT_ID()").unwrap(), "1");
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "3");
    assert_eq!(db.one("SELECT LAST_INSERT_ID()").unwrap(), "1", "also after a read elsewhere");
    assert_eq!(db.one("SELECT @@last_insert_id").unwrap(), "1");
    assert_eq!(db.one("SELECT @@identity").unwrap(), "1");
    db.query("INSERT INTO t (v) VALUES ('d')").unwrap();
    assert_eq!(db.one("SELECT LAST_INSERT_ID()").unwrap(), "4");
    assert_eq!(db.one("SELECT v FROM t WHERE id = LAST_INSERT_ID()").unwrap(), "d");

    db.query("SELECT SQL_CALC_FOUND_ROWS * FROM t LIMIT 1").unwrap();
    assert_eq!(db.one("SELECT FOUND_ROWS()").unwrap(), "4");

    db.query("SELECT 1/0").unwrap();
    assert!(db.query("SHOW WARNINGS").unwrap()[0][2].as_deref().unwrap().contains("Division by 0"));
    db.query("SELECT 1/0").unwrap();
    assert_eq!(db.one("SELECT @@warning_count").unwrap(), "1");
    db.query("SELECT nothing FROM t").unwrap_err();
    assert_eq!(db.query("SHOW ERRORS").unwrap()[0][1].as_deref(), Some("1054"));
    db.query("DROP TABLE IF EXISTS never_was").unwrap();
    assert_eq!(db.query("SHOW WARNINGS").unwrap()[0][1].as_deref(), Some("1051"));
    db.query("UPDATE t SET v = 'z' WHERE id < 3").unwrap();
    assert_eq!(db.one("SELECT ROW_COUNT()").unwrap(), "2");
    oracle.check();
}

#[test]
fn an_insert_is_followed_at_once_by_every_kind_of_read() {
    let site = site();
    let oracle = site.oracle();
    let mut db = table(&site);
    let mut other = Raw::connect(site.port()).unwrap();
    db.query("CREATE VIEW view_of_t AS SELECT * FROM t").unwrap();
    for round in 1..=50 {
        db.query(&format!("INSERT INTO t (v) VALUES ('round {round}')")).unwrap();
        let n = round.to_string();
        for sql in [
            "SELECT COUNT(*) FROM t",
            "SELECT COUNT(*) FROM app.t AS x WHERE x.id > 0",
            "SELECT COUNT(*) FROM view_of_t",
            "SELECT n FROM (SELECT COUNT(*) AS n FROM t) AS derived",
            "WITH c AS (SELECT * FROM t) SELECT COUNT(*) FROM c",
            "SELECT COUNT(*) FROM (SELECT id FROM t UNION SELECT id FROM t) AS u",
        ] {
            assert_eq!(other.one(sql).unwrap(), n, "{sql}");
        }
    }
    // A new table is there at once, and one that was dropped is gone.
    for _ in 0..10 {
        db.query("CREATE TABLE fresh (id INT)").unwrap();
        other.query("SELECT * FROM fresh").unwrap();
        db.query("ALTER TABLE fresh ADD more INT").unwrap();
        other.query("SELECT more FROM fresh").unwrap();
        db.query("DROP TABLE fresh").unwrap();
        assert_eq!(code(other.query("SELECT * FROM fresh").unwrap_err()), 1146);
    }
    oracle.check();
}

/// What the replica lacks yet is there for whoever asks for it by name.
#[test]
fn a_new_database_and_a_new_role_are_there_at_once() {
    for (flavour, word) in [(Flavour::MariaDb, "SLAVE"), (Flavour::MySql, "REPLICA")] {
        let site = Site::with(Setup {
            // The account with its password, so that clients need no TLS to prove it.
            config: "[routing]\nmax_lag = \"1h\"\n[[user]]\nname = \"app\"\n\
                     password = \"app-secret\"\n"
                .into(),
            flavour,
            ..Setup::default()
        });
        let mut db = Raw::connect(site.port()).unwrap();
        let mut earlier = Raw::connect(site.port()).unwrap();
        db.query("CREATE TABLE was (id INT)").unwrap();
        site.sandbox.wait_caught_up().unwrap();
        // Both have a connection to the replica, and one more stays in the pool.
        assert_eq!(earlier.one("SELECT COUNT(*) FROM was").unwrap(), "0");
        drop(Raw::connect(site.port()).unwrap());
        site.replica().client_sql(&format!("STOP {word} SQL_THREAD")).unwrap();
        let make = format!(
            "CREATE DATABASE fresh; CREATE TABLE fresh.t (id INT); CREATE ROLE fresh; \
             GRANT ALL ON fresh.* TO {APP_USER}; GRANT fresh TO {APP_USER}"
        );
        site.primary().client_sql(&make).unwrap();
        for _ in 0..3 {
            let mut new =
                Raw::login(site.port(), APP_USER, APP_PASSWORD, Some("fresh"), caps()).unwrap();
            assert_eq!(new.one("SELECT COUNT(*) FROM t").unwrap(), "0", "{flavour:?}");
        }
        earlier.command(0x02, b"fresh").unwrap();
        earlier.ok().unwrap();
        assert_eq!(earlier.one("SELECT DATABASE()").unwrap(), "fresh");
        earlier.query("USE app").unwrap();
        assert_eq!(earlier.one("SELECT COUNT(*) FROM was").unwrap(), "0");
        earlier.query("USE fresh").unwrap();
        earlier.query("SET ROLE fresh").unwrap();
        assert_eq!(code(earlier.query("USE never_was").unwrap_err()), 1044);
        assert_eq!(earlier.one("SELECT COUNT(*) FROM t").unwrap(), "0", "the session lives on");
    }
}
