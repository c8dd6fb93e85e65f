//! The protocol, packet by packet: nobody can tell the proxy from a server.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use pointsman_tests::{
    APP_PASSWORD, APP_USER, LONG, Output, Raw, ServerError, Setup, Site, caps, lenenc_row,
    wait_until,
};
use pointsman_wire::Capabilities;

fn server_error(error: anyhow::Error) -> ServerError {
    error.downcast::<ServerError>().unwrap()
}

#[test]
fn connection_id_is_the_one_of_the_handshake_on_every_server() {
    let site = Site::start();
    let mut ids = Vec::new();
    for _ in 0..20 {
        let mut db = Raw::connect(site.port()).unwrap();
        let id = db.greeting.connection_id;
        for _ in 0..3 {
            assert_eq!(db.one("SELECT CONNECTION_ID()").unwrap(), id.to_string());
            db.query("BEGIN").unwrap();
            assert_eq!(db.one("SELECT connection_id()").unwrap(), id.to_string());
            db.query("COMMIT").unwrap();
        }
        ids.push(id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 20, "one id was given twice");
}

#[test]
fn every_handshake_has_its_own_salt() {
    let site = Site::start();
    let mut salts: Vec<_> =
        (0..50).map(|_| Raw::connect(site.port()).unwrap().greeting.salt).collect();
    salts.sort_unstable();
    salts.dedup();
    assert_eq!(salts.len(), 50);
}

#[test]
fn refusals_are_those_of_the_server() {
    let site = Site::start();
    site.primary()
        .client_sql("CREATE DATABASE forbidden; CREATE USER nopass@'%'; CREATE USER elsewhere@'10.9.8.7' IDENTIFIED BY 'x'")
        .unwrap();
    site.sandbox.wait_caught_up().unwrap();
    let cases = [
        (APP_USER, "wrong", Some("app")),
        (APP_USER, "", Some("app")),
        ("nobody", "x", None),
        ("nobody", "", None),
        ("nopass", "x", None),
        ("elsewhere", "x", None),
        (APP_USER, APP_PASSWORD, Some("no_such_database")),
        (APP_USER, APP_PASSWORD, Some("forbidden")),
    ];
    for (user, password, database) in cases {
        let at =
            |port| server_error(Raw::login(port, user, password, database, caps()).err().unwrap());
        assert_eq!(at(site.port()), at(site.primary().port()), "{user}/{password} at {database:?}");
    }
    for port in [site.primary().port(), site.port()] {
        Raw::login(port, "nopass", "", None, caps()).unwrap();
    }
    // A new account works at once, a changed password too, a dropped account no longer.
    site.primary().client_sql("CREATE USER fresh@'%' IDENTIFIED BY 'one'").unwrap();
    Raw::login(site.port(), "fresh", "one", None, caps()).unwrap();
    site.primary().client_sql("SET PASSWORD FOR fresh@'%' = PASSWORD('two')").unwrap();
    Raw::login(site.port(), "fresh", "two", None, caps()).unwrap();
}

#[test]
fn errors_are_those_of_the_server() {
    let site = Site::start();
    site.sql("CREATE TABLE t (id INT PRIMARY KEY)");
    site.sandbox.wait_caught_up().unwrap();
    let mut here = Raw::connect(site.port()).unwrap();
    let mut there = Raw::connect(site.primary().port()).unwrap();
    for sql in [
        "",
        ";",
        "SELEC 1",
        "SELECT * FROM missing",
        "SELECT x FROM t",
        "INSERT INTO t VALUES (1), (1)",
        "SELECT 1 FROM",
        "DROP TABLE missing",
        "USE nowhere",
        "SELECT 'unclosed",
        "SET no_such = 1",
        "SELECT SLEEP('x'",
        "CALL missing()",
        "SELECT missing_function(1)",
        "SIGNAL SQLSTATE '45000'",
        "SET GLOBAL read_only = 0",
        "SHUTDOWN",
        "COMMIT WORK NOW",
    ] {
        let one = here.query(sql).map_err(server_error);
        let two = there.query(sql).map_err(server_error);
        assert_eq!(one, two, "{sql}");
    }
    assert_eq!(here.one("SELECT 1").unwrap(), "1");
}

#[test]
fn commands_beside_queries() {
    let site = Site::start();
    site.primary()
        .client_sql("CREATE USER other@'%' IDENTIFIED BY 'pw'; GRANT ALL ON app.* TO other@'%'")
        .unwrap();
    site.sandbox.wait_caught_up().unwrap();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (first INT, second VARCHAR(10))").unwrap();
    // COM_PING, COM_STATISTICS
    db.command(0x0e, b"").unwrap();
    db.ok().unwrap();
    db.command(0x09, b"").unwrap();
    assert!(String::from_utf8(db.packet().unwrap()).unwrap().starts_with("Uptime: "));
    // COM_SET_OPTION: several statements off and on.
    db.command(0x1b, &[1, 0]).unwrap();
    db.ok().unwrap();
    assert_eq!(server_error(db.query("SELECT 1; SELECT 2").unwrap_err()).code, 1064);
    db.command(0x1b, &[0, 0]).unwrap();
    db.ok().unwrap();
    db.command(3, b"SELECT 1; SELECT 2").unwrap();
    assert!(db.result().unwrap().1);
    assert!(!db.result().unwrap().1);
    // COM_FIELD_LIST
    db.command(0x04, b"t\0").unwrap();
    let mut columns = 0;
    while db.packet().unwrap()[0] != 0xfe {
        columns += 1;
    }
    assert_eq!(columns, 2);
    // COM_RESET_CONNECTION
    db.query("SET @a = 1").unwrap();
    db.query("SET time_zone = '+03:00'").unwrap();
    db.query("CREATE TEMPORARY TABLE temp (id INT)").unwrap();
    db.query("BEGIN").unwrap();
    db.command(0x1f, b"").unwrap();
    db.ok().unwrap();
    assert_eq!(db.query("SELECT @a").unwrap()[0][0], None);
    assert_eq!(db.one("SELECT @@time_zone").unwrap(), "SYSTEM");
    assert_eq!(server_error(db.query("SELECT * FROM temp").unwrap_err()).code, 1146);
    assert_eq!(db.one("SELECT @@server_id").unwrap(), "2", "no transaction any more");
    assert_eq!(db.one("SELECT DATABASE()").unwrap(), "app");
    // A command nobody knows: error 1047, and the session lives on.
    db.command(0x77, b"").unwrap();
    assert_eq!(server_error(db.ok().unwrap_err()).code, 1047);
    // COM_CHANGE_USER by the older method, then with a wrong password.
    let change = |db: &mut Raw, password: &str| {
        let mut argument = b"other\0".to_vec();
        argument.push(0); // no proof yet: the server is to ask for it with a new salt
        argument.extend_from_slice(b"app\0");
        argument.extend_from_slice(&[45, 0]);
        argument.extend_from_slice(b"mysql_native_password\0");
        db.command(0x11, &argument).unwrap();
        let ask = db.packet().unwrap();
        assert_eq!(ask[0], 0xfe, "asked by AuthSwitchRequest: {ask:?}");
        let (_, salt) = pointsman_wire::handshake::parse_auth_switch(&ask).unwrap();
        let stage1 = pointsman_wire::auth::native_stage1(password.as_bytes());
        db.send(&pointsman_wire::auth::native_token(&stage1, &salt)).unwrap();
        db.ok()
    };
    change(&mut db, "pw").unwrap();
    assert_eq!(db.one("SELECT CURRENT_USER()").unwrap(), "other@%");
    db.query("INSERT INTO t VALUES (1, 'x')").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "1");
    assert_eq!(server_error(change(&mut db, "wrong").unwrap_err()).code, 1045);
    // COM_QUIT
    let mut db = Raw::connect(site.port()).unwrap();
    db.command(0x01, b"").unwrap();
    assert!(db.is_closed(Duration::from_secs(30)));
}

