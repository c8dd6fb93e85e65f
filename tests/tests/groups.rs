//! Clusters that elect for themselves behind the proxy: what a client that writes and reads all the
//! time sees while members are killed, frozen, cut off and taken back. Each test prints its figures.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use pointsman_sandbox::Flavour;
use pointsman_tests::{LONG, Node, Setup, Site, connect, wait_until};

fn site(flavour: Flavour, server_args: &[&str]) -> Option<Site> {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return None;
    }
    let site = Site::with(Setup {
        replicas: 2,
        group: true,
        failover: true,
        flavour,
        server_args: server_args.iter().map(ToString::to_string).collect(),
        ..Setup::default()
    });
    site.sql("CREATE TABLE t (id BIGINT PRIMARY KEY, n INT NOT NULL DEFAULT 0)");
    Some(site)
}

/// What one client saw that inserted numbers one after the other and read each of them back.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: Vec<u64>,
    /// Reads that did not find what was acknowledged before.
    stale: usize,
    reads: usize,
    errors: Vec<String>,
    /// Longest time from one acknowledged write to the next.
    gap: Duration,
}

/// Writes on one connection, reads back on another.
#[tokio::main(flavor = "current_thread")]
async fn write_and_read(port: u16, first: u64, most: u64, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut writer = connect(port).await.unwrap();
    let mut reader = connect(port).await.unwrap();
    let mut last = Instant::now();
    for id in first..first + most {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if let Err(error) = writer.query_drop(format!("INSERT INTO t (id) VALUES ({id})")).await {
            seen.errors.push(error.to_string());
            if let Ok(new) = connect(port).await {
                writer = new;
            }
            continue;
        }
        seen.gap = seen.gap.max(last.elapsed());
        last = Instant::now();
        seen.acknowledged.push(id);
        let sql = format!("SELECT COUNT(*) FROM t WHERE id = {id}");
        match reader.query_first::<u32, _>(sql).await {
            Ok(found) => {
                seen.reads += 1;
                seen.stale += usize::from(found != Some(1));
            }
            Err(error) => {
                seen.errors.push(format!("read: {error}"));
                if let Ok(new) = connect(port).await {
                    reader = new;
                }
            }
        }
    }
    seen
}

/// Four clients while `during` does something; they go on for a while after it.
fn under_load(site: &Site, during: impl FnOnce()) -> Vec<Seen> {
    static ROUND: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let base = ROUND.fetch_add(1, Ordering::Relaxed) * 1_000_000_000_000;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (stop, port) = (&stop, site.port());
        let clients: Vec<_> = (0..4_u64)
            .map(|n| {
                let first = base + n * 1_000_000_000 + 1;
                scope.spawn(move || write_and_read(port, first, u64::MAX >> 8, stop))
            })
            .collect();
        let writes = || site.metric("pointsman_statements_total", &[("class", "write")]);
        let before = writes();
        wait_until("they write", LONG, || Ok(writes() > before + 200.0)).unwrap();
        during();
        let after = writes();
        let went_on = wait_until("they go on writing", LONG, || Ok(writes() > after + 200.0));
        stop.store(true, Ordering::Relaxed);
        let seen = clients.into_iter().map(|client| client.join().unwrap()).collect();
        if let Err(error) = went_on {
            panic!("{error:#}\n{}{}", site.cli(&["events"]).stdout, site.cli(&["servers"]).stdout);
        }
        seen
    })
}

/// The member that takes the writes by now.
fn writer(site: &Site) -> Option<&Node> {
    let rows = site.admin_json("servers").ok()?;
    let rows = rows.as_array()?;
    let name = rows.iter().find(|row| row["role"] == "primary")?["name"].as_str()?;
    site.sandbox.nodes().iter().find(|node| node.name() == name)
}

fn wait_writer(site: &Site, is: impl Fn(&str) -> bool) {
    let waited =
        wait_until("another writer", LONG, || Ok(writer(site).is_some_and(|node| is(node.name()))));
    if let Err(error) = waited {
        panic!("{error:#}\n{}{}", site.cli(&["events"]).stdout, site.cli(&["servers"]).stdout);
    }
}

