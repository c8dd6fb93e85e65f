//! Prepared statements: prepared once for the client, executed wherever each execution belongs.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use mysql_async::prelude::Queryable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pointsman_tests::{
    APP_PASSWORD, APP_USER, LONG, Node, Raw, ServerError, Setup, Site, wait_until,
};

/// COM_STMT_EXECUTE's argument with parameters of type BIGINT.
fn execute(id: u32, flags: u8, params: &[i64]) -> Vec<u8> {
    let mut out = id.to_le_bytes().to_vec();
    out.push(flags);
    out.extend_from_slice(&1_u32.to_le_bytes());
    if !params.is_empty() {
        out.extend(std::iter::repeat_n(0, params.len().div_ceil(8)));
        out.push(1);
        params.iter().for_each(|_| out.extend_from_slice(&[8, 0]));
        params.iter().for_each(|p| out.extend_from_slice(&p.to_le_bytes()));
    }
    out
}

/// The only column, a number of up to 8 bytes, of a row of the binary protocol.
fn number(row: &[u8]) -> i64 {
    assert_eq!(row[0], 0, "a row of the binary protocol");
    let mut bytes = [0; 8];
    let value = &row[2..];
    bytes[..value.len().min(8)].copy_from_slice(&value[..value.len().min(8)]);
    i64::from_le_bytes(bytes)
}

fn filled(site: &Site, rows: u32) -> Raw {
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT)").unwrap();
    if rows > 0 {
        let values = vec!["('x')"; rows as usize].join(",");
        db.query(&format!("INSERT INTO t (v) VALUES {values}")).unwrap();
    }
    site.sandbox.wait_caught_up().unwrap();
    db
}

#[test]
fn a_statement_of_the_binary_protocol_runs_on_whichever_server_it_should() {
    let site = Site::start();
    let oracle = site.oracle();
    let mut db = filled(&site, 3);
    let (which, columns, params) = db.prepare("SELECT @@server_id + ?").unwrap();
    assert_eq!((columns, params), (1, 1));
    let (count, ..) = db.prepare("SELECT COUNT(*) FROM t WHERE id > ?").unwrap();
    let (insert, ..) = db.prepare("INSERT INTO t (v) VALUES (?)").unwrap();
    let run = |db: &mut Raw, id, params: &[i64]| -> Vec<Vec<u8>> {
        db.command(0x17, &execute(id, 0, params)).unwrap();
        db.result().unwrap().0
    };
    for round in 0..20 {
        assert_eq!(number(&run(&mut db, which, &[0])[0]), 2, "a read, at the replica");
        run(&mut db, insert, &[round]);
        assert_eq!(number(&run(&mut db, count, &[0])[0]), 4 + round, "read back at once");
        db.query("BEGIN").unwrap();
        assert_eq!(number(&run(&mut db, which, &[0])[0]), 1, "in a transaction, at the primary");
        run(&mut db, insert, &[round]);
        assert_eq!(number(&run(&mut db, count, &[0])[0]), 5 + round);
        db.query("ROLLBACK").unwrap();
    }
    // Types sent once count for later executions, on another server as well.
    let mut bare = execute(which, 0, &[100]);
    let tail = bare.len() - 8;
    bare.drain(10 + 1..tail); // without the types
    bare[10] = 0; // "as before"
    // null bitmap (1 byte) stays at index 9
    db.query("BEGIN").unwrap();
    db.command(0x17, &bare).unwrap();
    assert_eq!(number(&db.result().unwrap().0[0]), 101);
    db.query("COMMIT").unwrap();
    db.command(0x17, &bare).unwrap();
    assert_eq!(number(&db.result().unwrap().0[0]), 102);
    // COM_STMT_RESET, COM_STMT_CLOSE, and what comes after.
    db.command(0x1a, &which.to_le_bytes()).unwrap();
    db.ok().unwrap();
    db.command(0x19, &which.to_le_bytes()).unwrap();
    db.command(0x17, &execute(which, 0, &[0])).unwrap();
    let gone = db.result().unwrap_err().downcast::<ServerError>().unwrap();
    assert_eq!(gone.code, 1243, "{gone}");
    assert_eq!(number(&run(&mut db, count, &[0])[0]), 23);
    oracle.check();
}

