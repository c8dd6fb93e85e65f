//! Clusters that elect for themselves, as the sandbox starts them.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pointsman_sandbox::{Flavour, Node, Options, Sandbox, wait_until};

const LONG: Duration = Duration::from_secs(60);

fn has(node: &Node, id: u32) -> bool {
    node.client_sql(&format!("SELECT id FROM app.t WHERE id = {id}"))
        .is_ok_and(|rows| !rows.is_empty())
}

fn write(node: &Node, id: u32, sandbox: &Sandbox) {
    node.client_sql(&format!("INSERT INTO app.t VALUES ({id})")).unwrap();
    for node in sandbox.nodes().iter().filter(|node| node.is_running()) {
        wait_until("all have it", LONG, || Ok(has(node, id))).unwrap();
    }
}

fn walk(flavour: Flavour) {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return;
    }
    let begin = Instant::now();
    let options = Options { flavour, group: true, replicas: 2, ..Options::default() };
    let sandbox = Sandbox::start(options).unwrap();
    println!("{flavour:?}: three members in {:?}", begin.elapsed());
    let first = sandbox.node(0);
    first.client_sql("CREATE TABLE app.t (id INT PRIMARY KEY)").unwrap();
    write(first, 1, &sandbox);

    sandbox.node(2).kill9().unwrap();
    wait_until("the others go on", LONG, || {
        first.client_sql("INSERT IGNORE INTO app.t VALUES (2)").map(|_| true)
    })
    .unwrap();
    let begin = Instant::now();
    sandbox.node(2).start().unwrap();
    println!("{flavour:?}: back after kill -9 in {:?}", begin.elapsed());
    write(first, 3, &sandbox);
    assert!(has(sandbox.node(2), 2));

    if flavour == Flavour::MariaDb {
        let begin = Instant::now();
        sandbox.node(2).reinstall().unwrap();
        println!("{flavour:?}: from a full copy in {:?}", begin.elapsed());
        assert!(has(sandbox.node(2), 3));
        write(sandbox.node(2), 4, &sandbox);
    }
}

#[test]
#[ignore = "half a minute each; cargo nextest run -p pointsman-sandbox --run-ignored all"]
fn galera() {
    walk(Flavour::MariaDb);
}

#[test]
#[ignore = "half a minute each; cargo nextest run -p pointsman-sandbox --run-ignored all"]
fn group_replication() {
    walk(Flavour::MySql);
}
