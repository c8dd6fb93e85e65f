//! A new process takes the listening sockets over from a running one: nobody is turned away, and
//! nobody reads anything stale meanwhile.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use pointsman_tests::{LONG, Proxy, Raw, Site, pointsman, wait_until};

/// Starts the next process and waits until the old one accepts no more.
fn take_over(site: &Site, n: usize) -> Proxy {
    let dir = site.sandbox.dir();
    let mut command = Command::new(pointsman());
    command.args(["proxy", "--takeover", "--config"]).arg(dir.join("proxy.toml"));
    let log = dir.join(format!("proxy-{n}.log"));
    let mut next = Proxy::spawn_as(command, site.admin(), &log).unwrap();
    let log = || std::fs::read_to_string(&log).unwrap();
    next.wait_for("the new process has taken over", || Ok(log().contains("took over"))).unwrap();
    next
}

#[test]
fn no_connection_is_refused_while_processes_change() {
    const CONNECTIONS: u32 = 10_000;
    let mut site = Site::start();
    site.primary().client_sql("CREATE TABLE app.t (id INT PRIMARY KEY, n INT)").unwrap();
    site.primary().client_sql("INSERT INTO app.t VALUES (1, 0)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    let (done, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    let port = site.port();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while done.fetch_add(1, Relaxed) < CONNECTIONS || !stop.load(Relaxed) {
                        let mut raw = Raw::connect(port).unwrap();
                        assert_eq!(raw.one("SELECT 41 + 1").unwrap(), "42");
                        raw.command(1, b"").unwrap();
                    }
                })
            })
            .collect();
        for n in 1..=3u32 {
            let share = CONNECTIONS * n / 4;
            wait_until("clients come", LONG, || Ok(done.load(Relaxed) >= share)).unwrap();
            // Sessions of the old process: one in a transaction, one idle.
            let (mut writer, mut idle) = (Raw::connect(port).unwrap(), Raw::connect(port).unwrap());
            let id = writer.one("SELECT CONNECTION_ID()").unwrap();
            writer.query("BEGIN").unwrap();
            writer.query(&format!("UPDATE t SET n = {n} WHERE id = 1")).unwrap();
            let next = take_over(&site, n as usize);
            let mut old = std::mem::replace(&mut site.proxy, next);
            // New clients are the new process's; what the old one acknowledges, they see.
            let mut reader = Raw::connect(port).unwrap();
            assert_ne!(reader.one("SELECT CONNECTION_ID()").unwrap(), id);
            writer.query("COMMIT").unwrap();
            assert_eq!(reader.one("SELECT n FROM t WHERE id = 1").unwrap(), n.to_string());
            // And the other way round.
            reader.query(&format!("UPDATE t SET n = -{n} WHERE id = 1")).unwrap();
            assert_eq!(idle.one("SELECT n FROM t WHERE id = 1").unwrap(), format!("-{n}"));
            drop((writer, idle));
            let status = old.wait(LONG).unwrap();
            assert!(status.success(), "{status}: {}", old.log());
        }
        stop.store(true, Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
    assert!(done.load(Relaxed) >= CONNECTIONS);
}

#[test]
fn a_process_that_does_not_start_changes_nothing() {
    let site = Site::start();
    let config = site.sandbox.dir().join("proxy.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    // It gets the sockets, and then fails to bind another.
    let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = busy.local_addr().unwrap().port();
    let wrong = site.sandbox.dir().join("wrong.toml");
    let more = format!("\n[[listener]]\naddress = \"127.0.0.1:{taken}\"\n");
    std::fs::write(&wrong, text.replacen("\n[monitor]", &format!("{more}\n[monitor]"), 1)).unwrap();
    let output = Command::new(pointsman())
        .args(["proxy", "--takeover", "--config"])
        .arg(&wrong)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(&taken.to_string()), "{output:?}");
    let mut raw = Raw::connect(site.port()).unwrap();
    assert_eq!(raw.one("SELECT @@server_id").unwrap(), "2", "reads go to the replica as before");
}

#[test]
fn without_a_running_proxy_there_is_nothing_to_take_over() {
    let mut site = Site::start();
    site.proxy.stop().unwrap();
    let output = Command::new(pointsman())
        .args(["proxy", "--takeover", "--config"])
        .arg(site.sandbox.dir().join("proxy.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&site.port().to_string()), "{said}");
}
