//! Scheduled events run at the primary, whichever server that is, and nowhere else.

#![allow(clippy::unwrap_used)]

use pointsman_sandbox::Flavour;
use pointsman_tests::{LONG, Node, Setup, Site, wait_until};

/// Each run of an event leaves a row that says where.
const TABLE: &str = "CREATE TABLE app.ticks (id BIGINT AUTO_INCREMENT PRIMARY KEY, event VARCHAR(20), \
     server INT, at TIMESTAMP(6) NOT NULL)";

/// One that runs, with all that must not be lost, one that its owner has disabled, one whose name is not
/// what the server would take for it.
const EVENTS: &str = "USE app; SET sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES', time_zone = '+03:00'; \
     SET character_set_client = latin1, collation_connection = latin1_german1_ci; \
     CREATE DEFINER = 'app'@'%' EVENT \"a `tick`\" ON SCHEDULE EVERY 1 SECOND COMMENT 'stays' \
     DO INSERT INTO \"ticks\" (event, server, at) VALUES ('tick', @@server_id, NOW(6)); \
     CREATE DEFINER = 'app'@'%' EVENT \"jährlich\" ON SCHEDULE EVERY 1 SECOND ON COMPLETION PRESERVE \
     DO INSERT INTO ticks (event, server, at) VALUES ('letters', @@server_id, NOW(6)); \
     CREATE EVENT off ON SCHEDULE EVERY 1 SECOND DISABLE \
     DO INSERT INTO ticks (event, server, at) VALUES ('off', @@server_id, NOW(6))";

fn site(flavour: Flavour) -> Option<Site> {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return None;
    }
    let site = Site::with(Setup {
        failover: true,
        flavour,
        server_args: vec!["--event-scheduler=ON".to_owned()],
        ..Setup::default()
    });
    wait_until("Pointsman may fail over", LONG, || {
        Ok(!site.cli(&["status"]).stdout.contains("can't replace it"))
    })
    .unwrap();
    site.primary().client_sql(TABLE).unwrap();
    Some(site)
}

fn node<'a>(site: &'a Site, name: &str) -> &'a Node {
    site.sandbox.nodes().iter().find(|node| node.name() == name).unwrap()
}

fn number(node: &Node, sql: &str) -> u64 {
    node.client_sql(sql).unwrap().trim().parse().unwrap()
}

/// Until `event` has run at `name` some more times.
fn runs_at(site: &Site, name: &str, event: &str) {
    let node = node(site, name);
    let runs = format!(
        "SELECT COUNT(*) FROM app.ticks WHERE event = '{event}' AND server = {}",
        node.server_id()
    );
    let before = number(node, &runs);
    let waited = wait_until(&format!("{event} runs at {name}"), LONG, || {
        Ok(number(node, &runs) >= before + 2)
    });
    if let Err(error) = waited {
        let events = "SELECT event_name, status FROM information_schema.events";
        panic!(
            "{error:#}\n{}{}{}",
            node.client_sql(events).unwrap(),
            site.cli(&["status"]).stdout,
            site.cli(&["events"]).stdout
        );
    }
}

/// All about events but where they run.
fn described(node: &Node) -> String {
    node.client_sql(
        "SELECT event_name, definer, sql_mode, time_zone, character_set_client, \
         collation_connection, starts, interval_value, interval_field, on_completion, event_comment, \
         event_definition FROM information_schema.events ORDER BY event_name",
    )
    .unwrap()
}

fn statuses(node: &Node) -> Vec<String> {
    let sql = "SELECT status FROM information_schema.events ORDER BY event_name";
    node.client_sql(sql).unwrap().lines().map(str::to_owned).collect()
}

/// Nothing runs there, and it replicates from the primary with nothing of its own.
fn rests_at(site: &Site, name: &str) {
    site.wait_server("it follows", name, |row| row["role"] == "replica" && row["reads"] == true);
    let statuses = statuses(node(site, name));
    assert!(statuses.iter().all(|status| status != "ENABLED"), "{name}: {statuses:?}");
    let status = site.cli(&["status"]).stdout;
    assert!(!status.contains("kept out"), "{status}");
}

fn switch_to(site: &Site, name: &str) {
    println!("{}", site.cli(&["switchover", "--to", name]).ok());
}

