//! MySQL: the clone plugin does it, all in SQL.
//!
//! | step | where |
//! | --- | --- |
//! | `INSTALL PLUGIN clone`, if it is not there | both |
//! | stops replicating; `CLONE INSTANCE FROM` the donor: what it had is gone from here on | recipient |
//! | it restarts by itself (systemd, mysqld_safe), or is started by whoever runs it | |
//! | forgets the donor's replication | recipient |

use std::time::Instant;

use mysql_async::Error as SqlError;
use tokio::time::sleep;

use super::{LOOK, RESTART, Rebuild};
use crate::failover::events;
use crate::failover::sql::quote;
use crate::gtid::Flavour;
use crate::link::{Fields, Link};

const INSTALLED: &str = "SELECT 1 FROM information_schema.plugins WHERE plugin_name = 'clone' AND plugin_status = 'ACTIVE'";
const INSTALL: &str = "INSTALL PLUGIN clone SONAME 'mysql_clone.so'";
/// The stage under way, what it has copied and what it expects to copy.
const PROGRESS: &str = "SELECT stage, data, estimate FROM performance_schema.clone_progress \
     WHERE state = 'In Progress'";
const PERSISTED: &str = "SELECT variable_value FROM performance_schema.persisted_variables \
     WHERE variable_name = 'event_scheduler'";
const READ_ONLY: u16 = 1290;
/// MySQL says so when nobody would start it again; it stops all the same.
const NOT_SUPERVISED: u16 = 3707;

impl Rebuild {
    /// What has to be so before [`Rebuild::clone_data`].
    pub(super) async fn check_clone(&self) -> Result<(), String> {
        for server in [self.server, self.donor] {
            let name = self.name(server);
            let link = self.connect(server).await?;
            if link.flavour() != Flavour::MySql {
                return Err(format!("{name} is another kind of database"));
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
        Ok(())
    }

    /// The data may have been a primary's: no event may run with them before they are put to rest.
    pub(super) async fn clone_data(&self) -> Result<(), String> {
        let scheduler = Scheduler::hold(&mut self.connect(self.server).await?).await?;
        let cloned = self.clone_at_rest().await;
        if let Some(scheduler) = scheduler {
            match (self.connect(self.server).await, &cloned) {
                (Ok(mut link), Ok(())) => {
                    let rested = events::rest_all(&mut link).await.map_err(|e| e.to_string())?;
                    if !rested.failed.is_empty() {
                        return Err(events::few(&rested.failed));
                    }
                    scheduler.release(&mut link).await?;
                }
                (Ok(mut link), Err(_)) => scheduler.release(&mut link).await?,
                (Err(why), Ok(())) => return Err(why),
                (Err(_), Err(_)) => {}
            }
        }
        cloned
    }

    async fn clone_at_rest(&self) -> Result<(), String> {
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
}

/// The event scheduler of the server that gets the data, which is off while it starts with them.
struct Scheduler {
    /// Whether it ran.
    ran: bool,
    /// Its setting in `mysqld-auto.cnf`, if it had one.
    persisted: Option<String>,
}

impl Scheduler {
    /// `None`: it does not run at all.
    async fn hold(link: &mut Link) -> Result<Option<Self>, String> {
        let first = |rows: &[mysql_async::Row]| rows.first().and_then(|row| Fields(row).first());
        let text = |e: SqlError| e.to_string();
        let rows = link.rows("SELECT @@global.event_scheduler").await.map_err(text)?;
        let now = first(&rows).unwrap_or_default();
        if now == "DISABLED" {
            return Ok(None);
        }
        let rows = link.rows(PERSISTED).await.map_err(text)?;
        let scheduler = Self { ran: now == "ON", persisted: first(&rows) };
        link.run("SET PERSIST event_scheduler = OFF").await.map_err(text)?;
        Ok(Some(scheduler))
    }

    async fn release(&self, link: &mut Link) -> Result<(), String> {
        let text = |e: SqlError| e.to_string();
        match &self.persisted {
            Some(value) => {
                let set = format!("SET PERSIST event_scheduler = {}", quote(value));
                link.run(&set).await.map_err(text)?;
            }
            None => link.run("RESET PERSIST IF EXISTS event_scheduler").await.map_err(text)?,
        }
        let now = if self.ran { "ON" } else { "OFF" };
        link.run(&format!("SET GLOBAL event_scheduler = {now}")).await.map_err(text)
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
