//! What differs between the database servers a sandbox can run.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{group, mariadb, mysql, template};

pub(crate) const REPL_USER: &str = "repl";
pub(crate) const REPL_PASSWORD: &str = "repl-secret";
/// Counts up whenever what is in a template changes.
const RECIPE: u32 = 1;

/// Which database server to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Flavour {
    /// As [`crate::Options::mariadb`] or `$MARIADB_ROOT` says, else as installed on this machine.
    #[default]
    MariaDb,
    /// As unpacked by `cargo xtask setup`: in `$MYSQL_ROOT` or, if that is not set, in
    /// `pointsman/mysql-9.7` in `$XDG_CACHE_HOME` or `~/.cache`. It need not be installed.
    MySql,
}

impl Flavour {
    /// Whether there is such a server to run; the error says what is missing.
    ///
    /// # Errors
    /// There is none.
    pub fn check(self) -> Result<()> {
        Programs::find(self, None).map(drop)
    }
}

/// A server's programs, and how it likes to be spoken to.
#[derive(Debug, Clone)]
pub(crate) enum Programs {
    MariaDb(mariadb::Programs),
    MySql(mysql::Programs),
}

impl Programs {
    /// `mariadb`: see [`crate::Options::mariadb`].
    pub(crate) fn find(flavour: Flavour, mariadb: Option<PathBuf>) -> Result<Self> {
        Ok(match flavour {
            Flavour::MariaDb => Self::MariaDb(mariadb::Programs::find(mariadb)?),
            Flavour::MySql => Self::MySql(mysql::Programs::find()?),
        })
    }

    pub(crate) fn flavour(&self) -> Flavour {
        match self {
            Self::MariaDb(_) => Flavour::MariaDb,
            Self::MySql(_) => Flavour::MySql,
        }
    }

    /// A freshly installed data directory to copy from, made once per server version. `member`: as
    /// one that was a member of a cluster before, where that spares a state transfer.
    pub(crate) fn template(&self, member: bool) -> Result<PathBuf> {
        match self {
            Self::MariaDb(programs) => {
                let fresh =
                    template::make(&format!("mariadb-{}-{RECIPE}", programs.version), |data| {
                        mariadb::install(programs, data)
                    })?;
                if !member {
                    return Ok(fresh);
                }
                template::make(&format!("galera-{}-{RECIPE}", programs.version), |data| {
                    group::seed(self, &fresh, data)
                })
            }
            Self::MySql(programs) => {
                template::make(&format!("mysql-{}-{RECIPE}", programs.version), |data| {
                    mysql::install(programs, data)
                })
            }
        }
    }

    /// The server, with everything but what sets one node apart from another.
    pub(crate) fn server(&self) -> Command {
        match self {
            Self::MariaDb(programs) => {
                let mut command = Command::new(&programs.server);
                command.arg("--no-defaults").args(programs.server_args());
                command
            }
            Self::MySql(programs) => {
                let mut command = programs.server();
                command.args(mysql::SERVER_ARGS);
                command
            }
        }
    }

    /// What a replica is told besides.
    pub(crate) fn replica_args(&self) -> &'static [&'static str] {
        match self {
            Self::MariaDb(_) => &["--read-only=1"],
            Self::MySql(_) => &["--read-only=1", "--super-read-only=1"],
        }
    }

    /// The command-line client.
    pub(crate) fn client(&self) -> Command {
        let mut command = match self {
            Self::MariaDb(programs) => Command::new(&programs.client),
            Self::MySql(programs) => programs.client(),
        };
        command.arg("--no-defaults");
        command
    }

    /// Run on the primary with its binary log on: replicas get all of it by replication.
    pub(crate) fn accounts_sql(&self) -> String {
        match self {
            Self::MariaDb(_) => mariadb::accounts_sql(),
            Self::MySql(_) => mysql::accounts_sql(),
        }
    }

    /// Statements, run on the primary too.
    pub(crate) fn failover_grants(&self) -> &'static [&'static str] {
        match self {
            Self::MariaDb(_) => crate::FAILOVER_GRANTS,
            Self::MySql(_) => crate::FAILOVER_GRANTS_MYSQL,
        }
    }

    pub(crate) fn replicate_sql(&self, source: SocketAddr) -> String {
        match self {
            Self::MariaDb(_) => mariadb::replicate_sql(source),
            Self::MySql(_) => mysql::replicate_sql(source),
        }
    }

    /// A query for what the server has committed, as [`Programs::wait_sql`] takes it.
    pub(crate) fn position_sql(&self) -> &'static str {
        match self {
            Self::MariaDb(_) => "SELECT @@gtid_binlog_pos",
            Self::MySql(_) => "SELECT REPLACE(@@global.gtid_executed, '\\n', '')",
        }
    }

    /// A query that answers 0 once `position` is applied, something else after `seconds`.
    pub(crate) fn wait_sql(&self, position: &str, seconds: f64) -> String {
        match self {
            Self::MariaDb(_) => format!("SELECT MASTER_GTID_WAIT('{position}', {seconds})"),
            Self::MySql(_) => format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{position}', {seconds})"),
        }
    }

    pub(crate) fn replication_status_sql(&self) -> &'static str {
        match self {
            Self::MariaDb(_) => "SHOW ALL SLAVES STATUS\\G",
            // The client in batch mode does not know \G.
            Self::MySql(_) => "SHOW REPLICA STATUS",
        }
    }
}