#[test]
fn several_statements_and_several_results() {
    let site = Site::start();
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    let mut results = |sql: &str| {
        db.command(3, sql.as_bytes()).unwrap();
        let mut counts = Vec::new();
        loop {
            let (rows, more) = db.result().unwrap();
            counts.push(rows.len());
            if !more {
                return counts;
            }
        }
    };
    assert_eq!(results("SELECT 1; SELECT 2 UNION SELECT 3;"), [1, 2]);
    assert_eq!(
        results(
            "INSERT INTO t VALUES (1); SELECT * FROM t; INSERT INTO t VALUES (2); SELECT * FROM t"
        ),
        [0, 1, 0, 2]
    );
    assert_eq!(
        results(
            "CREATE PROCEDURE p(OUT n INT) BEGIN SELECT 1; SELECT * FROM t; INSERT INTO t VALUES (3); SET n = 9; END"
        ),
        [0]
    );
    assert_eq!(results("CALL p(@n)"), [1, 2, 0]);
    assert_eq!(results("SELECT @n"), [1]);
    // The second fails: the first's result, then the error, then business as usual.
    db.command(3, b"SELECT 1; SELECT missing; SELECT 3").unwrap();
    assert!(db.result().unwrap().1);
    assert_eq!(server_error(db.result().unwrap_err()).code, 1054);
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "3");
    oracle.check();
}

