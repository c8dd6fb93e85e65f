//! How MariaDB is installed, run and told to replicate.

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::geteuid;

use crate::{APP_PASSWORD, APP_USER, MONITOR_GRANTS, MONITOR_PASSWORD, MONITOR_USER};

/// Counts up whenever what is in a template changes.
const RECIPE: u32 = 1;
const REPL_USER: &str = "repl";
const REPL_PASSWORD: &str = "repl-secret";
/// Small, so that copying a template is quick; must be the same when installing and running.
const INNODB_FILES: [&str; 1] = ["--innodb-log-file-size=16M"];

#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) client: PathBuf,
    install: PathBuf,
    /// As in `mariadbd --version`, without blanks: names the template.
    version: String,
}

impl Programs {
    pub(crate) fn find() -> Result<Self> {
        let server = find(&["mariadbd", "mysqld"])?;
        let client = find(&["mariadb", "mysql"])?;
        let install = find(&["mariadb-install-db", "mysql_install_db"])?;
        let output = Command::new(&server)
            .args(["--no-defaults", "--version"])
            .output()
            .with_context(|| format!("can't run {}", server.display()))?;
        let line = String::from_utf8_lossy(&output.stdout);
        let version = line
            .split_whitespace()
            .find(|word| word.contains("MariaDB"))
            .map(|word| word.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "_"))
            .with_context(|| format!("{} is not MariaDB: {}", server.display(), line.trim()))?;
        Ok(Self { server, client, install, version })
    }

    /// Everything but what sets one node apart from another.
    pub(crate) fn server_args(&self) -> Vec<String> {
        let mut args = INNODB_FILES.map(String::from).to_vec();
        args.extend(
            [
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--performance-schema=off",
                "--innodb-buffer-pool-size=64M",
                "--max-connections=2000",
                "--back-log=1000",
                "--character-set-server=utf8mb4",
                "--collation-server=utf8mb4_general_ci",
                "--log-bin=binlog",
                "--relay-log=relay",
                "--log-slave-updates",
                "--gtid-strict-mode=1",
                "--gtid-domain-id=0",
                "--report-host=127.0.0.1",
                "--slave-net-timeout=10",
                // Commits survive kill -9 (they are in the page cache), not a power cut.
                "--innodb-flush-log-at-trx-commit=2",
                "--sync-binlog=0",
            ]
            .map(String::from),
        );
        if geteuid().is_root() {
            args.push("--user=root".to_owned());
        }
        args
    }
}

fn find(names: &[&str]) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/libexec"].map(PathBuf::from));
    let places: Vec<_> = places.collect();
    names
        .iter()
        .flat_map(|name| places.iter().map(move |place| place.join(name)))
        .find(|program| program.is_file())
        .with_context(|| {
            format!(
                "{} is not installed; on Debian and Ubuntu: apt-get install mariadb-server",
                names[0]
            )
        })
}

/// A freshly installed data directory to copy from, made once per server version.
pub(crate) fn template(programs: &Programs) -> Result<PathBuf> {
    let cache = cache_dir()?;
    let template = cache.join(format!("mariadb-{}-{RECIPE}", programs.version));
    if template.is_dir() {
        return Ok(template);
    }
    // Made aside and renamed, so that nobody copies half of one and of several makers one wins.
    let making = tempfile::Builder::new()
        .prefix("making-")
        .tempdir_in(&cache)
        .with_context(|| format!("can't write to {}", cache.display()))?;
    let data = making.path().join("data");
    let mut install = Command::new(&programs.install);
    install
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .args(INNODB_FILES)
        .arg(format!("--datadir={}", data.display()));
    if geteuid().is_root() {
        install.arg("--user=root");
    }
    let output =
        install.output().with_context(|| format!("can't run {}", programs.install.display()))?;
    ensure!(
        output.status.success(),
        "{} failed: {}{}",
        programs.install.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    match fs::rename(&data, &template) {
        Ok(()) => Ok(template),
        Err(_) if template.is_dir() => Ok(template),
        Err(error) => Err(error).with_context(|| format!("can't make {}", template.display())),
    }
}

/// `$XDG_CACHE_HOME/pointsman`, `~/.cache/pointsman` or, failing both, a private directory in the
/// temporary directory.
fn cache_dir() -> Result<PathBuf> {
    let homes = [
        env::var_os("XDG_CACHE_HOME").map(PathBuf::from),
        env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")),
    ];
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    for home in homes.into_iter().flatten().filter(|home| home.is_absolute()) {
        let cache = home.join("pointsman");
        if private.create(&cache).is_ok() && tempfile::tempfile_in(&cache).is_ok() {
            return Ok(cache);
        }
    }
    let cache = env::temp_dir().join(format!("pointsman-cache-{}", geteuid()));
    private.create(&cache).with_context(|| format!("can't make {}", cache.display()))?;
    let metadata = fs::symlink_metadata(&cache)?;
    // Whoever owns the template owns the servers made from it.
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        bail!("{} belongs to someone else; set XDG_CACHE_HOME", cache.display());
    }
    Ok(cache)
}

pub(crate) fn copy_template(template: &Path, data: &Path) -> Result<()> {
    let output = Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .args([template, data])
        .output()
        .context("can't run cp")?;
    ensure!(
        output.status.success(),
        "can't copy {} to {}: {}",
        template.display(),
        data.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Run on the primary with its binary log on: replicas get all of it by replication.
pub(crate) fn accounts_sql() -> String {
    let mut sql = format!(
        "DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');\
         FLUSH PRIVILEGES;\
         CREATE DATABASE app;\
         CREATE USER '{APP_USER}'@'%' IDENTIFIED BY '{APP_PASSWORD}';\
         GRANT ALL ON app.* TO '{APP_USER}'@'%';\
         CREATE USER '{MONITOR_USER}'@'%' IDENTIFIED BY '{MONITOR_PASSWORD}';\
         CREATE USER '{REPL_USER}'@'%' IDENTIFIED BY '{REPL_PASSWORD}';\
         GRANT REPLICATION SLAVE ON *.* TO '{REPL_USER}'@'%';"
    );
    for grant in MONITOR_GRANTS {
        sql.push_str(grant);
        sql.push(';');
    }
    sql
}

pub(crate) fn replicate_sql(source_port: u16) -> String {
    format!(
        "STOP SLAVE;\
         CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={source_port}, \
         MASTER_USER='{REPL_USER}', MASTER_PASSWORD='{REPL_PASSWORD}', \
         MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1;\
         START SLAVE"
    )
}
