//! What time, many statements and sessions with much state do to the proxy.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pointsman_tests::{LONG, Raw, Setup, Site, wait_until};

/// COM_STMT_EXECUTE's argument, for a statement without parameters.
fn execute(id: u32) -> Vec<u8> {
    [&id.to_le_bytes()[..], &[0, 1, 0, 0, 0]].concat()
}

/// Nanoseconds on a core so far, of all threads.
fn cpu(site: &Site) -> u64 {
    let dir = format!("/proc/{}/task", site.proxy.pid());
    let tasks = std::fs::read_dir(dir).unwrap();
    let times = tasks.map(|task| {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat"));
        text.ok().and_then(|t| t.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    });
    times.sum()
}

#[test]
fn nothing_grows_with_time() {
    let site = Site::start();
    site.primary().client_sql("CREATE TABLE app.t (id INT PRIMARY KEY, v INT)").unwrap();
    site.primary().client_sql("INSERT INTO app.t VALUES (1, 0)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    // As sessions are: some log out, some vanish in a transaction, in a statement, with errors.
    let sessions = |n: usize| {
        for i in 0..n {
            let mut db = Raw::connect(site.port()).unwrap();
            db.query("SET NAMES utf8mb4").unwrap();
            db.query("SELECT v FROM t WHERE id = 1").unwrap();
            match i % 8 {
                0 => drop(db.prepare("SELECT v FROM t WHERE id = ?").unwrap()),
                1 => assert!(db.query("SELECT nothing FROM t").is_err()),
                2 => {
                    db.query("BEGIN").unwrap();
                    db.query("UPDATE t SET v = v + 1").unwrap();
                }
                3 => db.command(3, b"SELECT SLEEP(0.001)").unwrap(),
                4 => drop(db.query("SET time_zone = '+01:00', sql_mode = ''").unwrap()),
                5 => drop(db.query(&format!("SELECT 1 AS c{i}")).unwrap()),
                _ => db.command(1, b"").unwrap(),
            }
        }
    };
    sessions(600);
    let before = site.proxy.rss().unwrap();
    sessions(2400);
    let grown = site.proxy.rss().unwrap().saturating_sub(before) >> 10;
    println!("2,400 sessions later the proxy has {grown} KiB more");
    // The statements it remembers are counted in it.
    assert!(grown < 2048, "{grown} KiB more after 2,400 sessions");
}

#[test]
fn neither_reloads_nor_a_drain_drop_a_statement() {
    let mut site = Site::start();
    let port = site.port();
    std::thread::scope(|scope| {
        let busy: Vec<_> = (0..8)
            .map(|i| {
                scope.spawn(move || {
                    let mut db = Raw::connect(port).unwrap();
                    for _ in 0..200 {
                        assert_eq!(
                            db.one(&format!("SELECT {i} + 1")).unwrap(),
                            (i + 1).to_string()
                        );
                    }
                })
            })
            .collect();
        while busy.iter().any(|b| !b.is_finished()) {
            site.cli(&["reload"]).ok();
        }
        busy.into_iter().for_each(|b| b.join().unwrap());
    });
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|i| {
                scope.spawn(move || {
                    let mut db = Raw::connect(port).unwrap();
                    db.one(&format!("SELECT CONCAT('done ', SLEEP(1), {i})")).unwrap()
                })
            })
            .collect();
        wait_until("all are at it", LONG, || {
            let sql = "SELECT COUNT(*) FROM information_schema.processlist \
                       WHERE info LIKE 'SELECT CONCAT(\\'done%'";
            let count = |node: &pointsman_tests::Node| -> anyhow::Result<u32> {
                Ok(node.client_sql(sql)?.trim().parse()?)
            };
            let nodes = site.sandbox.nodes();
            Ok(nodes.iter().map(count).sum::<anyhow::Result<u32>>()? == 8)
        })
        .unwrap();
        site.proxy.signal(Signal::SIGTERM).unwrap();
        for (i, one) in asking.into_iter().enumerate() {
            assert_eq!(one.join().unwrap(), format!("done 0{i}"));
        }
    });
    assert!(site.proxy.wait(LONG).unwrap().success(), "{}", site.proxy.log());
}

