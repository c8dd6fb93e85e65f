//! A consistency checker: clients that keep books of what they were told, faults at random, and a
//! comparison of the books with what the servers have in the end.
//!
//! What must hold, whatever dies: a write that was acknowledged is there, once; one that was refused
//! is not; one whose outcome the client was not told is there once or not at all; money that is moved
//! about stays the same in sum, in every read; a read sees every write acknowledged before it began.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{Raw, ServerError};

/// Pseudo-random numbers that a seed repeats (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.number() % n
    }
}

/// What a client was told of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Done,
    /// An error that says that nothing was done.
    Refused,
    /// An error, or a lost connection, that leaves it open.
    Nothing,
}

/// Shared by the clients.
pub struct Books {
    port: u16,
    accounts: u64,
    clients: usize,
    stop: AtomicBool,
    /// Of each client: the newest number acknowledged.
    acknowledged: Vec<AtomicU64>,
    told: Vec<Mutex<HashMap<u64, Told>>>,
    violations: Mutex<Vec<String>>,
    errors: Mutex<HashMap<String, u64>>,
    reads: AtomicU64,
    /// The longest time in which no write of any client was acknowledged, and since when none was.
    gap: Mutex<(Duration, Instant)>,
}

/// What came of a run.
#[derive(Debug)]
pub struct Verdict {
    pub violations: Vec<String>,
    pub done: usize,
    pub refused: usize,
    pub unknown: usize,
    pub reads: u64,
    /// Errors that clients saw, by number.
    pub errors: HashMap<String, u64>,
    pub longest_gap: Duration,
}

/// Money on each account at first.
const MONEY: u64 = 1000;

impl Books {
    /// Makes the tables, through the proxy at `port`.
    pub fn open(port: u16, clients: usize, accounts: u64) -> Result<Self> {
        let mut db = Raw::connect(port)?;
        db.query("CREATE TABLE acc (id INT PRIMARY KEY, money BIGINT NOT NULL) ENGINE=InnoDB")?;
        db.query(
            "CREATE TABLE book (client INT NOT NULL, n BIGINT NOT NULL, k BIGINT AUTO_INCREMENT \
             PRIMARY KEY, KEY (client, n)) ENGINE=InnoDB",
        )?;
        let rows: Vec<_> = (0..accounts).map(|id| format!("({id}, {MONEY})")).collect();
        db.query(&format!("INSERT INTO acc VALUES {}", rows.join(",")))?;
        Ok(Self {
            port,
            accounts,
            clients,
            stop: AtomicBool::new(false),
            acknowledged: (0..clients).map(|_| AtomicU64::new(0)).collect(),
            told: (0..clients).map(|_| Mutex::default()).collect(),
            violations: Mutex::default(),
            errors: Mutex::default(),
            reads: AtomicU64::new(0),
            gap: Mutex::new((Duration::ZERO, Instant::now())),
        })
    }

    pub fn stop(&self) {
        self.stop.store(true, SeqCst);
    }

    fn violation(&self, text: String) {
        let mut all = self.violations.lock().unwrap();
        if all.len() < 20 {
            all.push(text);
        }
    }

