//! Connections to servers are kept and shared; sessions notice nothing of it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pointsman_tests::{LONG, Node, Raw, ServerError, Setup, Site, caps, wait_until};

fn site(pool: &str) -> Site {
    Site::with(Setup { config: format!("workers = 2\n[pool]\n{pool}\n"), ..Setup::default() })
}

/// Connections ever made to a server, by whomever.
fn connections(node: &Node) -> u64 {
    node.status("Connections").unwrap()
}

/// What the proxy's clients have open at a server.
fn open(node: &Node) -> u64 {
    let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app'";
    node.client_sql(sql).unwrap().trim().parse().unwrap()
}

/// Until every connection given back has been cleaned.
fn settle(site: &Site) {
    settle_but(site, 0);
}

/// As [`settle`], while some clients stay.
fn settle_but(site: &Site, clients: u32) {
    wait_until("connections are idle", LONG, || {
        let busy = site.metric("pointsman_client_connections", &[]);
        let state = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'app' \
                     AND command <> 'Sleep'";
        let nodes = site.sandbox.nodes();
        let idle = nodes.iter().all(|n| n.client_sql(state).is_ok_and(|n| n.trim() == "0"));
        Ok(busy == f64::from(clients) && idle)
    })
    .unwrap();
}

#[test]
fn short_connections_cost_no_login_at_the_servers() {
    let site = site("");
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)").unwrap();
    drop(db);
    site.sandbox.wait_caught_up().unwrap();
    let request = || {
        let mut db = Raw::connect(site.port()).unwrap();
        db.query("SET NAMES utf8mb4").unwrap();
        db.query("INSERT INTO t (v) VALUES (1)").unwrap();
        db.query("SELECT * FROM t").unwrap().len()
    };
    request();
    settle(&site);
    let before = site.sandbox.nodes().iter().map(connections).sum::<u64>();
    for i in 0..100 {
        assert_eq!(request(), i + 2, "what was just written is read");
    }
    let after = site.sandbox.nodes().iter().map(connections).sum::<u64>();
    // Asking costs one connection per server; the monitor may have made some.
    assert!(after - before < 30, "{} connections for 100 requests", after - before);
}

#[test]
fn nothing_of_a_session_is_left_to_the_next() {
    let site = site("");
    let ask = [
        "SELECT @@sql_mode, @@time_zone, @@autocommit, @@tx_isolation, @@max_statement_time",
        "SELECT @@character_set_client, @@character_set_connection, @@character_set_results, \
         @@collation_connection",
        "SELECT DATABASE(), @a, LAST_INSERT_ID(), FOUND_ROWS(), @@warning_count",
        "SELECT IS_FREE_LOCK('l'), @@foreign_key_checks, @@sql_select_limit, @@tx_read_only",
        "SELECT COUNT(*) FROM t",
    ];
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)").unwrap();
    let answers = |db: &mut Raw| ask.map(|sql| db.query(sql).unwrap());
    site.sandbox.wait_caught_up().unwrap();
    let fresh = answers(&mut Raw::connect(site.primary().port()).unwrap());
    for round in 0..20 {
        for sql in [
            "SET NAMES latin1 COLLATE latin1_bin",
            "SET SESSION sql_mode = 'ANSI_QUOTES', time_zone = '+03:00', foreign_key_checks = 0",
            "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET @a = 1, SESSION sql_select_limit = 1",
            "CREATE TEMPORARY TABLE t2 (id INT)",
            "CREATE TEMPORARY TABLE t (id INT)",
            "SELECT GET_LOCK('l', 1)",
            "PREPARE s FROM 'SELECT 1'",
            "USE information_schema",
            "SET autocommit = 0",
            "INSERT INTO app.t VALUES (1)",
        ] {
            db.query(sql).unwrap();
        }
        drop(db);
        settle(&site);
        db = Raw::connect(site.port()).unwrap();
        assert_eq!(answers(&mut db), fresh, "round {round}");
        let gone = db.query("EXECUTE s").unwrap_err().downcast::<ServerError>().unwrap();
        assert_eq!(gone.code, 1243, "{gone}");
    }
    assert!(connections(site.primary()) < 100, "they were shared: {}", connections(site.primary()));
}

