//! The PROXY protocol, from a load balancer and to the servers; hosts that are turned away.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};

use pointsman_tests::{APP_PASSWORD, APP_USER, LONG, Output, Setup, Site, free_port, wait_until};

/// A running HAProxy, killed on drop.
struct HaProxy {
    child: Child,
    port: u16,
}

impl HaProxy {
    /// In TCP mode before `site`; `how`: `send-proxy` and so on. It takes its clients to come from
    /// the address `from`.
    fn start(site: &Site, how: &str, from: &str) -> Self {
        let port = free_port().unwrap();
        let config = site.sandbox.dir().join(format!("haproxy-{port}.cfg"));
        fs::write(
            &config,
            format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
                 listen site\n bind 127.0.0.1:{port}\n tcp-request connection set-src ipv4({from})\n server proxy 127.0.0.1:{} {how}\n",
                site.port()
            ),
        )
        .unwrap();
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy");
        wait_until("haproxy listens", LONG, || {
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
        })
        .unwrap();
        Self { child, port }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `mariadb` client.
fn mariadb(port: u16, args: &[&str], user: &str, sql: &str) -> Output {
    let mut command = Command::new("mariadb");
    command
        .args(["--no-defaults", "--host=127.0.0.1", "--batch", "--skip-column-names"])
        .args([format!("--port={port}"), format!("--user={user}")])
        .arg("--password=secret")
        .args(args)
        .arg(format!("--execute={sql}"));
    Output::of(&mut command)
}

#[test]
fn behind_haproxy_the_client_is_who_haproxy_says_and_the_servers_know() {
    let site = Site::with(Setup {
        listener: "proxy_protocol = [\"127.0.0.1/32\"]\n".to_owned(),
        server: "proxy_protocol = true\n".to_owned(),
        server_args: vec!["--proxy-protocol-networks=127.0.0.1".to_owned()],
        ..Setup::default()
    });
    // Accounts for one address each: nobody else's login will do, on whichever hop.
    site.primary()
        .client_sql(
            "CREATE USER seven@'127.0.0.7' IDENTIFIED BY 'secret'; \
             CREATE USER eight@'127.0.0.8' IDENTIFIED BY 'secret'; \
             CREATE USER one@'127.0.0.1' IDENTIFIED BY 'secret'",
        )
        .unwrap();
    site.sandbox.wait_caught_up().unwrap();
    for how in ["send-proxy", "send-proxy-v2"] {
        let seven = HaProxy::start(&site, how, "127.0.0.7");
        let eight = HaProxy::start(&site, how, "127.0.0.8");
        for args in [&["--skip-ssl"][..], &["--ssl"], &["--ssl", "--compress"]] {
            let said = mariadb(seven.port, args, "seven", "SELECT USER()").ok();
            assert_eq!(said, "seven@127.0.0.7\n", "{how} {args:?}");
            // On the primary too.
            let sql = "SELECT USER() FOR UPDATE";
            let said = mariadb(seven.port, args, "seven", sql).ok();
            assert_eq!(said, "seven@127.0.0.7\n", "{how} {args:?}");
            let said = mariadb(eight.port, args, "seven", "SELECT 1");
            let denied = "Access denied for user 'seven'@'127.0.0.8' (using password: YES)";
            assert!(said.stderr.contains(denied), "{said:?}");
        }
        let held = Command::new("mariadb")
            .args(["--no-defaults", "--host=127.0.0.1", "--skip-ssl"])
            .args([format!("--port={}", eight.port), "--user=eight".to_owned()])
            .args(["--password=secret", "--execute=SELECT SLEEP(30)"])
            .stdout(Stdio::null())
            .spawn();
        let mut held = held.unwrap();
        wait_until("the session is listed by its client's address", LONG, || {
            let rows = site.admin_json("sessions")?.to_string();
            Ok(rows.contains("127.0.0.8:") && rows.contains("eight"))
        })
        .unwrap();
        held.kill().unwrap();
        held.wait().unwrap();
    }
    // Who may send headers need not.
    let said = mariadb(site.port(), &["--skip-ssl"], "one", "SELECT USER()").ok();
    assert_eq!(said, "one@127.0.0.1\n");
    // Others may not: a client that claims to be somebody.
    let mut liar = TcpStream::connect((Ipv4Addr::LOCALHOST, site.port())).unwrap();
    liar.set_read_timeout(Some(LONG)).unwrap();
    let local = liar.local_addr().unwrap();
    assert_eq!(local.ip(), Ipv4Addr::LOCALHOST, "so this one is believed");
    liar.write_all(b"PROXY TCP4 127.0.0.7 127.0.0.1 1 1 1\r\n").unwrap();
    let mut said = Vec::new();
    liar.read_to_end(&mut said).unwrap();
    assert!(String::from_utf8_lossy(&said).contains("Bad handshake"), "{said:?}");
}

#[test]
fn headers_from_strangers_are_a_protocol_error() {
    let site = Site::with(Setup {
        listener: "proxy_protocol = [\"192.0.2.0/24\"]\n".to_owned(),
        replicas: 0,
        ..Setup::default()
    });
    for how in ["send-proxy", "send-proxy-v2"] {
        let haproxy = HaProxy::start(&site, how, "127.0.0.7");
        let said = mariadb(haproxy.port, &["--skip-ssl"], APP_USER, "SELECT 1");
        assert!(said.stderr.contains("ERROR 1043"), "{said:?}");
        assert!(said.stderr.contains("PM3004"), "{said:?}");
    }
    let log = site.proxy.log();
    assert!(log.contains("PM3004"), "{log}");
    let sql = "SELECT 1";
    assert_eq!(Site::mariadb_at(site.port(), &[], sql).ok(), "1\n");
}

#[test]
fn hosts_that_fail_over_and_over_are_turned_away_for_a_while() {
    let site = Site::with(Setup {
        config: "workers = 2\n[limits]\nmax_login_errors = 5\nlogin_block = \"3s\"\n".to_owned(),
        listener: "proxy_protocol = [\"127.0.0.1\"]\n".to_owned(),
        replicas: 0,
        ..Setup::default()
    });
    let password = format!("--password={APP_PASSWORD}");
    let right = |port| mariadb(port, &["--skip-ssl", &password], APP_USER, "SELECT 1");
    let wrong = |port| mariadb(port, &["--skip-ssl"], APP_USER, "SELECT 1");
    let nine = HaProxy::start(&site, "send-proxy", "127.0.0.9");
    let ten = HaProxy::start(&site, "send-proxy-v2", "127.0.0.10");
    for _ in 0..4 {
        assert!(wrong(nine.port).stderr.contains("ERROR 1045"));
    }
    right(nine.port).ok();
    for _ in 0..5 {
        assert!(wrong(nine.port).stderr.contains("ERROR 1045"));
    }
    let said = right(nine.port);
    assert!(said.stderr.contains("ERROR 1129") && said.stderr.contains("PM3005"), "{said:?}");
    right(ten.port).ok();
    // From the load balancer itself.
    right(site.port()).ok();
    wait_until("it may again", LONG, || Ok(right(nine.port).status.success())).unwrap();
}
