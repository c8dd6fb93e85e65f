//! What operators see and do.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pointsman_tests::{
    LONG, Output, Proxy, Raw, Setup, Site, free_port, http, http_get, pointsman, wait_until,
};
use serde_json::Value;

fn run(args: &[&str]) -> Output {
    Output::of(Command::new(pointsman()).args(args))
}

/// A config for servers that need not exist.
fn config(dir: &tempfile::TempDir, listener: u16, admin: u16, server: u16) -> String {
    let path = dir.path().join("proxy.toml");
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:{listener}\"\n[[server]]\nname = \"db1\"\n\
         address = \"127.0.0.1:{server}\"\n[monitor]\nuser = \"x\"\npassword = \"y\"\n\
         [admin]\naddress = \"127.0.0.1:{admin}\"\n[console]\naddress = \"\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_busy_port_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let busy = taken.local_addr().unwrap().port();
    for (listener, admin) in [(busy, free_port().unwrap()), (free_port().unwrap(), busy)] {
        let begin = Instant::now();
        let output = run(&["proxy", "--config", &config(&dir, listener, admin, 1)]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.contains(&busy.to_string()), "names the address: {output:?}");
        assert!(begin.elapsed() < Duration::from_secs(10));
        for port in [listener, admin] {
            assert!(port == busy || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
        }
    }
}

#[test]
fn a_wrong_config_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = config(&dir, 1, 2, 3);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n[routing]\nconsistancy = \"causal\"\nmax_lag = 3\n"))
        .unwrap();
    for args in [&["proxy", "--config", &path][..], &["check", &path]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        for wanted in ["consistancy", "consistency", "max_lag", "proxy.toml:15", "proxy.toml:16"] {
            assert!(output.stderr.contains(wanted), "no {wanted} in {}", output.stderr);
        }
    }
    let missing = run(&["proxy", "--config", "/no/such/proxy.toml"]);
    assert_ne!(missing.status.code(), Some(0));
    assert!(missing.stderr.contains("/no/such/proxy.toml"), "{missing:?}");
    assert_eq!(run(&["proxy"]).status.code(), Some(2), "wrong usage");
    assert_eq!(run(&["nonsense"]).status.code(), Some(2));
}

#[test]
fn servers_that_are_not_there_are_said_not_to_be_and_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, admin) = (free_port().unwrap(), free_port().unwrap());
    let path = config(&dir, listener, admin, free_port().unwrap());
    let mut proxy = Proxy::spawn(path.as_ref(), admin, &dir.path().join("log")).unwrap();
    proxy.wait_for("it answers", || Ok(http_get(admin, "/healthz")?.0 == 200)).unwrap();
    let (status, why) = http_get(admin, "/readyz").unwrap();
    assert_eq!(status, 503, "{why}");
    let error = Raw::connect(listener).err().unwrap();
    println!("a client is told: {error:#}");
    proxy.stop().unwrap();
}

#[test]
fn every_view_is_there_for_people_and_for_programs() {
    let site = Site::start();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    for i in 0..5 {
        db.query(&format!("INSERT INTO t VALUES ({i})")).unwrap();
        db.query(&format!("SELECT * FROM t WHERE id = {i}")).unwrap();
    }
    db.query("BEGIN").unwrap();
    db.query("SELECT * FROM t FOR UPDATE").unwrap();

    let status = site.cli(&["status", "--json"]).json();
    assert_eq!(status["kind"], "proxy");
    assert_eq!(status["ready"], true);
    assert!(site.cli(&["status"]).ok().contains("db1"));

    let servers = site.cli(&["servers", "--json"]).json();
    assert_eq!(servers[0]["name"], "db1");
    assert_eq!(servers[0]["role"], "primary");
    assert_eq!(servers[0]["server_id"], 1);
    assert_eq!(servers[1]["role"], "replica");
    assert!(servers[1]["lag_ms"].is_number(), "{servers}");
    let text = site.cli(&["servers"]).ok();
    assert!(text.contains("db2") && text.contains("replica"), "{text}");

    let sessions = site.cli(&["sessions", "--json"]).json();
    let me =
        sessions.as_array().unwrap().iter().find(|s| s["id"] == db.greeting.connection_id).unwrap();
    assert_eq!(me["user"], "app");
    assert_eq!(me["pin"], "db1", "{me}");
    assert!(me["transaction"].is_string(), "{me}");

    let statements = site.cli(&["statements", "--json"]).json();
    let find = |part: &str| {
        let rows: &Vec<Value> = statements.as_array().unwrap();
        rows.iter().find(|r| r["text"].as_str().unwrap().contains(part)).unwrap_or(&Value::Null)
    };
    assert_eq!(find("INSERT")["count"], 5, "{statements}");
    assert_eq!(find("INSERT")["class"], "write");
    assert_eq!(find("WHERE")["class"], "read");
    assert_eq!(find("WHERE")["count"], 5, "{statements}");
    assert_eq!(find("FOR UPDATE")["reason"], "locking_read", "{statements}");
    assert!(site.cli(&["statements", "--limit", "1"]).ok().lines().count() < 8);

    site.cli(&["events", "--json"]).json();
    site.cli(&["events"]).ok();
    let config = site.cli(&["config", "--json"]).ok();
    assert!(!config.contains("monitor-secret"), "a secret is shown: {config}");
    site.cli(&["check", &site.sandbox.dir().join("proxy.toml").display().to_string()]).ok();

    let why = site.cli(&["explain", "--json", "SELECT * FROM t WHERE id = 1 FOR UPDATE"]).json();
    assert_eq!(why["route"], "primary");
    assert_eq!(why["reason"], "locking_read");
    assert_eq!(site.cli(&["explain", "--json", "SELECT 1"]).json()["route"], "any_replica");

    let nobody = Output::of(Command::new(pointsman()).args([
        "status",
        "--admin",
        &format!("http://127.0.0.1:{}", free_port().unwrap()),
    ]));
    assert_eq!(nobody.status.code(), Some(1));
    assert!(nobody.stderr.contains("PM1301"), "{nobody:?}");
    db.query("COMMIT").unwrap();
}