/// Prints what was seen; nothing may be lost, done twice or stale. Returns the number of errors and
/// the longest gap.
#[track_caller]
fn account(site: &Site, what: &str, seen: &[Seen]) -> (usize, Duration) {
    let acknowledged: Vec<u64> = seen.iter().flat_map(|s| s.acknowledged.iter().copied()).collect();
    let rows = writer(site).unwrap().client_sql("SELECT id FROM app.t").unwrap();
    let there: std::collections::BTreeSet<u64> =
        rows.lines().map(|line| line.parse().unwrap()).collect();
    let lost = acknowledged.iter().filter(|id| !there.contains(*id)).count();
    let errors: Vec<_> = seen.iter().flat_map(|seen| &seen.errors).collect();
    let gap = seen.iter().map(|seen| seen.gap).max().unwrap();
    let (reads, stale): (usize, usize) =
        (seen.iter().map(|s| s.reads).sum(), seen.iter().map(|s| s.stale).sum());
    println!(
        "{what}: longest write gap {gap:?}, {} errors, {} acknowledged, {lost} lost; {stale} of \
         {reads} reads stale",
        errors.len(),
        acknowledged.len()
    );
    for error in errors.iter().take(4) {
        println!("  {error}");
    }
    assert_eq!((lost, stale), (0, 0), "{what}");
    // Errors that say "duplicate" would be statements done twice.
    assert!(!errors.iter().any(|error| error.contains("Duplicate")), "{errors:?}");
    (errors.len(), gap)
}

