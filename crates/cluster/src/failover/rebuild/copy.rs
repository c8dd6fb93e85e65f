//! MariaDB: a consistent copy of all that a server has, made by `mariadb-dump` and `mariadb`.
//!
//! | step | where |
//! | --- | --- |
//! | is marked: it commits something in a domain of its own, so that nobody takes it for a server with nothing of its own before the end, whatever happens | recipient |
//! | all databases are dropped | recipient |
//! | `FLUSH TABLES WITH READ LOCK`: definitions, accounts, and the tables of engines without transactions are read | donor |
//! | a consistent snapshot is taken, and the lock ends | donor |
//! | the other tables are copied from the snapshot; then the definitions must be as before | both |
//! | triggers; events, which do not run here; accounts; the GTID position of the snapshot | recipient |
//!
//! Nothing of this goes into the recipient's binary log, which is empty at the end.

use std::time::Duration;

use mysql_async::Error as SqlError;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep, timeout};

use super::Rebuild;
use super::dump::{
    Fed, definitions, pump, read_accounts, read_all, read_head, start, triggers, without_counters,
    write,
};
use super::programs::{Place, Programs, Running, version};
use super::stock::{DATABASES, Progress, Stock, stock};
use crate::failover::events;
use crate::failover::sql::{Words, quote};
use crate::gtid::{Flavour, Position, REBUILD_DOMAIN};
use crate::link::{Fields, Link};

/// The database whose creation is the mark.
const MARK: &str = "pointsman_rebuild_under_way";
/// How long statements that are under way at the donor are waited for, and how often again: others wait
/// behind the lock meanwhile.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_TRIES: u32 = 15;
/// How long it may be held.
const LOCKED: Duration = Duration::from_secs(20);
/// Tables without transactions, in bytes, that a primary may be locked for.
const LOCKED_BYTES: u64 = 256 << 20;
/// Looks of all proxies are shorter apart than that.
const UNSEEN: Duration = Duration::from_secs(1);
/// Whether these transactions are the mark of a rebuild that did not end.
pub(in crate::failover) fn is_marked(transactions: &str) -> bool {
    transactions.split(", ").any(|gtid| gtid.starts_with(&format!("{REBUILD_DOMAIN}-")))
}

/// What is read while the donor is locked.
struct Held {
    definitions: Vec<u8>,
    triggers: Vec<u8>,
    accounts: Vec<u8>,
    position: Position,
}

pub(super) fn text(error: SqlError) -> String {
    match error {
        SqlError::Server(e) => format!("error {}: {}", e.code, e.message),
        other => other.to_string(),
    }
}

/// `name` as an identifier.
fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

pub(super) async fn texts(link: &mut Link, sql: &str) -> Result<Vec<String>, String> {
    let rows = link.rows(sql).await.map_err(text)?;
    Ok(rows.iter().filter_map(|row| Fields(row).first()).collect())
}

async fn one(link: &mut Link, sql: &str) -> Result<String, String> {
    let mut all = texts(link, sql).await?;
    Ok(if all.is_empty() { String::new() } else { all.swap_remove(0) })
}

impl Rebuild {
    /// What has to be so before [`Rebuild::copy`].
    pub(super) async fn check_copy(&self) -> Result<(), String> {
        let mut versions = Vec::new();
        for server in [self.server, self.donor] {
            let name = self.name(server);
            let mut link = self.connect_copying(server).await?;
            if link.flavour() != Flavour::MariaDb {
                return Err(format!("{name} is another kind of database"));
            }
            let lines = texts(&mut link, "SHOW GRANTS").await?;
            let all = lines.iter().any(|line| {
                line.starts_with("GRANT ALL PRIVILEGES ON *.* ")
                    && line.contains("WITH GRANT OPTION")
            });
            if !all {
                let user = &self.tools.rebuilding.user;
                return Err(format!(
                    "to copy everything, accounts too, takes an account that may everything, which \
                     '{user}' may not on {name}: GRANT ALL PRIVILEGES ON *.* TO '{user}'@'%' WITH \
                     GRANT OPTION, or name another one in [failover] rebuild_user"
                ));
            }
            let own = one(&mut link, "SELECT @@version").await?;
            versions.push(version(&own).ok_or_else(|| format!("{name} is of version {own:?}"))?);
            if server == self.donor {
                self.check_lock(&mut link).await?;
            }
        }
        if versions[0] < versions[1] {
            return Err(format!(
                "{} is older ({}.{}) than {} ({}.{})",
                self.name(self.server),
                versions[0].0,
                versions[0].1,
                self.name(self.donor),
                versions[1].0,
                versions[1].1
            ));
        }
        Programs::find(versions[1]).await?;
        Ok(())
    }

