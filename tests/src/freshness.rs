//! Reads after writes: how many are stale, and how many of them replicas answer.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pointsman_sandbox::Flavour;

use crate::raw::lenenc_row;
use crate::{LONG, Raw, Setup, Site, wait_until};

/// What was read after writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    pub reads: u64,
    /// Reads that missed what was acknowledged before they began.
    pub stale: u64,
    pub on_replicas: u64,
}

impl Seen {
    /// Percent of the reads that replicas answered.
    #[must_use]
    pub fn share(&self) -> f64 {
        100.0 * self.on_replicas as f64 / self.reads.max(1) as f64
    }

    fn add(&mut self, value: u64, wanted: u64, server: u64) {
        self.reads += 1;
        self.stale += u64::from(value < wanted);
        self.on_replicas += u64::from(server != 1);
    }
}

/// Who reads, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// On another connection than the one that wrote.
    pub two: bool,
    pub prepared: bool,
}

impl Kind {
    pub const ALL: [Self; 4] = [
        Self { two: false, prepared: false },
        Self { two: false, prepared: true },
        Self { two: true, prepared: false },
        Self { two: true, prepared: true },
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.two, self.prepared) {
            (false, false) => "one connection, text",
            (false, true) => "one connection, prepared",
            (true, false) => "two connections, text",
            (true, true) => "two connections, prepared",
        }
    }
}

const READ: &str = "SELECT CAST(n AS CHAR), CAST(@@server_id AS CHAR) FROM a WHERE id = 1";

/// A primary and a replica, with `a` and `b` of one row each. `more`: further lines of `[routing]`.
///
/// # Errors
/// They don't come up.
pub fn site(flavour: Flavour, more: &str) -> Result<Site> {
    let config = format!("workers = 2\n[routing]\n{more}");
    let setup = Setup { flavour, config, failover: true, ..Setup::default() };
    let site = Site::try_with(setup)?;
    let mut db = Raw::connect(site.port())?;
    for table in ["a", "b"] {
        db.query(&format!("CREATE TABLE {table} (id INT PRIMARY KEY, n BIGINT NOT NULL)"))?;
        db.query(&format!("INSERT INTO {table} VALUES (1, 0)"))?;
    }
    site.sandbox.wait_caught_up()?;
    wait_until("the tables are known", LONG, || {
        Ok(site.metric("pointsman_tables_known", &[]) >= 2.0)
    })?;
    Ok(site)
}

/// Writes and reads `n` times, one after the other.
///
/// # Errors
/// A statement failed.
pub fn read_after_write(site: &Site, kind: Kind, n: u64) -> Result<Seen> {
    let mut writer = Raw::connect(site.port())?;
    let mut other = Raw::connect(site.port())?;
    let (first, _, _) = writer.prepare(READ)?;
    let (second, _, _) = other.prepare(READ)?;
    let start: u64 = writer.one("SELECT n FROM a WHERE id = 1 FOR UPDATE")?.parse()?;
    let mut seen = Seen::default();
    for value in start + 1..=start + n {
        writer.query(&format!("UPDATE a SET n = {value} WHERE id = 1"))?;
        let (reader, id) = if kind.two { (&mut other, second) } else { (&mut writer, first) };
        let row = if kind.prepared {
            execute(reader, id)?
        } else {
            reader.query(READ)?.into_iter().next().context("a row")?
        };
        let (found, server) = numbers(&row)?;
        seen.add(found, value, server);
    }
    Ok(seen)
}

/// COM_STMT_EXECUTE without parameters, of a query for one row of strings.
fn execute(db: &mut Raw, id: u32) -> Result<Vec<Option<String>>> {
    let mut argument = id.to_le_bytes().to_vec();
    argument.extend([0, 1, 0, 0, 0]);
    db.command(0x17, &argument)?;
    let (rows, _) = db.result()?;
    let row = rows.first().context("a row")?;
    // Header, and a bitmap of NULLs that is one byte for up to six columns.
    lenenc_row(row.get(2..).context("a binary row")?)
}

fn numbers(row: &[Option<String>]) -> Result<(u64, u64)> {
    let number = |i: usize| -> Result<u64> {
        Ok(row.get(i).and_then(Option::as_deref).context("a number")?.parse()?)
    };
    Ok((number(0)?, number(1)?))
}

/// The replica applies everything a second late from now on.
///
/// # Errors
/// It refuses.
pub fn delay(site: &Site) -> Result<()> {
    let sql = match site.replica().flavour() {
        Flavour::MySql => {
            "STOP REPLICA; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 1; START REPLICA"
        }
        _ => "STOP SLAVE; CHANGE MASTER TO MASTER_DELAY = 1; START SLAVE",
    };
    site.replica().client_sql(sql)?;
    site.wait_replicas()
}

/// Reads `b` for `time` while another connection writes `a` without a pause.
///
/// # Errors
/// A statement failed.
pub fn read_another_table(site: &Site, time: Duration) -> Result<Seen> {
    let (port, stop) = (site.port(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<u64> {
            let mut db = Raw::connect(port)?;
            let mut n = 0;
            while !stop.load(SeqCst) {
                db.query("UPDATE a SET n = n + 1 WHERE id = 1")?;
                n += 1;
            }
            Ok(n)
        });
        let reads = || -> Result<Seen> {
            let mut db = Raw::connect(port)?;
            let mut seen = Seen::default();
            let end = Instant::now() + time;
            while Instant::now() < end {
                let rows = db.query("SELECT n, @@server_id FROM b WHERE id = 1")?;
                let (found, server) = numbers(rows.first().context("a row")?)?;
                seen.add(found, 0, server);
            }
            Ok(seen)
        };
        let seen = reads();
        stop.store(true, SeqCst);
        writer.join().expect("the writer does not panic")?;
        seen
    })
}

/// Where a statement commits and fails, the server tells of its position with the next that succeeds: that
/// is no sign of a history begun anew.
pub fn told_late(site: &Site) {
    let mut db = Raw::connect(site.port()).unwrap();
    db.query("CREATE TABLE late (id INT AUTO_INCREMENT PRIMARY KEY)").unwrap();
    db.query(
        "CREATE PROCEDURE fails() BEGIN INSERT INTO late VALUES (); SIGNAL SQLSTATE '45000'; END",
    )
    .unwrap();
    let later = ["DO 1", "SELECT 1 FROM late LIMIT 1 FOR UPDATE", "SET timestamp = 1", "COMMIT"];
    for (sql, rows) in later.iter().zip(1..) {
        assert!(db.query("CALL fails()").is_err());
        let mut other = Raw::connect(site.port()).unwrap();
        let seen = format!("2 {rows}");
        wait_until("the replica is read", LONG, || {
            Ok(other.one("SELECT CONCAT(@@server_id, ' ', COUNT(*)) FROM late")? == seen)
        })
        .unwrap();
        // Has all servers looked at.
        site.cli(&["switchover", "--dry-run"]);
        db.query(sql).unwrap();
        let row = site.server("db2");
        assert_eq!(row["reads"], true, "after {sql}: {row}");
    }
}
