//! The primary is killed, frozen or replaced on purpose: what a client that writes all the time sees.
//! Each test prints its figures.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use pointsman_sandbox::Flavour;
use pointsman_tests::{LONG, Node, Setup, Site, SmallDisk, connect, wait_until};

fn site(flavour: Flavour, replicas: usize) -> Option<Site> {
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return None;
    }
    let server_args = match flavour {
        // As it is by default: Pointsman asks it for what the lists of processes do not tell.
        Flavour::MySql => vec!["--performance-schema=ON".to_owned()],
        _ => Vec::new(),
    };
    let site =
        Site::with(Setup { replicas, failover: true, flavour, server_args, ..Setup::default() });
    site.primary().client_sql("CREATE TABLE app.t (id BIGINT PRIMARY KEY)").unwrap();
    site.sandbox.wait_caught_up().unwrap();
    wait_until("Pointsman may fail over", LONG, || {
        Ok(!site.cli(&["status"]).stdout.contains("can't replace it"))
    })
    .unwrap();
    Some(site)
}

/// What one client saw that inserted numbers one after the other.
#[derive(Debug, Default)]
struct Seen {
    acknowledged: BTreeSet<u64>,
    errors: Vec<String>,
    /// Longest time from one acknowledged write to the next.
    gap: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn write_until(site: &Site, first: u64, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut db = connect(site.port()).await.unwrap();
    let mut last = Instant::now();
    for id in first.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match db.query_drop(format!("INSERT INTO t VALUES ({id})")).await {
            Ok(_) => {
                seen.gap = seen.gap.max(last.elapsed());
                last = Instant::now();
                seen.acknowledged.insert(id);
            }
            Err(error) => {
                seen.errors.push(error.to_string());
                if let Ok(new) = connect(site.port()).await {
                    db = new;
                }
            }
        }
    }
    seen
}

struct StopsAtEnd<'a>(&'a AtomicBool);

impl Drop for StopsAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Four clients write while `during` does something; it returns when the new primary takes writes.
fn under_writes(site: &Site, during: impl FnOnce()) -> Vec<Seen> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        // Also if `during` panics: the scope waits for the writers.
        let _stopped = StopsAtEnd(stop);
        let writers: Vec<_> = (0..4_u64)
            .map(|n| scope.spawn(move || write_until(site, n * 1_000_000_000, stop)))
            .collect();
        let writes = || site.metric("pointsman_statements_total", &[("class", "write")]);
        let before = writes();
        wait_until("they write", LONG, || Ok(writes() > before + 200.0)).unwrap();
        during();
        let after = writes();
        let went_on = wait_until("they go on writing", LONG, || Ok(writes() > after + 200.0));
        stop.store(true, Ordering::Relaxed);
        let seen = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        if let Err(error) = went_on {
            panic!("{error:#}\n{}{}", site.cli(&["events"]).stdout, site.cli(&["status"]).stdout);
        }
        seen
    })
}

/// The server that is the primary by now.
fn primary(site: &Site) -> &Node {
    let rows = site.admin_json("servers").unwrap();
    let rows = rows.as_array().unwrap();
    let name = rows.iter().find(|row| row["role"] == "primary").unwrap()["name"].as_str().unwrap();
    site.sandbox.nodes().iter().find(|node| node.name() == name).unwrap()
}

/// Which acknowledged writes the present primary lacks; prints what was seen.
fn account(site: &Site, what: &str, seen: &[Seen]) -> (usize, usize, Duration) {
    let there: BTreeSet<u64> = primary(site)
        .client_sql("SELECT id FROM app.t")
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    let acknowledged: BTreeSet<u64> =
        seen.iter().flat_map(|seen| seen.acknowledged.iter().copied()).collect();
    let lost = acknowledged.difference(&there).count();
    let errors: Vec<_> = seen.iter().flat_map(|seen| &seen.errors).collect();
    let gap = seen.iter().map(|seen| seen.gap).max().unwrap();
    println!(
        "{what}: longest write gap {gap:?}, {} errors, {} acknowledged, {lost} lost",
        errors.len(),
        acknowledged.len()
    );
    for error in errors.iter().take(4) {
        println!("  {error}");
    }
    (errors.len(), lost, gap)
}

fn killed(flavour: Flavour) {
    let Some(site) = site(flavour, 2) else { return };
    let seen = under_writes(&site, || {
        site.primary().kill9().unwrap();
        wait_until("another primary", LONG, || {
            Ok(site.metric("pointsman_failovers_total", &[("kind", "failover")]) == 1.0)
        })
        .unwrap();
    });
    let (_, _, gap) = account(&site, &format!("{flavour:?} killed"), &seen);
    println!("{}", site.cli(&["events"]).stdout);
    assert!(gap < Duration::from_secs(2), "{gap:?}");
    assert_ne!(primary(&site).name(), "db1");
}

