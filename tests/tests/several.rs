//! Three Pointsmen and three databases, each on a host of its own (network namespaces; needs root):
//! one acts and the others follow, and one that is cut off neither promotes nor writes. Each step
//! prints its figures.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use pointsman_sandbox::{Flavour, Host, Options, Sandbox};
use pointsman_tests::reference::{Network, address, unable};
use pointsman_tests::{
    APP_PASSWORD, APP_USER, LONG, Output, Proxy, http_get, pointsman, wait_until,
};
use serde_json::Value;

const DATABASES: [u8; 3] = [11, 22, 66];
const PROXIES: [u8; 3] = [33, 44, 55];
const ADMIN: u16 = 8989;

struct Party {
    proxies: Vec<Proxy>,
    sandbox: Sandbox,
    network: Network,
    _dir: tempfile::TempDir,
}

impl Party {
    fn start(flavour: Flavour) -> Self {
        let network = Network::new(&[&DATABASES[..], &PROXIES].concat()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let host =
            |&host: &u8| Host { address: address(host), namespace: Some(network.namespace(host)) };
        let sandbox = Sandbox::start(Options {
            flavour,
            replicas: 2,
            hosts: DATABASES.iter().map(host).collect(),
            failover: true,
            ..Options::default()
        })
        .unwrap();
        sandbox.primary().client_sql("CREATE TABLE app.t (id INT)").unwrap();
        sandbox.wait_caught_up().unwrap();
        let text = pointsman_sandbox::proxy_config(
            sandbox.nodes(),
            3306,
            ADMIN,
            "workers = 1\n[failover]\nagree = true\nwrite_wait = \"1s\"\n",
        );
        let config = dir.path().join("proxy.toml");
        fs::write(&config, text).unwrap();
        let proxies = PROXIES.map(|host| {
            let mut command = network.command(host, pointsman());
            command.args(["proxy", "--config"]).arg(&config);
            Proxy::spawn_as(command, ADMIN, &dir.path().join(format!("{host}.log"))).unwrap()
        });
        Self { proxies: proxies.into(), sandbox, network, _dir: dir }
    }

    /// On the host of proxy `i`.
    fn on<T: Send + 'static>(&self, i: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.network.thread(PROXIES[i], work).unwrap().join().unwrap().unwrap()
    }

    fn cli(&self, i: usize, args: &[&str]) -> Output {
        Output::of(self.network.command(PROXIES[i], pointsman()).args(args))
    }