#[test]
fn a_replaced_replica_or_a_changed_table_needs_no_new_prepare() {
    let site = Site::with_replicas(2);
    let mut db = filled(&site, 2);
    let (all, ..) = db.prepare("SELECT COUNT(*) FROM t WHERE id > ?").unwrap();
    let check = |db: &mut Raw, wanted| {
        db.command(0x17, &execute(all, 0, &[0])).unwrap();
        assert_eq!(number(&db.result().unwrap().0[0]), wanted);
    };
    check(&mut db, 2);
    for replica in site.sandbox.replicas() {
        replica.kill9().unwrap();
        check(&mut db, 2);
        check(&mut db, 2);
        replica.start().unwrap();
        site.wait_replicas().unwrap();
        check(&mut db, 2);
    }
    db.query("ALTER TABLE t ADD other INT").unwrap();
    check(&mut db, 2);
    let (star, ..) = db.prepare("SELECT * FROM t").unwrap();
    db.query("ALTER TABLE t ADD third INT").unwrap();
    db.command(0x17, &execute(star, 0, &[])).unwrap();
    assert_eq!(db.result().unwrap().0.len(), 2);
}

#[test]
fn long_data_reaches_the_server_that_executes() {
    let site = Site::start();
    let oracle = site.oracle();
    let mut db = filled(&site, 0);
    let (insert, ..) = db.prepare("INSERT INTO t (v) VALUES (?)").unwrap();
    let (length, ..) = db.prepare("SELECT LENGTH(?)").unwrap();
    for id in [insert, length] {
        for piece in ["a".repeat(1 << 20), "b".repeat(100_000)] {
            let mut data = id.to_le_bytes().to_vec();
            data.extend_from_slice(&[0, 0]);
            data.extend_from_slice(piece.as_bytes());
            db.command(0x18, &data).unwrap();
        }
        // One parameter of type BLOB, whose value was sent before.
        let mut run = id.to_le_bytes().to_vec();
        run.push(0);
        run.extend_from_slice(&1_u32.to_le_bytes());
        run.extend_from_slice(&[0, 1, 0xfc, 0]);
        db.command(0x17, &run).unwrap();
        let (rows, _) = db.result().unwrap();
        if id == length {
            assert_eq!(number(&rows[0]), (1 << 20) + 100_000);
        }
    }
    assert_eq!(db.one("SELECT LENGTH(v) FROM t").unwrap(), ((1 << 20) + 100_000).to_string());
    oracle.check();
}

#[test]
fn a_cursor_is_fetched_from_the_server_that_opened_it() {
    let site = Site::start();
    let mut db = filled(&site, 100);
    let (all, ..) = db.prepare("SELECT id FROM t WHERE id > ? ORDER BY id").unwrap();
    db.command(0x17, &execute(all, 1, &[0])).unwrap();
    // Definitions, EOF with the flag that a cursor exists, and no rows.
    assert_eq!(db.packet().unwrap(), [1]);
    db.packet().unwrap();
    let eof = db.packet().unwrap();
    assert_eq!((eof[0], eof[3] & 0x40), (0xfe, 0x40), "a cursor exists: {eof:?}");
    let mut got = 0;
    loop {
        // Other statements in between, elsewhere too.
        if got == 30 {
            db.query("INSERT INTO t (v) VALUES ('later')").unwrap();
            db.query("SELECT COUNT(*) FROM t").unwrap();
        }
        let mut fetch = all.to_le_bytes().to_vec();
        fetch.extend_from_slice(&10_u32.to_le_bytes());
        db.command(0x1c, &fetch).unwrap();
        let last = loop {
            let packet = db.packet().unwrap();
            if packet[0] == 0xfe && packet.len() == 5 {
                break packet[3] & 0x80 != 0;
            }
            got += 1;
            assert_eq!(number(&packet), got);
        };
        if last {
            break;
        }
    }
    assert_eq!(got, 100);
}

