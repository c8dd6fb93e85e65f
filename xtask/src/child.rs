//! Child processes that do not outlive a chore.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A process that is ended on drop.
pub struct Guard {
    child: Child,
    what: String,
}

impl Guard {
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let what = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("can't run {what}"))?;
        Ok(Self { child, what })
    }

    /// As [`Guard::spawn`], with its standard output to be read by us.
    pub fn spawn_piped(command: &mut Command) -> Result<(Self, BufReader<ChildStdout>)> {
        let mut guard = Self::spawn(command.stdout(Stdio::piped()))?;
        let stdout = guard.child.stdout.take().context("no standard output")?;
        Ok((guard, BufReader::new(stdout)))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends SIGTERM and waits.
    pub fn stop(mut self, within: Duration) -> Result<ExitStatus> {
        self.terminate(within)
    }

    fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        signal(self.id(), "TERM")?;
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not stop within {within:?}", self.what);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Asked first: it may have children and directories of its own to put away.
        if matches!(self.child.try_wait(), Ok(None))
            && self.terminate(Duration::from_secs(10)).is_err()
        {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// `kill -SIGNAL PID`; the shell has it built in, so that nothing need be installed for it.
pub fn signal(pid: u32, signal: &str) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid.to_string()])
        .status()
        .context("can't run sh")?;
    if !status.success() {
        bail!("can't send SIG{signal} to process {pid}");
    }
    Ok(())
}

/// The next line of a process, without its line break.
pub fn next_line(from: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        bail!("it ended; what it said stands above");
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}
