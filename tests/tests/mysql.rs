//! MySQL 9.7 behind the proxy, and caching_sha2_password on both its sides.
//!
//! `cargo xtask setup` gets the server; without one these tests say so and pass.

#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::Result;
use mysql_async::prelude::Queryable as _;
use pointsman_sandbox::{Flavour, Options, Sandbox};
use pointsman_tests::{
    APP_PASSWORD, APP_USER, LONG, Node, Output, Pki, Proxy, Raw, ServerError, Setup, Site, caps,
    free_port, http_get, lenenc_row, php_script, pointsman, wait_until,
};
use pointsman_wire::{Capabilities, put_lenenc_bytes};
use serde_json::Value;

/// MySQL servers with the proxy before them.
struct MySql {
    // Before the servers: the proxy goes first.
    proxy: Proxy,
    sandbox: Sandbox,
    port: u16,
    admin: u16,
}

impl MySql {
    /// `None` if there is no MySQL here.
    fn start(replicas: usize) -> Option<Self> {
        Self::with(replicas, "")
    }

    /// With more lines in `[[listener]]`.
    fn with(replicas: usize, listener: &str) -> Option<Self> {
        if let Err(error) = Flavour::MySql.check() {
            println!("skipped: no MySQL server ({error:#})");
            return None;
        }
        Some(
            Self::try_start(replicas, listener)
                .unwrap_or_else(|error| panic!("no site: {error:#}")),
        )
    }