#[test]
fn a_connection_is_cleaned_with_the_first_statement_of_its_next_user() {
    let site = site("");
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)").unwrap();
    db.query("INSERT INTO t (v) VALUES (1)").unwrap();
    drop(db);
    site.sandbox.wait_caught_up().unwrap();
    settle(&site);
    // Whatever is first: a read, a write, a prepared statement, another schema, a transaction.
    let begin = |db: &mut Raw, how: usize| match how {
        0 => assert_eq!(db.one("SELECT @@time_zone").unwrap(), "SYSTEM"),
        1 => drop(db.query("INSERT INTO t (v) VALUES (@@time_zone = 'SYSTEM')").unwrap()),
        2 => drop(db.prepare("SELECT v FROM t WHERE id = ?").unwrap()),
        3 => {
            db.command(2, b"app").unwrap();
            db.ok().unwrap();
        }
        _ => drop(db.query("BEGIN").unwrap()),
    };
    let made = || site.sandbox.nodes().iter().map(connections).sum::<u64>();
    let before = made();
    for round in 0..20 {
        let mut db = Raw::connect(site.port()).unwrap();
        begin(&mut db, round % 5);
        assert_eq!(db.one("SELECT @@time_zone").unwrap(), "SYSTEM", "round {round}");
        assert_eq!(db.one("SELECT @@sql_mode = @@global.sql_mode").unwrap(), "1");
        assert_eq!(db.one("SELECT @@character_set_client").unwrap(), "utf8mb4");
        db.query("SET time_zone = '+03:00', sql_mode = 'ANSI_QUOTES'").unwrap();
        db.query("SET NAMES latin1").unwrap();
        // The replica is told, too.
        assert_eq!(db.one("SELECT @@time_zone FROM t LIMIT 1").unwrap(), "+03:00");
    }
    let mut db = Raw::connect(site.port()).unwrap();
    assert_eq!(db.one("SELECT MIN(v) FROM t").unwrap(), "1", "the zone of another was written");
    let after = made();
    assert!(after - before < 20, "{} connections for 20 sessions", after - before);
}

#[test]
fn a_reset_session_is_a_new_one() {
    let site = site("");
    let mut db = Raw::connect(site.port()).unwrap();
    for _ in 0..10 {
        db.query("SET @a = 1, SESSION sql_mode = 'ANSI_QUOTES'").unwrap();
        db.command(0x1f, b"").unwrap();
        db.ok().unwrap();
        assert_eq!(db.query("SELECT @a, @@sql_mode LIKE '%ANSI%'").unwrap()[0][0], None);
        assert_eq!(db.one("SELECT DATABASE()").unwrap(), "app");
    }
}

#[test]
fn a_server_that_greets_sessions_with_init_connect_gets_each_of_them() {
    let site = site("");
    site.primary().client_sql("SET GLOBAL init_connect = 'SET @greeted = 1'").unwrap();
    for _ in 0..5 {
        let mut db = Raw::connect(site.port()).unwrap();
        assert_eq!(db.one("SELECT @greeted").unwrap(), "1");
        drop(db);
        settle(&site);
    }
}