#[test]
fn replies_have_the_shape_the_client_asked_for() {
    let site = Site::start();
    for more in [
        Capabilities::empty(),
        Capabilities::DEPRECATE_EOF,
        Capabilities::SESSION_TRACK,
        Capabilities::DEPRECATE_EOF | Capabilities::SESSION_TRACK,
        Capabilities::FOUND_ROWS | Capabilities::INTERACTIVE,
    ] {
        let login =
            |port| Raw::login(port, APP_USER, APP_PASSWORD, Some("app"), caps() | more).unwrap();
        let (mut here, mut there) = (login(site.port()), login(site.primary().port()));
        let statements = [
            "DROP TABLE IF EXISTS shape",
            "CREATE TABLE shape (id INT PRIMARY KEY, v INT)",
            "INSERT INTO shape VALUES (1, 1), (2, 2)",
            "UPDATE shape SET v = 1",
            "SELECT * FROM shape",
            "SELECT 1",
            "SET time_zone = '+01:00'",
            "SET NAMES latin1",
            "USE app",
            "BEGIN",
            "SELECT 2",
            "COMMIT",
            "DELETE FROM shape",
            "DO 0",
        ];
        let all = |db: &mut Raw| statements.map(|sql| reply(db, sql, more));
        here.query("CREATE OR REPLACE TABLE shape (id INT)").unwrap();
        let ours = all(&mut here);
        let theirs = all(&mut there);
        for ((sql, mut one), mut two) in statements.iter().zip(ours).zip(theirs) {
            if more.contains(Capabilities::SESSION_TRACK) && sql.starts_with("SET NAMES") {
                // Servers name the three variables in any order.
                one[0].sort_unstable();
                two[0].sort_unstable();
            }
            assert_eq!(one, two, "{sql} with {more:?}");
        }
    }
}

/// All packets that answer a query with one result.
fn reply(db: &mut Raw, sql: &str, caps: Capabilities) -> Vec<Vec<u8>> {
    db.command(3, sql.as_bytes()).unwrap();
    let mut packets = vec![db.packet().unwrap()];
    if matches!(packets[0][0], 0 | 0xff) {
        return packets;
    }
    // The end of the definitions, unless the client did without, and the end of the rows.
    let mut ends = if caps.contains(Capabilities::DEPRECATE_EOF) { 1 } else { 2 };
    while ends > 0 {
        let packet = db.packet().unwrap();
        ends -= i32::from(packet[0] == 0xfe && packet.len() < 100);
        packets.push(packet);
    }
    packets
}

