//! A server that has something of its own gets another one's data, by one command.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pointsman_sandbox::{Flavour, Node};
use pointsman_tests::{LONG, Output, Setup, Site, wait_until};

/// db1 has diverged; db2 or db3 is the primary. `config` and `prepare` are for what is to be rebuilt.
fn site(flavour: Flavour, config: &str, prepare: impl Fn(&Site)) -> Option<Site> {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return None;
    }
    let performance_schema = match flavour {
        Flavour::MySql => vec!["--performance-schema=ON".to_owned()],
        _ => vec![],
    };
    let site = Site::with(Setup {
        replicas: 2,
        failover: true,
        flavour,
        server_args: performance_schema,
        config: format!("workers = 2\n{config}"),
        ..Setup::default()
    });
    wait_until("Pointsman may change servers", LONG, || {
        Ok(!site.cli(&["status"]).stdout.contains("can't replace it"))
    })
    .unwrap();
    site.primary().client_sql("CREATE TABLE app.t (id INT PRIMARY KEY)").unwrap();
    prepare(&site);
    site.sandbox.wait_caught_up().unwrap();
    // It dies with something that nobody else has, and is replaced.
    for replica in site.sandbox.replicas() {
        let word = if flavour == Flavour::MySql { "REPLICA" } else { "SLAVE" };
        replica.client_sql(&format!("STOP {word} IO_THREAD")).unwrap();
    }
    site.primary().client_sql("INSERT INTO app.t VALUES (1)").unwrap();
    site.primary().kill9().unwrap();
    for replica in site.sandbox.replicas() {
        let word = if flavour == Flavour::MySql { "REPLICA" } else { "SLAVE" };
        replica.client_sql(&format!("START {word} IO_THREAD")).unwrap();
    }
    site.wait_server("db2 or db3 is the primary", "db1", |_| {
        ["db2", "db3"].iter().any(|name| site.server(name)["role"] == "primary")
    });
    site.sql("INSERT INTO t VALUES (2)");
    site.primary().start().unwrap();
    wait_until("db1 is found to have diverged", LONG, || {
        Ok(site.cli(&["status"]).stdout.contains("db1 is kept out"))
    })
    .unwrap();
    Some(site)
}

#[test]
fn a_diverged_server_is_rebuilt_from_a_replica() {
    let Some(site) = site(Flavour::MySql, "", |_| {}) else { return };
    let refused = site.cli(&["rejoin", "db1"]);
    assert!(refused.stderr.contains("transactions that"), "{refused:?}");
    let said = std::thread::scope(|scope| {
        let rebuild = scope.spawn(|| site.cli(&["rejoin", "db1", "--rebuild"]));
        // Nothing starts servers again here: it is told so, and the test does.
        wait_until("db1 stops with its new data", Duration::from_secs(60), || {
            Ok(!site.primary().is_running() || rebuild.is_finished())
        })
        .unwrap();
        site.primary().start().unwrap();
        rebuild.join().unwrap()
    });
    println!("{}{}", said.stderr, said.stdout);
    assert!(said.stdout.contains("db1 was rebuilt from"), "{said:?}");
    assert!(said.stderr.contains("start db1 if nothing else does"), "{said:?}");
    site.wait_server("db1 follows", "db1", |row| row["role"] == "replica" && row["reads"] == true);
    site.sql("INSERT INTO t VALUES (3)");
    wait_until("db1 has what the others have", LONG, || {
        let rows = site.primary().client_sql("SELECT id FROM app.t ORDER BY id")?;
        Ok(rows.lines().collect::<Vec<_>>() == ["2", "3"])
    })
    .unwrap();
    assert_eq!(site.primary().client_sql("SELECT @@super_read_only").unwrap().trim(), "1");
}

/// What the account that copies is called in these tests.
const REBUILDER: &str =
    "[failover]\nrebuild_user = \"rebuilder\"\nrebuild_password = \"re'b\\\\uilder\"\n";

fn mariadb_site(config: &str) -> Option<Site> {
    let site = site(Flavour::MariaDb, &format!("{REBUILDER}{config}"), |site| {
        let sql = include_str!("../sql/everything.sql");
        site.primary().client_sql(sql).unwrap();
    })?;
    Some(site)
}

/// The name of the primary, and the node.
fn primary(site: &Site) -> (&'static str, &Node) {
    let at = ["db2", "db3"].iter().position(|name| site.server(name)["role"] == "primary").unwrap();
    (["db2", "db3"][at], &site.sandbox.replicas()[at])
}

