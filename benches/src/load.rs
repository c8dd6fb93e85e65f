//! The clients: threads that wait for their answers, as PHP does, and do as little else as can be.

use std::io::{Read as _, Write as _};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pointsman_sandbox::Sandbox;
use pointsman_tests::Raw;

use crate::forwarders::Forwarder;

const ROWS: u32 = 10_000;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// One row by its primary key, in the text protocol.
    TextPointSelect,
    /// START TRANSACTION READ ONLY, ten rows by prepared statement, COMMIT: twelve queries.
    PreparedReadOnly,
    /// BEGIN, four rows read, an update, an insert, COMMIT: eight queries.
    ReadWrite,
    /// Log in, SET NAMES, three rows, log out: one PHP request, counted as one.
    PhpRequest,
}

impl Workload {
    pub const ALL: [Self; 4] =
        [Self::TextPointSelect, Self::PreparedReadOnly, Self::ReadWrite, Self::PhpRequest];

    pub fn name(self) -> &'static str {
        match self {
            Self::TextPointSelect => "text point selects",
            Self::PreparedReadOnly => "prepared read-only transactions",
            Self::ReadWrite => "read-write transactions",
            Self::PhpRequest => "PHP-style short connections",
        }
    }

    /// What the cost is divided by.
    pub fn unit(self) -> &'static str {
        match self {
            Self::PhpRequest => "connection",
            _ => "query",
        }
    }
}

/// Creates the table and waits for the replica.
pub fn fill(sandbox: &Sandbox) -> Result<()> {
    sandbox.primary().client_sql(&format!(
        "CREATE TABLE app.bench (id INT PRIMARY KEY, k INT NOT NULL, c CHAR(120) NOT NULL) ENGINE=InnoDB; \
         INSERT INTO app.bench SELECT seq, seq, REPEAT(MD5(seq), 3) FROM app.seq_1_to_{ROWS}; \
         CREATE TABLE app.log (id INT AUTO_INCREMENT PRIMARY KEY, k INT NOT NULL) ENGINE=InnoDB"
    ))?;
    sandbox.wait_caught_up()
}

/// What was done in one slice.
#[derive(Debug, Default)]
pub struct Done {
    /// Queries, or connections.
    pub count: u64,
    /// Of each of them (for transactions: of each query), in nanoseconds, sorted.
    pub latencies: Vec<u32>,
}

/// Lets `clients` work for `time`. One that fails ends everything.
pub fn run(workload: Workload, at: &Forwarder, clients: usize, time: Duration) -> Result<Done> {
    let stop = AtomicBool::new(false);
    let start = Barrier::new(clients + 1);
    let mut done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..clients)
            .map(|i| {
                let (stop, start) = (&stop, &start);
                scope.spawn(move || work(workload, at, i as u32, stop, start))
            })
            .collect();
        start.wait();
        std::thread::sleep(time);
        stop.store(true, Relaxed);
        let mut all = Done::default();
        for worker in workers {
            let one = worker.join().expect("clients do not panic")?;
            all.count += one.count;
            all.latencies.extend(one.latencies);
        }
        anyhow::Ok(all)
    })?;
    ensure!(done.count > 0, "nothing was done");
    done.latencies.sort_unstable();
    Ok(done)
}

