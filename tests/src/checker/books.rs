//! What clients do, what they were told, and what must hold.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Random;
use crate::raw::lenenc_row;
use crate::{Raw, ServerError};

/// What a client was told of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// Of each client: what it was told of its writes 1, 2, ...
    told: Vec<Mutex<Vec<Told>>>,
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

const SUM: &str = "SELECT CAST(SUM(money) AS CHAR) FROM acc";
const NEWEST: &str = "SELECT CAST(COALESCE(MAX(n), 0) AS CHAR), CAST(@@server_id AS CHAR) FROM book \
     WHERE client = ";

/// A connection with statements that are prepared once and live as long as it does.
struct Session {
    db: Raw,
    sum: u32,
    newest: u32,
}

impl Session {
    fn open(port: u16) -> Result<Self> {
        let mut db = Raw::connect(port)?;
        let (sum, ..) = db.prepare(SUM)?;
        let (newest, ..) = db.prepare(&format!("{NEWEST}?"))?;
        Ok(Self { db, sum, newest })
    }

    fn prepared_sum(&mut self) -> Result<String> {
        let row = self.execute(self.sum, None)?;
        row.into_iter().next().flatten().context("a sum")
    }

    fn newest(&mut self, client: usize) -> Result<(u64, String)> {
        let rows = self.db.query(&format!("{NEWEST}{client}"))?;
        newest(rows.into_iter().next().context("a row")?)
    }

    fn prepared_newest(&mut self, client: usize) -> Result<(u64, String)> {
        newest(self.execute(self.newest, Some(client))?)
    }

    /// COM_STMT_EXECUTE of a query for one row of strings, with a number as its parameter.
    fn execute(&mut self, id: u32, parameter: Option<usize>) -> Result<Vec<Option<String>>> {
        let mut argument = id.to_le_bytes().to_vec();
        argument.extend([0, 1, 0, 0, 0]);
        if let Some(number) = parameter {
            // No NULL; types follow: LONGLONG.
            argument.extend([0, 1, 8, 0]);
            argument.extend((number as u64).to_le_bytes());
        }
        self.db.command(0x17, &argument)?;
        let (rows, _) = self.db.result()?;
        let row = rows.first().context("a row")?;
        // Header, and a bitmap of NULLs that is one byte for up to six columns.
        lenenc_row(row.get(2..).context("a binary row")?)
    }
}