    async fn check_lock(&self, donor: &mut Link) -> Result<(), String> {
        if one(donor, "SELECT @@log_bin").await? != "1" {
            let name = self.name(self.donor);
            return Err(format!("{name} has no binary log, so that it can't say where it stands"));
        }
        let bytes = stock(donor).await?.nontransactional_bytes;
        if one(donor, "SELECT @@global.read_only").await? == "0" && bytes > LOCKED_BYTES {
            return Err(format!(
                "{} is the primary and has {} MiB in tables without transactions (not InnoDB); \
                 nothing could be written while these are copied. Set [failover] rebuild_command to \
                 use mariadb-backup instead",
                self.name(self.donor),
                bytes >> 20
            ));
        }
        Ok(())
    }

    pub(super) async fn connect_copying(&self, server: usize) -> Result<Link, String> {
        let (host, port) = &self.tools.addresses[server];
        let account = &self.tools.rebuilding;
        let target = crate::link::Target::new(
            &format!("{}:{port}", bracketed(host)),
            &account.user,
            &account.password,
        );
        target.set_tls(&self.tools.tls[server]);
        let connected = target.connect().await;
        connected.map_err(|e| {
            format!("'{}' can't log in to {}: {}", account.user, self.name(server), text(e))
        })
    }

    async fn place(&self, server: usize, link: &mut Link) -> Result<Place<'_>, String> {
        let (host, port) = &self.tools.addresses[server];
        let secure = one(link, "SELECT @@have_ssl").await? == "YES";
        Ok(Place {
            host,
            port: *port,
            account: &self.tools.rebuilding,
            tls: &self.tools.tls[server],
            secure,
        })
    }

    /// Gives the server all that the donor has. After an error it is as good as empty, and marked.
    pub(super) async fn copy(&self) -> Result<(), String> {
        let mut donor = self.connect_copying(self.donor).await?;
        let mut recipient = self.connect_copying(self.server).await?;
        let of = one(&mut donor, "SELECT @@version").await?;
        let programs = Programs::find(version(&of).unwrap_or_default()).await?;
        let from = self.place(self.donor, &mut donor).await?;
        let to = self.place(self.server, &mut recipient).await?;

        let scheduler = self.empty(&mut recipient).await?;
        let stock = stock(&mut donor).await?;
        let mut progress = Progress {
            rebuild: self,
            tables: 0,
            copied: 0,
            of_tables: stock.tables,
            of_bytes: stock.bytes,
            told: Instant::now(),
            tail: Vec::new(),
        };
        progress.tell();
        self.shared.tell_of(
            "rebuild_copying",
            self.id(),
            format!(
                "{} gets {} tables of {}, about {} MiB",
                self.name(self.server),
                stock.tables,
                self.name(self.donor),
                stock.bytes >> 20
            ),
        );
        let mut loader = Running::start(programs.client(to), "mariadb")?;
        let mut input = loader.child.stdin.take().ok_or("mariadb has no input")?;
        if let Some(mut output) = loader.child.stdout.take() {
            // It says nothing, and must not wait if it does.
            tokio::spawn(async move { tokio::io::copy(&mut output, &mut tokio::io::sink()).await });
        }
        let copied =
            self.feed(&mut donor, &programs, from, &stock, &mut input, &mut progress).await;
        let flushed = input.shutdown().await;
        drop(input);
        let loaded = match timeout(super::JOIN, loader.ended()).await {
            Ok(loaded) => loaded,
            Err(_) => Err("mariadb does not end".to_owned()),
        };
        // What failed first explains the rest: if nobody reads any more, the reader knows why.
        let position = match (copied, loaded) {
            (Err(Fed::Reading(why)), _) | (_, Err(why)) | (Err(Fed::Writing(why)), _) => {
                return Err(why);
            }
            (Ok(position), Ok(())) => position,
        };
        flushed.map_err(|e| e.to_string())?;
        self.say(format!("from {}: all is there", self.name(self.donor)));
        finish(&mut recipient, &position, &scheduler).await
    }

    /// Marks the server and takes all that it has. Returns what its event scheduler was.
    async fn empty(&self, recipient: &mut Link) -> Result<String, String> {
        self.say(format!("from {}: its own data are dropped", self.name(self.donor)));
        let words = Words { flavour: Flavour::MariaDb, channel: String::new() };
        recipient.run("STOP ALL SLAVES").await.map_err(text)?;
        recipient.run(words.read_only()).await.map_err(text)?;
        for channel in texts(recipient, "SHOW ALL SLAVES STATUS").await? {
            let reset = format!("RESET SLAVE {} ALL", quote(&channel));
            recipient.run(&reset).await.map_err(text)?;
        }
        let why = "it is being rebuilt";
        self.shared.update(|topology| topology.depose(self.id(), why));
        // Nobody reads from it any more, once the next look has shown that it follows nobody.
        sleep(UNSEEN).await;
        let scheduler = one(recipient, "SELECT @@global.event_scheduler").await?;
        if scheduler != "DISABLED" {
            recipient.run("SET GLOBAL event_scheduler = OFF").await.map_err(text)?;
        }
        let ours = self.tools.ours();
        for id in texts(recipient, &words.clients(&ours)).await? {
            // It may have gone by itself.
            let _ = recipient.run(&format!("KILL CONNECTION {id}")).await;
        }
        let mark = format!("SET SESSION gtid_domain_id = {REBUILD_DOMAIN}, sql_log_bin = 1");
        recipient.run(&mark).await.map_err(text)?;
        recipient.run(&format!("CREATE DATABASE IF NOT EXISTS {MARK}")).await.map_err(text)?;
        let marked = one(recipient, "SELECT @@global.gtid_current_pos").await?;
        if !is_marked(&marked.replace(',', ", ")) {
            return Err(format!("its binary log does not take the mark of a rebuild: {marked:?}"));
        }
        let keep = format!("SET GLOBAL gtid_slave_pos = {}", quote(&marked));
        recipient.run(&keep).await.map_err(text)?;
        recipient.run("RESET MASTER").await.map_err(text)?;
        // What it had is nobody's business any more.
        let mark = marked.split(',').find(|gtid| is_marked(gtid)).unwrap_or_default();
        let keep = format!("SET GLOBAL gtid_slave_pos = {}", quote(mark));
        recipient.run(&keep).await.map_err(text)?;
        let quiet = "SET SESSION sql_log_bin = 0, foreign_key_checks = 0";
        recipient.run(quiet).await.map_err(text)?;
        for database in texts(recipient, DATABASES).await?.iter().filter(|name| *name != MARK) {
            let drop = format!("DROP DATABASE IF EXISTS {}", identifier(database));
            recipient.run(&drop).await.map_err(text)?;
        }
        Ok(scheduler)
    }

    /// Writes all that the donor has, and returns where it stood.
    async fn feed(
        &self,
        donor: &mut Link,
        programs: &Programs,
        from: Place<'_>,
        stock: &Stock,
        input: &mut ChildStdin,
        progress: &mut Progress<'_>,
    ) -> Result<Position, Fed> {
        let begin = b"SET SESSION sql_log_bin = 0, check_constraint_checks = 0;\n";
        write(input, begin).await?;
        lock(donor).await?;
        let locked =
            timeout(LOCKED, self.feed_locked(donor, programs, from, stock, input, progress));
        let held = locked.await.unwrap_or_else(|_| {
            let s = LOCKED.as_secs();
            Err(Fed::Reading(format!("the donor would have been locked for more than {s} s")))
        });
        let unlocked = donor.run("UNLOCK TABLES").await;
        let (held, snapshot) = held?;
        unlocked.map_err(|e| Fed::Reading(text(e)))?;
        if let Some((running, head, mut output)) = snapshot {
            write(input, &head).await?;
            pump(&mut output, input, progress).await?;
            running.ended().await?;
        }
        // A table that was changed meanwhile may have been copied as it is now.
        if !stock.databases.is_empty() {
            let now = read_all(definitions(programs, from, stock)).await?;
            let triggers = read_all(triggers(programs, from, stock)).await?;
            if without_counters(&now) != without_counters(&held.definitions)
                || triggers != held.triggers
            {
                return Err(Fed::Reading(
                    "tables, views or stored code of the donor were changed meanwhile (DDL); begin \
                     again"
                        .to_owned(),
                ));
            }
        }
        write(input, &held.triggers).await?;
        write(input, &held.accounts).await?;
        Ok(held.position)
    }

    /// What has to be read while nothing changes. The snapshot is taken then, too.
    #[allow(clippy::type_complexity)]
    async fn feed_locked(
        &self,
        donor: &mut Link,
        programs: &Programs,
        from: Place<'_>,
        stock: &Stock,
        input: &mut ChildStdin,
        progress: &mut Progress<'_>,
    ) -> Result<(Held, Option<(Running, Vec<u8>, ChildStdout)>), Fed> {
        let position = one(donor, "SELECT @@global.gtid_current_pos").await?;
        let position = Position::parse(Flavour::MariaDb, position.as_bytes())
            .map_err(|e| Fed::Reading(e.to_string()))?;
        let rows = donor.rows("SHOW MASTER STATUS").await.map_err(|e| Fed::Reading(text(e)))?;
        let logged = rows.first().and_then(|row| {
            let row = Fields(row);
            Some((row.text(&["File"])?, row.number(&["Position"])?))
        });
        let accounts = read_accounts(donor, programs, from).await?;
        let mut held = Held { definitions: Vec::new(), triggers: Vec::new(), accounts, position };
        if stock.databases.is_empty() {
            return Ok((held, None));
        }
        held.definitions = read_all(definitions(programs, from, stock)).await?;
        held.triggers = read_all(triggers(programs, from, stock)).await?;
        write(input, &held.definitions).await?;
        for (database, tables) in &stock.nontransactional {
            let mut dump = programs.dump(from);
            dump.args(["--no-create-info", "--skip-triggers"]).arg("--").arg(database).args(tables);
            write(input, format!("USE {};\n", identifier(database)).as_bytes()).await?;
            let (running, mut output) = start(dump)?;
            pump(&mut output, input, progress).await?;
            running.ended().await?;
        }
        let mut dump = programs.dump(from);
        dump.args(["--single-transaction", "--master-data=2"]);
        dump.args(["--no-create-info", "--no-create-db", "--skip-triggers"]);
        if stock.history {
            dump.arg("--dump-history");
        }
        for (database, tables) in &stock.nontransactional {
            dump.args(tables.iter().map(|table| format!("--ignore-table={database}.{table}")));
        }
        dump.arg("--databases").arg("--").args(&stock.databases);
        let (running, mut output) = start(dump)?;
        let (head, stands) = read_head(&mut output).await?;
        if stands.is_none() || stands != logged {
            drop(output);
            let words = format!("the donor stands at {logged:?}, its snapshot at {stands:?}");
            return Err(Fed::Reading(running.ended().await.err().unwrap_or(words)));
        }
        Ok((held, Some((running, head, output))))
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

async fn lock(donor: &mut Link) -> Result<(), Fed> {
    let wait = format!("SET SESSION lock_wait_timeout = {}", LOCK_WAIT.as_secs());
    donor.run(&wait).await.map_err(|e| Fed::Reading(text(e)))?;
    let mut tries = 0;
    loop {
        tries += 1;
        match donor.run("FLUSH TABLES WITH READ LOCK").await {
            Ok(()) => return Ok(()),
            // ER_LOCK_WAIT_TIMEOUT
            Err(SqlError::Server(e)) if e.code == 1205 && tries < LOCK_TRIES => {
                sleep(LOCK_WAIT).await;
            }
            Err(e) => {
                return Err(Fed::Reading(format!("the donor could not be locked: {}", text(e))));
            }
        }
    }
}

/// Events that run on the donor don't run here, as if they had been replicated.
pub(super) async fn rest_events(recipient: &mut Link) -> Result<(), String> {
    let rested = events::rest_all(recipient).await.map_err(text)?;
    if rested.failed.is_empty() { Ok(()) } else { Err(events::few(&rested.failed)) }
}

/// All is there: events are put to rest, the mark is taken away, and it stands where the donor stood.
async fn finish(recipient: &mut Link, position: &Position, scheduler: &str) -> Result<(), String> {
    rest_events(recipient).await?;
    if scheduler == "ON" {
        recipient.run("SET GLOBAL event_scheduler = ON").await.map_err(text)?;
    }
    recipient.run(&format!("DROP DATABASE IF EXISTS {MARK}")).await.map_err(text)?;
    recipient.run("RESET MASTER").await.map_err(text)?;
    let stands = format!("SET GLOBAL gtid_slave_pos = '{position}'");
    recipient.run(&stands).await.map_err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_known_from_other_transactions() {
        assert!(is_marked("0-1-5 (after 0-1-4), 4026531840-1-1"));
        assert!(!is_marked("0-4026531840-5, 1-2-3"));
    }
}