/// All that `mariadb-dump` finds there, without what may differ.
fn everything(node: &Node) -> String {
    let dump = |args: &[&str]| {
        let mut command = Command::new("mariadb-dump");
        command.args(["--no-defaults", "--protocol=tcp", "--skip-dump-date", "--order-by-primary"]);
        command.args(["--host=127.0.0.1", &format!("--port={}", node.address().port())]);
        command.args(["--user=rebuilder", "--hex-blob", "--skip-comments"]).args(args);
        Output::of(command.env("MYSQL_PWD", r"re'b\uilder")).ok()
    };
    let all = dump(&[
        "--routines",
        "--triggers",
        "--events",
        "--dump-history",
        "--single-transaction",
        "--databases",
        "app",
        "odd`name",
        "latin",
    ]);
    let accounts = dump(&[
        "--order-by-primary",
        "mysql",
        "global_priv",
        "db",
        "tables_priv",
        "columns_priv",
        "procs_priv",
        "roles_mapping",
    ]);
    // Events don't run on replicas.
    let all = all.replace("DISABLE ON SLAVE", "ENABLE");
    // When privileges of single tables were given is noted anew whenever a server reads that.
    format!("{all}{accounts}")
}

#[test]
fn a_diverged_mariadb_server_is_rebuilt_while_clients_write() {
    let Some(site) = mariadb_site("") else { return };
    let (_, now_primary) = primary(&site);
    site.primary()
        .client_sql("SET sql_log_bin=0; CREATE DATABASE of_its_own; CREATE TABLE app.own (a INT)")
        .unwrap();
    let stop = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                site.sql(&format!(
                    "INSERT INTO counted (n) VALUES ({n}); INSERT INTO unsafe_ones VALUES ({n}); \
                     DO NEXTVAL(numbers)"
                ));
            }
            n
        });
        let said = site.cli(&["rejoin", "db1", "--rebuild"]);
        stop.store(true, Ordering::Relaxed);
        let n = writer.join().unwrap();
        assert!(n > 10, "only {n} writes");
        said
    });
    println!("{}{}", said.stderr, said.stdout);
    assert!(said.stdout.contains("db1 was rebuilt from"), "{said:?}");
    assert!(said.stderr.contains(" tables of db"), "{said:?}");
    site.wait_server("db1 follows", "db1", |row| row["role"] == "replica" && row["reads"] == true);
    site.sql("INSERT INTO t VALUES (3)");
    let newest = now_primary.client_sql("SELECT @@gtid_binlog_pos").unwrap();
    wait_until("db1 has all", LONG, || {
        Ok(site.primary().client_sql("SELECT @@gtid_slave_pos")? == newest)
    })
    .unwrap();
    let (own, theirs) = (everything(site.primary()), everything(now_primary));
    for (own, theirs) in own.lines().zip(theirs.lines()) {
        assert_eq!(own, theirs);
    }
    assert_eq!(own.len(), theirs.len());
    assert!(own.contains("DO_NOTHING") || own.contains("says_hello"), "the dump is empty");
    let databases = site.primary().client_sql("SHOW DATABASES").unwrap();
    assert!(!databases.contains("of_its_own") && !databases.contains("pointsman"), "{databases}");
    let events = "SELECT status FROM information_schema.events";
    assert_eq!(site.primary().client_sql(events).unwrap().trim(), "SLAVESIDE_DISABLED");
    assert_eq!(site.primary().client_sql("SELECT @@read_only").unwrap().trim(), "1");
    // It could be the next primary.
    let log = std::fs::read_to_string(site.sandbox.dir().join("proxy.log")).unwrap();
    assert!(!log.contains(r"re'b"), "the password is in the log");
    // What replicates is not rebuilt by mistake.
    let refused = site.cli(&["rejoin", "db1", "--rebuild"]);
    assert!(refused.stderr.contains("--force"), "{refused:?}");
    let (name, _) = primary(&site);
    let refused = site.cli(&["rejoin", name, "--rebuild", "--force"]);
    assert!(refused.stderr.contains("is the primary"), "{refused:?}");
}

/// Nobody but the primary has its new history.
#[test]
fn replicas_of_a_primary_that_began_anew_are_rebuilt_from_it() {
    let Some(site) = mariadb_site("") else { return };
    let (name, now_primary) = primary(&site);
    let other = if name == "db2" { "db3" } else { "db2" };
    site.wait_server("it follows", other, |row| row["reads"] == true);
    now_primary.client_sql("RESET MASTER").unwrap();
    site.sql("INSERT INTO t VALUES (4)");
    site.wait_server("it is not read any more", other, |row| row["reads"] == false);
    let said = site.cli(&["rejoin", "db1", "--rebuild"]);
    assert!(said.stdout.contains(&format!("db1 was rebuilt from {name}")), "{said:?}");
    // By now db1 has it, too.
    let said = site.cli(&["rejoin", other, "--rebuild"]);
    assert!(said.stdout.contains(&format!("{other} was rebuilt from")), "{said:?}");
    site.wait_server("it follows again", other, |row| {
        row["role"] == "replica" && row["reads"] == true
    });
}