#[test]
fn many_clients_share_few_connections() {
    let site = site("max_connections = 20");
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT PRIMARY KEY, n INT)").unwrap();
    db.query("INSERT INTO t SELECT seq, 0 FROM seq_1_to_500").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    const CLIENTS: usize = 500;
    const THREADS: usize = 10;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let port = site.port();
            scope.spawn(move || {
                let mut all: Vec<_> =
                    (0..CLIENTS / THREADS).map(|_| Raw::connect(port).unwrap()).collect();
                for round in 1..=3 {
                    for (i, db) in all.iter_mut().enumerate() {
                        let id = thread * CLIENTS / THREADS + i + 1;
                        // State of its own, on whichever connection it gets.
                        db.query(&format!("SET SESSION sql_select_limit = {}", id + 1000)).unwrap();
                        db.query("BEGIN").unwrap();
                        db.query(&format!("UPDATE t SET n = n + 1 WHERE id = {id}")).unwrap();
                        db.query("COMMIT").unwrap();
                        let n = db.one(&format!("SELECT n FROM t WHERE id = {id}")).unwrap();
                        assert_eq!(n, round.to_string());
                    }
                    for (i, db) in all.iter_mut().enumerate() {
                        let id = thread * CLIENTS / THREADS + i + 1;
                        let limit = db.one("SELECT @@sql_select_limit").unwrap();
                        assert_eq!(limit, (id + 1000).to_string());
                    }
                }
            });
        }
    });
    for node in site.sandbox.nodes() {
        assert!(open(node) <= 20, "{} at {}", open(node), node.name());
    }
    assert!(connections(site.primary()) < 400, "{}", connections(site.primary()));
    site.sandbox.wait_caught_up().unwrap();
    oracle.check();
}

#[test]
fn what_can_not_be_shared_is_not_and_says_so() {
    let site = Site::with(Setup {
        config: "workers = 1\n[pool]\nmax_connections = 1\nwait_timeout = \"500ms\"\n".into(),
        ..Setup::default()
    });
    let mut holder = Raw::connect(site.port()).unwrap();
    holder.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY)").unwrap();
    holder.query("INSERT INTO t VALUES ()").unwrap();
    holder.query("SET @a = 1").unwrap();
    let mut other = Raw::connect(site.port()).unwrap();
    // The only connection to the primary holds somebody's variable.
    let refused = other.query("INSERT INTO t VALUES ()").unwrap_err();
    let refused = refused.downcast::<ServerError>().unwrap();
    assert_eq!(refused.code, 1040, "{refused}");
    assert!(refused.message.contains("PM2011"), "{refused}");
    assert_eq!(holder.one("SELECT @a").unwrap(), "1");
    drop(holder);
    wait_until("it is free", Duration::from_secs(5), || {
        Ok(other.query("INSERT INTO t VALUES ()").is_ok())
    })
    .unwrap();
    assert_eq!(other.one("SELECT LAST_INSERT_ID()").unwrap(), "2");

    // Warnings are answered by the connection that has them, or not at all.
    let site = Site::with(Setup {
        config: "workers = 1\n[pool]\nmax_connections = 1\n".into(),
        ..Setup::default()
    });
    let mut first = Raw::connect(site.port()).unwrap();
    first.query("CREATE TABLE t (id INT)").unwrap();
    first.query("DROP TABLE IF EXISTS nothing").unwrap();
    Raw::connect(site.port()).unwrap().query("INSERT INTO t VALUES (1)").unwrap();
    let gone = first.query("SHOW WARNINGS").unwrap_err().downcast::<ServerError>().unwrap();
    assert!(gone.message.contains("PM2012"), "{gone}");
    first.query("INSERT INTO t VALUES (2)").unwrap();
    assert!(first.query("SHOW WARNINGS").unwrap().is_empty());
}

