//! `[failover] rebuild_command`: the operator's own way, for what is too big to be copied in SQL.
//!
//! It runs on the machine of Pointsman, with these variables:
//!
//! | | |
//! | --- | --- |
//! | `POINTSMAN_SERVER`, `_SERVER_HOST`, `_SERVER_PORT` | which server is to get the data |
//! | `POINTSMAN_DONOR`, `_DONOR_HOST`, `_DONOR_PORT` | whose data |
//! | `POINTSMAN_USER`, `POINTSMAN_PASSWORD` | an account of the databases: `[failover] rebuild_user` |
//!
//! Each line it writes is shown as how far it is, but for `position=GTID`: where the data stand. The
//! server runs with them when the command ends with 0.

use std::process::Stdio;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::sleep;

use super::programs::Running;
use super::{LOOK, RESTART, Rebuild};
use crate::gtid::{Flavour, Position};
use crate::link::{Fields, Link};

impl Rebuild {
    /// What has to be so before [`Rebuild::run_command`].
    pub(super) fn check_command(&self) -> Result<(), String> {
        let program = &self.tools.rebuild_command[0];
        if program.contains('/') && !std::path::Path::new(program).is_file() {
            return Err(format!("[failover] rebuild_command: there is no {program}"));
        }
        Ok(())
    }

    pub(super) async fn run_command(&self) -> Result<(), String> {
        let flavour = self.connect(self.donor).await?.flavour();
        let position = self.watch_command(flavour).await?;
        self.say(format!("from {}: it has the data and is to start", self.name(self.donor)));
        let mut link = self.connect_until(RESTART).await?;
        let Some(position) = position else { return Ok(()) };
        if flavour == Flavour::MariaDb {
            let quiet = "SET SESSION sql_log_bin = 0";
            link.run(quiet).await.map_err(|e| e.to_string())?;
            super::copy::rest_events(&mut link).await?;
        }
        settle(&mut link, &position).await.map_err(|e| e.to_string())
    }

    /// Runs it to its end and passes on what it says.
    async fn watch_command(&self, flavour: Flavour) -> Result<Option<Position>, String> {
        let words = &self.tools.rebuild_command;
        let account = &self.tools.rebuilding;
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("POINTSMAN_USER", &account.user)
            .env("POINTSMAN_PASSWORD", account.password.expose())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (role, server) in [("SERVER", self.server), ("DONOR", self.donor)] {
            let (host, port) = &self.tools.addresses[server];
            command.env(format!("POINTSMAN_{role}"), self.name(server));
            command.env(format!("POINTSMAN_{role}_HOST"), host);
            command.env(format!("POINTSMAN_{role}_PORT"), port.to_string());
        }
        let mut running = Running::start(command, "rebuild_command")?;
        let output = running.child.stdout.take().ok_or("rebuild_command has no output")?;
        let mut lines = BufReader::new(output).lines();
        let mut position = None;
        while let Ok(Some(line)) = lines.next_line().await {
            match line.trim().strip_prefix("position=") {
                Some(text) => {
                    let parsed = Position::parse(flavour, text.as_bytes());
                    position = Some(parsed.map_err(|e| format!("rebuild_command: {line:?}: {e}"))?);
                }
                None if line.trim().is_empty() => {}
                None => {
                    let shown: String = line.trim().chars().take(200).collect();
                    self.say(format!("from {}: {shown}", self.name(self.donor)));
                }
            }
        }
        running.ended().await?;
        Ok(position)
    }

    /// A server that is being started may take a while.
    async fn connect_until(&self, limit: std::time::Duration) -> Result<Link, String> {
        let begun = Instant::now();
        loop {
            match self.connect_copying(self.server).await {
                Ok(link) => return Ok(link),
                Err(why) if begun.elapsed() > limit => return Err(why),
                Err(_) => sleep(LOOK).await,
            }
        }
    }
}

/// It has exactly what `position` says, and follows nobody.
async fn settle(link: &mut Link, position: &Position) -> Result<(), mysql_async::Error> {
    let mariadb = link.flavour() == Flavour::MariaDb;
    let (all, stop) = match mariadb {
        true => ("SHOW ALL SLAVES STATUS", "STOP ALL SLAVES"),
        false => ("SHOW REPLICA STATUS", "STOP REPLICA"),
    };
    link.run(stop).await?;
    if mariadb {
        link.run("SET GLOBAL read_only = 1").await?;
        for row in link.rows(all).await? {
            let name = Fields(&row).first().unwrap_or_default();
            let name = crate::failover::sql::quote(&name);
            link.run(&format!("RESET SLAVE {name} ALL")).await?;
        }
        link.run("RESET MASTER").await?;
        return link.run(&format!("SET GLOBAL gtid_slave_pos = '{position}'")).await;
    }
    link.run("SET GLOBAL super_read_only = 1").await?;
    if !link.rows(all).await?.is_empty() {
        link.run("RESET REPLICA ALL").await?;
    }
    // From 8.4 on; before it was RESET MASTER.
    if link.run("RESET BINARY LOGS AND GTIDS").await.is_err() {
        link.run("RESET MASTER").await?;
    }
    link.run(&format!("SET GLOBAL gtid_purged = '{position}'")).await
}
