//! A server that has something of its own gets another one's data, by one command.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use pointsman_sandbox::Flavour;
use pointsman_tests::{LONG, Setup, Site, wait_until};

fn site(flavour: Flavour) -> Option<Site> {
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
        ..Setup::default()
    });
    wait_until("Pointsman may change servers", LONG, || {
        Ok(!site.cli(&["status"]).stdout.contains("can't replace it"))
    })
    .unwrap();
    site.primary().client_sql("CREATE TABLE app.t (id INT PRIMARY KEY)").unwrap();
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
    let Some(site) = site(Flavour::MySql) else { return };
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

#[test]
fn what_can_not_be_rebuilt_says_what_to_do() {
    let Some(site) = site(Flavour::MariaDb) else { return };
    let refused = site.cli(&["rejoin", "db1", "--rebuild"]);
    assert!(refused.stderr.contains("mariadb-backup"), "{refused:?}");
    let primary = ["db2", "db3"].into_iter().find(|name| site.server(name)["role"] == "primary");
    let refused = site.cli(&["rejoin", primary.unwrap(), "--rebuild"]);
    assert!(refused.stderr.contains("is the primary"), "{refused:?}");
}
