//! The proxy as a process.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pointsman_sandbox::wait_until;

use crate::{LONG, http_get, pointsman};

/// A running `pointsman proxy`. Killed on drop.
pub struct Proxy {
    child: Child,
    admin: u16,
    log: PathBuf,
}

impl Proxy {
    /// Starts it without waiting for anything.
    pub fn spawn(config: &Path, admin: u16, log: &Path) -> Result<Self> {
        Self::spawn_telling(config, admin, log, "info")
    }

    /// As [`Proxy::spawn`], its log as loud as `filter` says (`POINTSMAN_LOG`).
    pub fn spawn_telling(config: &Path, admin: u16, log: &Path, filter: &str) -> Result<Self> {
        let mut command = Command::new(pointsman());
        command.args(["proxy", "--config"]).arg(config).env("POINTSMAN_LOG", filter);
        Self::spawn_as(command, admin, log)
    }

    /// The same, for a command that runs it in some way of its own; how loud its log is stays the
    /// command's to say.
    pub fn spawn_as(mut command: Command, admin: u16, log: &Path) -> Result<Self> {
        let stderr = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(stderr.try_clone()?)
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("can't run {}", command.get_program().display()))?;
        Ok(Self { child, admin, log: log.to_owned() })
    }

    /// Until `/readyz` says so.
    pub fn wait_ready(&mut self) -> Result<()> {
        let admin = self.admin;
        self.wait_for("the proxy is ready", || Ok(http_get(admin, "/readyz")?.0 == 200))
    }

    /// Until `done`, or the process ends, or it takes too long.
    pub fn wait_for(&mut self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let child = &mut self.child;
        let mut ended = None;
        let waited = wait_until(what, LONG, || {
            ended = child.try_wait()?;
            Ok(ended.is_some() || done()?)
        });
        if let Some(status) = ended {
            anyhow::bail!("{what}: the proxy ended with {status}:\n{}", self.log());
        }
        waited.with_context(|| self.log())
    }

    /// `kill -9`; returns once it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What it, and those before it, wrote to stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal).context("can't signal")
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let mut status = None;
        let child = &mut self.child;
        wait_until("the proxy ends", within, || {
            status = child.try_wait()?;
            Ok(status.is_some())
        })
        .with_context(|| self.log())?;
        status.context("just seen")
    }

    /// SIGTERM, and a clean end.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait(LONG)?;
        ensure!(
            status.success(),
            "the proxy ended with {:?}, signal {:?}:\n{}",
            status.code(),
            status.signal(),
            self.log()
        );
        Ok(())
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kib << 10)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy's log ---\n{}", self.log());
        }
    }
}
