//! A server gets another one's data instead of its own: MySQL's clone plugin does it, all in SQL.
//!
//! | step | where |
//! | --- | --- |
//! | `INSTALL PLUGIN clone`, if it is not there | both |
//! | stops replicating; `CLONE INSTANCE FROM` the donor: what it had is gone from here on | recipient |
//! | it restarts by itself (systemd, mysqld_safe), or is started by whoever runs it | |
//! | forgets the donor's replication; joins the primary as any other server does | recipient |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::Error as SqlError;
use tokio::time::sleep;

use super::Request;
use super::act::Tools;
use super::sql::quote;
use crate::gtid::Flavour;
use crate::link::{Fields, Link};
use crate::monitor::Shared;
use crate::snapshot::{Role, ServerId};

/// How far the rebuilding of each server has come, in words that complete "db1 is being rebuilt ".
#[derive(Debug, Default)]
pub(crate) struct Rebuilds(Mutex<BTreeMap<String, String>>);

impl Rebuilds {
    fn set(&self, server: String, words: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match words {
            Some(words) => all.insert(server, words),
            None => all.remove(&server),
        };
    }

    /// Sentences for `pointsman status`.
    pub(super) fn status(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(name, words)| format!("{name} is being rebuilt {words}")).collect()
    }
}

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);
/// How long a server may take to be started again, by whomever.
const RESTART: Duration = Duration::from_secs(1800);
/// How long it may take to follow the primary then.
const JOIN: Duration = Duration::from_secs(120);
const INSTALLED: &str = "SELECT 1 FROM information_schema.plugins WHERE plugin_name = 'clone' AND plugin_status = 'ACTIVE'";
const INSTALL: &str = "INSTALL PLUGIN clone SONAME 'mysql_clone.so'";
/// The stage under way, what it has copied and what it expects to copy.
const PROGRESS: &str = "SELECT stage, data, estimate FROM performance_schema.clone_progress \
     WHERE state = 'In Progress'";
const READ_ONLY: u16 = 1290;
/// MySQL says so when nobody would start it again; it stops all the same.
const NOT_SUPERVISED: u16 = 3707;

/// The clone of one server.
pub(super) struct Rebuild {
    pub(super) shared: Arc<Shared>,
    pub(super) tools: Arc<Tools>,
    pub(super) server: usize,
    pub(super) donor: usize,
}

impl Rebuild {
    fn id(&self) -> ServerId {
        super::driver::id_of(self.server)
    }

    fn name(&self, server: usize) -> String {
        let name =
            self.shared.snapshot().server(super::driver::id_of(server)).map(|s| s.name.clone());
        name.map_or_else(|| "?".to_owned(), |name| name.to_string())
    }

    fn say(&self, words: String) {
        self.shared.failover.rebuilds.set(self.name(self.server), Some(words));
    }

    /// What has to be so before anything is done; a sentence for who asked.
    pub(super) async fn check(&self) -> Result<String, String> {
        for server in [self.server, self.donor] {
            let name = self.name(server);
            let link = self.connect(server).await?;
            if link.flavour() != Flavour::MySql {
                return Err(format!(
                    "{name} is MariaDB, which has no statement for this: stop {0}, fill its data \
                     directory with mariadb-backup from {1}, start it, then `pointsman rejoin {0}`",
                    self.name(self.server),
                    self.name(self.donor)
                ));
            }
            install(link).await.map_err(|e| {
                format!("{name} has no clone plugin, and it can't be installed from here ({e}): {INSTALL}")
            })?;
        }
        let rights = [(self.server, "CLONE_ADMIN"), (self.donor, "BACKUP_ADMIN")];
        for (server, right) in rights {
            let mut link = self.connect(server).await?;
            let rows = link.rows("SHOW GRANTS").await.map_err(|e| e.to_string())?;
            let lines: Vec<_> = rows.iter().filter_map(|row| Fields(row).first()).collect();
            let has = |line: &String| {
                let line = line.to_ascii_uppercase();
                line.contains(" ON *.* ")
                    && (line.contains(right) || line.contains("ALL PRIVILEGES"))
            };
            if !lines.iter().any(has) {
                return Err(format!(
                    "the account that changes servers lacks {right} on {}: GRANT BACKUP_ADMIN, \
                     CLONE_ADMIN ON *.* TO '{}'@'%', on the primary and on {}",
                    self.name(server),
                    self.tools.own.user,
                    self.name(self.server)
                ));
            }
        }
        self.say(format!("from {}: it begins", self.name(self.donor)));
        Ok(format!(
            "{} is being rebuilt from {}: `pointsman status` says how far it is, `pointsman events` \
             how it ended",
            self.name(self.server),
            self.name(self.donor)
        ))
    }

    /// The server is no longer left alone.
    pub(super) async fn ends(&self) {
        let _ = self.shared.failover.ask(Request::RebuildEnds { server: self.server }).await;
    }

    /// Does it, and tells how it went.
    pub(super) async fn run(self) {
        let (name, donor) = (self.name(self.server), self.name(self.donor));
        self.shared.tell_of(
            "rebuild_begun",
            self.id(),
            format!("{name} is to get the data of {donor} instead of its own"),
        );
        let begun = Instant::now();
        let cloned = self.clone_data().await;
        self.ends().await;
        let outcome = match cloned {
            Ok(()) => self.join().await,
            Err(why) => Err(why),
        };
        let seconds = begun.elapsed().as_secs_f64();
        match outcome {
            Ok(how) => self.shared.tell_of(
                "rebuild_done",
                self.id(),
                format!("{name} was rebuilt from {donor} in {seconds:.1} s: {how}"),
            ),
            Err(why) => self.shared.tell_of(
                "rebuild_failed",
                self.id(),
                format!("{name} could not be rebuilt from {donor}: {why}"),
            ),
        }
        self.shared.failover.rebuilds.set(name, None);
    }

