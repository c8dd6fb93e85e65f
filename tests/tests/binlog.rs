//! The binary log through the proxy: a replica and `mariadb-binlog` (`mysqlbinlog`) behind it.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use pointsman_sandbox::Flavour;
use pointsman_tests::{LONG, Output, Raw, Setup, Site, wait_until};

const USER: &str = "reader";
const PASSWORD: &str = "reader-secret";

fn start(flavour: Flavour, failover: bool) -> Option<Site> {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return None;
    }
    let site = Site::with(Setup { replicas: 2, failover, flavour, ..Setup::default() });
    site.primary()
        .client_sql(&format!(
            "CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'; \
             GRANT REPLICATION SLAVE ON *.* TO {USER}@'%'; \
             CREATE TABLE app.logged (id INT PRIMARY KEY, n INT); \
             INSERT INTO app.logged VALUES (1, 10), (2, 20)"
        ))
        .unwrap();
    site.sandbox.wait_caught_up().unwrap();
    Some(site)
}

/// `mariadb-binlog`, or MySQL's.
fn reader(site: &Site, port: u16) -> Command {
    let mut command = if site.primary().flavour() == Flavour::MariaDb {
        let mut command = Command::new("mariadb-binlog");
        command.args(["--no-defaults", "--skip-ssl"]);
        command
    } else {
        // It stands beside `mysql`, and is run as that is.
        let client = site.primary().client();
        let mut command = Command::new(client.get_program());
        for arg in client.get_args() {
            if let Some(beside) = arg.to_str().and_then(|a| a.strip_suffix("/mysql")) {
                command.arg(format!("{beside}/mysqlbinlog"));
                break;
            }
            command.arg(arg);
        }
        command.args(["--no-defaults", "--get-server-public-key"]);
        command
    };
    command.args(["--read-from-remote-server", "--host=127.0.0.1", "--protocol=tcp"]);
    command.args([format!("--port={port}"), format!("--user={USER}")]);
    command.arg(format!("--password={PASSWORD}"));
    command
}

/// The primary's binary log, first to last.
fn newest_log(site: &Site) -> String {
    let logs = site.primary().client_sql("SHOW BINARY LOGS").unwrap();
    logs.lines().last().unwrap().split_whitespace().next().unwrap().to_owned()
}

fn reads_as_direct(flavour: Flavour) {
    let Some(site) = start(flavour, false) else { return };
    let log = newest_log(&site);
    let read = |port| {
        let output = Output::of(reader(&site, port).arg(&log));
        assert!(output.status.success(), "{}", output.stderr);
        output.stdout
    };
    let direct = read(site.primary().port());
    assert!(direct.contains("CREATE TABLE app.logged"), "{direct}");
    assert_eq!(read(site.port()), direct);
    // What is written meanwhile arrives as well.
    let mut follower = reader(&site, site.port())
        .args(["--stop-never", &log])
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut until = |text: &str| {
        lines.by_ref().map(Result::unwrap).find(|line| line.contains(text)).unwrap();
    };
    until("CREATE TABLE app.logged");
    site.primary().client_sql("CREATE TABLE app.later (id INT)").unwrap();
    site.primary().client_sql("CREATE TABLE app.latest (id INT)").unwrap();
    until("CREATE TABLE app.later");
    if flavour == Flavour::MariaDb {
        // A server in maintenance has no work at all.
        assert!(site.cli(&["maintain", "db1"]).status.success());
    } else {
        follower.kill().unwrap();
    }
    wait_until("the reader has ended", LONG, || Ok(follower.try_wait()?.is_some())).unwrap();
    wait_until("the session is gone", LONG, || {
        let sessions = site.admin_json("sessions")?;
        Ok(sessions.as_array().is_some_and(Vec::is_empty))
    })
    .unwrap();
}

#[test]
fn mariadb_binlog_reads_as_direct() {
    reads_as_direct(Flavour::MariaDb);
}

#[test]
fn mysqlbinlog_reads_as_direct() {
    reads_as_direct(Flavour::MySql);
}

fn follows(flavour: Flavour) {
    let Some(mut site) = start(flavour, true) else { return };
    let (port, behind) = (site.port(), 2);
    let node = site.sandbox.node(behind);
    let sql = if flavour == Flavour::MariaDb {
        format!(
            "STOP SLAVE; CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, \
             MASTER_USER='{USER}', MASTER_PASSWORD='{PASSWORD}', MASTER_CONNECT_RETRY=1; \
             START SLAVE"
        )
    } else {
        format!(
            "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', \
             SOURCE_PORT={port}, SOURCE_USER='{USER}', SOURCE_PASSWORD='{PASSWORD}', \
             SOURCE_CONNECT_RETRY=1, GET_SOURCE_PUBLIC_KEY=1; START REPLICA"
        )
    };
    node.client_sql(&sql).unwrap();
    let write = |id: u32| {
        let mut client = Raw::connect(port).unwrap();
        client.query(&format!("INSERT INTO app.logged VALUES ({id}, 0)")).unwrap();
    };
    let arrived = |id: u32| {
        wait_until("the row arrives behind the proxy", Duration::from_secs(30), || {
            let sql = format!("SELECT COUNT(*) FROM app.logged WHERE id = {id}");
            Ok(site.sandbox.node(behind).client_sql(&sql)?.trim() == "1")
        })
        .unwrap();
    };
    write(3);
    arrived(3);
    let row = site.admin_json("sessions").unwrap();
    assert!(row.to_string().contains("binlog_dump"), "{row}");
    // Another primary: the replica connects again, and gets to that one.
    println!("{}", site.cli(&["switchover", "--to", "db2"]).ok());
    write(4);
    arrived(4);
    // It does not keep the proxy from stopping.
    site.proxy.stop().unwrap();
}

#[test]
fn a_mariadb_replica_follows_through_the_proxy() {
    follows(Flavour::MariaDb);
}

#[test]
fn a_mysql_replica_follows_through_the_proxy() {
    follows(Flavour::MySql);
}
