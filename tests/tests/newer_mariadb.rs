//! What only a newer MariaDB does, or its clients; the stories of `tests/compare` are told before it,
//! too.

#![allow(clippy::unwrap_used)]

use std::process::Command;

use pointsman_sandbox::{MONITOR_PASSWORD, MONITOR_USER, newer_mariadb};
use pointsman_tests::{APP_PASSWORD, APP_USER, LONG, Output, Setup, Site, wait_until};

/// A site before such servers; `None` where there are none.
fn site(setup: Setup) -> Option<Site> {
    let Some(root) = newer_mariadb() else {
        println!("skipped: no newer MariaDB here; `cargo xtask setup` gets one");
        return None;
    };
    Some(Site::with(Setup { mariadb: Some(root), ..setup }))
}

/// Its client, which by itself demands TLS and a certificate that somebody vouches for.
fn client(site: &Site, args: &[&str], user: &str, password: &str, sql: &str) -> Output {
    let root = newer_mariadb().unwrap();
    let mut command = Command::new(root.join("usr/bin/mariadb"));
    // Not localhost, where it lets any certificate pass.
    command
        .args(["--no-defaults", "--protocol=tcp", "--host=LocalHost"])
        .args(["--batch", "--skip-column-names"])
        .args([format!("--port={}", site.port()), format!("--user={user}")])
        .arg(format!("--password={password}"))
        .args(args)
        .arg(format!("--execute={sql}"))
        .arg("app");
    Output::of(&mut command)
}

fn trusts(site: &Site) {
    let told = client(site, &[], APP_USER, APP_PASSWORD, "SHOW STATUS LIKE 'Ssl_cipher'; \\s").ok();
    assert!(told.contains("Cipher in use"), "{told}");
    let denied = client(site, &[], APP_USER, "wrong", "SELECT 1");
    assert!(denied.stderr.contains("ERROR 1045"), "{denied:?}");
}

#[test]
fn its_clients_trust_the_proxys_own_certificate_by_the_password() {
    let Some(site) = site(Setup::default()) else { return };
    trusts(&site);
}

#[test]
fn they_do_so_before_older_servers_too() {
    if newer_mariadb().is_some() {
        trusts(&Site::start());
    }
}

#[test]
fn accounts_with_parsec_need_their_password_in_the_config() {
    let Some(site) = site(Setup {
        config: "workers = 1\n[[user]]\nname = \"known\"\npassword = \"secret\"\n".to_owned(),
        server_args: ["auth_parsec", "auth_ed25519"]
            .map(|plugin| format!("--plugin-load-add={plugin}"))
            .to_vec(),
        ..Setup::default()
    }) else {
        return;
    };
    for user in ["known", "unknown"] {
        site.primary()
            .client_sql(&format!(
                "CREATE USER {user}@'%' IDENTIFIED VIA parsec USING PASSWORD('secret'); \
                 GRANT ALL ON app.* TO {user}@'%'"
            ))
            .unwrap();
    }
    site.sandbox.wait_caught_up().unwrap();
    assert_eq!(client(&site, &[], "known", "secret", "SELECT CURRENT_USER()").ok(), "known@%\n");
    assert!(client(&site, &[], "known", "wrong", "SELECT 1").stderr.contains("ERROR 1045"));
    let said = client(&site, &["--skip-ssl"], "unknown", "secret", "SELECT 1");
    assert!(said.stderr.contains("PM3001") && said.stderr.contains("[[user]]"), "{said:?}");

    // The proxy's own account may have such a password as well.
    for plugin in ["parsec", "ed25519"] {
        site.primary()
            .client_sql(&format!(
                "ALTER USER {MONITOR_USER}@'%' IDENTIFIED VIA {plugin} \
                 USING PASSWORD('{MONITOR_PASSWORD}')"
            ))
            .unwrap();
        site.sandbox.wait_caught_up().unwrap();
        let id = |node: &pointsman_sandbox::Node| {
            node.client_sql(&format!(
                "SELECT MIN(id) FROM information_schema.processlist WHERE user = '{MONITOR_USER}'"
            ))
        };
        for node in [site.primary(), site.replica()] {
            let before = id(node).unwrap();
            node.client_sql(&format!("KILL USER {MONITOR_USER}")).unwrap();
            wait_until("the monitor is back", LONG, || {
                let now = id(node)?;
                Ok(now.trim() != "NULL" && now != before)
            })
            .unwrap();
        }
    }
}

#[test]
fn a_write_is_known_to_all_after_a_time_was_set_by_hand() {
    let Some(site) = site(Setup::default()) else { return };
    site.primary().client_sql("CREATE TABLE app.t (a INT); INSERT INTO app.t VALUES (1)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    let ssl = ["--skip-ssl"];
    // The position of the write before it is told again: that is no history begun anew.
    let write = "DELETE FROM t WHERE a = 7; SELECT SLEEP(0.5); SET timestamp = 5; SELECT 1";
    client(&site, &ssl, APP_USER, APP_PASSWORD, write).ok();
    assert_eq!(site.server("db2")["reads"], true);

    site.replica().client_sql("STOP SLAVE SQL_THREAD").unwrap();
    let write = "SET timestamp = 86400; INSERT INTO t VALUES (2)";
    client(&site, &ssl, APP_USER, APP_PASSWORD, write).ok();
    let count = client(&site, &ssl, APP_USER, APP_PASSWORD, "SELECT COUNT(*) FROM t").ok();
    assert_eq!(count, "2\n");
}

/// Its replicas can't be stopped while they connect to a source that does not answer.
#[test]
fn a_frozen_primary_is_replaced_within_seconds() {
    let setup = Setup { replicas: 2, failover: true, ..Setup::default() };
    let Some(site) = site(setup) else { return };
    wait_until("Pointsman may change the primary", LONG, || {
        Ok(!site.cli(&["status"]).stdout.contains("can't replace it"))
    })
    .unwrap();
    site.sandbox.wait_caught_up().unwrap();
    site.primary().pause().unwrap();
    let begun = std::time::Instant::now();
    wait_until("another primary", LONG, || {
        Ok(site.metric("pointsman_failovers_total", &[("kind", "failover")]) == 1.0)
    })
    .unwrap();
    let gap = begun.elapsed();
    println!("{gap:?}\n{}", site.cli(&["events"]).stdout);
    site.primary().unpause().unwrap();
    assert!(gap < std::time::Duration::from_secs(5), "{gap:?}");
}

#[test]
fn what_a_failed_statement_committed_is_told_late() {
    if let Some(site) = site(Setup::default()) {
        pointsman_tests::freshness::told_late(&site);
    }
}