/// `POINTSMAN_BINARY=target/release/pointsman cargo test -p pointsman-tests --test much_state -- --ignored --nocapture`
#[test]
#[ignore = "measures, for docs/performance.md; wants a release binary and a quiet machine"]
fn a_hundred_thousand_fingerprints() {
    const N: u32 = 100_000;
    let site = Site::with(Setup {
        config: "workers = 1\n[limits]\nstatement_cache = 100000\n".into(),
        ..Setup::default()
    });
    let mut db = Raw::connect(site.port()).unwrap();
    let mut walk = |what: &str, sql: &dyn Fn(u32) -> String| {
        let (memory, used, begin) = (site.proxy.rss().unwrap(), cpu(&site), Instant::now());
        for i in 0..N {
            db.query(&sql(i)).unwrap();
        }
        let used = (cpu(&site) - used) as f64 / f64::from(N) / 1e3;
        let grown = site.proxy.rss().unwrap().saturating_sub(memory) as f64 / f64::from(N);
        let each = begin.elapsed().as_secs_f64() * 1e6 / f64::from(N);
        println!("{what:<44} {used:6.1} µs of CPU, {each:6.1} µs in all, {grown:6.0} bytes more");
    };
    walk("one statement, again and again", &|i| format!("SELECT {i} AS c"));
    walk("100,000 statements, each for the first time", &|i| format!("SELECT {i} AS c{i}"));
    // In another order than they came in.
    walk("the same, each once more", &|i| format!("SELECT 1 AS c{}", i * 7919 % N));
    walk("one statement, again and again", &|i| format!("SELECT {i} AS c"));
}

/// `POINTSMAN_BINARY=target/release/pointsman cargo test -p pointsman-tests --test much_state -- --ignored --nocapture`
#[test]
#[ignore = "measures, for docs/performance.md; wants a release binary and a quiet machine"]
fn sessions_with_much_state_move_between_servers() {
    const STATEMENTS: u32 = 1000;
    const SESSIONS: usize = 20;
    let site = Site::with(Setup { config: "workers = 1\n".into(), ..Setup::default() });
    site.primary().client_sql("CREATE TABLE app.t (id INT PRIMARY KEY, v INT)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    drop(Raw::connect(site.port()).unwrap());
    let variables: Vec<_> = site
        .primary()
        .client_sql(
            "SELECT VARIABLE_NAME, GLOBAL_VALUE FROM information_schema.system_variables \
             WHERE VARIABLE_SCOPE = 'SESSION' AND READ_ONLY = 'NO' AND VARIABLE_TYPE LIKE '%INT%' \
             AND GLOBAL_VALUE > 1 AND VARIABLE_NAME NOT IN ('TIMESTAMP', 'WAIT_TIMEOUT', \
             'PSEUDO_THREAD_ID', 'SERVER_ID', 'GTID_DOMAIN_ID', 'GTID_SEQ_NO', 'LAST_INSERT_ID', \
             'MAX_STATEMENT_TIME', 'INSERT_ID', 'RAND_SEED1', 'RAND_SEED2') LIMIT 100",
        )
        .unwrap()
        .lines()
        .filter_map(|l| l.split_once('\t').map(|(n, v)| format!("SET SESSION {n} = {v}")))
        .collect();
    let before = site.proxy.rss().unwrap();
    let mut sessions: Vec<_> = (0..SESSIONS)
        .map(|_| {
            let mut db = Raw::connect(site.port()).unwrap();
            let set = variables.iter().filter(|sql| db.query(sql).is_ok()).count();
            let ids: Vec<_> = (0..STATEMENTS)
                .map(|i| db.prepare(&format!("SELECT v, {i} FROM t WHERE id = {i}")).unwrap().0)
                .collect();
            (db, ids, set)
        })
        .collect();
    let each = site.proxy.rss().unwrap().saturating_sub(before) / SESSIONS as u64;
    let set = sessions[0].2;
    println!(
        "a session with {set} variables set and {STATEMENTS} prepared statements: {each} bytes"
    );
    let (db, ids, _) = &mut sessions[0];
    let mut walk = |what: &str| {
        let (used, begin) = (cpu(&site), Instant::now());
        let mut longest = Duration::ZERO;
        for id in ids.iter() {
            let begin = Instant::now();
            db.command(0x17, &execute(*id)).unwrap();
            db.result().unwrap();
            longest = longest.max(begin.elapsed());
        }
        let n = f64::from(STATEMENTS);
        let used = (cpu(&site) - used) as f64 / n / 1e3;
        let each = begin.elapsed().as_secs_f64() * 1e6 / n;
        println!("{what:<44} {used:6.1} µs of CPU, {each:6.1} µs in all, {longest:?} the longest");
    };
    walk("each executed, the first time");
    walk("each executed once more");
    site.cli(&["drain", "db2"]).ok();
    site.wait_server("no reads", "db2", |row| row["reads"] == false);
    walk("each executed on another server, the first time");
    walk("each executed there once more");
}
