//! How MySQL is found, run and told to replicate.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::flavour::{REPL_PASSWORD, REPL_USER};
use crate::template::{cache_homes, run};
use crate::{APP_PASSWORD, APP_USER, MONITOR_GRANTS_MYSQL, MONITOR_PASSWORD, MONITOR_USER};

/// In [`cache_homes`].
const DIRECTORY: &str = "mysql-9.7";
/// Small, so that copying a template is quick; must be the same when installing and running.
const INNODB_FILES: &str = "--innodb-redo-log-capacity=16M";

pub(crate) const SERVER_ARGS: &[&str] = &[
    "--mysqlx=OFF",
    "--skip-name-resolve",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=64M",
    // Asynchronous I/O of the kernel is rationed (fs.aio-max-nr), and sandboxes come in numbers.
    "--innodb-use-native-aio=OFF",
    "--max-connections=2000",
    "--back-log=1000",
    "--log-bin=binlog",
    "--relay-log=relay",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--replica-net-timeout=10",
    // Commits survive kill -9 (they are in the page cache), not a power cut.
    "--innodb-flush-log-at-trx-commit=2",
    "--sync-binlog=0",
    "--secure-file-priv=",
];

/// A MySQL with all its libraries in a directory of its own.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    root: PathBuf,
    /// As in `mysqld --version`: names the template.
    pub(crate) version: String,
}

impl Programs {
    pub(crate) fn find() -> Result<Self> {
        let root = match env::var_os("MYSQL_ROOT") {
            Some(root) => PathBuf::from(root),
            None => {
                let mut places = cache_homes().map(|home| home.join(DIRECTORY));
                let found = places.find(|root| root.join("usr/sbin/mysqld").is_file());
                found.context("no MySQL server here; `cargo xtask setup` gets one")?
            }
        };
        // Nodes run in directories of their own.
        let root = root.canonicalize().with_context(|| format!("no {}", root.display()))?;
        let mut programs = Self { root, version: String::new() };
        let output = programs
            .server()
            .arg("--version")
            .output()
            .with_context(|| format!("can't run the MySQL in {}", programs.root.display()))?;
        let line = String::from_utf8_lossy(&output.stdout);
        let mut words = line.split_whitespace().skip_while(|word| *word != "Ver").skip(1);
        match words.next().filter(|_| output.status.success()) {
            Some(version) => version.clone_into(&mut programs.version),
            None => bail!(
                "the MySQL in {} does not run: {}{}",
                programs.root.display(),
                line.trim(),
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        }
        Ok(programs)
    }

    /// Run by the loader that came with it, since this machine's libraries may be older.
    fn program(&self, path: &str) -> Command {
        let libraries = self.root.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(libraries).arg(self.root.join(path));
        command
    }

    /// The server with its own files, whatever paths are built into it.
    pub(crate) fn server(&self) -> Command {
        let mut command = self.program("usr/sbin/mysqld");
        command.arg("--no-defaults").arg(INNODB_FILES);
        for (option, path) in [
            ("basedir", "usr"),
            ("lc-messages-dir", "usr/share/mysql"),
            ("character-sets-dir", "usr/share/mysql/charsets"),
            ("plugin-dir", "usr/lib/mysql/plugin"),
        ] {
            command.arg(format!("--{option}={}", self.root.join(path).display()));
        }
        if geteuid().is_root() {
            command.arg("--user=root");
        }
        command
    }

    pub(crate) fn client(&self) -> Command {
        self.program("usr/bin/mysql")
    }
}

/// Fills `data` as a freshly installed server has it.
pub(crate) fn install(programs: &Programs, data: &Path) -> Result<()> {
    let mut install = programs.server();
    install
        .args(["--initialize-insecure", "--mysqlx=OFF", "--innodb-use-native-aio=OFF"])
        .arg(format!("--datadir={}", data.display()));
    run(install)?;
    // Holds the server's UUID; of two servers with the same one, neither replicates from the other.
    let uuid = data.join("auto.cnf");
    fs::remove_file(&uuid).with_context(|| format!("can't remove {}", uuid.display()))
}

/// All with `caching_sha2_password`, the only password plugin but `sha256_password` that is left.
pub(crate) fn accounts_sql() -> String {
    let mut sql = String::from("CREATE DATABASE app;");
    for (user, password) in
        [(APP_USER, APP_PASSWORD), (MONITOR_USER, MONITOR_PASSWORD), (REPL_USER, REPL_PASSWORD)]
    {
        sql.push_str(&format!(
            "CREATE USER '{user}'@'%' IDENTIFIED WITH caching_sha2_password BY '{password}';"
        ));
    }
    sql.push_str(&format!(
        "GRANT ALL ON app.* TO '{APP_USER}'@'%';\
         GRANT REPLICATION SLAVE ON *.* TO '{REPL_USER}'@'%';"
    ));
    for grant in MONITOR_GRANTS_MYSQL {
        sql.push_str(grant);
        sql.push(';');
    }
    sql
}

pub(crate) fn replicate_sql(source: SocketAddr) -> String {
    // Without a TLS connection the replica has to ask for the key to send its password with. By
    // default it gives up on its source after ten attempts.
    format!(
        "STOP REPLICA;\
         CHANGE REPLICATION SOURCE TO SOURCE_HOST='{}', SOURCE_PORT={}, \
         SOURCE_USER='{REPL_USER}', SOURCE_PASSWORD='{REPL_PASSWORD}', SOURCE_AUTO_POSITION=1, \
         GET_SOURCE_PUBLIC_KEY=1, SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=0, \
         SOURCE_HEARTBEAT_PERIOD=1;\
         START REPLICA",
        source.ip(),
        source.port()
    )
}
