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

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use mysql_async::Error as SqlError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep, timeout};

use super::Rebuild;
use super::programs::{Place, Programs, Running, version};
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
/// Of the database `mysql`: what is replicated there, but for routines and events.
const SYSTEM: &[&str] = &[
    "global_priv",
    "db",
    "tables_priv",
    "columns_priv",
    "procs_priv",
    "proxies_priv",
    "roles_mapping",
    "servers",
    "time_zone",
    "time_zone_name",
    "time_zone_leap_second",
    "time_zone_transition",
    "time_zone_transition_type",
];
const DATABASES: &str = "SELECT schema_name AS name FROM information_schema.schemata WHERE \
     schema_name NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys') \
     AND schema_name NOT LIKE '#mysql50#%'";
/// Looks of all proxies are shorter apart than that.
const UNSEEN: Duration = Duration::from_secs(1);
const READING: usize = 256 << 10;

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

/// What there is to copy.
#[derive(Default)]
struct Stock {
    databases: Vec<String>,
    /// Of engines without transactions, per database.
    nontransactional: BTreeMap<String, Vec<String>>,
    tables: u64,
    bytes: u64,
    nontransactional_bytes: u64,
    /// There are tables that keep their history.
    history: bool,
}

/// How far it is.
struct Progress<'a> {
    rebuild: &'a Rebuild,
    tables: u64,
    copied: u64,
    of_tables: u64,
    of_bytes: u64,
    told: Instant,
    /// The end of the last block: a line may begin in one and end in the next.
    tail: Vec<u8>,
}

impl Progress<'_> {
    fn note(&mut self, block: &[u8]) {
        const BEGINS: &[u8] = b"\nLOCK TABLES `";
        self.copied += block.len() as u64;
        self.tail.extend_from_slice(block);
        self.tables +=
            self.tail.windows(BEGINS.len()).filter(|window| *window == BEGINS).count() as u64;
        let keep = self.tail.len().min(BEGINS.len() - 1);
        self.tail.drain(..self.tail.len() - keep);
        if self.told.elapsed() > super::LOOK {
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        let mib = |bytes: u64| bytes >> 20;
        self.rebuild.say(format!(
            "from {}: table {} of {}, {} of about {} MiB",
            self.rebuild.name(self.rebuild.donor),
            self.tables,
            self.of_tables,
            mib(self.copied),
            mib(self.of_bytes.max(self.copied)),
        ));
    }
}

fn text(error: SqlError) -> String {
    match error {
        SqlError::Server(e) => format!("error {}: {}", e.code, e.message),
        other => other.to_string(),
    }
}

/// `name` as an identifier.
fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

async fn texts(link: &mut Link, sql: &str) -> Result<Vec<String>, String> {
    let rows = link.rows(sql).await.map_err(text)?;
    Ok(rows.iter().filter_map(|row| Fields(row).first()).collect())
}

async fn one(link: &mut Link, sql: &str) -> Result<String, String> {
    let mut all = texts(link, sql).await?;
    Ok(if all.is_empty() { String::new() } else { all.swap_remove(0) })
}