/// Read-after-write without any fault, and who answered the reads.
fn read_after_write(site: &Site, what: &str, each: u64) {
    let reads = |name: &str| {
        site.metric("pointsman_statements_total", &[("class", "read"), ("server", name)])
    };
    let names = ["db1", "db2", "db3"];
    let writing = writer(site).unwrap().name();
    let before = names.map(reads);
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let (stop, port) = (&stop, site.port());
        let clients: Vec<_> = (0..2_u64)
            .map(|n| {
                let first = (900 + n) * 1_000_000_000_000;
                scope.spawn(move || write_and_read(port, first, each, stop))
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let took = began.elapsed();
    let (errors, _) = account(site, what, &seen);
    let answered: Vec<f64> = names.iter().zip(before).map(|(n, b)| reads(n) - b).collect();
    let all: f64 = answered.iter().sum();
    let others: f64 =
        names.iter().zip(&answered).filter(|(n, _)| **n != writing).map(|(_, a)| a).sum();
    println!(
        "{what}: {:.1}% of {all} reads answered by others than the writer, {took:?}",
        others / all * 100.0
    );
    assert_eq!(errors, 0);
    assert!(others / all > 0.5, "{answered:?}");
}

/// Until all three members know of each other again and do their part.
fn wait_whole(site: &Site) {
    wait_until("the cluster is whole", LONG, || {
        for node in site.sandbox.nodes() {
            let sql = match node.flavour() {
                Flavour::MariaDb => "SHOW STATUS LIKE 'wsrep_cluster_size'",
                _ => {
                    "SELECT 'online', COUNT(*) FROM performance_schema.replication_group_members \
                     WHERE MEMBER_STATE = 'ONLINE'"
                }
            };
            if node.client_sql(sql)?.trim().rsplit('\t').next() != Some("3") {
                return Ok(false);
            }
        }
        let rows = site.admin_json("servers")?;
        let mut rows = rows.as_array().into_iter().flatten();
        Ok(rows.all(|row| row["role"] == "primary" || row["reads"] == true))
    })
    .unwrap();
}

fn state(site: &Site, name: &str) -> String {
    let rows = site.admin_json("servers").unwrap();
    let rows = rows.as_array().unwrap().clone();
    let row = rows.iter().find(|row| row["name"] == name).unwrap().clone();
    format!("{} {} {}", row["role"], row["state"], row["why"])
}

/// The walk that every change has to survive: known without configuration, causal reads, a chosen
/// writer, a killed one.
fn short_walk(flavour: Flavour, well: &str) {
    let Some(site) = site(flavour, &[]) else { return };
    println!("{}", site.cli(&["servers"]).ok());
    for name in ["db1", "db2", "db3"] {
        assert!(state(&site, name).contains(well), "{}", state(&site, name));
    }
    assert_eq!(writer(&site).unwrap().name(), "db1");
    read_after_write(&site, &format!("{flavour:?} read after write"), 1000);

    let refused = site.cli(&["failover"]);
    assert!(refused.stderr.contains("by itself"), "{refused:?}");
    let refused = site.cli(&["rejoin", "db2"]);
    assert!(refused.stderr.contains("by itself"), "{refused:?}");
    println!("{}", site.cli(&["switchover", "--to", "db2", "--dry-run"]).ok());
    let seen = under_load(&site, || {
        println!("{}", site.cli(&["switchover", "--to", "db2"]).ok());
    });
    let (errors, _) = account(&site, &format!("{flavour:?} another writer"), &seen);
    assert_eq!(errors, 0);
    assert_eq!(writer(&site).unwrap().name(), "db2");

    let seen = under_load(&site, || {
        site.sandbox.node(1).kill9().unwrap();
        wait_writer(&site, |name| name != "db2");
    });
    let (errors, gap) = account(&site, &format!("{flavour:?} writer killed"), &seen);
    assert!(errors <= 8, "{errors}");
    assert!(gap < Duration::from_secs(15), "{gap:?}");
    let now = writer(&site).unwrap().name().to_owned();
    site.sandbox.node(1).start().unwrap();
    site.wait_server("db2 is back", "db2", |row| row["role"] == "replica" && row["reads"] == true);
    let later = writer(&site).unwrap().name().to_owned();
    let events = site.cli(&["events"]).stdout;
    println!("{events}");
    // A Galera node that gives its data to the one that comes back hands the writes on.
    let gave = later != "db2" && events.contains("Donor/Desynced");
    assert!(later == now || gave, "it does not flap back: {now}, then {later}");
}

#[test]
fn galera() {
    short_walk(Flavour::MariaDb, "Synced");
}

#[test]
fn group_replication() {
    short_walk(Flavour::MySql, "ONLINE");
}

/// A frozen writer, one cut off, a donor and a joining node, and thousands of reads after writes.
#[test]
#[ignore = "minutes; cargo nextest run --test groups --run-ignored all --no-capture"]
fn galera_at_length() {
    let Some(site) = site(Flavour::MariaDb, &[]) else { return };
    read_after_write(&site, "Galera read after write", 10_000);

    let seen = under_load(&site, || {
        site.sandbox.node(0).pause().unwrap();
        wait_writer(&site, |name| name != "db1");
    });
    account(&site, "Galera writer frozen", &seen);
    site.sandbox.node(0).unpause().unwrap();
    wait_whole(&site);

    let cut_off = writer(&site).unwrap();
    let name = cut_off.name().to_owned();
    let seen = under_load(&site, || {
        cut_off.isolate(true).unwrap();
        site.wait_server("it is out", &name, |row| row["state"] == "non-Primary");
        println!("{}", state(&site, &name));
        wait_writer(&site, |other| other != name);
    });
    account(&site, "Galera writer cut off", &seen);
    cut_off.isolate(false).unwrap();
    wait_whole(&site);

    let seen = under_load(&site, || {
        let joining = ["db1", "db2", "db3"]
            .into_iter()
            .rposition(|name| Some(name) != writer(&site).map(Node::name))
            .unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                site.sandbox.node(joining).reinstall().unwrap();
                done.store(true, Ordering::Relaxed);
            });
            let mut states = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                for name in ["db1", "db2", "db3"] {
                    states.insert(format!("{name}: {}", state(&site, name)));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            states.iter().for_each(|state| println!("  {state}"));
            assert!(states.iter().any(|state| state.contains("Donor")), "nobody was a donor");
        });
    });
    account(&site, "Galera donor and joining node", &seen);
    println!("{}", site.cli(&["events"]).stdout);
}

/// A frozen primary, and a group whose members all take writes.
#[test]
#[ignore = "minutes; cargo nextest run --test groups --run-ignored all --no-capture"]
fn group_replication_at_length() {
    let Some(site) = site(Flavour::MySql, &[]) else { return };
    read_after_write(&site, "Group Replication read after write", 10_000);
    let seen = under_load(&site, || {
        site.sandbox.node(0).pause().unwrap();
        wait_writer(&site, |name| name != "db1");
    });
    account(&site, "Group Replication primary frozen", &seen);
    site.sandbox.node(0).unpause().unwrap();
    wait_whole(&site);
    println!("{}", site.cli(&["events"]).stdout);
    drop(site);

    let multi = [
        "--loose-group-replication-single-primary-mode=OFF",
        "--loose-group-replication-enforce-update-everywhere-checks=ON",
    ];
    let Some(site) = self::site(Flavour::MySql, &multi) else { return };
    read_after_write(&site, "several primaries, read after write", 1000);
    let seen = under_load(&site, || {
        println!("{}", site.cli(&["switchover", "--to", "db3"]).ok());
    });
    account(&site, "several primaries, another writer", &seen);
    assert_eq!(writer(&site).unwrap().name(), "db3");
}
