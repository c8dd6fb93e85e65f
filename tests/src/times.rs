//! How long a change of the primary lasts, as clients see it that write all the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pointsman_sandbox::Flavour;

use crate::checker::Place;
use crate::reference::Network;
use crate::{LONG, Raw, wait_until};

const CLIENTS: usize = 4;
/// Acknowledged before and after, of all clients.
const ENOUGH: u64 = 200;

/// What happens to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Killed,
    Frozen,
    /// Packets to and from it get lost.
    Silent,
    Switchover,
    /// With semi-synchronous replication.
    KilledLossless,
    FrozenLossless,
    /// The same as killed with semi-synchronous replication, where MariaDB logs rows.
    KilledRows,
}

impl Event {
    pub const ALL: [Self; 7] = [
        Self::Killed,
        Self::Frozen,
        Self::Silent,
        Self::Switchover,
        Self::KilledLossless,
        Self::FrozenLossless,
        Self::KilledRows,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Frozen => "frozen",
            Self::Silent => "silent",
            Self::Switchover => "switchover",
            Self::KilledLossless => "killed-semisync",
            Self::FrozenLossless => "frozen-semisync",
            Self::KilledRows => "killed-rows",
        }
    }

    /// Longest write gap that is aimed at.
    #[must_use]
    pub fn aim(self) -> Duration {
        Duration::from_millis(match self {
            Self::Killed | Self::KilledLossless | Self::KilledRows => 500,
            Self::Frozen | Self::Silent | Self::FrozenLossless => 3000,
            Self::Switchover => 200,
        })
    }

    /// Whether no client may see an error.
    #[must_use]
    pub fn without_errors(self) -> bool {
        matches!(self, Self::Killed | Self::KilledRows | Self::Switchover)
    }

    fn lossless(self) -> bool {
        matches!(self, Self::KilledLossless | Self::FrozenLossless | Self::KilledRows)
    }

    /// Whether an acknowledged write may be lost: replication is asynchronous.
    #[must_use]
    pub fn may_lose(self) -> bool {
        !self.lossless() && self != Self::Switchover
    }
}

/// What clients saw of one event.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Longest time of one client from one acknowledged write to the next.
    pub gap: Duration,
    pub errors: Vec<String>,
    pub lost: usize,
    pub doubled: usize,
}

#[derive(Default)]
struct Client {
    acknowledged: Vec<u64>,
    errors: Vec<String>,
    gap: Duration,
}

/// Writes numbers one after the other.
fn client(port: u16, client: usize, stop: &AtomicBool, all: &AtomicU64) -> Client {
    let mut seen = Client::default();
    let mut db = Raw::connect(port).ok();
    let mut last = Instant::now();
    let mut n = 0;
    while !stop.load(SeqCst) {
        n += 1;
        let sql = format!("INSERT INTO times (client, n) VALUES ({client}, {n})");
        let outcome = match &mut db {
            Some(db) => db.query(&sql).map(drop),
            None => Raw::connect(port).map(|new| db = Some(new)),
        };
        match outcome {
            Ok(()) => {
                seen.gap = seen.gap.max(last.elapsed());
                last = Instant::now();
                seen.acknowledged.push(n);
                all.fetch_add(1, SeqCst);
            }
            Err(error) => {
                seen.errors.push(format!("{error:#}"));
                db = Raw::connect(port).ok();
            }
        }
    }
    seen
}

/// MySQL notes statements for connections that are made after it was told to: as on a site where
/// Pointsman has been for a while.
fn await_notes(place: &Place) -> Result<()> {
    const ASK: &str = "SELECT @@global.binlog_rows_query_log_events";
    wait_until("all servers note statements", LONG, || {
        let mut noted = true;
        for node in place.site.sandbox.nodes() {
            noted &= node.client_sql(ASK)?.trim() == "1";
        }
        Ok(noted)
    })
}

/// Lets it happen once, to servers made for it.
///
/// # Errors
/// Servers don't come up, or the primary is not replaced.
pub fn happen(event: Event, flavour: Flavour, network: Option<Arc<Network>>) -> Result<Seen> {
    let place = Place::start(network, flavour, "", true, event.lossless())?;
    let site = &place.site;
    if event == Event::KilledRows && flavour == Flavour::MariaDb {
        for node in site.sandbox.nodes() {
            node.client_sql("SET GLOBAL binlog_format = ROW")?;
        }
    }
    site.primary().client_sql(
        "CREATE TABLE app.times (client INT NOT NULL, n BIGINT NOT NULL, k BIGINT AUTO_INCREMENT \
         PRIMARY KEY)",
    )?;
    if flavour == Flavour::MySql {
        await_notes(&place)?;
    }
    site.sandbox.wait_caught_up()?;
    wait_until("Pointsman knows the table", LONG, || {
        Ok(site.metric("pointsman_tables_known", &[]) >= 1.0)
    })?;
    let (stop, all) = (AtomicBool::new(false), AtomicU64::new(0));
    let clients = std::thread::scope(|scope| -> Result<Vec<Client>> {
        let (stop, all) = (&stop, &all);
        let clients: Vec<_> =
            (0..CLIENTS).map(|n| scope.spawn(move || client(site.port(), n, stop, all))).collect();
        let some = |what: &str| {
            let before = all.load(SeqCst);
            wait_until(what, LONG, || Ok(all.load(SeqCst) > before + ENOUGH))
        };
        let done = some("they write").and_then(|()| {
            cause(event, &place)?;
            some("they go on writing")
        });
        stop.store(true, SeqCst);
        let clients =
            clients.into_iter().map(|c| c.join().expect("clients do not panic")).collect();
        done.with_context(|| place.told()).map(|()| clients)
    })?;
    account(&place, clients)
}

fn cause(event: Event, place: &Place) -> Result<()> {
    let old = place.site.primary();
    match event {
        Event::Killed | Event::KilledLossless | Event::KilledRows => old.kill9()?,
        Event::Frozen | Event::FrozenLossless => old.pause()?,
        Event::Silent => place.cut_off(old, true)?,
        Event::Switchover => {
            let done = place.site.cli(&["switchover"]);
            anyhow::ensure!(done.status.success(), "{}", done.stderr);
        }
    }
    place.await_successor(old.name())
}

fn account(place: &Place, clients: Vec<Client>) -> Result<Seen> {
    let primary = place.primary().context("the primary, which was just seen")?;
    let mut there: HashMap<(usize, u64), usize> = HashMap::new();
    for row in primary.client_sql("SELECT client, n FROM app.times")?.lines() {
        let (client, n) = row.split_once('\t').context("two columns")?;
        *there.entry((client.parse()?, n.parse()?)).or_default() += 1;
    }
    let mut seen =
        Seen { doubled: there.values().filter(|times| **times > 1).count(), ..Seen::default() };
    for (i, client) in clients.into_iter().enumerate() {
        seen.gap = seen.gap.max(client.gap);
        seen.errors.extend(client.errors);
        seen.lost += client.acknowledged.iter().filter(|n| !there.contains_key(&(i, **n))).count();
    }
    Ok(seen)
}
