//! What a user of the sandbox sees.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pointsman_sandbox::{Flavour, Options, Sandbox, wait_until};

const LONG: Duration = Duration::from_secs(20);

fn count(node: &pointsman_sandbox::Node) -> String {
    node.client_sql("SELECT COUNT(*) FROM app.t").unwrap().trim().to_owned()
}

/// A zombie, waiting for some init to collect it, does not.
fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn replicates_survives_a_crash_and_leaves_nothing() {
    let begin = Instant::now();
    let sandbox = Sandbox::start(Options { replicas: 2, ..Options::default() }).unwrap();
    println!("up in {:?}", begin.elapsed());

    sandbox
        .primary()
        .client_sql("CREATE TABLE app.t (id INT); INSERT INTO app.t VALUES (1)")
        .unwrap();
    sandbox.wait_caught_up().unwrap();
    for replica in sandbox.replicas() {
        assert_eq!(count(replica), "1");
        assert_eq!(replica.client_sql("SELECT @@read_only").unwrap().trim(), "1");
    }
    let ids: Vec<_> = sandbox
        .nodes()
        .iter()
        .map(|n| n.client_sql("SELECT @@server_id").unwrap().trim().to_owned())
        .collect();
    assert_eq!(ids, ["1", "2", "3"]);

    let victim = &sandbox.replicas()[0];
    let old_pid = victim.pid().unwrap();
    victim.kill9().unwrap();
    assert!(!lives(old_pid) && !victim.is_running());
    sandbox.primary().client_sql("INSERT INTO app.t VALUES (2)").unwrap();
    victim.start().unwrap();
    wait_until("the replica catches up", LONG, || Ok(count(victim) == "2")).unwrap();

    victim.stop().unwrap();
    victim.start().unwrap();
    assert_eq!(count(victim), "2");

    victim.reinstall().unwrap();
    assert!(victim.client_sql("SELECT 1 FROM app.t").is_err());
    victim.replicate_from(sandbox.primary()).unwrap();
    sandbox.wait_caught_up().unwrap();
    assert_eq!(count(victim), "2");

    let pids: Vec<_> = sandbox.nodes().iter().map(|n| n.pid().unwrap()).collect();
    let dir = sandbox.dir().to_owned();
    sandbox.node(2).pause().unwrap();
    drop(sandbox);
    assert!(pids.into_iter().all(|pid| !lives(pid)), "a server is left");
    assert!(!dir.exists(), "{} is left", dir.display());
}

#[test]
fn accounts_log_in_and_may_do_what_they_should() {
    let sandbox = Sandbox::start(Options { replicas: 0, ..Options::default() }).unwrap();
    let node = sandbox.primary();
    node.set_general_log(true).unwrap();
    let run = |user: &str, password: &str, sql: &str| {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-h127.0.0.1", "-N", "-B"])
            .args([format!("-P{}", node.port()), format!("-u{user}"), format!("-p{password}")])
            .arg(format!("-e{sql}"))
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert!(run("app", "app-secret", "CREATE TABLE app.x (id INT)").is_some());
    assert!(run("app", "wrong", "SELECT 1").is_none());
    assert!(run("app", "app-secret", "SELECT 1 FROM mysql.global_priv").is_none());
    let monitor = |sql| run("pointsman", "monitor-secret", sql);
    assert!(monitor("SHOW ALL SLAVES STATUS").is_some());
    assert!(monitor("SHOW MASTER STATUS").is_some());
    assert!(monitor("SELECT User, Host, Priv FROM mysql.global_priv").unwrap().contains("app\t%"));
    assert!(monitor("SELECT User FROM mysql.user").is_some());
    assert!(monitor("CREATE TABLE app.y (id INT)").is_none());
    assert!(run("root", "", "SELECT 1").is_none(), "root over TCP");
    assert!(node.general_log().unwrap().contains("CREATE TABLE app.x"));
    node.clear_general_log().unwrap();
    assert!(run("app", "app-secret", "SELECT 42").is_some());
    let log = node.general_log().unwrap();
    assert!(log.contains("SELECT 42") && !log.contains("CREATE TABLE"), "{log}");
    assert!(node.status("Com_create_table").unwrap() >= 1);
}

#[test]
fn uses_the_directory_it_is_given_and_no_other() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("mine");
    let options = || Options { dir: Some(dir.clone()), replicas: 0, ..Options::default() };
    let sandbox = Sandbox::start(options()).unwrap();
    let error = Sandbox::start(options()).unwrap_err().to_string();
    assert!(error.contains("another sandbox is running"), "{error}");
    assert!(dir.join("db1/data").is_dir());
    drop(sandbox);
    assert!(!dir.exists());

    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("diary.txt"), "dear diary").unwrap();
    let error = Sandbox::start(options()).unwrap_err().to_string();
    assert!(error.contains("neither empty nor an old sandbox"), "{error}");
    assert!(dir.join("diary.txt").exists());
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let error = Sandbox::start(Options {
        replicas: 0,
        extra_args: vec!["--no-such-option=1".to_owned()],
        ..Options::default()
    })
    .unwrap_err()
    .to_string();
    assert!(error.contains("no-such-option"), "{error}");
}