    /// One client, until [`Books::stop`].
    pub fn client(&self, client: usize, seed: u64) {
        let mut random = Random::new(seed ^ client as u64);
        let mut db = None;
        let mut n = 0;
        while !self.stop.load(SeqCst) {
            let Some(connection) = &mut db else {
                match Raw::connect(self.port) {
                    Ok(connection) => db = Some(connection),
                    Err(error) => {
                        self.count(&error);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                continue;
            };
            let outcome = match random.below(4) {
                0 => self.read(connection, &mut random),
                1 => {
                    n += 1;
                    self.write(client, n, || self.insert(connection, client, n))
                }
                _ => {
                    n += 1;
                    self.write(client, n, || self.transfer(connection, client, n, &mut random))
                }
            };
            if let Err(error) = outcome {
                self.count(&error);
                let lost = error.downcast_ref::<ServerError>().is_none_or(|e| e.code == 2013);
                if lost || connection.query("ROLLBACK").is_err() {
                    db = None;
                }
            }
        }
    }

    fn count(&self, error: &anyhow::Error) {
        let what = match error.downcast_ref::<ServerError>() {
            Some(e) => format!("{}: {}", e.code, e.message),
            None => "connection lost".to_owned(),
        };
        *self.errors.lock().unwrap().entry(what).or_default() += 1;
    }

    /// Does a write and notes what was said of it.
    fn write(&self, client: usize, n: u64, write: impl FnOnce() -> Result<()>) -> Result<()> {
        let outcome = write();
        let told = match &outcome {
            Ok(()) => Told::Done,
            Err(error) => match error.downcast_ref::<ServerError>() {
                // Deadlock, lock wait, no primary, read-only: each says that nothing was done.
                Some(e) if matches!(e.code, 1205 | 1213 | 1290 | 1040) => Told::Refused,
                _ => Told::Nothing,
            },
        };
        self.told[client].lock().unwrap().insert(n, told);
        if told == Told::Done {
            self.acknowledged[client].fetch_max(n, SeqCst);
            let mut gap = self.gap.lock().unwrap();
            let now = Instant::now();
            gap.0 = gap.0.max(now - gap.1);
            gap.1 = now;
        }
        outcome
    }

    fn insert(&self, db: &mut Raw, client: usize, n: u64) -> Result<()> {
        db.query(&format!("INSERT INTO book (client, n) VALUES ({client}, {n})")).map(drop)
    }

    fn transfer(&self, db: &mut Raw, client: usize, n: u64, random: &mut Random) -> Result<()> {
        let from = random.below(self.accounts);
        let to = (from + 1 + random.below(self.accounts - 1)) % self.accounts;
        let amount = 1 + random.below(10);
        db.query("BEGIN")?;
        // In the order of the accounts, so that there are few deadlocks.
        let (first, second) = (from.min(to), from.max(to));
        let lock = format!("SELECT id, money FROM acc WHERE id IN ({first}, {second}) FOR UPDATE");
        let rows = db.query(&lock)?;
        ensure!(rows.len() == 2, "two accounts");
        db.query(&format!("UPDATE acc SET money = money - {amount} WHERE id = {from}"))?;
        db.query(&format!("UPDATE acc SET money = money + {amount} WHERE id = {to}"))?;
        db.query(&format!("INSERT INTO book (client, n) VALUES ({client}, {n})"))?;
        db.query("COMMIT").map(drop)
    }

    /// A read must see all that was acknowledged before it, of whichever client.
    fn read(&self, db: &mut Raw, random: &mut Random) -> Result<()> {
        self.reads.fetch_add(1, SeqCst);
        if random.below(2) == 0 {
            let sum = db.one("SELECT SUM(money) FROM acc")?;
            if sum != (self.accounts * MONEY).to_string() {
                self.violation(format!("the sum of all money was {sum}"));
            }
            return Ok(());
        }
        let whose = random.below(self.clients as u64) as usize;
        let before = self.acknowledged[whose].load(SeqCst);
        let sql =
            format!("SELECT COALESCE(MAX(n), 0), @@server_id FROM book WHERE client = {whose}");
        let rows = db.query(&sql)?;
        let row = rows.first().context("a row")?;
        let seen: u64 = row[0].as_deref().unwrap_or("0").parse()?;
        if seen < before {
            let server = row[1].as_deref().unwrap_or("?");
            self.violation(format!(
                "client {whose}'s write {before} was acknowledged, and a read at server {server} \
                 that began later saw {seen}"
            ));
        }
        Ok(())
    }

    /// Compares the books with `rows` of `client\tn` in the order of both, from the present primary.
    /// `may_lose`: replication is asynchronous, and the primary was lost.
    pub fn close(self, rows: &str, sum: &str, may_lose: bool) -> Result<Verdict> {
        let mut there: HashMap<(usize, u64), u64> = HashMap::new();
        for row in rows.lines() {
            let (client, n) = row.split_once('\t').context("two columns")?;
            *there.entry((client.parse()?, n.parse()?)).or_default() += 1;
        }
        let (mut done, mut refused, mut unknown, mut lost) = (0, 0, 0, 0);
        for (client, told) in self.told.iter().enumerate() {
            for (&n, &told) in told.lock().unwrap().iter() {
                let times = there.remove(&(client, n)).unwrap_or(0);
                let wrong = match told {
                    Told::Done => {
                        done += 1;
                        lost += u64::from(times == 0);
                        times > 1 || times == 0 && !may_lose
                    }
                    Told::Refused => {
                        refused += 1;
                        times > 0
                    }
                    Told::Nothing => {
                        unknown += 1;
                        times > 1
                    }
                };
                if wrong {
                    self.violation(format!(
                        "write {n} of client {client}: told {told:?}, and it is there {times} times"
                    ));
                }
            }
        }
        // What was under way when the clients stopped is in nobody's books.
        if sum.trim() != (self.accounts * MONEY).to_string() {
            self.violation(format!("in the end the sum of all money is {sum}"));
        }
        if lost > 0 {
            println!("{lost} acknowledged writes were lost with the primary they were on");
        }
        Ok(Verdict {
            violations: self.violations.into_inner().unwrap(),
            done,
            refused,
            unknown,
            reads: self.reads.into_inner(),
            errors: self.errors.into_inner().unwrap(),
            longest_gap: self.gap.into_inner().unwrap().0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(told: &[(u64, Told)]) -> Books {
        Books {
            port: 0,
            accounts: 1,
            clients: 1,
            stop: AtomicBool::new(true),
            acknowledged: vec![AtomicU64::new(0)],
            told: vec![Mutex::new(told.iter().copied().collect())],
            violations: Mutex::default(),
            errors: Mutex::default(),
            reads: AtomicU64::new(0),
            gap: Mutex::new((Duration::ZERO, Instant::now())),
        }
    }

    #[test]
    fn lost_doubled_and_refused_writes_are_found() {
        let all = [(1, Told::Done), (2, Told::Refused), (3, Told::Nothing), (4, Told::Nothing)];
        let found = |rows: &str, sum: &str, may_lose| {
            books(&all).close(rows, sum, may_lose).unwrap().violations.len()
        };
        assert_eq!(found("0\t1\n0\t3\n", "1000", false), 0);
        assert_eq!(found("0\t3\n", "1000", false), 1, "lost");
        assert_eq!(found("0\t3\n", "1000", true), 0, "lost with its primary");
        assert_eq!(found("0\t1\n0\t1\n", "1000", true), 1, "doubled");
        assert_eq!(found("0\t1\n0\t3\n0\t3\n", "1000", true), 1, "doubled, unknown");
        assert_eq!(found("0\t1\n0\t2\n", "1000", true), 1, "done although refused");
        assert_eq!(found("0\t1\n", "999", false), 1, "money is missing");
    }
}