#[test]
fn statements_prepared_as_text_have_the_class_of_what_they_prepare() {
    let site = Site::start();
    let oracle = site.oracle();
    let mut db = filled(&site, 1);
    db.query("PREPARE w FROM 'INSERT INTO t (v) VALUES (?)'").unwrap();
    db.query("SET @v = 'text'").unwrap();
    db.query("EXECUTE w USING @v").unwrap();
    db.query("PREPARE r FROM 'SELECT COUNT(*) FROM t'").unwrap();
    assert_eq!(db.one("EXECUTE r").unwrap(), "2");
    db.query("EXECUTE IMMEDIATE 'INSERT INTO t (v) VALUES (1)'").unwrap();
    assert_eq!(db.one("EXECUTE r").unwrap(), "3");
    db.query("DEALLOCATE PREPARE r").unwrap();
    let gone = db.query("EXECUTE r").unwrap_err().downcast::<ServerError>().unwrap();
    assert_eq!(gone.code, 1243);
    oracle.check();
}

#[test]
fn thousands_of_statements_leave_none_behind_on_the_servers() {
    let site = Site::start();
    let mut db = filled(&site, 1);
    for i in 0..3000 {
        let (id, ..) = db.prepare(&format!("SELECT {i} + ? FROM t")).unwrap();
        db.command(0x17, &execute(id, 0, &[1])).unwrap();
        assert_eq!(number(&db.result().unwrap().0[0]), i64::from(i) + 1);
        db.command(0x19, &id.to_le_bytes()).unwrap();
    }
    for node in site.sandbox.nodes() {
        let open = node.status("Prepared_stmt_count").unwrap();
        assert!(open < 100, "{open} prepared statements on {}", node.name());
    }
    // Nor does a client that closes nothing.
    for i in 0..200 {
        db.prepare(&format!("SELECT {i} + ? FROM t")).unwrap();
    }
    drop(db);
    for node in site.sandbox.nodes() {
        wait_until("statements are closed", LONG, || Ok(node.status("Prepared_stmt_count")? < 100))
            .unwrap();
    }
}

#[test]
fn more_statements_than_the_servers_have_room_for() {
    let site = Site::start();
    let mut db = filled(&site, 1);
    site.sandbox.wait_caught_up().unwrap();
    const ROOM: u64 = 60;
    // The monitor has statements of its own.
    let open = |node: &Node| node.status("Prepared_stmt_count").unwrap();
    let before: Vec<_> = site.sandbox.nodes().iter().map(open).collect();
    for node in site.sandbox.nodes() {
        node.client_sql(&format!("SET GLOBAL max_prepared_stmt_count = {ROOM}")).unwrap();
    }
    let check = |when: &str| {
        for node in site.sandbox.nodes() {
            let open = node.status("Prepared_stmt_count").unwrap();
            assert!(open <= ROOM, "{open} prepared statements on {} {when}", node.name());
        }
    };
    let run = |db: &mut Raw, id: u32, want: i64| {
        db.command(0x17, &execute(id, 0, &[1])).unwrap();
        assert_eq!(number(&db.result().unwrap().0[0]), want + 1);
    };
    // Ten thousand on one connection, each of which can be executed at any time.
    let ids: Vec<u32> =
        (0..10_000).map(|i| db.prepare(&format!("SELECT {i} + ? FROM t")).unwrap().0).collect();
    check("after ten thousand were prepared");
    for i in (0..10_000).step_by(37).chain([0, 1, 9_999]) {
        run(&mut db, ids[i], i as i64);
    }
    // On the primary as well.
    db.query("BEGIN").unwrap();
    for i in (0..10_000).step_by(97) {
        run(&mut db, ids[i], i as i64);
    }
    db.query("COMMIT").unwrap();
    check("after executions on both servers");
    drop(db);
    for (node, before) in site.sandbox.nodes().iter().zip(before) {
        wait_until("statements are closed", LONG, || {
            Ok(node.status("Prepared_stmt_count")? <= before)
        })
        .unwrap();
    }
}

/// Ten thousand clients over a hundred connections to each server, which have room for two statements on
/// each: `cargo test --release -p pointsman-tests --test prepared -- --ignored --nocapture`
#[test]
#[ignore = "wants 10,000 open files in each of two processes, and half a minute"]
fn one_statement_each_on_ten_thousand_connections() {
    one_statement_each(10_000);
}

#[test]
fn one_statement_each_on_a_thousand_connections() {
    one_statement_each(1000);
}

