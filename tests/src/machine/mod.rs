//! A machine that boots systemd: namespaces of its own, on this machine's file system under an
//! overlay. It can be rebooted: what was written to disk is still there then, and nothing else is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::geteuid;
use pointsman_sandbox::wait_until;

/// Longer than booting takes on a busy machine.
const BOOT: Duration = Duration::from_secs(60);

/// Ends when dropped, and leaves nothing behind.
pub struct Machine {
    cgroup: PathBuf,
    /// Its disk: `install` is put there before the first boot.
    dir: tempfile::TempDir,
    /// `unshare`, whose only child is the machine's process 1.
    running: Option<Child>,
}

/// Why there can be no such machine here, if so.
#[must_use]
pub fn unable() -> Option<&'static str> {
    if !geteuid().is_root() {
        return Some("only root may boot a machine in namespaces");
    }
    if !Path::new("/lib/systemd/systemd").exists() {
        return Some("systemd is not installed");
    }
    if cgroups().is_none() {
        return Some("no cgroup file system of version 2 is mounted");
    }
    None
}

fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|f| f.get(2) == Some(&"cgroup2")).find_map(|f| f.get(1).map(PathBuf::from))
}

impl Machine {
    /// Not booted yet: see [`Machine::install`].
    ///
    /// # Errors
    /// Its directory can't be made.
    pub fn new(name: &str) -> Result<Self> {
        let cgroup = cgroups().context("no cgroups")?;
        let cgroup = cgroup.join(format!("pointsman-{}-{name}", std::process::id()));
        let dir = tempfile::Builder::new().prefix("pointsman-machine-").tempdir()?;
        fs::create_dir_all(dir.path().join("install"))?;
        Ok(Self { cgroup, dir, running: None })
    }

    /// Puts a file on its disk before it boots for the first time.
    ///
    /// # Errors
    /// It can't be copied.
    pub fn install(&self, file: &Path, to: &str) -> Result<()> {
        let to = self.prepare(to)?;
        fs::copy(file, &to).with_context(|| format!("copying {}", file.display())).map(drop)
    }

    /// As [`Machine::install`], with a text.
    ///
    /// # Errors
    /// It can't be written.
    pub fn install_text(&self, text: &str, to: &str) -> Result<()> {
        fs::write(self.prepare(to)?, text).context("writing").map(drop)
    }

    fn prepare(&self, to: &str) -> Result<PathBuf> {
        let to = self.dir.path().join("install").join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a file has a directory")?)?;
        Ok(to)
    }

    /// Boots it, or boots it again, and waits until all that is enabled has been started.
    ///
    /// # Errors
    /// It does not come up.
    pub fn boot(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "it runs");
        fs::create_dir_all(&self.cgroup)?;
        let log = self.dir.path().join("boot.log");
        let file = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", include_str!("boot.sh"), "boot"])
            .arg(self.dir.path())
            .arg(&self.cgroup);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        self.running = Some(pointsman_sandbox::spawn(command)?);
        let said = || fs::read_to_string(&log).unwrap_or_default();
        wait_until("the machine has booted", BOOT, || {
            let child = self.running.as_mut().context("it has just been started")?;
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status}");
            }
            let Ok(output) = self.run("systemctl", &["is-system-running"]) else {
                return Ok(false);
            };
            let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Ok(state == "running" || state == "degraded")
        })
        .with_context(said)?;
        Ok(())
    }

    /// Shuts it down in good order, and boots it again.
    ///
    /// # Errors
    /// It does not end, or does not come up.
    pub fn reboot(&mut self) -> Result<()> {
        let _ = self.run("systemctl", &["reboot"]);
        let mut child = self.running.take().context("it does not run")?;
        let ended =
            wait_until("the machine has gone down", BOOT, || Ok(child.try_wait()?.is_some()));
        let _ = child.kill();
        let _ = child.wait();
        ended?;
        self.boot()
    }

    /// Its process 1, as seen from here.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let unshare = self.running.as_ref().context("it does not run")?.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
        children.split_whitespace().next().context("not yet")?.parse().context("a pid")
    }

    /// A program on the machine.
    ///
    /// # Errors
    /// It does not run.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.pid()?.to_string(), "--", program]);
        Ok(command)
    }

    /// Runs a program on the machine to its end, whatever that is.
    ///
    /// # Errors
    /// It can't be run.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<Output> {
        Ok(self.command(program)?.args(args).stdin(Stdio::null()).output()?)
    }

    /// What a program says that ends well.
    ///
    /// # Errors
    /// It does not; with what it said.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<String> {
        let output = self.run(program, args)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {said}{complaint}", args.join(" "));
        Ok(said)
    }

    /// What a unit wrote since the machine was booted.
    #[must_use]
    pub fn journal(&self, unit: &str) -> String {
        self.output("journalctl", &["--no-pager", "-o", "cat", "-u", unit]).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            // With it goes its process 1, and with that all others.
            let _ = child.kill();
            let _ = child.wait();
        }
        // They end in their own time, and until then their groups stay.
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = wait_until("the machine's groups are gone", Duration::from_secs(5), || {
            remove(&self.cgroup);
            Ok(!self.cgroup.exists())
        });
    }
}

/// As far as they are empty. Groups are directories that can only be removed from below.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}