#[test]
fn a_rebuild_that_fails_leaves_the_server_out() {
    let Some(mut site) = mariadb_site("") else { return };
    let (primary_name, _) = primary(&site);
    let donor = usize::from(primary_name == "db2");
    // Enough to copy for a while.
    site.sql("CREATE TABLE big (id INT AUTO_INCREMENT PRIMARY KEY, filler LONGBLOB)");
    for _ in 0..16 {
        site.sql("INSERT INTO big (filler) SELECT REPEAT(CHAR(65 + RAND() * 20), 4 << 20)");
    }
    let said = std::thread::scope(|scope| {
        let rebuild = scope.spawn(|| site.cli(&["rejoin", "db1", "--rebuild"]));
        wait_until("some of it is there", Duration::from_secs(60), || {
            let status = site.cli(&["status"]).stdout;
            let copied = status.lines().find_map(|line| {
                let (_, of) = line.split_once("db1 is being rebuilt from ")?.1.split_once(", ")?;
                of.split(' ').next()?.parse::<u32>().ok()
            });
            Ok(copied.is_some_and(|mib| mib >= 8) || rebuild.is_finished())
        })
        .unwrap();
        site.sandbox.replicas()[donor].kill9().unwrap();
        rebuild.join().unwrap()
    });
    println!("{}{}", said.stderr, said.stdout);
    assert!(said.stderr.contains("could not be rebuilt"), "{said:?}");
    let out = |site: &Site| {
        let status = site.cli(&["status"]).stdout;
        status.lines().any(|line| {
            line.contains("db1 is kept out: its rebuild")
                && line.contains("--rebuild` begins again")
        })
    };
    assert!(out(&site), "{}", site.cli(&["status"]).stdout);
    let refused = site.cli(&["rejoin", "db1"]);
    assert!(refused.stderr.contains("has not got all data"), "{refused:?}");
    // Another process finds the mark.
    site.restart_proxy().unwrap();
    site.proxy.wait_ready().unwrap();
    wait_until("db1 is kept out by the next process, too", LONG, || Ok(out(&site))).unwrap();
    // From the primary this time.
    let said = site.cli(&["rejoin", "db1", "--rebuild"]);
    assert!(said.stdout.contains("db1 was rebuilt from"), "{said:?}");
    site.wait_server("db1 follows", "db1", |row| row["role"] == "replica" && row["reads"] == true);
    assert_eq!(site.primary().client_sql("SELECT COUNT(*) FROM app.big").unwrap().trim(), "16");
}

/// `mariadb-backup`, with everything on this machine.
#[test]
fn an_operators_own_command_rebuilds_a_server() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/rebuild-mariadb-backup.sh");
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("settings");
    // Where the servers are is known only when they run.
    let command = format!(
        "rebuild_command = [\"bash\", \"-c\", \". {} && exec {}\"]\n",
        settings.display(),
        script.display()
    );
    let Some(site) = mariadb_site(&command) else { return };
    let node = site.primary();
    let pid = node.pid().unwrap();
    // `Node::start` is not for scripts: the test does it when it is asked to.
    let asked = dir.path().join("start");
    let text = format!(
        "export ON_SERVER='bash -c' ON_DONOR='bash -c' OWNER=\"$(id -un):$(id -gn)\" DATADIR='{}' \\\n\
         STOP='kill {pid} && while ps -o stat= -p {pid} | grep -q ^[^Z]; do sleep 0.1; done' START='touch {}'\n",
        data_dir(node).display(),
        asked.display()
    );
    std::fs::write(&settings, text).unwrap();
    let said = std::thread::scope(|scope| {
        let rebuild = scope.spawn(|| site.cli(&["rejoin", "db1", "--rebuild"]));
        wait_until("db1 is to be started", Duration::from_secs(60), || {
            Ok(asked.exists() || rebuild.is_finished())
        })
        .unwrap();
        if asked.exists() {
            node.start().unwrap();
        }
        rebuild.join().unwrap()
    });
    println!("{}{}", said.stderr, said.stdout);
    assert!(said.stdout.contains("db1 was rebuilt from"), "{said:?}");
    assert!(said.stderr.contains("copying from db"), "{said:?}");
    site.wait_server("db1 follows", "db1", |row| row["role"] == "replica" && row["reads"] == true);
    site.sql("INSERT INTO t VALUES (3)");
    wait_until("db1 has what the others have", LONG, || {
        let rows = node.client_sql("SELECT id FROM app.t ORDER BY id")?;
        Ok(rows.lines().collect::<Vec<_>>() == ["2", "3"])
    })
    .unwrap();
    assert_eq!(everything(node), everything(primary(&site).1));

    // It says what is wrong, for as long as that is so.
    std::fs::write(&settings, "echo halfway; echo no such disk >&2; exit 3\n").unwrap();
    let said = site.cli(&["rejoin", "db1", "--rebuild", "--force"]);
    assert!(said.stderr.contains("no such disk"), "{said:?}");
}

fn data_dir(node: &Node) -> PathBuf {
    let text = node.client_sql("SELECT @@datadir").unwrap();
    PathBuf::from(text.trim())
}