#[test]
fn packets_of_more_than_16_mib_go_both_ways() {
    let site = Site::with(Setup {
        server_args: vec!["--max-allowed-packet=64M".into(), "--innodb-log-file-size=96M".into()],
        ..Setup::default()
    });
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE big (id INT PRIMARY KEY, data LONGBLOB)").unwrap();
    // At the borders: a packet full to the last byte is followed by an empty one.
    let limit = (1 << 24) - 1;
    let overhead = 1 + "INSERT INTO big VALUES (1, '')".len();
    for (id, size) in
        [(1, limit - overhead - 1), (2, limit - overhead), (3, limit - overhead + 1), (4, 20 << 20)]
    {
        let data: String = (0..size).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
        db.query(&format!("INSERT INTO big VALUES ({id}, '{data}')")).unwrap();
        assert_eq!(db.one(&format!("SELECT data FROM big WHERE id = {id}")).unwrap(), data);
        assert_eq!(db.one("SELECT 1").unwrap(), "1");
    }
    site.sandbox.wait_caught_up().unwrap();
    let both = db.query("SELECT id, data FROM big ORDER BY id").unwrap();
    assert_eq!(both[3][1].as_ref().unwrap().len(), 20 << 20);
    // A read just as long as a statement.
    let long = format!("SELECT LENGTH('{}')", "x".repeat(18 << 20));
    assert_eq!(db.one(&long).unwrap(), (18 << 20).to_string());
    oracle.check();
}

#[test]
fn load_data_local_infile_takes_the_clients_file() {
    let site = Site::start();
    let oracle = site.oracle();
    site.sql("CREATE TABLE l (id INT, v VARCHAR(20))");
    let file = site.sandbox.dir().join("rows.csv");
    let rows: String = (0..50_000).map(|i| format!("{i},row {i}\n")).collect();
    std::fs::write(&file, rows).unwrap();
    let load = format!(
        "LOAD DATA LOCAL INFILE '{}' INTO TABLE l FIELDS TERMINATED BY ','",
        file.display()
    );
    Site::mariadb_at(site.port(), &["--local-infile=1"], &load).ok();
    assert_eq!(site.sql("SELECT COUNT(*), SUM(id) FROM l").trim(), "50000\t1249975000");
    // A file that is not there is an error of this statement only.
    let mut db = Raw::connect(site.port()).unwrap();
    db.command(3, b"LOAD DATA LOCAL INFILE '/no/such/file' INTO TABLE l").unwrap();
    assert_eq!(db.packet().unwrap(), b"\xfb/no/such/file");
    db.send(b"").unwrap();
    db.ok().unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM l").unwrap(), "50000");
    oracle.check();
}

#[test]
fn statements_are_bytes() {
    let site = Site::start();
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE b (data BLOB)").unwrap();
    let mut sql = b"INSERT INTO b VALUES ('".to_vec();
    sql.extend((1..=255_u8).filter(|b| !matches!(b, b'\'' | b'\\')));
    sql.extend_from_slice(b"\0')");
    db.command(3, &sql).unwrap();
    db.result().unwrap();
    assert_eq!(db.one("SELECT LENGTH(data) FROM b").unwrap(), "254");
    // In GBK, 0xbf 0x5c is one character, so the quote after it ends the string.
    db.query("SET NAMES gbk").unwrap();
    db.command(3, b"SELECT '\xbf\x5c' AS a, 'FOR UPDATE'").unwrap();
    assert_eq!(db.result().unwrap().0.len(), 1);
    // A megabyte of numbers.
    db.query("SET NAMES utf8mb4").unwrap();
    let list: Vec<String> = (100_000..250_000).map(|i: u32| i.to_string()).collect();
    assert_eq!(
        db.one(&format!("SELECT COUNT(*) FROM b WHERE 1 IN ({})", list.join(","))).unwrap(),
        "0"
    );
    oracle.check();
}

