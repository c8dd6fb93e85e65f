//! The consistency checker: clients with books, faults at random. A short run each; for a longer one,
//! or one particular seed, `cargo xtask checker --seconds N --seed S`.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pointsman_tests::checker::{Books, Random, Verdict};
use pointsman_tests::{LONG, Setup, Site, wait_until};

const CLIENTS: usize = 8;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Runs clients while `fault` is called again and again; nothing may be wrong in the end.
#[track_caller]
fn run(site: &mut Site, may_lose: bool, fault: impl FnMut(&mut Site, &mut Random)) -> Verdict {
    let verdict = look(site, may_lose, fault);
    let events = site.cli(&["events"]).stdout;
    assert!(verdict.violations.is_empty(), "{:#?}\n{events}", verdict.violations);
    assert!(verdict.done > 100 && verdict.reads > 50, "hardly anything was done: {verdict:?}");
    verdict
}

/// The same without a judgement.
fn look(site: &mut Site, may_lose: bool, mut fault: impl FnMut(&mut Site, &mut Random)) -> Verdict {
    let seed = from_environment(
        "POINTSMAN_CHECK_SEED",
        std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    );
    let seconds = from_environment("POINTSMAN_CHECK_SECONDS", 6);
    println!("seed {seed}");
    let books = Books::open(site.port(), CLIENTS, 20).unwrap();
    site.sandbox.wait_caught_up().unwrap();
    let mut random = Random::new(seed);
    std::thread::scope(|scope| {
        let books = &books;
        for client in 0..CLIENTS {
            scope.spawn(move || books.client(client, seed));
        }
        let end = Instant::now() + Duration::from_secs(seconds);
        let faults = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while Instant::now() < end {
                std::thread::sleep(Duration::from_millis(200 + random.below(800)));
                fault(site, &mut random);
            }
        }));
        books.stop();
        if let Err(panic) = faults {
            std::panic::resume_unwind(panic);
        }
    });
    wait_until("there is a primary", LONG, || {
        let rows = site.admin_json("servers")?;
        Ok(rows.as_array().into_iter().flatten().any(|row| row["role"] == "primary"))
    })
    .unwrap();
    let servers = site.admin_json("servers").unwrap();
    let primary = servers.as_array().unwrap().iter().find(|row| row["role"] == "primary").unwrap();
    let name = primary["name"].as_str().unwrap();
    let node = site.sandbox.nodes().iter().find(|node| node.name() == name).unwrap();
    let rows = node.client_sql("SELECT client, n FROM app.book ORDER BY client, n").unwrap();
    let sum = node.client_sql("SELECT SUM(money) FROM app.acc").unwrap();
    let verdict = books.close(&rows, &sum, may_lose).unwrap();
    println!("{verdict:#?}\n{}", site.cli(&["events"]).stdout);
    verdict
}

/// What may happen to replicas.
fn trouble_a_replica(site: &Site, random: &mut Random) {
    let replicas = site.sandbox.replicas();
    let replica = &replicas[random.below(replicas.len() as u64) as usize];
    let moment = Duration::from_millis(50 + random.below(500));
    match random.below(4) {
        0 => {
            replica.kill9().unwrap();
            std::thread::sleep(moment);
            replica.start().unwrap();
        }
        1 => {
            replica.pause().unwrap();
            std::thread::sleep(moment);
            replica.unpause().unwrap();
        }
        2 => {
            replica.client_sql("STOP SLAVE SQL_THREAD").unwrap();
            std::thread::sleep(moment);
            replica.client_sql("START SLAVE SQL_THREAD").unwrap();
        }
        _ => {
            replica.client_sql("STOP SLAVE IO_THREAD").unwrap();
            std::thread::sleep(moment);
            replica.client_sql("START SLAVE IO_THREAD").unwrap();
        }
    }
}

#[test]
fn replicas_die_hang_and_fall_behind() {
    let mut site = Site::with_replicas(2);
    let verdict = run(&mut site, false, |site, random| trouble_a_replica(site, random));
    assert_eq!(verdict.unknown + verdict.refused, 0, "{verdict:?}");
}

