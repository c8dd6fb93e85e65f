//! Prepared statements go where their text belongs each time they are executed, whatever was open,
//! sent ahead or prepared before; and nothing a client sends puts replies out of step.

#![allow(clippy::unwrap_used)]

use pointsman_tests::{Raw, ServerError, Site};

const PREPARE: u8 = 0x16;
const EXECUTE: u8 = 0x17;
const LONG_DATA: u8 = 0x18;
const FETCH: u8 = 0x1c;

fn execution(id: u32, flags: u8, rest: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &[flags], &1u32.to_le_bytes(), rest].concat()
}

fn code(result: anyhow::Result<Vec<u8>>) -> u16 {
    result.unwrap_err().downcast_ref::<ServerError>().expect("a server's error").code
}

#[test]
fn long_data_and_read_only_transactions_lead_no_write_astray() {
    let site = Site::start();
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, b TEXT)").unwrap();
    db.query("CREATE PROCEDURE p(x TEXT) INSERT INTO t (b) VALUES (x)").unwrap();
    // CALL pins the session's reads, so it is only prepared before the transaction.
    let blob = [0, 1, 0xfc, 0];
    for sql in ["CALL p(?)", "INSERT INTO t (b) VALUES (?)"] {
        let mut db = Raw::connect(site.port()).unwrap();
        let (id, _, _) = db.prepare(sql).unwrap();
        db.query("START TRANSACTION READ ONLY").unwrap();
        assert_eq!(db.one("SELECT @@server_id").unwrap(), "2");
        db.command(LONG_DATA, &[&id.to_le_bytes()[..], &[0, 0], b"hello"].concat()).unwrap();
        // There is no reply to long data: the next one belongs to the next command.
        assert_eq!(db.one("SELECT 42").unwrap(), "42", "{sql}");
        db.command(EXECUTE, &execution(id, 0, &blob)).unwrap();
        assert_eq!(code(db.ok()), 1792, "{sql}");
        db.query("COMMIT").unwrap();
        db.command(LONG_DATA, &[&id.to_le_bytes()[..], &[0, 0], b"hello"].concat()).unwrap();
        db.command(EXECUTE, &execution(id, 0, &blob)).unwrap();
        db.ok().unwrap();
        assert_eq!(
            db.one("SELECT COUNT(*) FROM t WHERE b = 'hello'").unwrap(),
            if sql.starts_with('C') { "1" } else { "2" }
        );
    }
    // What administers a server ends the transaction and is the primary's, as are locks.
    for sql in ["ANALYZE TABLE t", "SELECT GET_LOCK('x', 0)", "LOCK TABLES t READ"] {
        let mut db = Raw::connect(site.port()).unwrap();
        db.query("START TRANSACTION READ ONLY").unwrap();
        assert_eq!(db.one("SELECT @@server_id").unwrap(), "2");
        db.query(sql).unwrap();
    }
    oracle.check();
}

#[test]
fn an_execution_is_as_fresh_as_any_other_read() {
    let site = Site::start();
    let mut db = Raw::connect(site.port()).unwrap();
    let mut other = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (a INT)").unwrap();
    let (id, _, _) = db.prepare("SELECT COUNT(*) FROM t").unwrap();
    for round in 0..50u64 {
        // With a cursor: the rows come with COM_STMT_FETCH.
        db.command(EXECUTE, &execution(id, 1, &[])).unwrap();
        assert_eq!(db.packet().unwrap(), [1]);
        db.packet().unwrap();
        let eof = db.packet().unwrap();
        assert_eq!(eof[3] & 0x40, 0x40, "a cursor exists: {eof:?}");
        db.command(FETCH, &[id.to_le_bytes(), 10u32.to_le_bytes()].concat()).unwrap();
        let row = db.packet().unwrap();
        assert_eq!(row[2..10], round.to_le_bytes(), "round {round}");
        db.ok().unwrap();
        other.query("INSERT INTO t VALUES (1)").unwrap();
    }
}

#[test]
fn the_last_prepared_statement_is_the_last_that_was_prepared() {
    let site = Site::start();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (a INT)").unwrap();
    let (_, _, _) = db.prepare("INSERT INTO t VALUES (1)").unwrap();
    db.command(EXECUTE, &execution(u32::MAX, 0, &[])).unwrap();
    db.ok().unwrap();
    db.command(PREPARE, b"INSERT INTO nosuch VALUES (2)").unwrap();
    assert_eq!(code(db.ok()), 1146);
    db.command(EXECUTE, &execution(u32::MAX, 0, &[])).unwrap();
    assert_eq!(code(db.ok()), 1243);
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
}

#[test]
fn commands_cut_short_are_errors_and_the_session_lives() {
    let site = Site::start();
    let mut db = Raw::connect(site.port()).unwrap();
    let (id, _, _) = db.prepare("SELECT 1").unwrap();
    for byte in [EXECUTE, FETCH, 0x1a] {
        for length in 0..4 {
            db.command(byte, &id.to_le_bytes()[..length]).unwrap();
            assert_eq!(code(db.ok()), 1243, "{byte:#x} with {length} bytes");
        }
    }
    db.command(LONG_DATA, &[1]).unwrap();
    // Two in one segment, the first without its id: the second's bytes are not the first's.
    db.send_bytes(&[1, 0, 0, 0, EXECUTE, 1, 0, 0, 0, 0x0e]).unwrap();
    db.next_reply();
    assert_eq!(code(db.ok()), 1243);
    db.next_reply();
    db.ok().unwrap();
    assert_eq!(db.one("SELECT 7").unwrap(), "7");
}

#[test]
fn a_statement_means_what_it_meant_when_it_was_prepared() {
    let site = Site::start();
    site.primary().client_sql("CREATE DATABASE app2; GRANT ALL ON app2.* TO app").unwrap();
    let mut db = Raw::connect(site.port()).unwrap();
    for schema in ["app", "app2"] {
        db.query(&format!("USE {schema}")).unwrap();
        db.query("CREATE TABLE t (a CHAR(4))").unwrap();
        db.query(&format!("INSERT INTO t VALUES ('{schema}')")).unwrap();
    }
    db.query("USE app").unwrap();
    let (id, _, _) = db.prepare("SELECT a FROM t").unwrap();
    db.query("USE app2").unwrap();
    // In a transaction it is executed on the other server, where it was never prepared.
    for begin in ["BEGIN", "START TRANSACTION READ ONLY"] {
        db.query(begin).unwrap();
        db.command(EXECUTE, &execution(id, 0, &[])).unwrap();
        let (rows, _) = db.result().unwrap();
        assert_eq!(&rows[0][3..], b"app", "{begin}");
        assert_eq!(db.one("SELECT DATABASE()").unwrap(), "app2", "{begin}");
        db.query("COMMIT").unwrap();
    }
}

#[test]
fn a_client_can_not_turn_off_what_keeps_reads_fresh() {
    let site = Site::start();
    let mut db = Raw::connect(site.port()).unwrap();
    let mut other = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (a INT)").unwrap();
    db.query("SET session_track_system_variables = 'autocommit'").unwrap();
    db.query("SET NAMES utf8mb4").unwrap();
    db.query("SET session_track_schema = 0, session_track_system_variables = ''").unwrap();
    for round in 0..200 {
        db.query("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(other.one("SELECT COUNT(*) FROM t").unwrap(), (round + 1).to_string());
    }
    // Old Connector/J does this at every login.
    db.query("SET character_set_results = NULL").unwrap();
    db.query("SELECT * FROM t LIMIT 1").unwrap();
    db.query("INSERT INTO t VALUES (2)").unwrap();
}