fn carried_over(flavour: Flavour) {
    let Some(site) = site(flavour) else { return };
    site.primary().client_sql(EVENTS).unwrap();
    runs_at(&site, "db1", "tick");
    runs_at(&site, "db1", "letters");
    let before = described(site.primary());
    site.sandbox.wait_caught_up().unwrap();
    assert!(statuses(node(&site, "db2")).iter().all(|status| status.contains("SIDE_DISABLED")));

    site.primary().kill9().unwrap();
    site.wait_server("it is the primary", "db2", |row| row["role"] == "primary");
    runs_at(&site, "db2", "tick");
    runs_at(&site, "db2", "letters");
    assert_eq!(described(node(&site, "db2")), before);
    // It comes back with its events enabled.
    site.primary().configure(&["--read-only=1"]);
    site.primary().start().unwrap();
    rests_at(&site, "db1");
    assert_eq!(described(site.primary()), before);

    // An administrator's event may write to servers that are read-only.
    let boss = "CREATE EVENT app.boss ON SCHEDULE EVERY 1 SECOND \
         DO INSERT INTO app.ticks (event, server, at) VALUES ('boss', @@server_id, NOW(6))";
    node(&site, "db2").client_sql(boss).unwrap();
    runs_at(&site, "db2", "boss");
    for (to, from) in [("db1", "db2"), ("db2", "db1")] {
        switch_to(&site, to);
        for event in ["tick", "letters", "boss"] {
            runs_at(&site, to, event);
        }
        rests_at(&site, from);
    }
    println!("{}", site.cli(&["events"]).stdout);
    for node in site.sandbox.nodes() {
        assert_eq!(number(node, "SELECT COUNT(*) FROM app.ticks WHERE event = 'off'"), 0);
        // Whoever ran them, nobody else did until it was another's turn.
        let turns = "SELECT COUNT(*) FROM app.ticks a JOIN app.ticks b ON b.id = (SELECT MIN(id) FROM \
             app.ticks WHERE id > a.id) WHERE a.server <> b.server";
        wait_until("the replica has all turns", LONG, || Ok(number(node, turns) >= 3)).unwrap();
        assert_eq!(number(node, turns), 3);
    }
    let off = "SELECT status FROM information_schema.events WHERE event_name = 'off'";
    assert_ne!(node(&site, "db2").client_sql(off).unwrap().trim(), "ENABLED");
}

#[test]
fn events_run_at_the_primary() {
    carried_over(Flavour::MariaDb);
}

#[test]
fn events_run_at_the_primary_in_mysql() {
    carried_over(Flavour::MySql);
}

fn not_allowed(flavour: Flavour) {
    let Some(mut site) = site(flavour) else { return };
    let (privilege, create) = match flavour {
        Flavour::MySql => ("SYSTEM_USER", "CREATE EVENT"),
        _ => ("SET USER", "CREATE DEFINER = 'app'@'%' EVENT"),
    };
    site.primary().client_sql(&format!("REVOKE {privilege} ON *.* FROM 'pointsman'@'%'")).unwrap();
    let insert = "ON SCHEDULE EVERY 1 SECOND DO INSERT INTO app.ticks (event, server, at) \
         VALUES ('tick', @@server_id, NOW(6))";
    site.primary().client_sql(&format!("{create} app.tick {insert}")).unwrap();
    runs_at(&site, "db1", "tick");
    // Else it is asked again in a minute.
    site.restart_proxy().unwrap();
    wait_until("status says what is missing", LONG, || {
        let status = site.cli(&["status"]).stdout;
        Ok(status.contains("scheduled events") && status.contains(&format!("GRANT {privilege} ON")))
    })
    .unwrap();
    site.sandbox.wait_caught_up().unwrap();
    // It is no reason not to replace the primary.
    site.primary().kill9().unwrap();
    site.wait_server("it is the primary", "db2", |row| row["role"] == "primary");
    wait_until("it is told", LONG, || {
        Ok(site
            .cli(&["events"])
            .stdout
            .contains("could not be enabled on db2: app.tick: error 1227"))
    })
    .unwrap();
    // And what was missing may be granted any time.
    let grant = format!("GRANT {privilege} ON *.* TO 'pointsman'@'%'");
    node(&site, "db2").client_sql(&grant).unwrap();
    runs_at(&site, "db2", "tick");
    wait_until("nothing is missing", LONG, || {
        Ok(!site.cli(&["status"]).stdout.contains("scheduled event"))
    })
    .unwrap();
}

#[test]
fn what_the_account_lacks_for_events_is_said() {
    not_allowed(Flavour::MariaDb);
}

#[test]
fn what_the_account_lacks_for_events_is_said_in_mysql() {
    not_allowed(Flavour::MySql);
}
