//! One round: clients work while trouble comes and goes, then the books are compared.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pointsman_sandbox::Flavour;

use super::{Books, Place, Random, Trouble, Verdict};
use crate::reference::Network;
use crate::{LONG, wait_until};

const CLIENTS: usize = 8;
const ACCOUNTS: u64 = 20;
/// At the end of a round.
const SETTLE: Duration = Duration::from_secs(1);

/// A kind of round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Replicas die, hang, fall behind and are cut off: no write may notice.
    Replicas,
    /// The same with few connections that all sessions share.
    Pool,
    /// Primaries are killed, frozen and cut off.
    Primaries,
    /// Primaries are changed on purpose: no client may see an error but a deadlock's.
    Switchovers,
    /// All of it, and the proxy is killed.
    Everything,
    /// Reads may be stale: a checker that finds nothing here is broken.
    Control,
}

impl Story {
    pub const ALL: [Self; 6] = [
        Self::Everything,
        Self::Replicas,
        Self::Primaries,
        Self::Switchovers,
        Self::Pool,
        Self::Control,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Replicas => "replicas",
            Self::Pool => "pool",
            Self::Primaries => "primaries",
            Self::Switchovers => "switchovers",
            Self::Everything => "everything",
            Self::Control => "control",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Pool => "[pool]\nmax_connections = 8\n",
            Self::Control => "[routing]\nconsistency = \"eventual\"\n",
            _ => "",
        }
    }

    fn troubles(self) -> &'static [Trouble] {
        match self {
            Self::Replicas | Self::Pool => Trouble::REPLICAS,
            Self::Primaries => Trouble::PRIMARIES,
            Self::Switchovers => &[Trouble::Switchover],
            Self::Everything => Trouble::ALL,
            Self::Control => &[Trouble::StopApplying],
        }
    }

    /// Whether Pointsman may change the primary, and nothing acknowledged be lost with it.
    fn changes_primary(self) -> bool {
        matches!(self, Self::Primaries | Self::Switchovers | Self::Everything)
    }
}

/// What one round is to be.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub flavour: Flavour,
    pub story: Story,
    pub seed: u64,
    pub time: Duration,
}

impl Round {
    /// Runs it, and tells of each trouble as it comes. Violations, and what had to happen and did not,
    /// are in the verdict.
    ///
    /// # Errors
    /// There is nothing to judge: servers did not come up at first.
    pub fn run(self, network: Option<Arc<Network>>) -> Result<Verdict> {
        let story = self.story;
        let changes = story.changes_primary();
        let mut place = Place::start(network, self.flavour, story.config(), changes, changes)?;
        let books = Books::open(place.site.port(), CLIENTS, ACCOUNTS)?;
        place.site.sandbox.wait_caught_up()?;
        let outcome = std::thread::scope(|scope| {
            let books = &books;
            for client in 0..CLIENTS {
                scope.spawn(move || books.client(client, self.seed));
            }
            let outcome = self.trouble(&mut place, books);
            std::thread::sleep(SETTLE.min(self.time / 4));
            books.stop();
            outcome
        });
        if let Err(error) = outcome {
            books.violation(format!("{error:#}"));
        }
        if let Err(error) = self.compare(&mut place, &books) {
            books.violation(format!("in the end: {error:#}"));
        }
        let verdict = books.verdict();
        if self.is_wrong(&verdict).is_some() {
            println!("{}\n--- the proxy's log ---\n{}", place.told(), place.site.proxy.log());
        }
        Ok(verdict)
    }

    fn trouble(self, place: &mut Place, books: &Books) -> Result<()> {
        let mut random = Random::new(self.seed);
        let all: Vec<_> = self.story.troubles().to_vec();
        let begun = Instant::now();
        let mut missed = 0;
        while begun.elapsed() < self.time && missed < 20 {
            std::thread::sleep(random.moment(200, 1000));
            let trouble = *random.one_of(&all);
            // Numbers of its own: how many it takes depends on what it meets.
            let mut own = Random::new(random.number());
            if trouble.needs_network() && !place.has_network() {
                continue;
            }
            let at = begun.elapsed();
            let violated = books.violated();
            match trouble.cause(place, &mut own).with_context(|| format!("{trouble:?}"))? {
                Some(what) => {
                    missed = 0;
                    let (writes, reads) = books.progress();
                    println!(
                        "  {:6.1} s  {what} [{:.1} s; {writes} writes, {reads} reads so far]",
                        at.as_secs_f64(),
                        (begun.elapsed() - at).as_secs_f64()
                    );
                }
                // A former primary that has something of its own stays out, and that is right: then
                // no more primaries can be taken.
                None if trouble.takes_the_primary() => missed += 3,
                None => missed += 1,
            }
            if books.violated() > violated {
                println!("  a violation was seen then");
            }
        }
        Ok(())
    }

    fn compare(self, place: &mut Place, books: &Books) -> Result<()> {
        place.heal()?;
        let primary = place.primary().context("the primary, which was just seen")?;
        let rows = "SELECT client, n FROM app.book ORDER BY client, n";
        let money = "SELECT id, money FROM app.acc ORDER BY id";
        let sum = primary.client_sql("SELECT SUM(money) FROM app.acc")?;
        for name in place.in_role("replica")? {
            let node = place.node(&name);
            // What was under way when its client was cut off may still be done: then both have it in
            // the end. What is not the same on both stays so.
            let same = wait_until("the replica has the primary's rows", LONG, || {
                let (there, accounts) = (primary.client_sql(rows)?, primary.client_sql(money)?);
                node.wait_applied(&primary.position()?, LONG)?;
                Ok(node.client_sql(rows)? == there && node.client_sql(money)? == accounts)
            });
            if same.is_err() {
                books.violation(format!("{name} has other rows than {}", primary.name()));
            }
        }
        let there = primary.client_sql(rows)?;
        books.close(&there, &sum, false)
    }

    /// Why the round failed, if it did.
    #[must_use]
    pub fn is_wrong(self, verdict: &Verdict) -> Option<String> {
        let errors = |but: &str| verdict.errors.keys().filter(|e| !e.starts_with(but)).count();
        if self.story == Story::Control {
            let stale = verdict.violations.iter().any(|v| v.contains("was acknowledged"));
            let why = "the checker did not see that reads were stale";
            return (!stale).then(|| why.to_owned());
        }
        let check = || -> Result<()> {
            ensure!(verdict.violations.is_empty(), "{}", verdict.violations.join("\n"));
            ensure!(verdict.done > 100 && verdict.reads > 50, "hardly anything was done");
            match self.story {
                Story::Replicas | Story::Pool => {
                    ensure!(verdict.unknown + verdict.refused == 0, "a write failed");
                }
                // A transaction that met others in another order on the new primary may have to be
                // restarted.
                Story::Switchovers => {
                    ensure!(verdict.unknown == 0 && errors("1213") == 0, "clients saw errors");
                }
                _ => {}
            }
            Ok(())
        };
        check().err().map(|error| format!("{error:#}"))
    }
}