async fn stock(donor: &mut Link) -> Result<Stock, String> {
    let mut stock = Stock { databases: texts(donor, DATABASES).await?, ..Stock::default() };
    let sql = "SELECT table_schema AS s, table_name AS t, table_type AS kind, engine AS e, \
               IFNULL(data_length, 0) AS bytes FROM information_schema.tables \
               WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')";
    for row in donor.rows(sql).await.map_err(text)? {
        let row = Fields(&row);
        let field = |name: &str| row.text(&[name]).unwrap_or_default();
        let schema = field("s");
        if !stock.databases.contains(&schema) {
            continue;
        }
        let bytes = row.number(&["bytes"]).unwrap_or(0);
        stock.tables += 1;
        stock.bytes += bytes;
        stock.history |= field("kind") == "SYSTEM VERSIONED";
        if field("e") != "InnoDB" {
            stock.nontransactional_bytes += bytes;
            stock.nontransactional.entry(schema).or_default().push(field("t"));
        }
    }
    Ok(stock)
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

/// Where copying failed.
enum Fed {
    Reading(String),
    Writing(String),
}

impl From<String> for Fed {
    fn from(why: String) -> Self {
        Self::Reading(why)
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

fn definitions(programs: &Programs, from: Place<'_>, stock: &Stock) -> tokio::process::Command {
    let mut dump = programs.dump(from);
    dump.args(["--no-data", "--skip-triggers", "--routines", "--events"]);
    dump.arg("--databases").arg("--").args(&stock.databases);
    dump
}

fn triggers(programs: &Programs, from: Place<'_>, stock: &Stock) -> tokio::process::Command {
    let mut dump = programs.dump(from);
    dump.args(["--no-data", "--no-create-info", "--no-create-db", "--triggers"]);
    dump.arg("--databases").arg("--").args(&stock.databases);
    dump
}

/// Accounts with their privileges, and the like, to replace what is there.
async fn read_accounts(
    donor: &mut Link,
    programs: &Programs,
    from: Place<'_>,
) -> Result<Vec<u8>, Fed> {
    let sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'mysql' \
               AND table_type = 'BASE TABLE'";
    let there = texts(donor, sql).await?;
    let tables: Vec<_> =
        SYSTEM.iter().filter(|name| there.iter().any(|there| there == *name)).collect();
    let mut sql = b"USE mysql;\n".to_vec();
    for table in &tables {
        sql.extend_from_slice(format!("DELETE FROM {table};\n").as_bytes());
    }
    let mut dump = programs.dump(from);
    dump.args(["--no-create-info", "--skip-add-locks", "--skip-triggers", "mysql"]);
    dump.args(tables);
    sql.extend(read_all(dump).await?);
    sql.extend_from_slice(b"\nFLUSH LOCAL PRIVILEGES;\n");
    Ok(sql)
}

fn start(mut dump: tokio::process::Command) -> Result<(Running, ChildStdout), Fed> {
    dump.stdout(Stdio::piped());
    let mut running = Running::start(dump, "mariadb-dump")?;
    let output = running.child.stdout.take();
    Ok((running, output.ok_or_else(|| Fed::Reading("mariadb-dump has no output".to_owned()))?))
}

async fn read_all(dump: tokio::process::Command) -> Result<Vec<u8>, Fed> {
    let (running, mut output) = start(dump)?;
    let mut all = Vec::new();
    output.read_to_end(&mut all).await.map_err(|e| Fed::Reading(e.to_string()))?;
    running.ended().await?;
    Ok(all)
}

/// Reads until it is known where in the binary log the snapshot stands, or nothing more comes.
async fn read_head(output: &mut ChildStdout) -> Result<(Vec<u8>, Option<(String, u64)>), Fed> {
    const LONGEST: usize = 64 << 10;
    let mut head = Vec::with_capacity(2 * LONGEST);
    loop {
        if let Some(at) = snapshot_stands(&head) {
            return Ok((head, Some(at)));
        }
        let read = output.read_buf(&mut head).await.map_err(|e| Fed::Reading(e.to_string()))?;
        if read == 0 || head.len() > LONGEST {
            return Ok((head, None));
        }
    }
}

/// `-- CHANGE MASTER TO MASTER_LOG_FILE='binlog.000001', MASTER_LOG_POS=2577;`
fn snapshot_stands(head: &[u8]) -> Option<(String, u64)> {
    const BEFORE: &[u8] = b"MASTER_LOG_FILE='";
    let at = head.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let end = at + head[at..].iter().position(|&byte| byte == b';')?;
    let text = std::str::from_utf8(&head[at..end]).ok()?;
    let (file, position) = text.split_once("', MASTER_LOG_POS=")?;
    Some((file.to_owned(), position.parse().ok()?))
}

async fn write(input: &mut ChildStdin, bytes: &[u8]) -> Result<(), Fed> {
    input.write_all(bytes).await.map_err(|e| Fed::Writing(format!("mariadb ended early: {e}")))
}

async fn pump(
    output: &mut ChildStdout,
    input: &mut ChildStdin,
    progress: &mut Progress<'_>,
) -> Result<(), Fed> {
    let mut block = vec![0; READING];
    loop {
        let n = output.read(&mut block).await.map_err(|e| Fed::Reading(e.to_string()))?;
        if n == 0 {
            return Ok(());
        }
        write(input, &block[..n]).await?;
        progress.note(&block[..n]);
    }
}

/// Without `AUTO_INCREMENT=17` and the positions of sequences, which data change.
fn without_counters(definitions: &[u8]) -> String {
    let text = String::from_utf8_lossy(definitions);
    let lines = text.lines().filter(|line| !line.contains("SETVAL("));
    let plain = lines.map(|line| match line.split_once(" AUTO_INCREMENT=") {
        Some((before, after)) => {
            format!("{before}{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None => line.to_owned(),
    });
    plain.collect::<Vec<_>>().join("\n")
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
    fn the_snapshot_says_where_it_stands() {
        let head = b"-- CHANGE MASTER TO MASTER_USE_GTID=slave_pos;\n\n\
                     -- CHANGE MASTER TO MASTER_LOG_FILE='binlog.000007', MASTER_LOG_POS=2577;\n";
        assert_eq!(snapshot_stands(head), Some(("binlog.000007".to_owned(), 2577)));
        assert_eq!(snapshot_stands(&head[..head.len() - 3]), None);
        assert_eq!(snapshot_stands(b"-- nothing"), None);
    }

    #[test]
    fn counters_do_not_count_as_changes() {
        let a = without_counters(b") ENGINE=InnoDB AUTO_INCREMENT=17 DEFAULT CHARSET=utf8mb4;\n");
        let b = without_counters(b") ENGINE=InnoDB AUTO_INCREMENT=1804 DEFAULT CHARSET=utf8mb4;\n");
        assert_eq!(a, b);
        assert_eq!(a, ") ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;");
    }

    #[test]
    fn a_mark_is_known_from_other_transactions() {
        assert!(is_marked("0-1-5 (after 0-1-4), 4026531840-1-1"));
        assert!(!is_marked("0-4026531840-5, 1-2-3"));
    }
}