#[test]
fn the_primary_is_killed() {
    killed(Flavour::MariaDb);
}

fn frozen(flavour: Flavour) {
    let Some(site) = site(flavour, 2) else { return };
    let seen = under_writes(&site, || {
        site.primary().pause().unwrap();
        wait_until("another primary", LONG, || {
            Ok(site.metric("pointsman_failovers_total", &[("kind", "failover")]) == 1.0)
        })
        .unwrap();
    });
    let (_, _, gap) = account(&site, &format!("{flavour:?} frozen"), &seen);
    println!("{}", site.cli(&["events"]).stdout);
    site.primary().unpause().unwrap();
    assert!(gap < Duration::from_secs(4), "{gap:?}");
    site.wait_server("db1 is kept out or follows", "db1", |row| {
        row["role"] == "replica" || row["why"].as_str().unwrap().contains("kept out")
    });
    assert_ne!(primary(&site).name(), "db1");
}

#[test]
fn the_primary_freezes() {
    frozen(Flavour::MariaDb);
}

fn switched(flavour: Flavour) {
    let Some(site) = site(flavour, 2) else { return };
    let plan = site.cli(&["switchover", "--to", "db3", "--dry-run"]).ok();
    assert!(plan.contains("make db3 writable"), "{plan}");
    let refused = site.cli(&["switchover", "--to", "db1"]);
    assert!(refused.stderr.contains("db1 is the primary already"), "{refused:?}");
    let seen = under_writes(&site, || {
        println!("{}", site.cli(&["switchover", "--to", "db3"]).ok());
    });
    let (errors, lost, gap) = account(&site, &format!("{flavour:?} switched over"), &seen);
    println!("{}", site.cli(&["events"]).stdout);
    assert_eq!(primary(&site).name(), "db3");
    assert_eq!((errors, lost), (0, 0));
    assert!(gap < Duration::from_secs(1), "{gap:?}");
    for name in ["db1", "db2"] {
        site.wait_server("follows", name, |row| row["role"] == "replica" && row["reads"] == true);
    }
}

#[test]
fn a_switchover_costs_no_error() {
    switched(Flavour::MariaDb);
}

#[test]
fn the_primary_is_killed_in_mysql() {
    killed(Flavour::MySql);
}

#[test]
fn a_switchover_costs_no_error_in_mysql() {
    switched(Flavour::MySql);
}

/// From the first event of one kind to the first of another; less than a day.
fn between(site: &Site, first: &str, second: &str) -> Duration {
    let events = site.admin_json("events").unwrap();
    let seconds = |code: &str| {
        let event = events.as_array().unwrap().iter().find(|event| event["code"] == code).unwrap();
        let time = event["time"].as_str().unwrap().trim_end_matches('Z');
        let (_, time) = time.split_once('T').unwrap();
        time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
    };
    Duration::from_secs_f64((seconds(second) - seconds(first)).rem_euclid(86_400.0))
}

/// Its commits wait for space, while it answers everything else and replicas are connected to it.
fn filled(flavour: Flavour) {
    let Some(site) = site(flavour, 2) else { return };
    site.cli(&["maintain", "db1"]).ok();
    let Some(disk) = SmallDisk::under(site.primary()).unwrap() else {
        println!("skipped: only root may mount a small disk");
        return;
    };
    site.cli(&["resume", "db1"]).ok();
    site.wait_server("it is back", "db1", |row| row["role"] == "primary");
    let seen = under_writes(&site, || {
        disk.fill().unwrap();
        let replaced = wait_until("another primary", LONG, || {
            Ok(site.metric("pointsman_failovers_total", &[("kind", "failover")]) == 1.0)
        });
        if replaced.is_err() {
            // Else its clients wait on.
            println!("{}", site.primary().client_sql("SHOW FULL PROCESSLIST").unwrap());
            println!("{}", site.cli(&["events"]).stdout);
            site.primary().kill9().unwrap();
        }
        replaced.unwrap();
    });
    let (_, lost, gap) = account(&site, &format!("{flavour:?} disk full"), &seen);
    let events = site.cli(&["events"]).stdout;
    println!("{events}");
    assert!(events.contains("db1's disk is full"), "{events}");
    assert_eq!(lost, 0);
    // However far replicas were behind with what they had received: that is applied first.
    let applying = between(&site, "failover_begun", "candidate_ready");
    assert!(gap < applying + Duration::from_secs(5), "{gap:?}, {applying:?} of it to apply");
    assert_ne!(primary(&site).name(), "db1");
}

#[test]
fn the_disk_of_the_primary_is_full() {
    filled(Flavour::MariaDb);
}

#[test]
fn the_disk_of_the_primary_is_full_in_mysql() {
    filled(Flavour::MySql);
}