#[test]
fn commands_sent_before_the_answer_to_the_last_are_answered_in_order() {
    let site = Site::start();
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE p (id INT)").unwrap();
    let mut all = Vec::new();
    for i in 0..50 {
        let sql = if i % 5 == 0 {
            format!("INSERT INTO p VALUES ({i})")
        } else {
            format!("SELECT {i} FROM DUAL")
        };
        let mut payload = vec![3];
        payload.extend_from_slice(sql.as_bytes());
        pointsman_wire::write_packet(&mut all, 0, &payload);
    }
    db.send_bytes(&all).unwrap();
    for i in 0..50 {
        // Sequence ids begin anew with each.
        db.next_reply();
        let (rows, _) = db.result().unwrap();
        if i % 5 != 0 {
            let row = pointsman_tests::lenenc_row(&rows[0]).unwrap();
            assert_eq!(row[0].as_deref(), Some(i.to_string().as_str()));
        }
    }
    assert_eq!(db.one("SELECT COUNT(*) FROM p").unwrap(), "10");
    oracle.check();
}

#[test]
fn a_client_that_speaks_nonsense_ends_only_itself() {
    let mut site = Site::start();
    let mut good = Raw::connect(site.port()).unwrap();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 40],
        &[0, 0, 0, 1],
        &[1, 0, 0, 9, 0],
        &[255, 255, 255, 1, 2],
    ] {
        let mut bad = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, site.port())).unwrap();
        std::io::Write::write_all(&mut bad, bytes).unwrap();
        drop(bad);
        let mut db = Raw::connect(site.port()).unwrap();
        db.send_bytes(bytes).unwrap();
        drop(db);
        assert_eq!(good.one("SELECT 1").unwrap(), "1");
    }
    // Somebody who says nothing does not hold anybody up.
    let silent =
        std::net::TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, site.port()))).unwrap();
    Raw::connect(site.port()).unwrap();
    drop(silent);
    assert!(site.proxy.is_running());
}

#[test]
fn a_client_gone_in_mid_result_leaves_no_dirty_connection() {
    let site = Site::start();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    for _ in 0..20 {
        let mut gone = Raw::connect(site.port()).unwrap();
        gone.query("SET time_zone = '+09:00'").unwrap();
        gone.command(3, b"SELECT seq, REPEAT('x', 1000) FROM seq_1_to_100000").unwrap();
        gone.packet().unwrap();
        drop(gone);
        let mut open = Raw::connect(site.port()).unwrap();
        open.query("BEGIN").unwrap();
        open.query("INSERT INTO t VALUES (1)").unwrap();
        drop(open);
        let mut next = Raw::connect(site.port()).unwrap();
        assert_eq!(next.one("SELECT @@time_zone").unwrap(), "SYSTEM");
    }
    wait_until("open transactions are gone", LONG, || {
        let count =
            site.primary().client_sql("SELECT COUNT(*) FROM information_schema.innodb_trx")?;
        Ok(count.trim() == "0")
    })
    .unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "0", "rolled back");
}

#[test]
fn what_waits_for_a_lock_ends_when_its_client_goes() {
    let site = Site::start();
    let mut holder = Raw::connect(site.port()).unwrap();
    holder.query("SELECT GET_LOCK('held', 0)").unwrap();
    let waits = || {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist \
                   WHERE info LIKE 'SELECT GET_LOCK(%, 3600)'";
        site.primary().client_sql(sql).map(|count| count.trim() == "1")
    };
    let mut gone = Raw::connect(site.port()).unwrap();
    gone.command(3, b"SELECT GET_LOCK('held', 3600)").unwrap();
    wait_until("it waits", LONG, waits).unwrap();
    drop(gone);
    wait_until("it has ended", LONG, || Ok(!waits()?)).unwrap();
    // The server is none the worse for it.
    assert_eq!(holder.one("SELECT RELEASE_LOCK('held')").unwrap(), "1");
    let log = site.proxy.log();
    assert!(!log.contains("server_down"), "{log}");
}

