//! Preparing and running a suite.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use pointsman_sandbox::Flavour;

use super::{Comparison, Explained, Results};
use crate::{LONG, Setup, Site, wait_until};

/// May do everything, from anywhere.
const USER: &str = "suite";
const PASSWORD: &str = "suite-secret";

/// One directory of `tests/suites`.
#[derive(Debug, Clone)]
pub struct Suite {
    pub name: String,
    dir: PathBuf,
}

/// To which port the suite's clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Direct,
    Proxied,
}

/// # Errors
/// The directory can't be read.
pub fn all() -> Result<Vec<Suite>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("suites");
    let mut suites = Vec::new();
    for entry in fs::read_dir(&root).with_context(|| root.display().to_string())? {
        let dir = entry?.path();
        if dir.join("run").is_file() {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            suites.push(Suite { name, dir });
        }
    }
    suites.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(suites)
}

impl Suite {
    /// Downloads and builds what it needs, once.
    ///
    /// # Errors
    /// Its `prepare` fails.
    pub fn prepare(&self) -> Result<()> {
        let cache = self.cache()?;
        fs::create_dir_all(&cache)?;
        let done = cache.join("prepared");
        let script = self.dir.join("prepare");
        let wanted = fs::read(&script).with_context(|| script.display().to_string())?;
        if fs::read(&done).is_ok_and(|had| had == wanted) {
            return Ok(());
        }
        let log = cache.join("prepare.log");
        let output = fs::File::create(&log)?;
        let status = Command::new("bash")
            .args(["-euo", "pipefail"])
            .arg(&script)
            .current_dir(&cache)
            .env("SUITE", &self.dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()?;
        ensure!(status.success(), "{} failed, see {}", script.display(), log.display());
        fs::write(done, wanted)?;
        Ok(())
    }

    /// Why it is not run on servers of this flavour, if it is not.
    #[must_use]
    pub fn not_on(&self, flavour: Flavour) -> Option<String> {
        let file = if flavour == Flavour::MySql { "mariadb-only" } else { "mysql-only" };
        fs::read_to_string(self.dir.join(file)).ok().map(|why| why.trim().to_owned())
    }

    /// Runs it on servers of its own. What it writes goes to `out`; `only` names tests, in the
    /// suite's own way.
    ///
    /// # Errors
    /// Servers don't come up, the suite leaves no results, or a write reached the replica, which is
    /// writable.
    pub fn run(
        &self,
        place: Place,
        flavour: Flavour,
        out: &Path,
        only: &[String],
    ) -> Result<(Results, Vec<String>)> {
        fs::create_dir_all(out.join("outputs"))?;
        let site = Site::try_with(Setup {
            server_args: self.server_args(),
            flavour,
            // Fewer connections than sessions, so that these are shared where that is possible.
            config: "workers = 2\n".into(),
            ..Setup::default()
        })?;
        site.primary().client_sql(&format!(
            "CREATE USER '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\
             GRANT ALL ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\
             CREATE USER root@'127.0.0.1';\
             GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\
             CREATE DATABASE suite; CREATE DATABASE test;"
        ))?;
        site.sandbox.wait_caught_up()?;
        let oracle = site.oracle();
        let port = match place {
            Place::Direct => site.primary().port(),
            Place::Proxied => site.port(),
        };
        let output = fs::File::create(out.join("log"))?;
        // A suite that hangs is a difference, too.
        let status = Command::new("timeout")
            .args(["--kill-after=10", "3600", "bash", "-euo", "pipefail"])
            .arg(self.dir.join("run"))
            .args(only)
            .current_dir(self.cache()?)
            .env("SUITE", &self.dir)
            .env("OUT", out)
            .envs([("HOST", "127.0.0.1"), ("USER", USER), ("PASSWORD", PASSWORD)])
            .env("PORT", port.to_string())
            .env("FLAVOUR", if flavour == Flavour::MySql { "mysql" } else { "mariadb" })
            .env("SANDBOX", site.sandbox.dir())
            .env("PRIMARY_SOCKET", site.primary().socket())
            .env("REPLICA_SOCKET", site.replica().socket())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()?;
        let mut findings = Vec::new();
        if !status.success() {
            findings.push(format!("its run ended with {status}, see {}/log", out.display()));
        }
        let results = Results::read(out)?;
        if place == Place::Proxied {
            let log = site.proxy.log();
            fs::write(out.join("proxy.log"), &log)?;
            if log.contains("panicked") {
                findings.push(format!("the proxy panicked, see {}/proxy.log", out.display()));
            }
            let text = site.metrics();
            fs::write(out.join("metrics"), text)?;
            let caught_up = wait_until("the replica catches up", LONG, || {
                Ok(site.sandbox.wait_caught_up().is_ok())
            });
            match caught_up.and_then(|()| oracle.findings()) {
                Ok(found) => findings.extend(found),
                Err(error) => findings.push(format!("the replica can't be looked at: {error:#}")),
            }
            if findings.len() > 20 {
                fs::write(out.join("findings"), findings.join("\n"))?;
                let more = findings.len() - 20;
                findings.truncate(20);
                findings.push(format!("{more} more, see {}/findings", out.display()));
            }
        }
        Ok((results, findings))
    }

    /// # Errors
    /// `differences` can't be read.
    pub fn compare(&self, direct: &Results, proxied: &Results) -> Result<Comparison> {
        let explained = Explained::read(&self.dir.join("differences"))?;
        Ok(Comparison::of(direct, proxied, &explained))
    }

    /// Lines of `server-args`.
    fn server_args(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("server-args")).unwrap_or_default();
        text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
    }

    /// Outside the checkout.
    fn cache(&self) -> Result<PathBuf> {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        let cache = cache.context("neither XDG_CACHE_HOME nor HOME is set")?;
        Ok(cache.join("pointsman/suites").join(&self.name))
    }
}
