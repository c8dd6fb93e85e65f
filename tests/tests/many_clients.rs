//! Thousands of clients at once: all are let in, all are answered, and an idle one costs little.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pointsman_tests::{LONG, Raw, Setup, Site};

/// Most bytes of the proxy's own memory that an idle client may take. The aim is 3 KiB; 3.0 are measured.
const MOST: u64 = 3328;

/// `n` clients come at once, ask something, and stay.
fn storm(n: usize, within: Duration) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Each client is one descriptor here and one in the proxy.
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(hard as usize > n + 1000, "the limit on open files is {hard}");
    let site = Site::with(Setup {
        config: "workers = 2\n[pool]\nmax_connections = 100\nwait_timeout = \"30s\"\n".into(),
        server_args: vec!["--max-connections=500".into()],
        ..Setup::default()
    });
    // What is allocated once.
    let first = clients(&site, 200);
    let before = site.proxy.rss().unwrap();
    let begin = Instant::now();
    let mut all = clients(&site, n);
    let took = begin.elapsed();
    assert!(took < within, "{n} clients took {took:?}");
    let each = site.proxy.rss().unwrap().saturating_sub(before) / n as u64;
    println!("{n} clients were in after {took:?}; each takes {each} bytes of the proxy's memory");
    // None is starved.
    let begin = Instant::now();
    for raw in &mut all {
        assert_eq!(raw.one("SELECT 41 + 1").unwrap(), "42");
    }
    println!("and all were answered once more within {:?}", begin.elapsed());
    assert!(begin.elapsed() < LONG);
    // Nothing grows with what they do.
    let again = site.proxy.rss().unwrap().saturating_sub(before) / n as u64;
    println!("then each takes {again} bytes");
    drop((first, all));
    assert!(each.max(again) <= MOST, "{each}, then {again} bytes for each idle client");
}

fn clients(site: &Site, n: usize) -> Vec<Raw> {
    const THREADS: usize = 8;
    let port = site.port();
    std::thread::scope(|scope| {
        let some = move || {
            let one = |_| {
                let mut raw = Raw::connect(port).unwrap();
                assert_eq!(raw.one("SELECT 41 + 1").unwrap(), "42");
                raw
            };
            (0..n / THREADS).map(one).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(some)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn an_idle_client_costs_little() {
    storm(2000, LONG);
}

/// `cargo test --release -p pointsman-tests --test many_clients -- --ignored --nocapture`
#[test]
#[ignore = "wants 9,000 open files in each of two processes, and a quiet machine"]
fn nine_thousand_clients_come_within_ten_seconds() {
    storm(9000, Duration::from_secs(10));
}