#[test]
fn a_slow_reader_of_a_huge_result_costs_little_memory() {
    let site = Site::start();
    let before = site.proxy.rss().unwrap();
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut db = Raw::connect(site.port()).unwrap();
        // 200 MB each.
        db.command(3, b"SELECT seq, REPEAT('x', 10000) FROM seq_1_to_20000").unwrap();
        db.packet().unwrap();
        clients.push(db);
    }
    // Others are served meanwhile; by then all buffers between server and client are full.
    let mut other = Raw::connect(site.port()).unwrap();
    for _ in 0..200 {
        assert_eq!(other.one("SELECT 1").unwrap(), "1");
    }
    let grown = site.proxy.rss().unwrap().saturating_sub(before);
    assert!(grown < 16 << 20, "the proxy grew by {} MiB", grown >> 20);
    // And the result is whole when it is read after all.
    let mut first = clients.swap_remove(0);
    let mut rows = 0;
    let mut eofs = 0;
    while eofs < 2 {
        match first.packet().unwrap().as_slice() {
            [0xfe, _, _, _, _] => eofs += 1,
            _ if eofs == 1 => rows += 1,
            _ => {}
        }
    }
    assert_eq!(rows, 20_000);
}

#[test]
fn kill_reaches_the_connection_it_names() {
    let site = Site::start();
    let mut victim = Raw::connect(site.port()).unwrap();
    let mut killer = Raw::connect(site.port()).unwrap();
    let id = victim.greeting.connection_id;
    // A long read on a replica.
    victim.command(3, b"SELECT COUNT(*) FROM seq_1_to_100000000 a, seq_1_to_100 b").unwrap();
    wait_until("the read runs", LONG, || {
        let n = site.replica().client_sql(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'SELECT COUNT(*) FROM seq_1%'",
        )?;
        Ok(n.trim() != "0")
    })
    .unwrap();
    killer.query(&format!("KILL QUERY {id}")).unwrap();
    assert_eq!(server_error(victim.result().unwrap_err()).code, 1317);
    assert_eq!(victim.one("SELECT 1").unwrap(), "1", "KILL QUERY leaves the connection");
    killer.query(&format!("KILL {id}")).unwrap();
    victim.command(0x0e, b"").ok();
    assert!(victim.ok().is_err());
    assert_eq!(server_error(killer.query("KILL 4294967295").unwrap_err()).code, 1094);
}

#[test]
fn the_mariadb_client_works_as_in_a_terminal() {
    let site = Site::start();
    let oracle = site.oracle();
    let script = "CREATE TABLE c (id INT PRIMARY KEY, v VARCHAR(20));\n\
                  INSERT INTO c VALUES (1, 'eins'), (2, 'zwei');\n\
                  SELECT * FROM c;\nstatus\nSHOW TABLES;\nDESCRIBE c;\nSHOW CREATE TABLE c\\G\n\
                  BEGIN;\nUPDATE c SET v = 'drei' WHERE id = 2;\nSELECT v FROM c WHERE id = 2;\nROLLBACK;\n\
                  SELECT v FROM c WHERE id = 2;\nDELIMITER //\n\
                  CREATE PROCEDURE p() BEGIN SELECT 'in p'; END//\nDELIMITER ;\nCALL p();\n\
                  SHOW WARNINGS;\nuse app\nSELECT 'done';\n";
    let file = site.sandbox.dir().join("script.sql");
    std::fs::write(&file, script).unwrap();
    // With the completion of names, as in a terminal: COM_FIELD_LIST for each table.
    for more in [&["--auto-rehash"][..], &["--compress"], &["--quick", "-vvv"]] {
        let said = Output::of(
            Command::new("sh")
                .arg("-c")
                .arg(format!(
                    "mariadb --no-defaults --auto-rehash -h127.0.0.1 -P{} -u{APP_USER} -p{APP_PASSWORD} {} app < {}",
                    site.port(),
                    more.join(" "),
                    file.display()
                )),
        )
        .ok();
        for wanted in ["zwei", "drei", "in p", "done", "CREATE TABLE", "Threads:"] {
            assert!(said.contains(wanted), "no {wanted} with {more:?} in {said}");
        }
        site.sql("DROP TABLE c; DROP PROCEDURE p");
    }
    oracle.check();
}