    fn try_start(replicas: usize, listener: &str) -> Result<Self> {
        pointsman();
        let flavour = Flavour::MySql;
        let sandbox = Sandbox::start(Options { flavour, replicas, ..Options::default() })?;
        // A port found free may be taken a moment later by another test.
        let mut attempts = 5;
        loop {
            attempts -= 1;
            let (port, admin) = (free_port()?, free_port()?);
            let config = sandbox.dir().join("proxy.toml");
            sandbox.write_proxy_config(&config, port, admin, "workers = 2\n")?;
            let text = std::fs::read_to_string(&config)?;
            let with = format!("[[listener]]\n{listener}\n");
            std::fs::write(&config, text.replacen("[[listener]]", &with, 1))?;
            let mut proxy = Proxy::spawn(&config, admin, &sandbox.dir().join("proxy.log"))?;
            match proxy.wait_ready() {
                Ok(()) => {
                    let site = Self { proxy, sandbox, port, admin };
                    for replica in site.sandbox.replicas() {
                        site.wait_server("takes reads", replica.name(), |r| r["reads"] == true);
                    }
                    return Ok(site);
                }
                Err(_) if attempts > 0 && proxy.log().contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn primary(&self) -> &Node {
        self.sandbox.primary()
    }

    fn replica(&self) -> &Node {
        &self.sandbox.replicas()[0]
    }

    fn server(&self, name: &str) -> Value {
        let (_, body) = http_get(self.admin, "/api/v1/servers").unwrap();
        let rows: Value = serde_json::from_str(&body).unwrap();
        let found = rows.as_array().into_iter().flatten().find(|row| row["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {rows}")).clone()
    }

    #[track_caller]
    fn wait_server(&self, what: &str, name: &str, wanted: impl Fn(&Value) -> bool) {
        if let Err(error) = wait_until(what, LONG, || Ok(wanted(&self.server(name)))) {
            panic!("{error:#}; {name} is {}", self.server(name));
        }
    }

    /// Reads answered by `server` so far, from `/metrics`.
    fn reads(&self, server: &str) -> f64 {
        let (_, text) = http_get(self.admin, "/metrics").unwrap();
        let ours = |line: &&str| {
            line.starts_with("pointsman_statements_total{")
                && line.contains(&format!("server=\"{server}\""))
                && line.contains("class=\"read\"")
        };
        let values = text.lines().filter(ours).filter_map(|line| line.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }

    fn php(&self, script: &str, args: &[&str]) -> Output {
        let mut command = Command::new("php");
        command.arg(php_script(script)).arg(self.port.to_string()).args(args);
        Output::of(&mut command)
    }

    /// An account that nobody has logged in to yet, so that the proxy does not know its password.
    fn new_account(&self, user: &str, password: &str) {
        self.primary()
            .client_sql(&format!(
                "CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'; \
                 GRANT ALL ON app.* TO '{user}'@'%'"
            ))
            .unwrap();
        self.sandbox.wait_caught_up().unwrap();
    }

    /// Replicas accept writes from now on, so that a misrouted one would succeed and be seen.
    fn let_replicas_write(&self) {
        for replica in self.sandbox.replicas() {
            // Takes super_read_only with it.
            replica.client_sql("SET GLOBAL read_only = 0").unwrap();
        }
    }

    /// Panics if a replica has a transaction that did not come from the primary.
    #[track_caller]
    fn check_replicas_wrote_nothing(&self) {
        self.sandbox.wait_caught_up().unwrap();
        let primary = self.primary().client_sql("SELECT @@server_uuid").unwrap();
        for replica in self.sandbox.replicas() {
            let executed = replica.position().unwrap();
            for set in executed.split(',') {
                assert!(
                    set.trim().starts_with(primary.trim()),
                    "{} wrote: {executed}",
                    replica.name()
                );
            }
            assert_eq!(executed, self.primary().position().unwrap());
        }
    }
}

/// A client program's login: what it is called, and how to run one query.
type Client = (&'static str, fn(&MySql, &str, &str, &str) -> Output);

/// Every client here that can log in over plain TCP.
const CLIENTS: &[Client] = &[
    ("mysqli", |site, user, password, sql| {
        php_inline(
            "mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
             $db = new mysqli('127.0.0.1', $argv[2], $argv[3], 'app', (int) $argv[1]);
             echo $db->query($argv[4])->fetch_row()[0], \"\\n\";",
            site.port,
            &[user, password, sql],
        )
    }),
    ("pdo", |site, user, password, sql| {
        php_inline(
            "$db = new PDO(\"mysql:host=127.0.0.1;port=$argv[1];dbname=app\", $argv[2], $argv[3]);
             echo $db->query($argv[4])->fetchColumn(), \"\\n\";",
            site.port,
            &[user, password, sql],
        )
    }),
    ("mariadb", |site, user, password, sql| {
        mariadb(site.port, &["--skip-ssl"], user, password, sql)
    }),
    ("mysql", |site, user, password, sql| {
        let mut command = site.primary().client();
        command
            .args(["--host=127.0.0.1", "--get-server-public-key", "--batch"])
            .arg("--skip-column-names")
            .args([format!("--port={}", site.port), format!("--user={user}")])
            .args([format!("--password={password}"), format!("--execute={sql}")])
            .arg("app");
        Output::of(&mut command)
    }),
];

fn php_inline(code: &str, port: u16, args: &[&str]) -> Output {
    let mut command = Command::new("php");
    let code = format!(
        "try {{ {code} }} catch (Exception $e) {{
            fwrite(STDERR, $e->getCode() . ' ' . $e->getMessage()); exit(1);
        }}"
    );
    command.args(["-r", &code, "--"]).arg(port.to_string()).args(args);
    Output::of(&mut command)
}

fn mariadb(port: u16, more: &[&str], user: &str, password: &str, sql: &str) -> Output {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--host=127.0.0.1", "--batch", "--skip-column-names"])
        .args(more)
        .args([format!("--port={port}"), format!("--user={user}")])
        .args([format!("--password={password}"), format!("--execute={sql}")])
        .arg("app");
    Output::of(&mut command)
}

#[track_caller]
fn assert_denied(output: &Output, what: &str) {
    assert!(!output.status.success(), "{what}: {output:?}");
    assert!(output.stderr.contains("1045"), "{what}: {output:?}");
}

#[test]
fn a_php_page_works_and_its_reads_are_the_replicas() {
    let Some(site) = MySql::start(2) else { return };
    site.let_replicas_write();
    assert_eq!(site.server("db1")["role"], "primary");
    for name in ["db2", "db3"] {
        assert_eq!(site.server(name)["role"], "replica");
    }
    let said = site.php("page.php", &[]).ok();
    assert!(said.contains("the page is done, nothing failed"), "{said}");
    assert!(said.contains("inside one db1"), "{said}");
    for name in ["db2", "db3"] {
        assert!(site.reads(name) > 0.0, "{name} took no reads");
    }
    site.check_replicas_wrote_nothing();
}

#[test]
fn what_was_written_is_read_back_from_the_replica() {
    const ROUNDS: u32 = 500;
    let Some(site) = MySql::start(1) else { return };
    site.let_replicas_write();
    for mode in ["same", "next"] {
        let before = [site.reads("db1"), site.reads("db2")];
        let said = site.php("read_your_writes.php", &[&ROUNDS.to_string(), mode]).json();
        assert_eq!(said["rounds"], ROUNDS);
        assert_eq!(said["stale"], 0, "{mode} connection: {said}");
        let (primary, replica) = (site.reads("db1") - before[0], site.reads("db2") - before[1]);
        println!("{mode} connection: {replica} reads by the replica, {primary} by the primary");
        assert!(replica + primary >= f64::from(ROUNDS), "every read is counted");
        assert!(replica > f64::from(ROUNDS) * 0.8, "most are the replica's: {replica}");
    }
    site.check_replicas_wrote_nothing();
}

#[test]
fn lag_is_known_and_a_replica_behind_gets_no_reads_it_would_answer_stale() {
    let Some(site) = MySql::start(1) else { return };
    let query = |sql: &str| CLIENTS[0].1(&site, APP_USER, APP_PASSWORD, sql).ok().trim().to_owned();
    assert_eq!(query("SELECT @@server_id"), "2");
    site.wait_server("lag is known", "db2", |row| {
        !row["lag_ms"].is_null() || !row["lag"].is_null()
    });

    site.replica().client_sql("STOP REPLICA SQL_THREAD").unwrap();
    site.primary().client_sql("CREATE TABLE app.t (id INT PRIMARY KEY)").unwrap();
    site.wait_server("stopped replication is seen", "db2", |row| row["reads"] == false);
    assert_eq!(query("SELECT @@server_id"), "1");
    assert_eq!(query("SELECT COUNT(*) FROM t"), "0");
    site.replica().client_sql("START REPLICA SQL_THREAD").unwrap();
    site.wait_server("it comes back", "db2", |row| row["reads"] == true);
    assert_eq!(query("SELECT @@server_id"), "2");
}

#[test]
fn every_client_logs_in_by_the_full_path_first_and_then_the_fast_one() {
    let Some(site) = MySql::start(1) else { return };
    for (name, run) in CLIENTS {
        // Longer than the salt, which masks it in turns.
        let password = format!("a long password of {name}, with ünicode");
        site.new_account(name, &password);
        let denied = run(&site, name, "wrong", "SELECT 1");
        assert_denied(&denied, &format!("{name} with a wrong password, full path"));
        for round in 0..3 {
            let got = run(&site, name, &password, "SELECT CURRENT_USER()").ok();
            assert_eq!(got.trim(), format!("{name}@%"), "round {round}");
        }
        let denied = run(&site, name, "wrong", "SELECT 1");
        assert_denied(&denied, &format!("{name} with a wrong password, fast path"));
        assert_denied(&run(&site, "nobody", "wrong", "SELECT 1"), &format!("{name} as nobody"));

        // The servers' caches are empty after this: they ask the proxy for the full proof again.
        for node in site.sandbox.nodes() {
            node.client_sql("FLUSH LOCAL PRIVILEGES").unwrap();
        }
        run(&site, name, &password, "SELECT 1").ok();
        let other = "another password";
        site.primary()
            .client_sql(&format!("ALTER USER '{name}'@'%' IDENTIFIED BY '{other}'"))
            .unwrap();
        site.sandbox.wait_caught_up().unwrap();
        run(&site, name, other, "SELECT 1").ok();
        assert_denied(&run(&site, name, &password, "SELECT 1"), &format!("{name}, old password"));
    }
    let none = mariadb(site.port, &["--skip-ssl", "--skip-password"], APP_USER, "", "SELECT 1");
    assert_denied(&none, "no password");
    assert!(none.stderr.contains("using password: NO"), "{none:?}");
}

#[test]
fn a_client_may_have_the_public_key_before_it_logs_in() {
    let Some(site) = MySql::start(1) else { return };
    site.new_account("keyed", "a password");
    let name = "Caching_sha2_password_rsa_public_key";
    let (options, sql) = (["--skip-ssl", "--raw"], format!("SHOW STATUS LIKE '{name}'"));
    let told = mariadb(site.port, &options, APP_USER, APP_PASSWORD, &sql).ok();
    let key = site.sandbox.dir().join("key.pem");
    std::fs::write(&key, told.split_once('\t').unwrap().1).unwrap();
    let code = "$db = mysqli_init();
        $db->options(MYSQLI_SERVER_PUBLIC_KEY, $argv[2]);
        $db->real_connect('127.0.0.1', 'keyed', 'a password', 'app', (int)$argv[1]);
        echo $db->query('SELECT CURRENT_USER()')->fetch_row()[0];";
    assert_eq!(php_inline(code, site.port, &[key.to_str().unwrap()]).ok(), "keyed@%");
}

#[test]
fn mysqls_own_client_logs_in_without_a_password() {
    let Some(site) = MySql::start(1) else { return };
    site.new_account("open", "");
    // It has no mysql_native_password, and says that it has no password by a byte.
    let mysql = |port: u16, args: &[&str]| {
        let mut command = site.primary().client();
        command.args(["--host=127.0.0.1", "--batch", "--skip-column-names"]).args(args);
        command.args([format!("--port={port}"), "--execute=SELECT CURRENT_USER()".to_owned()]);
        Output::of(&mut command)
    };
    for mode in ["--ssl-mode=DISABLED", "--ssl-mode=PREFERRED"] {
        assert_eq!(mysql(site.port, &[mode, "--user=open"]).ok().trim(), "open@%");
        for user in ["nobody", APP_USER] {
            let args = [mode, &format!("--user={user}")];
            let direct = mysql(site.primary().port(), &args);
            assert_eq!(mysql(site.port, &args).stderr, direct.stderr, "{user} {mode}");
        }
    }
}

#[test]
fn sha256_password_is_spoken_with_every_client() {
    let Some(site) = MySql::start(1) else { return };
    for (name, run) in CLIENTS {
        let password = format!("a long password of {name}");
        site.primary()
            .client_sql(&format!(
                "CREATE USER '{name}'@'%' IDENTIFIED WITH sha256_password BY '{password}'; \
                 GRANT ALL ON app.* TO '{name}'@'%'"
            ))
            .unwrap();
        site.sandbox.wait_caught_up().unwrap();
        assert_denied(&run(&site, name, "wrong", "SELECT 1"), &format!("{name}, not yet known"));
        for _ in 0..2 {
            let got = run(&site, name, &password, "SELECT CURRENT_USER()").ok();
            assert_eq!(got.trim(), format!("{name}@%"));
        }
        assert_denied(&run(&site, name, "wrong", "SELECT 1"), &format!("{name}, known"));
    }
    let through_tls = ["--ssl", "--skip-ssl-verify-server-cert"];
    let got = mariadb(site.port, &through_tls, "pdo", "a long password of pdo", "SELECT 1");
    assert_eq!(got.ok().trim(), "1");
}

#[test]
fn wrong_passwords_cost_the_servers_a_few_logins_at_once() {
    const GUESSERS: usize = 60;
    let Some(site) = MySql::start(1) else { return };
    site.new_account("guessed", "secret");
    let logins = |status: &str| -> u64 {
        let sql = format!("SHOW GLOBAL STATUS LIKE '{status}'");
        let text = site.primary().client_sql(&sql).unwrap();
        text.split_whitespace().last().unwrap().parse().unwrap()
    };
    site.primary().client_sql("FLUSH STATUS").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..GUESSERS {
            scope.spawn(|| {
                for _ in 0..3 {
                    let refused = Raw::login(site.port, "guessed", "wrong", None, caps());
                    let error = refused.err().unwrap();
                    assert_eq!(error.downcast::<ServerError>().unwrap().code, 1045);
                }
            });
        }
        // Who knows it gets a turn among them.
        Raw::login(site.port, "guessed", "secret", None, caps()).unwrap();
    });
    let most = logins("Max_used_connections");
    println!("{most} connections at once for {GUESSERS} guessers");
    assert!(most < 30, "{most} connections at once");
}

#[test]
fn accounts_that_may_not_log_in_are_told_why() {
    let Some(site) = MySql::start(1) else { return };
    let log_in = || mariadb(site.port, &["--skip-ssl"], "other", "secret", "SELECT 1");
    let alter = |what: &str| {
        site.primary().client_sql(&format!("ALTER USER 'other'@'%' {what}")).unwrap();
        site.sandbox.wait_caught_up().unwrap();
    };
    site.new_account("other", "secret");
    for (what, code, undo) in [
        ("PASSWORD EXPIRE", "ERROR 1862", "IDENTIFIED BY 'secret'"),
        ("ACCOUNT LOCK", "ERROR 3118", "ACCOUNT UNLOCK"),
        ("REQUIRE SSL", "ERROR 1045", "REQUIRE NONE"),
    ] {
        alter(what);
        wait_until(what, LONG, || {
            let said = log_in();
            anyhow::ensure!(said.stderr.contains(code), "{said:?}");
            Ok(true)
        })
        .unwrap();
        alter(undo);
        wait_until(undo, LONG, || {
            let said = log_in();
            anyhow::ensure!(said.status.success(), "{said:?}");
            Ok(true)
        })
        .unwrap();
    }
}

#[test]
fn a_password_in_the_clear_is_turned_away_and_said_so() {
    let Some(site) = MySql::with(0, "tls = { mode = \"disabled\" }") else { return };
    let password = "overheard-0815";
    site.new_account("clear", password);
    let denied = mariadb(site.port, &["--ssl"], "clear", password, "SELECT 1");
    println!("{}", denied.stderr);
    // A client that insists on TLS does not get as far.
    assert!(!denied.status.success(), "{denied:?}");
    assert!(denied.stderr.contains("PM3003") || denied.stderr.contains("2026"), "{denied:?}");
    assert!(!site.proxy.log().contains(password), "{}", site.proxy.log());
}

#[tokio::test]
async fn transactions_prepared_statements_and_variables() {
    let Some(site) = MySql::start(1) else { return };
    site.let_replicas_write();
    let opts = mysql_async::OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(site.port)
        .user(Some(APP_USER))
        .pass(Some(APP_PASSWORD))
        .db_name(Some("app"))
        // It would leave the proxy for the unix socket that the primary names.
        .prefer_socket(false);
    let mut db = mysql_async::Conn::new(opts).await.unwrap();
    db.query_drop("CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, v JSON)").await.unwrap();
    for i in 0..50 {
        db.exec_drop("INSERT INTO t (v) VALUES (?)", (format!("{{\"n\": {i}}}"),)).await.unwrap();
        let id = db.last_insert_id().unwrap();
        let n: Option<i64> = db
            .exec_first("SELECT CAST(v->'$.n' AS SIGNED) FROM t WHERE id = ?", (id,))
            .await
            .unwrap();
        assert_eq!(n, Some(i));
    }
    site.sandbox.wait_caught_up().unwrap();
    let server = "SELECT @@server_id";
    for (begin, runs_on) in [("START TRANSACTION", 1), ("START TRANSACTION READ ONLY", 2)] {
        db.query_drop(begin).await.unwrap();
        let got: Option<u32> = db.query_first(server).await.unwrap();
        assert_eq!(got, Some(runs_on), "{begin}");
        db.query_drop("ROLLBACK").await.unwrap();
    }
    db.query_drop("BEGIN").await.unwrap();
    db.query_drop("DELETE FROM t").await.unwrap();
    let count: Option<u32> = db.query_first("SELECT COUNT(*) FROM t").await.unwrap();
    assert_eq!(count, Some(0));
    db.query_drop("ROLLBACK").await.unwrap();
    let count: Option<u32> = db.query_first("SELECT COUNT(*) FROM t").await.unwrap();
    assert_eq!(count, Some(50));

    // Set on the primary, seen on the replica.
    for (set, get, value) in [
        ("SET time_zone = '+05:30'", "@@time_zone", "+05:30"),
        (
            "SET NAMES utf8mb4 COLLATE utf8mb4_0900_bin",
            "@@collation_connection",
            "utf8mb4_0900_bin",
        ),
        ("SET group_concat_max_len = 77777", "CAST(@@group_concat_max_len AS CHAR)", "77777"),
        ("SET sql_mode = 'ANSI_QUOTES'", "@@sql_mode", "ANSI_QUOTES"),
        ("USE app", "DATABASE()", "app"),
    ] {
        db.query_drop(set).await.unwrap();
        let got: Option<(String, u32)> =
            db.query_first(format!("SELECT {get}, @@server_id")).await.unwrap();
        assert_eq!(got, Some((value.to_owned(), 2)), "{set}");
    }
    // The client's business, not ours: what was written is known all the same.
    db.query_drop("SET session_track_gtids = OFF").await.unwrap();
    for i in 0..100_u64 {
        db.query_drop("INSERT INTO t (v) VALUES ('[]')").await.unwrap();
        let count: Option<u64> = db.query_first("SELECT COUNT(*) FROM t").await.unwrap();
        assert_eq!(count, Some(51 + i));
    }
    db.disconnect().await.unwrap();
    site.check_replicas_wrote_nothing();
}

#[test]
fn a_replica_killed_under_load_costs_no_request() {
    let Some(site) = MySql::start(1) else { return };
    let mut load = Command::new("php")
        .arg(php_script("load.php"))
        .args([site.port.to_string(), "120".to_owned()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let loaded = |site: &MySql, name: &str| {
        let before = site.reads(name);
        wait_until("the load runs", LONG, || Ok(site.reads(name) > before + 50.0)).unwrap();
    };
    for _ in 0..2 {
        loaded(&site, "db2");
        site.replica().kill9().unwrap();
        site.wait_server("db2 is down", "db2", |row| row["role"] == "down");
        loaded(&site, "db1");
        site.replica().start().unwrap();
        site.wait_server("db2 takes reads again", "db2", |row| row["reads"] == true);
    }
    loaded(&site, "db2");
    load.stdin.take().unwrap().write_all(b"stop\n").unwrap();
    let mut said = String::new();
    load.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(load.wait().unwrap().success(), "{said}");
    let said: Value = serde_json::from_str(said.trim_start_matches("ready\n")).unwrap();
    println!("{said}");
    assert_eq!((&said["failed"], &said["stale"]), (&0.into(), &0.into()), "{said}");
}

/// The plugin is between client and proxy alone: MariaDB knows the account by its own.
#[test]
fn caching_sha2_password_from_the_config_before_mariadb() {
    let site = Site::with(Setup {
        config: format!(
            "workers = 2\n[[user]]\nname = \"{APP_USER}\"\npassword = \"{APP_PASSWORD}\"\n\
             plugin = \"caching_sha2_password\"\n"
        ),
        ..Setup::default()
    });
    let said = site.php("page.php", &[]).ok();
    assert!(said.contains("the page is done, nothing failed"), "{said}");
    // With TLS wanted or not: the fast path needs no password.
    for more in [&[][..], &["--skip-ssl"]] {
        let got = mariadb(site.port(), more, APP_USER, APP_PASSWORD, "SELECT 42").ok();
        assert_eq!(got.trim(), "42");
        assert_denied(&mariadb(site.port(), more, APP_USER, "wrong", "SELECT 1"), "mariadb");
    }
    let mysqli = "mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
        new mysqli('127.0.0.1', $argv[2], $argv[3], 'app', (int) $argv[1]);";
    php_inline(mysqli, site.port(), &[APP_USER, APP_PASSWORD]).ok();
    assert_denied(&php_inline(mysqli, site.port(), &[APP_USER, "wrong"]), "mysqli");
}

#[test]
fn tls_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path(), "ca").unwrap();
    let pem = pki.issue("proxy", &["localhost", "127.0.0.1"]).unwrap();
    let Some(site) = MySql::with(1, &format!("tls = {{ {} }}", pem.toml())) else { return };
    let mysql = |args: &[&str], user: &str, sql: &str| {
        let mut command = site.primary().client();
        command
            .args(["--host=127.0.0.1", "--batch", "--skip-column-names"])
            .args(args)
            .args([format!("--port={}", site.port), format!("--user={user}")])
            .args(["--password=secret".to_owned(), format!("--execute={sql}")])
            .arg("app");
        Output::of(&mut command)
    };
    let ca = format!("--ssl-ca={}", pki.ca());
    for (user, demand) in [("plain", "NONE"), ("secure", "SSL")] {
        site.new_account(user, "secret");
        let demand = format!("ALTER USER {user}@'%' REQUIRE {demand}");
        site.primary().client_sql(&demand).unwrap();
    }
    site.sandbox.wait_caught_up().unwrap();
    // The password goes through TLS, with no key asked for.
    for args in
        [&["--ssl-mode=VERIFY_IDENTITY", &ca], &["--ssl-mode=REQUIRED", "--tls-version=TLSv1.2"]]
    {
        for user in ["plain", "secure"] {
            let said =
                mysql(args, user, "SELECT CURRENT_USER(); SHOW STATUS LIKE 'Ssl_cipher'").ok();
            assert!(said.contains(&format!("{user}@%")), "{said}");
            // The servers' own word on their side of the session.
            assert!(said.contains("Ssl_cipher\tTLS_AES_"), "{said}");
            // Their caches are empty after this: they ask for the full proof again.
            for node in site.sandbox.nodes() {
                node.client_sql("FLUSH LOCAL PRIVILEGES").unwrap();
            }
        }
    }
    // sha256_password: the password itself goes through TLS, to the servers too.
    let long = |name: &str| {
        let sql = format!(
            "CREATE USER {name}@'%' IDENTIFIED WITH sha256_password BY 'secret'; \
             GRANT ALL ON app.* TO {name}@'%'"
        );
        site.primary().client_sql(&sql).unwrap();
        site.sandbox.wait_caught_up().unwrap();
    };
    long("wide");
    let said = mysql(&["--ssl-mode=REQUIRED"], "wide", "SHOW STATUS LIKE 'Ssl_cipher'").ok();
    assert!(said.contains("Ssl_cipher\tTLS_AES_"), "{said}");
    let other = Pki::new(dir.path(), "other").unwrap();
    let ca = format!("--ssl-ca={}", other.ca());
    let said = mysql(&["--ssl-mode=VERIFY_CA", &ca], "plain", "SELECT 1");
    assert!(said.stderr.contains("ERROR 2026"), "{said:?}");
    let plain = ["--ssl-mode=DISABLED", "--get-server-public-key"];
    mysql(&plain, "plain", "SELECT 1").ok();
    assert_denied(&mysql(&plain, "secure", "SELECT 1"), "without TLS");

    // The servers take nothing but TLS from now on: who speaks to the proxy without still can. (An
    // account that nobody has logged in with: what is open stays as it is.)
    site.new_account("later", "secret");
    long("wider");
    site.sandbox.wait_caught_up().unwrap();
    for node in site.sandbox.nodes() {
        node.client_sql("SET GLOBAL require_secure_transport = ON").unwrap();
    }
    for user in ["later", "wider"] {
        let said = mysql(&plain, user, "SHOW STATUS LIKE 'Ssl_cipher'").ok();
        assert!(said.contains("Ssl_cipher\tTLS_AES_"), "{user}: {said}");
    }
    site.replica().kill9().unwrap();
    site.wait_server("db2 is down", "db2", |row| row["role"] == "down");
    site.replica().start().unwrap();
    site.replica().client_sql("SET GLOBAL require_secure_transport = ON").unwrap();
    site.wait_server("the monitor gets in again", "db2", |row| row["role"] == "replica");
}

/// A string attribute before a statement's text.
fn with_attribute(name: &str, value: &str, sql: &str) -> Vec<u8> {
    let mut out = vec![1, 1, 0, 1, 0xfd, 0];
    put_lenenc_bytes(&mut out, name.as_bytes());
    put_lenenc_bytes(&mut out, value.as_bytes());
    out.extend_from_slice(sql.as_bytes());
    out
}

#[test]
fn query_attributes_reach_the_server() {
    let Some(site) = MySql::start(1) else { return };
    let install = "INSTALL COMPONENT 'file://component_query_attributes'";
    site.sandbox.primary().client_sql(install).unwrap();
    let wants = caps() | Capabilities::QUERY_ATTRIBUTES;
    let mut db = Raw::login(site.port, APP_USER, APP_PASSWORD, Some("app"), wants).unwrap();
    assert!(db.caps().contains(Capabilities::QUERY_ATTRIBUTES));
    let text = |rows: Vec<Vec<u8>>| lenenc_row(&rows[0]).unwrap();
    let some = |text: &str| Some(text.to_owned());
    let ask = "SELECT mysql_query_attribute_string('trace'), CONNECTION_ID()";
    let id = db.greeting.connection_id.to_string();
    db.command(3, &with_attribute("trace", "abc", ask)).unwrap();
    assert_eq!(text(db.result().unwrap().0), [some("abc"), some(&id)]);
    // Each statement has its own, or none.
    db.command(3, &[&[0, 1], ask.as_bytes()].concat()).unwrap();
    assert_eq!(text(db.result().unwrap().0), [None, some(&id)]);
    // They hide no write, and what they say is not taken for one.
    db.command(3, &with_attribute("x", "y", "CREATE TABLE attributed (id INT)")).unwrap();
    db.ok().unwrap();
    // (Calling an unknown function has bound the first session to the primary.)
    let mut other = Raw::login(site.port, APP_USER, APP_PASSWORD, Some("app"), wants).unwrap();
    other.command(3, &with_attribute("x", "DROP TABLE attributed", "SELECT @@server_id")).unwrap();
    let replica = site.sandbox.replicas()[0].server_id().to_string();
    assert_eq!(text(other.result().unwrap().0), [some(&replica)], "a read goes to the replica");
    // In binary, beside a parameter without a name.
    let prepare = "SELECT mysql_query_attribute_string('trace'), ?";
    let (statement, ..) = db.prepare(prepare).unwrap();
    let mut execute = statement.to_le_bytes().to_vec();
    execute.extend_from_slice(&[8, 1, 0, 0, 0, 2, 0, 1, 8, 0, 0, 0xfd, 0]);
    put_lenenc_bytes(&mut execute, b"trace");
    execute.extend_from_slice(&7_i64.to_le_bytes());
    put_lenenc_bytes(&mut execute, b"xyz");
    db.command(0x17, &execute).unwrap();
    let (rows, _) = db.result().unwrap();
    assert!(rows[0].starts_with(b"\0\0\x03xyz"), "{rows:?}");
    // More than is there.
    db.command(3, b"\xfa\x01SELECT 1").unwrap();
    let refused = db.result().unwrap_err().downcast::<ServerError>().unwrap();
    assert_eq!(refused.code, 1835);
    db.command(3, b"\x00\x01SELECT 1").unwrap();
    db.result().unwrap();
}
