//! How MariaDB is installed, run and told to replicate.

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;

use crate::flavour::{REPL_PASSWORD, REPL_USER};
use crate::template::{cache_homes, run};
use crate::{APP_PASSWORD, APP_USER, MONITOR_GRANTS, MONITOR_PASSWORD, MONITOR_USER};

/// Small, so that copying a template is quick; must be the same when installing and running.
const INNODB_FILES: [&str; 1] = ["--innodb-log-file-size=16M"];

/// Where a MariaDB is unpacked that is to be run instead of the one that is installed.
const ROOT: &str = "MARIADB_ROOT";

/// The newer MariaDB that `cargo xtask setup` unpacks into `pointsman/mariadb-11.8` in
/// `$XDG_CACHE_HOME` or `~/.cache`, if it is there: for [`crate::Options::mariadb`].
#[must_use]
pub fn newer_mariadb() -> Option<PathBuf> {
    let mut places = cache_homes().map(|home| home.join("mariadb-11.8"));
    places.find(|root| root.join("usr/sbin/mariadbd").is_file())
}

#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// Of a MariaDB of its own.
    root: Option<PathBuf>,
    pub(crate) server: PathBuf,
    pub(crate) client: PathBuf,
    install: PathBuf,
    /// As in `mariadbd --version`, without blanks: names the template.
    pub(crate) version: String,
}

impl Programs {
    pub(crate) fn find(root: Option<PathBuf>) -> Result<Self> {
        let root = root.or_else(|| env::var_os(ROOT).map(PathBuf::from));
        if let Some(root) = &root {
            ensure!(root.join("usr/sbin/mariadbd").is_file(), "no MariaDB in {}", root.display());
        }
        let server = find(root.as_deref(), &["mariadbd", "mysqld"])?;
        let client = find(root.as_deref(), &["mariadb", "mysql"])?;
        let install = find(root.as_deref(), &["mariadb-install-db", "mysql_install_db"])?;
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
        Ok(Self { root, server, client, install, version })
    }

    /// Everything but what sets one node apart from another.
    pub(crate) fn server_args(&self) -> Vec<String> {
        let mut args = INNODB_FILES.map(String::from).to_vec();
        args.extend(
            [
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

fn find(root: Option<&Path>, names: &[&str]) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places: Vec<_> = match root {
        Some(root) => ["usr/sbin", "usr/bin"].map(|dir| root.join(dir)).to_vec(),
        None => env::split_paths(&path)
            .chain(["/usr/sbin", "/usr/local/sbin", "/usr/libexec"].map(PathBuf::from))
            .collect(),
    };
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

/// Fills `data` as a freshly installed server has it.
pub(crate) fn install(programs: &Programs, data: &Path) -> Result<()> {
    let mut install = Command::new(&programs.install);
    install
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .args(programs.root.iter().map(|root| format!("--basedir={}", root.join("usr").display())))
        .args(INNODB_FILES)
        .arg(format!("--datadir={}", data.display()));
    if geteuid().is_root() {
        install.arg("--user=root");
    }
    run(install)
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

pub(crate) fn replicate_sql(source: SocketAddr) -> String {
    format!(
        "STOP SLAVE;\
         CHANGE MASTER TO MASTER_HOST='{}', MASTER_PORT={}, \
         MASTER_USER='{REPL_USER}', MASTER_PASSWORD='{REPL_PASSWORD}', \
         MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=1;\
         START SLAVE",
        source.ip(),
        source.port()
    )
}