#[test]
fn what_changes_for_new_connections_holds_for_the_next_session() {
    let site = site("");
    let root = "CREATE USER boss@'%' IDENTIFIED BY 'boss-secret'; \
                GRANT ALL ON *.* TO boss@'%' WITH GRANT OPTION";
    site.primary().client_sql(root).unwrap();
    let app = |sql: &str| Raw::connect(site.port()).unwrap().query(sql);
    let mut boss = Raw::login(site.port(), "boss", "boss-secret", None, caps()).unwrap();
    let rights = "SELECT COUNT(*) FROM mysql.global_priv FOR UPDATE";
    let before = "SELECT @@wait_timeout, @@max_allowed_packet FROM t FOR UPDATE";
    app("CREATE TABLE t (id INT)").unwrap();
    app("INSERT INTO t VALUES (1)").unwrap();
    for (timeout, packet) in [(1234, 1 << 20), (4321, 1 << 21)] {
        app(before).unwrap();
        settle_but(&site, 1);
        boss.query(&format!("SET GLOBAL wait_timeout = {timeout}")).unwrap();
        boss.query(&format!("SET @@global.max_allowed_packet = {packet}")).unwrap();
        let row = app(before).unwrap().remove(0);
        assert_eq!(row, [Some(timeout.to_string()), Some(packet.to_string())]);

        settle_but(&site, 1);
        assert!(app(rights).is_err());
        settle_but(&site, 1);
        boss.query("GRANT SELECT, UPDATE ON *.* TO app@'%'").unwrap();
        app(rights).unwrap();
        settle_but(&site, 1);
        boss.query("REVOKE SELECT, UPDATE ON *.* FROM app@'%'").unwrap();
        assert!(app(rights).is_err());
    }
}

#[test]
fn what_was_inserted_last_outlives_the_connection_to_the_primary() {
    let site = site("");
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)").unwrap();
    let cut = || {
        let ids = "SELECT id FROM information_schema.processlist WHERE user = 'app'";
        for id in site.primary().client_sql(ids).unwrap().lines() {
            // It may have gone by itself.
            let _ = site.primary().client_sql(&format!("KILL {id}"));
        }
        wait_until("it is gone", LONG, || Ok(open(site.primary()) == 0)).unwrap();
    };
    let last = |db: &mut Raw| db.one("SELECT LAST_INSERT_ID()").unwrap();
    db.query("INSERT INTO t (v) VALUES (5), (6)").unwrap();
    cut();
    assert_eq!(last(&mut db), "1");
    db.query("UPDATE t SET v = 7").unwrap();
    cut();
    assert_eq!(last(&mut db), "1", "an update leaves it");
    db.query("BEGIN").unwrap();
    db.query("INSERT INTO t (v) VALUES (7)").unwrap();
    db.query("COMMIT").unwrap();
    cut();
    assert_eq!(last(&mut db), "3");
    // What is repeated finds what it found before.
    db.query("BEGIN").unwrap();
    assert_eq!(last(&mut db), "3");
    db.query("INSERT INTO t (v) VALUES (8)").unwrap();
    site.primary().kill9().unwrap();
    site.primary().start().unwrap();
    assert_eq!(last(&mut db), "4");
    db.query("COMMIT").unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t").unwrap(), "4");
    // A server that lives ended the transaction on purpose: it is not to come back.
    db.query("BEGIN").unwrap();
    db.query("INSERT INTO t (v) VALUES (9)").unwrap();
    cut();
    assert!(db.one("SELECT 1").is_err());
    let mut db = Raw::connect(site.port()).unwrap();
    assert_eq!(db.one("SELECT COUNT(*) FROM t FOR UPDATE").unwrap(), "4");
}