    async fn connect(&self, server: usize) -> Result<Link, String> {
        let connected = self.tools.target(server).connect().await;
        connected.map_err(|e| format!("{} can't be reached: {e}", self.name(server)))
    }

    async fn clone_data(&self) -> Result<(), String> {
        let text = |e: SqlError| e.to_string();
        let mut link = self.connect(self.server).await?;
        let started = uptime(&mut link).await.map_err(text)?;
        let begun = Instant::now();
        let (host, port) = &self.tools.addresses[self.donor];
        let account = &self.tools.own;
        link.run("STOP REPLICA").await.map_err(text)?;
        let donors =
            format!("SET GLOBAL clone_valid_donor_list = {}", quote(&format!("{host}:{port}")));
        link.run(&donors).await.map_err(text)?;
        // The clone is a change, too. Clients still may not write.
        link.run("SET GLOBAL read_only = 1").await.map_err(text)?;
        link.run("SET GLOBAL super_read_only = 0").await.map_err(text)?;
        let clone = format!(
            "CLONE INSTANCE FROM {}@{}:{port} IDENTIFIED BY {}",
            quote(&account.user),
            quote(host),
            quote(account.password.expose())
        );
        let cloning = link.run(&clone);
        tokio::pin!(cloning);
        let outcome = loop {
            tokio::select! {
                outcome = &mut cloning => break outcome,
                () = sleep(LOOK) => self.look().await,
            }
        };
        match outcome {
            Ok(()) | Err(SqlError::Io(_) | SqlError::Driver(_)) => {}
            Err(SqlError::Server(e)) if e.code == NOT_SUPERVISED => {}
            Err(error) => {
                if let Ok(mut link) = self.tools.target(self.server).connect().await {
                    let _ = link.run("SET GLOBAL super_read_only = 1").await;
                }
                return Err(text(error));
            }
        }
        self.say(format!(
            "from {}: it has the data and is to start with it; start {} if nothing else does",
            self.name(self.donor),
            self.name(self.server)
        ));
        let waited = Instant::now();
        loop {
            // It is another process if it has not been up for as long as the one before would be.
            if let Ok(mut link) = self.tools.target(self.server).connect().await
                && let Ok(up) = uptime(&mut link).await
                && up + 1.0 < started + begun.elapsed().as_secs_f64()
            {
                let rows = link.rows("SHOW REPLICA STATUS").await.map_err(text)?;
                if !rows.is_empty() {
                    link.run("STOP REPLICA").await.map_err(text)?;
                    link.run("RESET REPLICA ALL").await.map_err(text)?;
                }
                return Ok(());
            }
            if waited.elapsed() > RESTART {
                return Err("it was not started again with the new data".to_owned());
            }
            sleep(LOOK).await;
        }
    }

    /// How far the copying is, if that can be seen.
    async fn look(&self) {
        let Ok(mut link) = self.tools.target(self.server).connect().await else { return };
        let Ok(rows) = link.rows(PROGRESS).await else { return };
        let Some(row) = rows.first() else { return };
        let row = Fields(row);
        let stage = row.text(&["stage"]).unwrap_or_default().to_ascii_lowercase();
        let data: f64 = row.number(&["data"]).unwrap_or(0.0);
        let estimate: f64 = row.number(&["estimate"]).unwrap_or(0.0);
        let donor = self.name(self.donor);
        self.say(match estimate > 0.0 {
            true => format!(
                "from {donor}: {stage}, {:.0} % of {:.1} MiB",
                (100.0 * data / estimate).min(100.0),
                estimate / f64::from(1 << 20)
            ),
            false => format!("from {donor}: {stage}"),
        });
    }

    async fn join(&self) -> Result<String, String> {
        self.say(format!("from {}: it joins the primary", self.name(self.donor)));
        let begun = Instant::now();
        loop {
            let role = self.shared.snapshot().server(self.id()).map(|server| server.role);
            if role == Some(Role::Replica) {
                return Ok("it follows the primary".to_owned());
            }
            let request = Request::Rejoin { server: self.name(self.server), rebuild: false };
            match self.shared.failover.ask(request).await {
                Ok(how) => return Ok(how),
                Err(why) if begun.elapsed() > JOIN => return Err(why),
                // It may not have been seen yet, or something else is under way.
                Err(_) => sleep(LOOK).await,
            }
        }
    }
}

async fn install(mut link: Link) -> Result<(), SqlError> {
    if !link.rows(INSTALLED).await?.is_empty() {
        return Ok(());
    }
    match link.run(INSTALL).await {
        // It notes that in a table, which takes for a moment what only administrators may do.
        Err(SqlError::Server(e)) if e.code == READ_ONLY => {
            link.run("SET GLOBAL super_read_only = 0").await?;
            let installed = link.run(INSTALL).await;
            link.run("SET GLOBAL super_read_only = 1").await?;
            installed
        }
        outcome => outcome,
    }
}

/// Seconds since the server started.
async fn uptime(link: &mut Link) -> Result<f64, SqlError> {
    let rows = link.rows("SHOW GLOBAL STATUS LIKE 'Uptime'").await?;
    let up = rows.first().and_then(|row| Fields(row).number(&["Value"]));
    up.ok_or_else(|| SqlError::Other("it does not say since when it is up".into()))
}