fn newest(row: Vec<Option<String>>) -> Result<(u64, String)> {
    let mut row = row.into_iter();
    let seen = row.next().flatten().context("a number")?.parse()?;
    Ok((seen, row.next().flatten().unwrap_or_default()))
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

    fn note_gap(&self) {
        let mut gap = self.gap.lock().unwrap();
        let now = Instant::now();
        gap.0 = gap.0.max(now - gap.1);
        gap.1 = now;
    }

    /// How many writes were acknowledged so far, and how many reads were begun.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let writes = self.acknowledged.iter().map(|n| n.load(SeqCst)).sum();
        (writes, self.reads.load(SeqCst))
    }

    /// How many violations there are so far.
    #[must_use]
    pub fn violated(&self) -> usize {
        self.violations.lock().unwrap().len()
    }

    /// Notes what must not be; the first twenty.
    pub fn violation(&self, text: String) {
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
            let Some(session) = &mut db else {
                match Session::open(self.port) {
                    Ok(session) => db = Some(session),
                    Err(error) => {
                        self.count(&error);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                }
                continue;
            };
            let outcome = match random.below(4) {
                0 => self.read(session, &mut random),
                1 => {
                    n += 1;
                    self.write(client, n, || self.insert(&mut session.db, client, n))
                }
                _ => {
                    n += 1;
                    let db = &mut session.db;
                    self.write(client, n, || self.transfer(db, client, n, &mut random))
                }
            };
            if let Err(error) = outcome {
                self.count(&error);
                let lost = error.downcast_ref::<ServerError>().is_none_or(|e| e.code == 2013);
                if lost || session.db.query("ROLLBACK").is_err() {
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
        // The numbers of one client's writes have no gaps.
        let mut all = self.told[client].lock().unwrap();
        debug_assert_eq!(all.len() as u64 + 1, n);
        all.push(told);
        drop(all);
        if told == Told::Done {
            self.acknowledged[client].fetch_max(n, SeqCst);
            self.note_gap();
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
    fn read(&self, session: &mut Session, random: &mut Random) -> Result<()> {
        self.reads.fetch_add(1, SeqCst);
        match random.below(4) {
            0 => self.check_sum(&session.db.one(SUM)?),
            1 => self.check_sum(&session.prepared_sum()?),
            kind => {
                let whose = random.below(self.clients as u64) as usize;
                let before = self.acknowledged[whose].load(SeqCst);
                let (seen, server) = match kind {
                    2 => session.newest(whose)?,
                    _ => session.prepared_newest(whose)?,
                };
                if seen < before {
                    self.violation(format!(
                        "client {whose}'s write {before} was acknowledged, and a read at server \
                         {server} that began later saw {seen}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_sum(&self, sum: &str) {
        if sum != (self.accounts * MONEY).to_string() {
            self.violation(format!("the sum of all money was {sum}"));
        }
    }

    /// Compares the books with `rows` of `client\tn` in the order of both, from the present primary.
    /// `may_lose`: replication is asynchronous, and the primary was lost.
    ///
    /// # Errors
    /// The rows are none.
    pub fn close(&self, rows: &str, sum: &str, may_lose: bool) -> Result<()> {
        let mut there: HashMap<(usize, u64), u64> = HashMap::new();
        for row in rows.lines() {
            let (client, n) = row.split_once('\t').context("two columns")?;
            *there.entry((client.parse()?, n.parse()?)).or_default() += 1;
        }
        let mut lost = 0;
        for (client, told) in self.told.iter().enumerate() {
            for (n, &told) in (1..).zip(told.lock().unwrap().iter()) {
                let times = there.remove(&(client, n)).unwrap_or(0);
                let wrong = match told {
                    Told::Done => {
                        lost += u64::from(times == 0);
                        times > 1 || times == 0 && !may_lose
                    }
                    Told::Refused => times > 0,
                    Told::Nothing => times > 1,
                };
                if wrong {
                    self.violation(format!(
                        "write {n} of client {client}: told {told:?}, and it is there {times} times"
                    ));
                }
            }
        }
        // All clients have ended what they did.
        for (client, n) in there.keys() {
            self.violation(format!("write {n} of client {client} is there and in nobody's books"));
        }
        if sum.trim() != (self.accounts * MONEY).to_string() {
            self.violation(format!("in the end the sum of all money is {sum}"));
        }
        if lost > 0 {
            println!("{lost} acknowledged writes were lost with the primary they were on");
        }
        Ok(())
    }

    /// What came of it so far.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut counts = HashMap::new();
        for told in &self.told {
            for told in told.lock().unwrap().iter() {
                *counts.entry(*told).or_insert(0) += 1;
            }
        }
        let count = |told| counts.get(&told).copied().unwrap_or(0);
        Verdict {
            violations: self.violations.lock().unwrap().clone(),
            done: count(Told::Done),
            refused: count(Told::Refused),
            unknown: count(Told::Nothing),
            reads: self.reads.load(SeqCst),
            errors: self.errors.lock().unwrap().clone(),
            longest_gap: self.gap.lock().unwrap().0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books(told: &[Told]) -> Books {
        Books {
            port: 0,
            accounts: 1,
            clients: 1,
            stop: AtomicBool::new(true),
            acknowledged: vec![AtomicU64::new(0)],
            told: vec![Mutex::new(told.to_vec())],
            violations: Mutex::default(),
            errors: Mutex::default(),
            reads: AtomicU64::new(0),
            gap: Mutex::new((Duration::ZERO, Instant::now())),
        }
    }

    #[test]
    fn lost_doubled_and_refused_writes_are_found() {
        let all = [Told::Done, Told::Refused, Told::Nothing, Told::Nothing];
        let found = |rows: &str, sum: &str, may_lose| {
            let books = books(&all);
            books.close(rows, sum, may_lose).unwrap();
            books.violated()
        };
        assert_eq!(found("0\t1\n0\t3\n", "1000", false), 0);
        assert_eq!(found("0\t3\n", "1000", false), 1, "lost");
        assert_eq!(found("0\t3\n", "1000", true), 0, "lost with its primary");
        assert_eq!(found("0\t1\n0\t1\n", "1000", true), 1, "doubled");
        assert_eq!(found("0\t1\n0\t3\n0\t3\n", "1000", true), 1, "doubled, unknown");
        assert_eq!(found("0\t1\n0\t2\n", "1000", true), 1, "done although refused");
        assert_eq!(found("0\t1\n", "999", false), 1, "money is missing");
        assert_eq!(found("0\t1\n0\t5\n", "1000", false), 1, "nobody wrote it");
    }
}