/// Run by the test below, in a process of its own.
#[test]
#[ignore = "waits to be killed"]
fn hold_a_sandbox_until_killed() {
    // Started in a thread that ends at once: the servers must live on.
    let sandbox = std::thread::spawn(|| {
        Sandbox::start(Options { replicas: 0, ..Options::default() }).unwrap()
    })
    .join()
    .unwrap();
    sandbox.primary().client_sql("SELECT 1").unwrap();
    let file = std::env::var("SANDBOX_REPORT").unwrap();
    let text = format!("{} {}", sandbox.primary().pid().unwrap(), sandbox.dir().display());
    std::fs::write(format!("{file}.new"), text).unwrap();
    std::fs::rename(format!("{file}.new"), &file).unwrap();
    std::thread::sleep(LONG);
}

#[test]
fn servers_die_with_a_killed_parent_and_the_next_sandbox_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "hold_a_sandbox_until_killed"])
        .env("SANDBOX_REPORT", &report)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the sandbox is up", LONG, || Ok(report.exists())).unwrap();
    let text = std::fs::read_to_string(&report).unwrap();
    let (pid, left) = text.split_once(' ').unwrap();
    let pid = pid.parse().unwrap();
    assert!(lives(pid));
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until("the server dies", LONG, || Ok(!lives(pid))).unwrap();
    drop(Sandbox::start(Options { replicas: 0, ..Options::default() }).unwrap());
    // Or the sandbox of another test is just removing it.
    wait_until("the directory goes", LONG, || Ok(!Path::new(left).exists())).unwrap();
}

#[test]
fn mysql_replicates_and_survives_a_crash() {
    if let Err(error) = Flavour::MySql.check() {
        println!("skipped: no MySQL server ({error:#})");
        return;
    }
    let begin = Instant::now();
    let options = Options { flavour: Flavour::MySql, replicas: 2, ..Options::default() };
    let sandbox = Sandbox::start(options).unwrap();
    println!("up in {:?}", begin.elapsed());
    let primary = sandbox.primary();
    primary
        .client_sql("CREATE TABLE app.t (id INT PRIMARY KEY); INSERT INTO app.t VALUES (1)")
        .unwrap();
    sandbox.wait_caught_up().unwrap();
    for replica in sandbox.replicas() {
        assert_eq!(count(replica), "1");
        assert!(replica.client_sql("INSERT INTO app.t VALUES (7)").is_err(), "super_read_only");
    }
    let plugins =
        "SELECT DISTINCT plugin FROM mysql.user WHERE user IN ('app', 'pointsman', 'repl')";
    assert_eq!(primary.client_sql(plugins).unwrap().trim(), "caching_sha2_password");

    let victim = &sandbox.replicas()[0];
    victim.kill9().unwrap();
    primary.client_sql("INSERT INTO app.t VALUES (2)").unwrap();
    victim.start().unwrap();
    wait_until("the replica catches up", LONG, || Ok(count(victim) == "2")).unwrap();

    // The source itself crashes: replicas find it again.
    primary.kill9().unwrap();
    primary.start().unwrap();
    primary.client_sql("INSERT INTO app.t VALUES (3)").unwrap();
    sandbox.wait_caught_up().unwrap();
    assert_eq!(count(victim), "3");
}
