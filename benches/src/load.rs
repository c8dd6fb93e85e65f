//! What clients do: threads that wait for their answers, as PHP does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use pointsman_sandbox::Sandbox;
use rustls::ClientConfig;

use crate::connection::Connection;
use crate::forwarders::Forwarder;

const ROWS: u32 = 10_000;
const MANY_ROWS: u32 = 1_000_000;
const LARGE_ROW: u32 = 64 << 20;

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// One row by its primary key, in the text protocol.
    TextSelect,
    /// The same by prepared statement.
    PreparedSelect,
    /// START TRANSACTION READ ONLY, ten rows, COMMIT: twelve queries, in the text protocol.
    TextReadOnly,
    /// The same by prepared statement.
    PreparedReadOnly,
    /// BEGIN, four rows read, an update, an insert, COMMIT: eight queries.
    TextReadWrite,
    /// The same by prepared statements.
    PreparedReadWrite,
    /// Log in, SET NAMES, three rows, log out: one PHP request, counted as one.
    PhpRequest,
    /// One row of 64 MiB.
    LargeRow,
    /// A million rows of some 30 bytes.
    ManyRows,
    /// Point selects in the text protocol, while one client more reads a million rows again and again:
    /// are the others served in time? Its own reads are not counted.
    BesideManyRows,
}

impl Workload {
    pub const ALL: [Self; 10] = [
        Self::TextSelect,
        Self::PreparedSelect,
        Self::TextReadOnly,
        Self::PreparedReadOnly,
        Self::TextReadWrite,
        Self::PreparedReadWrite,
        Self::PhpRequest,
        Self::LargeRow,
        Self::ManyRows,
        Self::BesideManyRows,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::TextSelect => "point selects, text",
            Self::PreparedSelect => "point selects, prepared",
            Self::TextReadOnly => "read-only transactions, text",
            Self::PreparedReadOnly => "read-only transactions, prepared",
            Self::TextReadWrite => "read-write transactions, text",
            Self::PreparedReadWrite => "read-write transactions, prepared",
            Self::PhpRequest => "short connections",
            Self::LargeRow => "one row of 64 MiB",
            Self::ManyRows => "a million small rows",
            Self::BesideManyRows => "point selects beside a million rows",
        }
    }

    /// What the cost is divided by.
    pub fn unit(self) -> &'static str {
        match self {
            Self::PhpRequest => "connection",
            Self::LargeRow | Self::ManyRows => "MiB",
            _ => "query",
        }
    }

    pub fn is_large(self) -> bool {
        matches!(self, Self::LargeRow | Self::ManyRows)
    }

    fn writes(self) -> bool {
        matches!(self, Self::TextReadWrite | Self::PreparedReadWrite)
    }
}

/// Creates the tables and waits for the replica.
pub fn fill(sandbox: &Sandbox) -> Result<()> {
    sandbox.primary().client_sql(&format!(
        "CREATE TABLE app.bench (id INT PRIMARY KEY, k INT NOT NULL, c CHAR(120) NOT NULL) ENGINE=InnoDB; \
         INSERT INTO app.bench SELECT seq, seq, REPEAT(MD5(seq), 3) FROM app.seq_1_to_{ROWS}; \
         CREATE TABLE app.log (id INT AUTO_INCREMENT PRIMARY KEY, k INT NOT NULL) ENGINE=InnoDB; \
         CREATE TABLE app.many (id INT PRIMARY KEY, v CHAR(20) NOT NULL) ENGINE=InnoDB; \
         INSERT INTO app.many SELECT seq, LEFT(MD5(seq), 20) FROM app.seq_1_to_{MANY_ROWS}"
    ))?;
    sandbox.wait_caught_up()
}

/// What was done in one slice.
#[derive(Debug, Default)]
pub struct Done {
    /// In the workload's unit.
    pub count: f64,
    /// How long it took.
    pub time: Duration,
    /// Of each query (or connection), in nanoseconds, sorted.
    pub latencies: Vec<u64>,
}

/// Lets `clients` work for `time`. One that fails ends everything.
pub fn run(
    workload: Workload,
    at: &Forwarder,
    tls: Option<&Arc<ClientConfig>>,
    clients: usize,
    time: Duration,
) -> Result<Done> {
    Ok(run_with(workload, at, tls, clients, time, || Ok(()))?.0)
}

/// The same; `ready` is called once all are connected, and none does anything yet.
pub fn run_with<T>(
    workload: Workload,
    at: &Forwarder,
    tls: Option<&Arc<ClientConfig>>,
    clients: usize,
    time: Duration,
    ready: impl FnOnce() -> Result<T>,
) -> Result<(Done, T)> {
    let stop = AtomicBool::new(false);
    let start = Barrier::new(clients + 1);
    let to = if workload.writes() { at.writes } else { at.reads };
    let (mut done, ready) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..clients)
            .map(|i| {
                let (stop, start) = (&stop, &start);
                let body = move || work(workload, to, tls, i as u32, stop, start);
                // Hundreds of clients need no large stacks.
                std::thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, body)
            })
            .collect::<Result<_, _>>()?;
        start.wait();
        let ready = ready();
        start.wait();
        let begin = Instant::now();
        if ready.is_ok() {
            std::thread::sleep(time);
        }
        stop.store(true, Relaxed);
        let mut all = Done::default();
        for worker in workers {
            let one = worker.join().expect("clients do not panic")?;
            all.count += one.count;
            all.latencies.extend(one.latencies);
        }
        all.time = begin.elapsed();
        anyhow::Ok((all, ready?))
    })?;
    ensure!(done.count > 0.0, "nothing was done");
    done.latencies.sort_unstable();
    Ok((done, ready))
}

