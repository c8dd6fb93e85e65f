//! What clients may ask for beside what they asked: reports of progress (MariaDB), results without
//! definitions (MySQL).

#![allow(clippy::unwrap_used)]

use pointsman_sandbox::Flavour;
use pointsman_tests::{
    APP_PASSWORD, APP_USER, LONG, Raw, ServerError, Setup, Site, caps, wait_until,
};
use pointsman_wire::{Capabilities, ErrPacket};

fn progress_caps() -> Capabilities {
    (caps() - Capabilities::LONG_PASSWORD) | Capabilities::MARIADB_PROGRESS
}

const PROGRESS: &[u8] = b"\xff\xff\xff\x01";

/// How many come before the end.
fn reports(db: &mut Raw) -> usize {
    let mut reports = 0;
    loop {
        let packet = db.packet().unwrap();
        match packet.first() {
            Some(0) => return reports,
            _ => assert!(packet.starts_with(PROGRESS), "{packet:?}"),
        }
        reports += 1;
    }
}

#[test]
fn progress_is_reported_to_those_who_asked() {
    let site = Site::start();
    let login = |caps| Raw::login(site.port(), APP_USER, APP_PASSWORD, Some("app"), caps).unwrap();
    let mut db = login(progress_caps());
    assert!(db.caps().contains(Capabilities::MARIADB_PROGRESS));
    db.query("CREATE TABLE t (id INT PRIMARY KEY)").unwrap();
    db.query("INSERT INTO t VALUES (1), (2)").unwrap();
    for _ in 0..2 {
        db.command(3, b"ALTER TABLE t FORCE, ALGORITHM=COPY").unwrap();
        assert!(reports(&mut db) > 0);
    }
    // And not to others, whose connections were perhaps made for those.
    drop(db);
    for caps in [caps(), progress_caps(), caps()] {
        let mut db = login(caps);
        db.command(3, b"ALTER TABLE t FORCE, ALGORITHM=COPY").unwrap();
        let wanted = caps.contains(Capabilities::MARIADB_PROGRESS);
        assert_eq!(reports(&mut db) > 0, wanted, "{caps:?}");
    }
}

#[test]
fn what_has_reported_progress_is_not_sent_again() {
    let site = Site::with(Setup { failover: true, ..Setup::default() });
    let primary = site.primary();
    let login =
        |port| Raw::login(port, APP_USER, APP_PASSWORD, Some("app"), progress_caps()).unwrap();
    let mut db = login(site.port());
    db.query("CREATE TABLE t (id INT PRIMARY KEY)").unwrap();
    db.query("INSERT INTO t VALUES (1)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    // The new table can't take the old one's place while that is read.
    let mut reader = login(primary.port());
    reader.query("BEGIN").unwrap();
    reader.query("SELECT * FROM t").unwrap();
    db.command(3, b"ALTER TABLE t ADD COLUMN n INT, ALGORITHM=COPY").unwrap();
    assert!(db.packet().unwrap().starts_with(PROGRESS));
    primary.kill9().unwrap();
    // With the next sequence id, as Raw sees to.
    let lost = db.packet().unwrap();
    let lost = ErrPacket::parse(&lost).unwrap();
    assert_eq!(lost.code, 2013);
    let message = String::from_utf8_lossy(lost.message);
    assert!(message.contains("PM2005"), "{message}");
    wait_until("another is the primary", LONG, || {
        Ok(Raw::connect(site.port())
            .and_then(|mut db| db.query("INSERT INTO t VALUES (2)"))
            .is_ok())
    })
    .unwrap();
    let mut db = login(site.port());
    assert_eq!(db.query("SHOW COLUMNS FROM t").unwrap().len(), 1);
}

#[test]
fn definitions_are_left_out_for_those_who_asked() {
    if Flavour::MySql.check().is_err() {
        return;
    }
    let site = Site::with(Setup { flavour: Flavour::MySql, ..Setup::default() });
    let oracle = site.oracle();
    let wants = caps() | Capabilities::OPTIONAL_RESULTSET_METADATA;
    let login = |caps| Raw::login(site.port(), APP_USER, APP_PASSWORD, Some("app"), caps).unwrap();
    let replica = site.replica().server_id().to_string();
    let primary = site.primary().server_id().to_string();
    site.primary().client_sql("CREATE TABLE app.t (id INT AUTO_INCREMENT PRIMARY KEY)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    site.wait_replicas().unwrap();
    // A read may go to the primary where the replica is slow to have what was written.
    let mut readers = std::collections::BTreeSet::new();
    for round in 0..10 {
        for caps in [wants, wants | Capabilities::DEPRECATE_EOF] {
            let mut db = login(caps);
            assert!(db.caps().contains(Capabilities::OPTIONAL_RESULTSET_METADATA));
            let answer = |db: &mut Raw| {
                db.command(3, b"SELECT @@server_id, 7").unwrap();
                db.packet().unwrap()
            };
            let first = |db: &mut Raw, wanted: &[u8]| {
                assert_eq!(answer(db), wanted, "round {round}");
                let eof = usize::from(!caps.contains(Capabilities::DEPRECATE_EOF));
                let definitions = if wanted[1] == 1 { 2 } else { 0 };
                for _ in 0..definitions + eof {
                    db.packet().unwrap();
                }
                let row = db.packet().unwrap();
                db.packet().unwrap();
                String::from_utf8(row[1..row.len() - 2].to_vec()).unwrap()
            };
            // Whoever had the connections before: a new session's results have definitions.
            readers.insert(("defined", first(&mut db, &[2, 1])));
            db.query("SET resultset_metadata = NONE").unwrap();
            readers.insert(("left out", first(&mut db, &[2, 0])));
            let (id, ..) = db.prepare("SELECT @@server_id, ?").unwrap();
            let mut execute = id.to_le_bytes().to_vec();
            execute.extend_from_slice(&[0, 1, 0, 0, 0, 0, 1, 3, 0, 7, 0, 0, 0]);
            let executed = |db: &mut Raw| {
                db.command(0x17, &execute).unwrap();
                let (rows, _) = db.result().unwrap();
                u64::from(rows[0][2]).to_string()
            };
            readers.insert(("executed", executed(&mut db)));
            db.query("INSERT INTO t VALUES ()").unwrap();
            db.query("BEGIN").unwrap();
            assert_eq!(first(&mut db, &[2, 0]), primary);
            assert_eq!(executed(&mut db), primary);
            db.query("COMMIT").unwrap();
            first(&mut db, &[2, 0]);
        }
        let mut other = login(caps());
        let refused = other.query("SET resultset_metadata = NONE").unwrap_err();
        assert_eq!(refused.downcast::<ServerError>().unwrap().code, 3640);
        assert_eq!(other.one("SELECT @@session.resultset_metadata").unwrap(), "FULL");
    }
    for how in ["defined", "left out", "executed"] {
        assert!(readers.contains(&(how, replica.clone())), "{how}: {readers:?}");
    }
    oracle.check();
}