#[test]
fn a_server_is_drained_maintained_and_resumed() {
    let site = Site::with_replicas(2);
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE t (id INT)").unwrap();
    for verb in ["drain", "maintain"] {
        site.cli(&[verb, "db2"]).ok();
        site.wait_server("no reads", "db2", |row| row["reads"] == false);
        for _ in 0..50 {
            assert_eq!(db.one("SELECT @@server_id").unwrap(), "3", "{verb}");
        }
        if verb == "maintain" {
            wait_until("its clients are gone", LONG, || Ok(site.server("db2")["connections"] == 0))
                .unwrap();
        }
        site.cli(&["resume", "db2", "--json"]).json();
        site.wait_server("reads again", "db2", |row| row["reads"] == true);
        wait_until("reads reach it", LONG, || {
            let mut other = Raw::connect(site.port())?;
            Ok(other.one("SELECT @@server_id")? == "2")
        })
        .unwrap();
    }
    let unknown = site.cli(&["drain", "db9"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        unknown.stderr.contains("PM1001") && unknown.stderr.contains("db1, db2, db3"),
        "{unknown:?}"
    );
    let events = site.cli(&["events"]).ok();
    assert!(events.contains("drain"), "{events}");
    // The API says the same by itself, and wants POST for it.
    assert_eq!(http(site.admin(), "GET", "/api/v1/servers/db2/drain", &[]).unwrap().0, 405);
    assert_eq!(http(site.admin(), "POST", "/api/v1/servers/db2/drain", &[]).unwrap().0, 200);
}

#[test]
fn sigterm_drains_and_ends_well() {
    let mut site = Site::start();
    let mut idle = Raw::connect(site.port()).unwrap();
    let mut busy = Raw::connect(site.port()).unwrap();
    busy.query("CREATE TABLE t (id INT)").unwrap();
    busy.query("BEGIN").unwrap();
    busy.query("INSERT INTO t VALUES (1)").unwrap();
    site.proxy.signal(Signal::SIGTERM).unwrap();
    assert!(idle.is_closed(Duration::from_secs(30)), "an idle session is ended");
    wait_until("nobody new is let in", LONG, || Ok(Raw::connect(site.port()).is_err())).unwrap();
    busy.query("INSERT INTO t VALUES (2)").unwrap();
    busy.query("COMMIT").unwrap();
    let status = site.proxy.wait(LONG).unwrap();
    assert_eq!(status.code(), Some(0), "{}", site.proxy.log());
    assert_eq!(site.primary().client_sql("SELECT COUNT(*) FROM app.t").unwrap().trim(), "2");
}

/// Each would be a line in the servers' logs, for good.
#[test]
fn no_server_counts_an_aborted_connection() {
    let site = Site::start();
    // What the monitor may not see it asks for again and again, over connections of their own.
    site.primary().client_sql("REVOKE TRIGGER, PROCESS ON *.* FROM pointsman@'%'").unwrap();
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE a (v INT)").unwrap();
    db.query("INSERT INTO a VALUES (1)").unwrap();
    assert_eq!(db.one("SELECT v FROM a").unwrap(), "1");
    wait_until("it is known that something is missing", LONG, || {
        Ok(site.cli(&["status"]).stdout.contains("GRANT TRIGGER"))
    })
    .unwrap();
    drop(db);
    wait_until("the client is gone", LONG, || {
        Ok(site.cli(&["sessions"]).stdout.lines().count() <= 1)
    })
    .unwrap();
    for server in [site.primary(), site.replica()] {
        let aborted = server.client_sql("SHOW GLOBAL STATUS LIKE 'Aborted_clients'").unwrap();
        assert_eq!(aborted.trim(), "Aborted_clients\t0");
    }
}

#[test]
fn metrics_are_clean_and_prometheus_scrapes_them() {
    let site = Site::start();
    site.php("page.php", &["quiet"]).ok();
    let text = site.metrics();
    let mut lint = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    lint.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = lint.wait_with_output().unwrap();
    let said_text = format!(
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    assert!(said.status.success() && said_text.trim().is_empty(), "{said_text}");
    for name in [
        "pointsman_client_connections",
        "pointsman_client_connections_total",
        "pointsman_statements_total",
        "pointsman_statement_duration_seconds_bucket",
        "pointsman_statement_errors_total",
        "pointsman_server_up",
        "pointsman_server_role",
        "pointsman_server_replication_lag_seconds",
        "pointsman_server_connections",
        "pointsman_reads_to_primary_total",
        "pointsman_causal_wait_seconds_bucket",
    ] {
        assert!(text.contains(name), "no {name} in\n{text}");
    }

    let dir = site.sandbox.dir().join("prometheus");
    std::fs::create_dir(&dir).unwrap();
    let config = dir.join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\nscrape_configs:\n\
             \x20 - job_name: pointsman\n    static_configs:\n      - targets: ['127.0.0.1:{}']\n",
            site.admin()
        ),
    )
    .unwrap();
    let port = free_port().unwrap();
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let scraped = wait_until("Prometheus has our series", LONG, || {
        let (_, body) =
            http_get(port, "/api/v1/query?query=pointsman_server_role%7Brole%3D%22primary%22%7D")?;
        Ok(body.contains("\"server\":\"db1\""))
    });
    prometheus.kill().unwrap();
    prometheus.wait().unwrap();
    scraped.unwrap();
}

