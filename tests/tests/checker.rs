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
    println!("{verdict:#?}");
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