    /// How long each proxy takes to have another primary than `old`, and which.
    fn await_another(&self, old: &str, of: &[usize]) -> Vec<(Duration, String)> {
        let began = Instant::now();
        let threads: Vec<_> = of
            .iter()
            .map(|&i| {
                let old = old.to_owned();
                let wait = move || loop {
                    match primary() {
                        Some(name) if name != old => return (began.elapsed(), name),
                        _ => assert!(began.elapsed() < LONG, "no other primary at proxy {i}"),
                    }
                    std::thread::sleep(Duration::from_millis(5));
                };
                self.network.thread(PROXIES[i], wait).unwrap()
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    }

    /// What a client of proxy `i` gets for a write.
    fn write(&self, i: usize, id: usize) -> Result<(), String> {
        self.on(i, move || write(id))
    }

    fn story(&self) -> String {
        (0..3).map(|i| format!("{}\n{}", i, self.cli(i, &["events"]).stdout)).collect()
    }

    /// Packets between the two groups of hosts get lost.
    fn part(&self, left: &[u8], right: &[u8], parted: bool) {
        for (here, there) in [(left, right), (right, left)] {
            for &a in here {
                for &b in there {
                    self.network.lose(a, b, parted).unwrap();
                }
            }
        }
    }
}

/// In this network namespace.
fn primary() -> Option<String> {
    let (_, body) = http_get(ADMIN, "/api/v1/servers").ok()?;
    let rows: Value = serde_json::from_str(&body).ok()?;
    // While nothing may be written there is none to write to, whatever its role.
    if http_get(ADMIN, "/readyz").ok()?.0 != 200 {
        return None;
    }
    let row = rows.as_array()?.iter().find(|row| row["role"] == "primary")?;
    Some(row["name"].as_str()?.to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn write(id: usize) -> Result<(), String> {
    let opts = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .user(Some(APP_USER))
        .pass(Some(APP_PASSWORD))
        .db_name(Some("app"))
        .prefer_socket(false);
    let mut db = Conn::new(opts).await.map_err(|e| e.to_string())?;
    db.query_drop(format!("INSERT INTO t VALUES ({id})")).await.map_err(|e| e.to_string())
}

fn several(flavour: Flavour) {
    if let Some(why) = unable() {
        println!("skipped: {why}");
        return;
    }
    if let Err(error) = flavour.check() {
        println!("skipped: {error:#}");
        return;
    }
    let party = Party::start(flavour);
    for i in 0..3 {
        wait_until("every proxy writes", LONG, || {
            Ok(party.on(i, primary).as_deref() == Some("db1") && party.write(i, i).is_ok())
        })
        .unwrap();
    }
    let node = |name: &str| party.sandbox.nodes().iter().find(|n| n.name() == name).unwrap();

    // One leads. The others refuse, and say who does.
    let leads = |i: usize| party.cli(i, &["switchover", "--dry-run"]).status.success();
    let mut leader = 0;
    wait_until("one leads", LONG, || {
        let all: Vec<_> = (0..3).filter(|&i| leads(i)).collect();
        leader = all.first().copied().unwrap_or(0);
        Ok(all.len() == 1)
    })
    .unwrap();
    let other = (leader + 1) % 3;
    let host = address(PROXIES[leader]).to_string();
    wait_until("the others know who leads", LONG, || {
        let refused = party.cli(other, &["switchover"]);
        println!("a switchover at the proxy that does not lead: {}", refused.stderr.trim());
        assert!(!refused.status.success(), "{refused:?}");
        Ok(refused.stderr.contains(&host))
    })
    .unwrap();

    // The primary is killed: one acts, all follow.
    node("db1").kill9().unwrap();
    let took = party.await_another("db1", &[0, 1, 2]);
    let times: Vec<_> = took.iter().map(|(took, _)| *took).collect();
    let spread = *times.iter().max().unwrap() - *times.iter().min().unwrap();
    println!("{flavour:?} killed: another primary after {times:?}; the last {spread:?} behind");
    assert!(took.iter().all(|(_, name)| *name == took[0].1), "{took:?}\n{}", party.story());
    assert!(spread < Duration::from_secs(1), "{spread:?}\n{}", party.story());
    let acted = (0..3)
        .filter(|&i| {
            let (_, metrics) = party.on(i, || http_get(ADMIN, "/metrics").unwrap());
            metrics.lines().any(|line| {
                line.starts_with("pointsman_failovers_total")
                    && line.contains("\"failover\"")
                    && line.ends_with(" 1")
            })
        })
        .count();
    assert_eq!(acted, 1, "one acts\n{}", party.story());
    for i in 0..3 {
        party.write(i, 10 + i).unwrap();
    }
    node("db1").start().unwrap();
    wait_until("db1 follows", LONG, || {
        let rows = party.cli(leader, &["servers", "--json"]).stdout;
        let rows: Value = serde_json::from_str(&rows)?;
        Ok(rows.as_array().unwrap().iter().filter(|row| row["role"] == "replica").count() == 2)
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", party.story()));

    // The primary is cut off, and one proxy with it.
    let old = took[0].1.clone();
    let at = DATABASES[party.sandbox.nodes().iter().position(|n| n.name() == old).unwrap()];
    let away = other;
    let hosts = [&DATABASES[..], &PROXIES].concat();
    let left = [at, PROXIES[away]];
    let right: Vec<_> = hosts.iter().copied().filter(|host| !left.contains(host)).collect();
    let before = node(&old).client_sql("SELECT COUNT(*) FROM app.t").unwrap();
    party.part(&left, &right, true);
    let parted = Instant::now();
    let stopped = party.network.thread(PROXIES[away], move || {
        while primary().is_some() {
            assert!(parted.elapsed() < LONG, "it goes on writing");
            std::thread::sleep(Duration::from_millis(5));
        }
        parted.elapsed()
    });
    let rest: Vec<_> = (0..3).filter(|&i| i != away).collect();
    let took = party.await_another(&old, &rest);
    let stopped = stopped.unwrap().join().unwrap().unwrap();
    println!("{flavour:?} cut off: it stopped after {stopped:?}; another primary after {took:?}");
    assert!(took[0].0 > stopped, "two wrote at the same time\n{}", party.story());
    assert_eq!(took[0].1, took[1].1);
    let refused = party.write(away, 99).unwrap_err();
    println!("a write there: {refused}");
    assert!(refused.contains("cut off"), "{refused}");
    assert_eq!(node(&old).client_sql("SELECT COUNT(*) FROM app.t").unwrap(), before);
    party.write(rest[0], 100).unwrap();

    party.part(&left, &right, false);
    let new = took[0].1.clone();
    wait_until("the one that was cut off follows", LONG, || {
        Ok(party.on(away, primary) == Some(new.clone()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", party.story()));
    wait_until("the old primary is made a replica", LONG, || {
        Ok(node(&old).client_sql("SELECT @@read_only").unwrap().trim() == "1"
            && node(&old).client_sql("SELECT MAX(id) FROM app.t").unwrap().trim() == "100")
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", party.story()));
    party.write(away, 101).unwrap();

    // In good order.
    wait_until("one leads", LONG, || {
        leader = (0..3).find(|&i| leads(i)).unwrap_or(3);
        Ok(leader < 3)
    })
    .unwrap();
    let began = Instant::now();
    let said = party.cli(leader, &["switchover", "--to", &old]);
    assert!(said.status.success(), "{said:?}\n{}", party.story());
    let done = began.elapsed();
    let took = party.await_another(&new, &[0, 1, 2]);
    println!("{flavour:?} switchover: done in {done:?}, followed {:?} later", took);
    assert!(took.iter().all(|(took, name)| *name == old && *took < Duration::from_secs(1)));
    for proxy in &party.proxies {
        assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    }
}

#[test]
fn several_pointsmen_agree() {
    several(Flavour::MariaDb);
}

#[test]
fn several_pointsmen_agree_on_mysql() {
    several(Flavour::MySql);
}
