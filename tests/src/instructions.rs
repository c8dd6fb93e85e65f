//! How many instructions the proxy's worker executes for a statement, as callgrind counts them: the
//! same number on a busy machine as on an idle one.
//!
//! What the kernel does is not counted, so this is no measure of cost (see `benches/`) but a sharp
//! one of change: an allocation, a copy or a lookup more per statement shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use pointsman_sandbox::{Options, Sandbox, free_port};

use crate::{Proxy, Raw, pointsman};

/// A path through the proxy, walked again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// One row by its key, in the text protocol, from a replica.
    TextSelect,
    /// The same by prepared statement.
    Execute,
    /// BEGIN, SELECT, UPDATE, INSERT, COMMIT: five statements.
    WriteTransaction,
    /// Log in, three statements, log out: counted as one.
    ShortConnection,
}

impl Walk {
    pub const ALL: [Self; 4] =
        [Self::TextSelect, Self::Execute, Self::WriteTransaction, Self::ShortConnection];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TextSelect => "text select",
            Self::Execute => "prepared execution",
            Self::WriteTransaction => "write transaction, per statement",
            Self::ShortConnection => "short connection",
        }
    }

    /// Statements in one walk.
    fn statements(self) -> u64 {
        match self {
            Self::WriteTransaction => 5,
            _ => 1,
        }
    }
}

/// A real primary and replica, and the proxy with one worker, under callgrind.
pub struct Counted {
    proxy: Proxy,
    _sandbox: Sandbox,
    port: u16,
    out: PathBuf,
    dumps: usize,
}

impl Counted {
    /// # Errors
    /// Also if valgrind is not installed.
    pub fn start() -> Result<Self> {
        let sandbox = Sandbox::start(Options { replicas: 1, ..Options::default() })?;
        sandbox.primary().client_sql(
            "CREATE TABLE app.walk (id INT PRIMARY KEY, k INT NOT NULL, c CHAR(120) NOT NULL) ENGINE=InnoDB; \
             INSERT INTO app.walk SELECT seq, seq, REPEAT('x', 100) FROM app.seq_1_to_1000; \
             CREATE TABLE app.walked (id INT AUTO_INCREMENT PRIMARY KEY, k INT NOT NULL) ENGINE=InnoDB",
        )?;
        sandbox.wait_caught_up()?;
        let (port, admin) = (free_port()?, free_port()?);
        let config = sandbox.dir().join("counted.toml");
        sandbox.write_proxy_config(&config, port, admin, "workers = 1\n")?;
        let out = sandbox.dir().join("callgrind");
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--separate-threads=yes", "--instr-atstart=no"])
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(pointsman())
            .args(["proxy", "--config"])
            .arg(&config);
        let log = sandbox.dir().join("counted.log");
        let mut proxy = Proxy::spawn_as(command, admin, &log).context("is valgrind installed?")?;
        proxy.wait_ready()?;
        proxy.wait_for("reads go to the replica", || {
            Ok(Raw::connect(port)?.one("SELECT @@server_id")? == "2")
        })?;
        let mut counted = Self { proxy, _sandbox: sandbox, port, out, dumps: 0 };
        counted.control(&["--instr=on"])?;
        Ok(counted)
    }

    /// Instructions of the worker for one statement of this kind.
    pub fn per_statement(&mut self, walk: Walk) -> Result<u64> {
        const TIMES: u64 = 200;
        let mut walker = Walker::new(self.port, walk)?;
        for _ in 0..20 {
            walker.once()?;
        }
        self.dump()?;
        for _ in 0..TIMES {
            walker.once()?;
        }
        let sum = self.dump()?;
        Ok(sum / TIMES / walk.statements())
    }

    /// Counts since the last dump, of the worker's thread.
    fn dump(&mut self) -> Result<u64> {
        self.control(&["--dump"])?;
        self.dumps += 1;
        let name = self.out.file_name().context("it has a name")?.to_string_lossy().into_owned();
        let prefix = format!("{name}.{}-", self.dumps);
        let mut found = None;
        for entry in fs::read_dir(self.out.parent().context("it is in a directory")?)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let text = fs::read_to_string(entry.path())?;
                // Names are spelled out where they first appear.
                if text.contains("pointsman_proxy::route") {
                    ensure!(found.is_none(), "two threads serve sessions");
                    found = Some(totals(&text)?);
                    if let Some(dir) = std::env::var_os("POINTSMAN_KEEP_COUNTS") {
                        fs::create_dir_all(&dir)?;
                        fs::copy(entry.path(), Path::new(&dir).join(entry.file_name()))?;
                    }
                }
                fs::remove_file(entry.path())?;
            }
        }
        found.context("callgrind saw no worker")
    }

    fn control(&mut self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("callgrind_control");
        let output = command.args(args).arg(self.proxy.pid().to_string()).output()?;
        ensure!(
            output.status.success(),
            "callgrind_control {args:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.proxy.log()
        );
        Ok(())
    }
}

fn totals(text: &str) -> Result<u64> {
    let line =
        text.lines().find_map(|l| l.strip_prefix("totals: ").or(l.strip_prefix("summary: ")));
    Ok(line.context("no totals")?.trim().parse()?)
}

struct Walker {
    raw: Raw,
    port: u16,
    walk: Walk,
    statement: u32,
    row: u32,
}

impl Walker {
    fn new(port: u16, walk: Walk) -> Result<Self> {
        let mut raw = Raw::connect(port)?;
        let statement = match walk {
            Walk::Execute => raw.prepare("SELECT c FROM walk WHERE id = ?")?.0,
            _ => 0,
        };
        Ok(Self { raw, port, walk, statement, row: 100 })
    }

    fn once(&mut self) -> Result<()> {
        // Always three digits.
        self.row = 100 + (self.row + 1) % 900;
        let row = self.row;
        match self.walk {
            Walk::TextSelect => {
                self.raw.query(&format!("SELECT c FROM walk WHERE id = {row}"))?;
            }
            Walk::Execute => {
                let mut argument = self.statement.to_le_bytes().to_vec();
                argument.extend_from_slice(&[0, 1, 0, 0, 0, 0, 1, 3, 0]);
                argument.extend_from_slice(&row.to_le_bytes());
                self.raw.command(0x17, &argument)?;
                self.raw.result()?;
            }
            Walk::WriteTransaction => {
                self.raw.query("BEGIN")?;
                self.raw.query(&format!("SELECT c FROM walk WHERE id = {row}"))?;
                self.raw.query(&format!("UPDATE walk SET k = k + 1 WHERE id = {row}"))?;
                self.raw.query(&format!("INSERT INTO walked (k) VALUES ({row})"))?;
                self.raw.query("COMMIT")?;
            }
            Walk::ShortConnection => {
                let mut raw = Raw::connect(self.port)?;
                raw.query("SET NAMES utf8mb4")?;
                for _ in 0..2 {
                    raw.query(&format!("SELECT c FROM walk WHERE id = {row}"))?;
                }
                raw.command(1, b"")?;
            }
        }
        Ok(())
    }
}