fn one_statement_each(clients: usize) {
    const ROOM: u64 = 200;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(hard as usize > clients + 1000, "the limit on open files is {hard}");
    let site = Site::with(Setup {
        config: "workers = 2\n[pool]\nmax_connections = 100\nwait_timeout = \"30s\"\n".into(),
        server_args: vec![
            "--max-connections=500".into(),
            format!("--max-prepared-stmt-count={ROOM}"),
        ],
        ..Setup::default()
    });
    filled(&site, 1);
    site.sandbox.wait_caught_up().unwrap();
    let open = |node: &Node| node.status("Prepared_stmt_count").unwrap();
    let before: Vec<_> = site.sandbox.nodes().iter().map(open).collect();
    let begin = Instant::now();
    let mut all: Vec<_> = (0..clients)
        .map(|i| {
            let mut db = Raw::connect(site.port()).unwrap();
            let (id, ..) = db.prepare(&format!("SELECT {i} + ? FROM t")).unwrap();
            (db, id)
        })
        .collect();
    println!("{clients} clients have a statement each after {:?}", begin.elapsed());
    for round in 0..2 {
        let mut most = 0;
        for (i, (db, id)) in all.iter_mut().enumerate() {
            db.command(0x17, &execute(*id, 0, &[1])).unwrap();
            assert_eq!(number(&db.result().unwrap().0[0]), i as i64 + 1);
            if i % 500 == 0 {
                most = site.sandbox.nodes().iter().map(open).max().unwrap().max(most);
            }
        }
        println!("round {round}: {:?}, {most} statements on a server", begin.elapsed());
        assert!(most <= ROOM, "{most}");
    }
    drop(all);
    for (node, before) in site.sandbox.nodes().iter().zip(before) {
        wait_until("statements are closed", LONG, || {
            Ok(node.status("Prepared_stmt_count")? <= before)
        })
        .unwrap();
    }
}

#[tokio::test]
async fn mysql_async_works_in_both_protocols() {
    let site = Site::start();
    let oracle = site.oracle();
    // By default it would ask for the unix socket of the server and go there, past the proxy.
    let url = format!(
        "mysql://{APP_USER}:{APP_PASSWORD}@127.0.0.1:{}/app?prefer_socket=false",
        site.port()
    );
    let pool = mysql_async::Pool::new(url.as_str());
    let mut db = pool.get_conn().await.unwrap();
    db.query_drop("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(50), b BLOB)")
        .await
        .unwrap();
    let blob: Vec<u8> = (0..=255).collect();
    for i in 0..50_u32 {
        db.exec_drop("INSERT INTO t (v, b) VALUES (?, ?)", (format!("näm{i} 🐘"), &blob))
            .await
            .unwrap();
        let id = db.last_insert_id().unwrap();
        let row: Option<(String, Vec<u8>)> =
            db.exec_first("SELECT v, b FROM t WHERE id = ?", (id,)).await.unwrap();
        assert_eq!(row, Some((format!("näm{i} 🐘"), blob.clone())));
    }
    let count: Option<u32> = db.query_first("SELECT COUNT(*) FROM t").await.unwrap();
    assert_eq!(count, Some(50));
    let mut tx = db.start_transaction(mysql_async::TxOpts::default()).await.unwrap();
    tx.query_drop("DELETE FROM t").await.unwrap();
    tx.rollback().await.unwrap();
    let rows: Vec<u32> = db.query("SELECT id FROM t ORDER BY id").await.unwrap();
    assert_eq!(rows.len(), 50);
    // Back to the pool and out again: COM_RESET_CONNECTION or COM_CHANGE_USER in between.
    drop(db);
    for _ in 0..20 {
        let mut db = pool.get_conn().await.unwrap();
        let n: Option<u32> =
            db.exec_first("SELECT COUNT(*) FROM t WHERE id > ?", (0,)).await.unwrap();
        assert_eq!(n, Some(50));
    }
    let mut many = Vec::new();
    for _ in 0..20 {
        let pool = pool.clone();
        many.push(tokio::spawn(async move {
            let mut db = pool.get_conn().await.unwrap();
            for _ in 0..20 {
                let id: Option<u32> =
                    db.exec_first("SELECT id FROM t WHERE id = ?", (7,)).await.unwrap();
                assert_eq!(id, Some(7));
            }
        }));
    }
    for task in many {
        task.await.unwrap();
    }
    pool.disconnect().await.unwrap();
    oracle.check();
}