fn work(
    workload: Workload,
    to: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
    client: u32,
    stop: &AtomicBool,
    start: &Barrier,
) -> Result<Done> {
    let ready = Client::new(workload, to, tls);
    // Whoever fails must not leave the others waiting.
    start.wait();
    start.wait();
    let mut me = ready?;
    if workload == Workload::BesideManyRows && client == 0 {
        while !stop.load(Relaxed) {
            me.once(Workload::ManyRows, to, tls)?;
        }
        return Ok(Done::default());
    }
    me.random = Random(0x9e37_79b9 ^ (client + 1).wrapping_mul(0x85eb_ca6b));
    while !stop.load(Relaxed) {
        me.once(workload, to, tls)?;
    }
    Ok(me.done)
}

/// xorshift: different for each client, the same in each run.
#[derive(Default)]
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
    connection: Connection,
    /// Of the statements that the workload needs.
    prepared: [u32; 3],
    random: Random,
    done: Done,
}

impl Client {
    fn new(workload: Workload, to: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let mut connection = Connection::open(to, tls)?;
        let mut prepared = [0; 3];
        use Workload::{PreparedReadOnly, PreparedReadWrite, PreparedSelect};
        if matches!(workload, PreparedSelect | PreparedReadOnly | PreparedReadWrite) {
            prepared[0] = connection.prepare("SELECT c FROM bench WHERE id = ?")?;
        }
        if workload == PreparedReadWrite {
            prepared[1] = connection.prepare("UPDATE bench SET k = k + 1 WHERE id = ?")?;
            prepared[2] = connection.prepare("INSERT INTO log (k) VALUES (?)")?;
        }
        Ok(Self { connection, prepared, random: Random::default(), done: Done::default() })
    }

    fn once(
        &mut self,
        workload: Workload,
        to: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
    ) -> Result<()> {
        match workload {
            Workload::TextSelect | Workload::BesideManyRows => self.text_select(),
            Workload::PreparedSelect => self.prepared(0),
            Workload::TextReadOnly => {
                self.text("START TRANSACTION READ ONLY")?;
                (0..10).try_for_each(|_| self.text_select())?;
                self.text("COMMIT")
            }
            Workload::PreparedReadOnly => {
                self.text("START TRANSACTION READ ONLY")?;
                (0..10).try_for_each(|_| self.prepared(0))?;
                self.text("COMMIT")
            }
            Workload::TextReadWrite => {
                let id = self.random.row();
                self.text("BEGIN")?;
                (0..4).try_for_each(|_| self.text_select())?;
                self.text(&format!("UPDATE bench SET k = k + 1 WHERE id = {id}"))?;
                self.text(&format!("INSERT INTO log (k) VALUES ({id})"))?;
                self.text("COMMIT")
            }
            Workload::PreparedReadWrite => {
                self.text("BEGIN")?;
                (0..4).try_for_each(|_| self.prepared(0))?;
                self.prepared(1)?;
                self.prepared(2)?;
                self.text("COMMIT")
            }
            Workload::PhpRequest => {
                let begin = Instant::now();
                let mut request = Connection::open(to, tls)?;
                request.query("SET NAMES utf8mb4")?;
                for _ in 0..3 {
                    let id = self.random.row();
                    request.query(&format!("SELECT c FROM bench WHERE id = {id}"))?;
                }
                request.quit()?;
                self.done.add(begin, 1.0);
                Ok(())
            }
            Workload::LargeRow => self.large(&format!("SELECT REPEAT('x', {LARGE_ROW})")),
            Workload::ManyRows => self.large("SELECT id, v FROM many"),
        }
    }

    fn text(&mut self, sql: &str) -> Result<()> {
        let begin = Instant::now();
        self.connection.query(sql)?;
        self.done.add(begin, 1.0);
        Ok(())
    }

    fn text_select(&mut self) -> Result<()> {
        let sql = format!("SELECT c FROM bench WHERE id = {}", self.random.row());
        self.text(&sql)
    }

    fn prepared(&mut self, which: usize) -> Result<()> {
        let id = self.random.row();
        let begin = Instant::now();
        self.connection.execute(self.prepared[which], id)?;
        self.done.add(begin, 1.0);
        Ok(())
    }

    fn large(&mut self, sql: &str) -> Result<()> {
        let begin = Instant::now();
        let bytes = self.connection.query(sql)?;
        self.done.add(begin, bytes as f64 / f64::from(1 << 20));
        Ok(())
    }
}

impl Done {
    fn add(&mut self, begin: Instant, count: f64) {
        self.count += count;
        self.latencies.push(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
}
