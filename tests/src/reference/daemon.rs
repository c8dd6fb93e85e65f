//! Programs that run as long as the site does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes whatever waits for something end with an error, so that everything is put away.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Polls until `done` says so.
///
/// # Errors
/// It did not happen within `limit`, or [`interrupt`] was called.
pub fn await_that(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begin = Instant::now();
    while !done()? {
        if INTERRUPTED.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        if begin.elapsed() >= limit {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(begin.elapsed())
}

/// A program in the foreground. Ended on drop; the kernel kills it if this process dies first.
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// # Errors
    /// It can't be run.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log)?;
        command.stdout(file.try_clone()?).stderr(file).stdin(Stdio::null());
        let child =
            pointsman_sandbox::spawn(command).with_context(|| format!("can't run {name}"))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// # Errors
    /// It has ended; says what it wrote.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}:\n{}", self.name, self.log()),
        }
    }

    /// # Errors
    /// There is no such process.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)
            .with_context(|| format!("can't signal {}", self.name))
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let Self { child, name, .. } = self;
        let what = format!("{name} ends after SIGTERM");
        await_that(&what, Duration::from_secs(10), || Ok(child.try_wait()?.is_some())).map(drop)
    }

    /// `kill -9`, as a crash.
    ///
    /// # Errors
    /// There is no such process.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let _ = self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
