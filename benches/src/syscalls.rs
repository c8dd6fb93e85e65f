//! Which system calls a forwarder makes for each query: `cargo xtask bench --syscalls`.
//!
//! Unlike times, they hardly depend on what else the machine does. Counted by tracepoints, which cost
//! little: under strace a forwarder is so slow that each look at its sockets finds more of them ready.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// What is counted: the column, the tracepoints that belong to it, and a filter.
const COUNTED: [(&str, &[&str], Option<&str>); 12] = [
    ("all", &["raw_syscalls:sys_enter"], None),
    ("wait", &["syscalls:sys_enter_epoll_wait", "syscalls:sys_enter_epoll_pwait"], None),
    ("recv", &["syscalls:sys_enter_recvfrom", "syscalls:sys_enter_read"], None),
    ("in vain", &["syscalls:sys_exit_recvfrom", "syscalls:sys_exit_read"], Some("ret==-11")),
    ("send", &["syscalls:sys_enter_sendto", "syscalls:sys_enter_sendmsg"], None),
    ("wake", &["syscalls:sys_enter_futex", "syscalls:sys_enter_write"], None),
    ("accept", &["syscalls:sys_enter_accept4"], None),
    ("connect", &["syscalls:sys_enter_socket", "syscalls:sys_enter_connect"], None),
    ("set", &["syscalls:sys_enter_setsockopt", "syscalls:sys_enter_fcntl"], None),
    ("ask", &["syscalls:sys_enter_getsockopt", "syscalls:sys_enter_getsockname"], None),
    ("epoll_ctl", &["syscalls:sys_enter_epoll_ctl"], None),
    ("close", &["syscalls:sys_enter_close", "syscalls:sys_enter_shutdown"], None),
];

/// What the columns of [`PerQuery`] mean.
pub const LEGEND: &str = "system calls for each query (connection): all; waits for readiness; receives, of \
these in vain (EAGAIN); sends; wake-ups of other threads and writes elsewhere; accepts; sockets made and \
connects; options set; options and addresses asked; epoll_ctl; closes. sw: switches of its threads off a core";

/// Counts of one workload through one forwarder, divided by its queries.
pub struct PerQuery([f64; COUNTED.len() + 1]);

impl PerQuery {
    /// The names of the columns, aligned as [`PerQuery::row`] does it.
    pub fn head(label: &str) -> String {
        let mut line = format!("{label:<46}");
        for name in COUNTED.iter().map(|(name, ..)| *name).chain(["sw"]) {
            let _ = write!(line, " {name:>9}");
        }
        line
    }

    pub fn row(&self, label: &str) -> String {
        let mut line = format!("{label:<46}");
        for count in self.0 {
            let _ = write!(line, " {count:>9.2}");
        }
        line
    }
}

/// Counts from here on.
pub struct Counting {
    perf: Child,
    control: File,
    acknowledged: File,
    dir: PathBuf,
}

impl Counting {
    /// Attaches to all threads that the process has now. `dir` is for files of its own.
    pub fn begin(pid: u32, dir: &Path) -> Result<Self> {
        let dir = dir.join("syscalls");
        std::fs::create_dir_all(&dir)?;
        let [control, acknowledged] = ["control", "acknowledged"].map(|name| dir.join(name));
        for fifo in [&control, &acknowledged] {
            let _ = std::fs::remove_file(fifo);
            ensure!(Command::new("mkfifo").arg(fifo).status()?.success(), "can't make a FIFO");
        }
        let mut perf = Command::new("perf");
        perf.args(["stat", "-x,", "--delay=-1", "--no-big-num"])
            .arg(format!("--control=fifo:{},{}", control.display(), acknowledged.display()))
            .arg("--output")
            .arg(dir.join("counts"))
            .args(["--pid", &pid.to_string()]);
        for (_, events, filter) in COUNTED {
            for event in events {
                perf.args(["-e", event]);
                if let Some(filter) = filter {
                    perf.args(["--filter", filter]);
                }
            }
        }
        perf.args(["-e", "context-switches"]);
        let perf = perf
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("can't run perf (Debian: linux-perf)")?;
        // Opened for both, so that nobody waits for a perf that is gone.
        let open = |path: &Path| File::options().read(true).write(true).open(path);
        let mut me =
            Self { perf, control: open(&control)?, acknowledged: open(&acknowledged)?, dir };
        me.tell("enable")?;
        Ok(me)
    }

    fn tell(&mut self, what: &str) -> Result<()> {
        if self.perf.try_wait()?.is_some() {
            bail!(
                "perf ended: it needs root and tracefs (mount -t tracefs none /sys/kernel/tracing)"
            );
        }
        writeln!(self.control, "{what}")?;
        let mut answer = [0; 5];
        self.acknowledged.read_exact(&mut answer)?;
        ensure!(&answer[..3] == b"ack", "perf does not understand {what}");
        Ok(())
    }

    /// Stops counting; `queries` were made meanwhile.
    pub fn end(mut self, queries: f64) -> Result<PerQuery> {
        self.tell("disable")?;
        let pid = self.perf.id().to_string();
        // perf writes its counts when it is interrupted.
        ensure!(Command::new("kill").args(["-INT", &pid]).status()?.success(), "perf is gone");
        self.perf.wait()?;
        let text = std::fs::read_to_string(self.dir.join("counts"))?;
        let mut lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
        let mut next = || -> Result<f64> {
            let line = lines.next().context("perf counted less than it was asked to")?;
            // "<not counted>" where nothing happened.
            Ok(line.split(',').next().and_then(|n| n.parse().ok()).unwrap_or(0.0) / queries)
        };
        let mut counts = [0.0; COUNTED.len() + 1];
        for (at, (_, events, _)) in COUNTED.iter().enumerate() {
            for _ in *events {
                counts[at] += next()?;
            }
        }
        counts[COUNTED.len()] = next()?;
        Ok(PerQuery(counts))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        let _ = self.perf.kill();
        let _ = self.perf.wait();
    }
}