#[test]
fn the_sql_console_answers_those_who_live_in_mysql() {
    let site = Site::with(Setup { console: true, ..Setup::default() });
    Raw::connect(site.port()).unwrap().query("SELECT 1").unwrap();
    let console = |sql: &str| {
        Output::of(Command::new("mariadb").args([
            "--no-defaults".to_owned(),
            "-h127.0.0.1".to_owned(),
            format!("-P{}", site.console()),
            "--batch".to_owned(),
            format!("--execute={sql}"),
        ]))
    };
    let servers = console("SHOW SERVERS").ok();
    assert!(servers.contains("name\taddress\trole"), "{servers}");
    assert!(servers.contains("db1") && servers.contains("primary"), "{servers}");
    for sql in ["SHOW STATUS", "SHOW SESSIONS", "SHOW STATEMENTS", "SHOW EVENTS", "HELP"] {
        console(sql).ok();
    }
    console("DRAIN db2").ok();
    site.wait_server("drained", "db2", |row| row["reads"] == false);
    console("RESUME db2").ok();
    site.wait_server("resumed", "db2", |row| row["reads"] == true);
    let wrong = console("DROP TABLE students");
    assert!(!wrong.status.success());
    assert!(wrong.stderr.contains("PM1002"), "{wrong:?}");
}

#[test]
fn the_sandbox_comes_up_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("site");
    let mut sandbox = Command::new(pointsman())
        .args(["sandbox", "--replicas", "1", "--log", "warn", "--dir"])
        .arg(&dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines =
        std::io::BufRead::lines(std::io::BufReader::new(sandbox.stdout.take().unwrap()));
    let mut port = None;
    for line in lines.by_ref() {
        let line = line.unwrap();
        if let Some((_, rest)) = line.split_once("-P ")
            && port.is_none()
        {
            port = Some(rest.split(' ').next().unwrap().parse::<u16>().unwrap());
        }
        if line.contains("Ctrl-C") {
            break;
        }
    }
    let port = port.unwrap();
    wait_until("the proxy answers", LONG, || Ok(Raw::connect(port)?.one("SELECT 1")? == "1"))
        .unwrap();
    let pid = |node: &str| -> i32 {
        std::fs::read_to_string(dir.join(node).join("pid")).unwrap().trim().parse().unwrap()
    };
    let servers = [pid("db1"), pid("db2")];
    let ours = nix::unistd::Pid::from_raw(i32::try_from(sandbox.id()).unwrap());
    nix::sys::signal::kill(ours, Signal::SIGINT).unwrap();
    let status = sandbox.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(!dir.exists(), "{} is left", dir.display());
    for pid in servers {
        assert!(
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err(),
            "{pid} lives"
        );
    }
}

#[test]
fn the_readme_and_the_example_configs_are_right() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let block = |language: &str| {
        let (_, rest) = readme.split_once(&format!("```{language}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    for grant in pointsman_sandbox::MONITOR_GRANTS {
        assert!(
            block("sql").contains(grant),
            "README does not grant what the monitor needs: {grant}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let smallest = dir.path().join("proxy.toml");
    std::fs::write(&smallest, block("toml")).unwrap();
    for file in [smallest, root.join("config/proxy.toml"), root.join("config/proxy.full.toml")] {
        let mut check = Command::new(pointsman());
        Output::of(check.arg("check").arg(file).env("POINTSMAN_PASSWORD", "x")).ok();
    }
}
