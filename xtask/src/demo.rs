//! Pointsman before a real primary and a real replica, with a PHP page as its client, and the
//! replica killed under load.

use std::fs;
use std::io::{BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::child::{Guard, next_line, signal};
use crate::{cargo, say, setup};

pub fn run(keep: bool) -> Result<()> {
    setup::run()?;
    say("building pointsman");
    // Not the release binary: that takes minutes more to build, and the tests have this one, too.
    cargo::check(cargo::cargo(&["build", "--workspace", "--bins"]))?;
    let binary = cargo::target_dir().join("debug/pointsman");

    say("pointsman sandbox --replicas 1");
    let site = Site::start(&binary)?;

    say("a PHP page through the proxy (tests/php/page.php)");
    site.php("page.php", &[])?;

    say("who answered what: pointsman servers");
    site.pointsman(&["servers"])?;
    say("the statements that took most time: pointsman statements --limit 12");
    site.pointsman(&["statements", "--limit", "12"])?;
    for sql in ["SELECT txt FROM page WHERE id = 7", "SELECT txt FROM page WHERE id = 7 FOR UPDATE"]
    {
        say(&format!("why there: pointsman explain '{sql}'"));
        site.pointsman(&["explain", sql])?;
    }

    site.kill_replica_under_load()?;
    say("what happened: pointsman events");
    site.pointsman(&["events"])?;
    say("and now: pointsman servers");
    site.pointsman(&["servers"])?;

    if keep {
        say("it stays up until Ctrl-C");
        println!("{}", site.greeting);
        return site.wait();
    }
    say("stopping");
    site.stop()?;
    println!("\nTo look around in it: cargo xtask demo --keep");
    Ok(())
}

/// A running `pointsman sandbox`.
struct Site {
    sandbox: Guard,
    // Held open, so that the sandbox may go on writing.
    _stdout: BufReader<ChildStdout>,
    binary: PathBuf,
    port: String,
    admin: String,
    dir: PathBuf,
    greeting: String,
}

impl Site {
    fn start(binary: &Path) -> Result<Self> {
        let begin = Instant::now();
        let mut command = Command::new(binary);
        command.args(["sandbox", "--replicas", "1", "--log", "warn"]);
        let (sandbox, mut stdout) = Guard::spawn_piped(&mut command)?;
        let mut greeting = String::new();
        loop {
            let line = next_line(&mut stdout).context("pointsman sandbox")?;
            greeting.push_str(&line);
            greeting.push('\n');
            if line.contains("Ctrl-C") {
                break;
            }
        }
        let admin = after(&greeting, "--admin ")?;
        let site = Self {
            port: after(&greeting, "-P ")?,
            dir: after(&greeting, "files:")?.into(),
            admin,
            sandbox,
            _stdout: stdout,
            binary: binary.to_owned(),
            greeting,
        };
        site.wait_ready()?;
        println!("up after {:.1} s:\n{}", begin.elapsed().as_secs_f64(), site.greeting);
        Ok(site)
    }

    fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.output(&["status", "--json"])?.contains("\"ready\":true") {
            ensure!(Instant::now() < deadline, "the proxy is not ready within 20 s");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn output(&self, args: &[&str]) -> Result<String> {
        let output =
            Command::new(&self.binary).args(args).env("POINTSMAN_ADMIN", &self.admin).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn pointsman(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(args).env("POINTSMAN_ADMIN", &self.admin);
        cargo::check(command)
    }

    fn php_command(&self, script: &str, args: &[&str]) -> Command {
        let mut command = Command::new("php");
        command.arg(cargo::root().join("tests/php").join(script)).arg(&self.port).args(args);
        command
    }

    fn php(&self, script: &str, args: &[&str]) -> Result<()> {
        cargo::check(self.php_command(script, args))
    }

    fn kill_replica_under_load(&self) -> Result<()> {
        say("PHP requests without a break, and the replica killed with -9 in their midst");
        let pid_file = self.dir.join("db2/pid");
        let pid: u32 = fs::read_to_string(&pid_file)
            .with_context(|| format!("can't read {}", pid_file.display()))?
            .trim()
            .parse()
            .context("not a process id")?;
        let mut command = self.php_command("load.php", &["60"]);
        command.stdin(Stdio::piped());
        let (mut load, mut stdout) = Guard::spawn_piped(&mut command)?;
        ensure!(next_line(&mut stdout)? == "ready", "the load did not start");
        std::thread::sleep(Duration::from_secs(2));
        signal(pid, "KILL")?;
        println!("  db2 (process {pid}) is dead");
        std::thread::sleep(Duration::from_secs(2));
        // The script ends with its standard input.
        if let Some(mut stdin) = load.child().stdin.take() {
            let _ = stdin.write_all(b"stop\n");
        }
        let mut report = String::new();
        stdout.read_to_string(&mut report)?;
        println!("  {}", report.trim());
        ensure!(load.child().wait()?.success(), "the PHP load ended with an error");
        ensure!(
            report.contains("\"failed\":0,") && report.contains("\"stale\":0,"),
            "requests failed or were answered from the past"
        );
        println!("  not one request failed, not one read was stale");
        Ok(())
    }

    /// Until Ctrl-C, which the sandbox gets as well.
    fn wait(mut self) -> Result<()> {
        let status = self.sandbox.child().wait()?;
        ensure!(status.success(), "pointsman sandbox ended with {status}");
        Ok(())
    }

    fn stop(self) -> Result<()> {
        let status = self.sandbox.stop(Duration::from_secs(60))?;
        ensure!(status.success(), "pointsman sandbox ended with {status}");
        ensure!(!self.dir.exists(), "pointsman sandbox left {} behind", self.dir.display());
        println!("gone without a trace");
        Ok(())
    }
}

/// The word after `label`.
fn after(text: &str, label: &str) -> Result<String> {
    let word = text.split_once(label).and_then(|(_, rest)| rest.split_whitespace().next());
    match word {
        Some(word) => Ok(word.to_owned()),
        None => bail!("pointsman sandbox did not say its {label}:\n{text}"),
    }
}