fn work(
    workload: Workload,
    at: &Forwarder,
    client: u32,
    stop: &AtomicBool,
    start: &Barrier,
) -> Result<Done> {
    let port = if workload == Workload::ReadWrite { at.writes } else { at.reads };
    let ready = Client::new(port, workload);
    // Whoever fails must not leave the others waiting.
    start.wait();
    let mut me = ready?;
    let mut random = Random(0x9e37_79b9 ^ (client + 1).wrapping_mul(0x85eb_ca6b));
    let mut done = Done::default();
    while !stop.load(Relaxed) {
        match workload {
            Workload::TextPointSelect => me.text_select(&mut random, &mut done)?,
            Workload::PreparedReadOnly => {
                me.timed(&mut done, |me| me.query("START TRANSACTION READ ONLY"))?;
                for _ in 0..10 {
                    let id = random.row();
                    me.timed(&mut done, |me| me.execute(id))?;
                }
                me.timed(&mut done, |me| me.query("COMMIT"))?;
            }
            Workload::ReadWrite => {
                let id = random.row();
                me.timed(&mut done, |me| me.query("BEGIN"))?;
                for _ in 0..4 {
                    me.text_select(&mut random, &mut done)?;
                }
                let update = format!("UPDATE bench SET k = k + 1 WHERE id = {id}");
                me.timed(&mut done, |me| me.query(&update))?;
                me.timed(&mut done, |me| me.query(&format!("INSERT INTO log (k) VALUES ({id})")))?;
                me.timed(&mut done, |me| me.query("COMMIT"))?;
            }
            Workload::PhpRequest => {
                let begin = Instant::now();
                let mut request = Client::new(port, workload)?;
                request.query("SET NAMES utf8mb4")?;
                for _ in 0..3 {
                    let id = random.row();
                    request.query(&format!("SELECT c FROM bench WHERE id = {id}"))?;
                }
                request.raw.command(1, b"")?;
                done.add(begin);
            }
        }
    }
    Ok(done)
}

impl Done {
    fn add(&mut self, begin: Instant) {
        self.count += 1;
        self.latencies.push(u32::try_from(begin.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
}

/// xorshift: different for each client, the same in each run.
struct Random(u32);

impl Random {
    fn row(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % ROWS + 1
    }
}

struct Client {
    raw: Raw,
    statement: u32,
    request: Vec<u8>,
    reply: Box<[u8; 16 << 10]>,
}

impl Client {
    fn new(port: u16, workload: Workload) -> Result<Self> {
        let mut raw = Raw::connect(port)?;
        let statement = match workload {
            Workload::PreparedReadOnly => raw.prepare("SELECT c FROM bench WHERE id = ?")?.0,
            _ => 0,
        };
        Ok(Self { raw, statement, request: Vec::new(), reply: Box::new([0; 16 << 10]) })
    }

    fn text_select(&mut self, random: &mut Random, done: &mut Done) -> Result<()> {
        let sql = format!("SELECT c FROM bench WHERE id = {}", random.row());
        self.timed(done, |me| me.query(&sql))
    }

    fn timed(&mut self, done: &mut Done, what: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        what(self)?;
        done.add(begin);
        Ok(())
    }

    fn query(&mut self, sql: &str) -> Result<()> {
        self.begin(3, sql.len());
        self.request.extend_from_slice(sql.as_bytes());
        self.exchange().with_context(|| sql.to_owned())
    }

    /// COM_STMT_EXECUTE with one parameter of type INT.
    fn execute(&mut self, id: u32) -> Result<()> {
        self.begin(0x17, 4 + 1 + 4 + 1 + 1 + 2 + 4);
        self.request.extend_from_slice(&self.statement.to_le_bytes());
        self.request.extend_from_slice(&[0, 1, 0, 0, 0, 0, 1, 3, 0]);
        self.request.extend_from_slice(&id.to_le_bytes());
        self.exchange().context("COM_STMT_EXECUTE")
    }

    fn begin(&mut self, command: u8, rest: usize) {
        let [a, b, c, _] = (rest as u32 + 1).to_le_bytes();
        self.request.clear();
        self.request.extend_from_slice(&[a, b, c, 0, command]);
    }

    /// Sends the request and reads until an OK, or the second EOF of a result set.
    fn exchange(&mut self) -> Result<()> {
        let mut stream = self.raw.stream();
        stream.write_all(&self.request)?;
        let (mut have, mut at, mut first, mut eofs) = (0, 0, true, 0);
        loop {
            let n = stream.read(&mut self.reply[have..])?;
            ensure!(n > 0, "the connection ended");
            have += n;
            while let Some([a, b, c, _, kind]) = self.reply[at..have].first_chunk::<5>() {
                let len = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
                if have < at + 4 + len {
                    break;
                }
                match kind {
                    0xff => {
                        let text = &self.reply[at + 7..at + 4 + len];
                        bail!("{}", String::from_utf8_lossy(text));
                    }
                    0 if first => return Ok(()),
                    0xfe if len < 9 => eofs += 1,
                    _ => {}
                }
                if eofs == 2 {
                    return Ok(());
                }
                first = false;
                at += 4 + len;
            }
        }
    }
}