#[test]
fn idle_clients_cost_little_memory() {
    const CLIENTS: u64 = 500;
    let site = Site::start();
    let grow = |clients: &mut Vec<Raw>| {
        for _ in 0..CLIENTS {
            let mut db = Raw::connect(site.port()).unwrap();
            assert_eq!(db.one("SELECT 1").unwrap(), "1");
            clients.push(db);
        }
        site.proxy.rss().unwrap()
    };
    let mut clients = Vec::new();
    let before = grow(&mut clients);
    let each = grow(&mut clients).saturating_sub(before) / CLIENTS;
    println!("{each} bytes for each idle client and its connection to a server");
    assert!(each < 16 << 10, "{each} bytes for each idle client");
    for db in &mut clients {
        assert_eq!(db.one("SELECT 1").unwrap(), "1");
    }
}

#[test]
fn the_process_list_is_told_by_the_ids_that_clients_know() {
    let site = Site::start();
    let mut one = Raw::connect(site.port()).unwrap();
    let mut other = Raw::connect(site.port()).unwrap();
    other.query("INSERT INTO t VALUES (1)").ok();
    one.one("SELECT 1").unwrap();
    let listed = |rows: &[Vec<Option<String>>]| {
        let mut found: Vec<(u32, String)> = Vec::new();
        for row in rows {
            let field = |i: usize| row[i].clone().unwrap_or_default();
            if field(1) == "app" {
                found.push((field(0).parse().unwrap(), field(2)));
            }
        }
        found.sort();
        found
    };
    let expected = |clients: &[&Raw]| {
        let mut all: Vec<_> = clients
            .iter()
            .map(|c| (c.greeting.connection_id, c.stream().local_addr().unwrap().to_string()))
            .collect();
        all.sort();
        all
    };
    // Each session once, whichever servers it is connected to, and nothing else of that account.
    for sql in ["SHOW PROCESSLIST", "SHOW FULL PROCESSLIST", "show full processlist;"] {
        assert_eq!(listed(&one.query(sql).unwrap()), expected(&[&one, &other]), "{sql}");
    }
    one.command(0x0a, b"").unwrap();
    let rows: Vec<_> = one.result().unwrap().0.iter().map(|row| lenenc_row(row).unwrap()).collect();
    assert_eq!(listed(&rows), expected(&[&one, &other]), "COM_PROCESS_INFO");
    // The server's own id, from its own table, reaches the same connection.
    let own = other.one("SELECT id FROM information_schema.processlist WHERE id = CONNECTION_ID()");
    one.query(&format!("KILL {}", own.unwrap())).unwrap();
    assert!(other.is_closed(Duration::from_secs(30)));
    // Servers list who was killed for a moment longer.
    let left = expected(&[&one]);
    wait_until("it is gone", LONG, || Ok(listed(&one.query("SHOW PROCESSLIST")?) == left)).unwrap();
}

#[test]
fn clients_are_counted_not_the_connections_kept_for_them() {
    let site = Site::start();
    let mut one = Raw::connect(site.port()).unwrap();
    let mut connected = || -> i64 {
        let rows = one.query("SHOW GLOBAL STATUS LIKE 'Threads_connected'").unwrap();
        rows[0][1].as_deref().unwrap().parse().unwrap()
    };
    let before = connected();
    let mut more: Vec<_> = (0..5).map(|_| Raw::connect(site.port()).unwrap()).collect();
    // Some at the primary, some at the replica, some at neither; the monitor comes and goes.
    more[0].query("INSERT INTO t VALUES (1)").ok();
    more[1].query("INSERT INTO t VALUES (2)").ok();
    more[2].one("SELECT 1").unwrap();
    wait_until("they are counted", LONG, || Ok((4..=6).contains(&(connected() - before)))).unwrap();
    drop(more);
    wait_until("they are not", LONG, || Ok(connected() <= before)).unwrap();
}