#[test]
fn what_was_inserted_last_goes_along_with_the_session() {
    let site = Site::with(Setup {
        config: "workers = 1\n[pool]\nmax_connections = 1\nwait_timeout = \"2s\"\n".into(),
        ..Setup::default()
    });
    let connect = || Raw::connect(site.port()).unwrap();
    let (mut first, mut second, mut third) = (connect(), connect(), connect());
    first.query("CREATE TABLE t (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY)").unwrap();
    let last = |db: &mut Raw| db.one("SELECT LAST_INSERT_ID()").unwrap();
    for round in 0..3 {
        let id = round * 3;
        first.query("INSERT INTO t VALUES ()").unwrap();
        assert_eq!(
            second.one("INSERT INTO t VALUES () RETURNING id").unwrap(),
            format!("{}", id + 2)
        );
        third.query("INSERT INTO t VALUES ()").unwrap();
        third.query("DO LAST_INSERT_ID(18446744073709551615)").unwrap();
        for _ in 0..2 {
            assert_eq!(last(&mut first), format!("{}", id + 1));
            assert_eq!(last(&mut second), format!("{}", id + 2));
            assert_eq!(last(&mut third), u64::MAX.to_string());
        }
    }
    // Who has not inserted, or begins anew, has inserted nothing.
    assert_eq!(last(&mut connect()), "0");
    first.command(0x1f, b"").unwrap();
    first.ok().unwrap();
    assert_eq!(last(&mut first), "0");
    assert_eq!(last(&mut second), "8");
}

#[test]
fn two_thousand_php_clients_over_fifty_connections() {
    const CLIENTS: usize = 2000;
    const THREADS: usize = 20;
    let site = site("max_connections = 50");
    let oracle = site.oracle();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, client INT)").unwrap();
    drop(db);
    site.sandbox.wait_caught_up().unwrap();
    let before: u64 = site.sandbox.nodes().iter().map(connections).sum();
    let longest = std::sync::Mutex::new(Duration::ZERO);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (port, longest) = (site.port(), &longest);
            scope.spawn(move || {
                // All of them there at once, as workers of PHP are that wait for their visitors.
                let mut all: Vec<_> =
                    (0..CLIENTS / THREADS).map(|_| Raw::connect(port).unwrap()).collect();
                for (i, db) in all.iter_mut().enumerate() {
                    let client = thread * CLIENTS / THREADS + i;
                    let began = std::time::Instant::now();
                    db.query("SET NAMES utf8mb4").unwrap();
                    db.query("START TRANSACTION").unwrap();
                    db.query(&format!("INSERT INTO t (client) VALUES ({client})")).unwrap();
                    db.query("COMMIT").unwrap();
                    let sql = format!("SELECT COUNT(*) FROM t WHERE client = {client}");
                    assert_eq!(db.one(&sql).unwrap(), "1", "client {client}");
                    let mut longest = longest.lock().unwrap();
                    *longest = began.elapsed().max(*longest);
                }
            });
        }
    });
    for node in site.sandbox.nodes() {
        assert!(open(node) <= 50, "{} at {}", open(node), node.name());
    }
    let logins = site.sandbox.nodes().iter().map(connections).sum::<u64>() - before;
    let longest = longest.into_inner().unwrap();
    println!(
        "{CLIENTS} clients: {logins} connections made at the servers, longest wait {longest:?}"
    );
    assert!(logins < 300, "{logins}");
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    assert_eq!(site.sql("SELECT COUNT(*), COUNT(DISTINCT client) FROM t").trim(), "2000\t2000");

    // Who can't share says why.
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("SET @a = 1").unwrap();
    let rows = site.admin_json("sessions").unwrap();
    assert!(rows.to_string().contains("user_variable"), "{rows}");
    site.sandbox.wait_caught_up().unwrap();
    oracle.check();
}

/// Twenty clients over two connections, each asking again as soon as it has its answer: all get on.
#[test]
fn who_has_waited_longest_is_next() {
    let site = site("max_connections = 2\nwait_timeout = \"30s\"");
    let port = site.port();
    let until = std::time::Instant::now() + Duration::from_secs(3);
    let longest = std::thread::scope(|scope| {
        let client = move || {
            let mut db = Raw::connect(port).unwrap();
            let mut longest = Duration::ZERO;
            while std::time::Instant::now() < until || longest.is_zero() {
                let asked = std::time::Instant::now();
                db.query("DO SLEEP(0.01)").unwrap();
                longest = longest.max(asked.elapsed());
            }
            longest
        };
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).max().unwrap()
    });
    // Ten to a connection, each for 20 ms at most.
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