#[test]
fn few_connections_are_shared_by_sessions_in_trouble() {
    let mut site = Site::with(Setup {
        replicas: 2,
        config: "workers = 2\n[pool]\nmax_connections = 8\n".into(),
        ..Setup::default()
    });
    let verdict = run(&mut site, false, |site, random| trouble_a_replica(site, random));
    assert_eq!(verdict.unknown + verdict.refused, 0, "{verdict:?}");
}

/// The checker's own test: without causal reads it must find stale ones.
#[test]
fn the_checker_sees_what_is_wrong() {
    let mut site = Site::with(Setup {
        config: "workers = 2\n[routing]\nconsistency = \"eventual\"\n".into(),
        ..Setup::default()
    });
    let verdict = look(&mut site, false, |site, _| {
        site.replica().client_sql("STOP SLAVE SQL_THREAD").unwrap();
        std::thread::sleep(Duration::from_millis(300));
        site.replica().client_sql("START SLAVE SQL_THREAD").unwrap();
    });
    assert!(verdict.violations.iter().any(|v| v.contains("was acknowledged")), "{verdict:?}");
}

/// A site that changes its primary itself, with replication that loses nothing acknowledged.
fn lossless(replicas: usize) -> Site {
    let site = Site::with(Setup {
        replicas,
        failover: true,
        server_args: [
            "--rpl-semi-sync-slave-enabled=ON",
            "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
            "--rpl-semi-sync-master-timeout=60000",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Setup::default()
    });
    wait_until("Pointsman may fail over", LONG, || {
        Ok(!site.cli(&["status"]).stdout.contains("can't replace it"))
    })
    .unwrap();
    site.primary().client_sql("SET GLOBAL rpl_semi_sync_master_enabled = ON").unwrap();
    wait_until("replication is semi-synchronous", LONG, || {
        Ok(site.primary().status("Rpl_semi_sync_master_clients")? == replicas as u64)
    })
    .unwrap();
    site
}

/// The name of the server that is the primary now.
fn primary(site: &Site) -> Option<String> {
    let rows = site.admin_json("servers").unwrap();
    let mut rows = rows.as_array().into_iter().flatten();
    Some(rows.find(|row| row["role"] == "primary")?["name"].as_str()?.to_owned())
}

/// Until another server than `old` is the primary.
fn await_successor(site: &Site, old: &str) {
    let replaced =
        wait_until("another primary", LONG, || Ok(primary(site).is_some_and(|name| name != old)));
    if let Err(error) = replaced {
        panic!("{error:#}\n{}{}", site.cli(&["events"]).stdout, site.cli(&["status"]).stdout);
    }
}

fn replicas(site: &Site) -> usize {
    let rows = site.admin_json("servers").unwrap();
    rows.as_array().into_iter().flatten().filter(|row| row["role"] == "replica").count()
}

#[test]
fn primaries_are_killed() {
    let mut site = lossless(2);
    run(&mut site, false, |site, random| {
        // A former primary that has something of its own stays out, and that is right.
        let Some(old) = primary(site).filter(|_| replicas(site) >= 2) else { return };
        let node = site.sandbox.nodes().iter().find(|node| node.name() == old).unwrap();
        match random.below(3) {
            0 => {
                node.pause().unwrap();
                await_successor(site, &old);
                node.unpause().unwrap();
            }
            _ => {
                node.kill9().unwrap();
                await_successor(site, &old);
                node.start().unwrap();
            }
        }
        let _ = wait_until("it is back, or kept out", Duration::from_secs(3), || {
            Ok(site.server(&old)["role"] == "replica")
        });
    });
}

#[test]
fn primaries_are_changed_on_purpose() {
    let mut site = lossless(2);
    let mut changes = 0;
    let verdict = run(&mut site, false, |site, _| {
        let changed = site.cli(&["switchover"]);
        print!("{}{}", changed.stdout, changed.stderr);
        changes += u32::from(changed.status.success());
    });
    println!("{changes} changes of the primary");
    assert!(changes > 0);
    // A transaction that met others in another order on the new primary may have to be restarted.
    let others = verdict.errors.keys().filter(|error| !error.starts_with("1213")).count();
    assert_eq!((verdict.unknown, others), (0, 0), "clients saw errors: {verdict:?}");
}
