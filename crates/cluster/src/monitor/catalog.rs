//! Keeps the [`Catalog`] true: reads the tables of the primary whenever their definitions may have
//! changed.
//!
//! Changes that go through this proxy are known before they are sent. Those that do not are seen by
//! the server's own counters of statements, once per [`TICK`]; a statement that was under way when
//! the tables were read is seen when they are read again, after [`AGAIN`].

use std::sync::Arc;
use std::time::Duration;

use mysql_async::Error as SqlError;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use crate::gtid::Flavour;
use crate::link::{Fields, Link};
use crate::snapshot::ServerId;
use crate::writes::{Catalog, ForeignKey, TableRow};

/// How often the counters are looked at when nothing is known to have changed.
const TICK: Duration = Duration::from_secs(1);
/// The same while the catalog does not count.
const SOON: Duration = Duration::from_millis(5);
/// After this the tables are read again in any case.
const AGAIN: Duration = Duration::from_secs(60);
/// After a failure: how long nothing is asked.
const PAUSE: Duration = Duration::from_secs(5);
/// With more tables than this, reads are not told apart.
const MOST_TABLES: usize = 50_000;
/// How long the tables may take to be read.
const WITHIN: Duration = Duration::from_secs(30);

/// What is known of the present primary.
struct Known {
    server: ServerId,
    generation: u64,
    link: Link,
    /// Its counters of statements that change definitions, when `catalog` was read.
    counters: Vec<(String, u64)>,
    catalog: Arc<Catalog>,
    read: Instant,
}

pub(super) async fn run(shared: Arc<Shared>) {
    if !shared.writes.wants_catalog() {
        return;
    }
    shared.all_looked_at().await;
    let mut known: Option<Known> = None;
    let mut changes = shared.subscribe();
    loop {
        match timeout(WITHIN, look(&shared, known.take())).await {
            Ok(Ok(now)) => {
                shared.no_catalog.store(None);
                known = Some(now);
            }
            Ok(Err(Trouble::NoPrimary)) => {
                shared.writes.forget_catalog();
                let _ = changes.changed().await;
                continue;
            }
            Ok(Err(Trouble::Later(before))) => {
                known = before;
            }
            failed => {
                let why = not_by_table(match failed {
                    Ok(Err(Trouble::Why(why))) => why,
                    _ => "the primary does not answer in time".to_owned(),
                });
                shared.writes.forget_catalog();
                if shared.no_catalog.load().as_deref() != Some(&why) {
                    shared.tell("reads_not_by_table", why.clone());
                }
                shared.no_catalog.store(Some(Arc::new(why)));
                let _ = timeout(PAUSE, changes.changed()).await;
                continue;
            }
        }
        // Until somebody changes a definition, or it is time to see whether somebody else did.
        let next = Instant::now() + TICK;
        while Instant::now() < next {
            sleep(SOON).await;
            if !shared.writes.is_by_table() {
                break;
            }
        }
    }
}

/// One sentence, for people.
fn not_by_table(why: String) -> String {
    format!("causal reads wait for all writes, not only those to their tables: {why}")
}

enum Trouble {
    NoPrimary,
    /// Definitions may be changing just now.
    Later(Option<Known>),
    Why(String),
}

impl From<SqlError> for Trouble {
    fn from(error: SqlError) -> Self {
        Self::Why(error.to_string())
    }
}

async fn look(shared: &Shared, known: Option<Known>) -> Result<Known, Trouble> {
    let snapshot = shared.snapshot();
    let primary = snapshot.primary.ok_or(Trouble::NoPrimary)?;
    let generation = snapshot.generation;
    let known = known.filter(|k| k.server == primary && k.generation == generation);
    let Some(changes) = shared.writes.before_reading() else { return Err(Trouble::Later(known)) };
    let (mut link, old) = match known {
        Some(Known { mut link, counters, catalog, read, .. }) => {
            // A connection that broke says nothing: all is read again over another.
            let now = definitions_changed(&mut link).await?;
            if now == counters && read.elapsed() < AGAIN {
                shared.writes.publish(Arc::clone(&catalog), changes);
                return Ok(Known { server: primary, generation, link, counters, catalog, read });
            }
            (link, Some(catalog))
        }
        None => {
            let target = &shared.watched[usize::from(primary.0)].target;
            (target.connect().await?, None)
        }
    };
    let read = Instant::now();
    let counters = definitions_changed(&mut link).await?;
    let mut catalog = Arc::new(tables(shared, &mut link).await?);
    let after = definitions_changed(&mut link).await?;
    if let Some(old) = old.filter(|old| **old == *catalog) {
        catalog = old;
    }
    // Of a primary that was replaced meanwhile it says nothing.
    let same = shared.snapshot().generation == generation;
    let known = Known { server: primary, generation, link, counters, catalog, read };
    // What was changing while it was read may be in the counters and not in the tables.
    let undisturbed = same && after == known.counters;
    if !undisturbed || !shared.writes.publish(Arc::clone(&known.catalog), changes) {
        return Err(Trouble::Later(None));
    }
    Ok(known)
}

/// How often statements that change definitions were begun since the server started.
async fn definitions_changed(link: &mut Link) -> Result<Vec<(String, u64)>, SqlError> {
    const OF_INTEREST: &[&str] = &[
        "com_alter_",
        "com_create_",
        "com_drop_",
        "com_rename_table",
        "com_install_",
        "com_uninstall_",
    ];
    /// These make or change no table.
    const OTHERS: &[&str] =
        &["_user", "_role", "_server", "_event", "_function", "_procedure", "_temporary_table"];
    let rows = link.rows("SHOW GLOBAL STATUS LIKE 'Com\\_%'").await?;
    let counters = rows.iter().filter_map(|row| {
        let row = Fields(row);
        let name = row.text(&["Variable_name"])?.to_ascii_lowercase();
        let counts = OF_INTEREST.iter().any(|prefix| name.starts_with(prefix))
            && !OTHERS.iter().any(|suffix| name.ends_with(suffix));
        Some((name, row.number(&["Value"])?)).filter(|_| counts)
    });
    Ok(counters.collect())
}

/// Reads the tables. Whoever can't see all of their triggers and foreign keys must not judge by them.
async fn tables(shared: &Shared, link: &mut Link) -> Result<Catalog, Trouble> {
    let grants: Vec<String> =
        link.rows("SHOW GRANTS").await?.iter().filter_map(|row| Fields(row).first()).collect();
    if !sees_triggers(&grants) {
        let why = "the monitor's account lacks a privilege: GRANT TRIGGER ON *.* TO it";
        return Err(Trouble::Why(why.to_owned()));
    }
    if link.flavour() == Flavour::MariaDb {
        // Files of thousands of tables are opened: that may take its time.
        link.run("SET SESSION max_statement_time = 20").await?;
    }
    let sql = format!(
        "SELECT TABLE_SCHEMA AS a, TABLE_NAME AS b, TABLE_TYPE AS kind, ENGINE AS engine \
         FROM information_schema.TABLES WHERE TABLE_SCHEMA NOT IN \
         ('mysql', 'sys', 'information_schema', 'performance_schema') LIMIT {}",
        MOST_TABLES + 1
    );
    let rows = link.rows(&sql).await?;
    if rows.len() > MOST_TABLES {
        return Err(Trouble::Why(format!("there are more than {MOST_TABLES} tables")));
    }
    let tables = rows.iter().map(|row| {
        let row = Fields(row);
        Some(TableRow {
            schema: row.text(&["a"])?,
            name: row.text(&["b"])?,
            kind: row.text(&["kind"]).unwrap_or_default(),
            engine: row.text(&["engine"]),
        })
    });
    let tables: Vec<_> = tables.collect::<Option<_>>().ok_or_else(nameless)?;
    let sql = "SELECT DISTINCT EVENT_OBJECT_SCHEMA AS a, EVENT_OBJECT_TABLE AS b \
               FROM information_schema.TRIGGERS";
    let triggers: Option<Vec<_>> =
        link.rows(sql).await?.iter().map(|r| pair(r, "a", "b")).collect();
    let sql = "SELECT UNIQUE_CONSTRAINT_SCHEMA AS a, REFERENCED_TABLE_NAME AS b, \
               CONSTRAINT_SCHEMA AS c, TABLE_NAME AS d \
               FROM information_schema.REFERENTIAL_CONSTRAINTS \
               WHERE UPDATE_RULE NOT IN ('RESTRICT', 'NO ACTION') \
               OR DELETE_RULE NOT IN ('RESTRICT', 'NO ACTION')";
    let foreign_keys = link.rows(sql).await?;
    let foreign_keys = foreign_keys
        .iter()
        .map(|row| Some(ForeignKey { parent: pair(row, "a", "b")?, child: pair(row, "c", "d")? }));
    let foreign_keys: Vec<_> = foreign_keys.collect::<Option<_>>().ok_or_else(nameless)?;
    let triggers = triggers.ok_or_else(nameless)?;
    let mut catalog = Catalog::new(shared.writes.hasher(), &tables, &triggers, &foreign_keys);
    catalog.as_sent = logs_as_sent(link).await?;
    Ok(catalog)
}

/// Whether nothing is installed that might have statements run, and logged, in other words than they
/// are sent in. In MySQL audit plugins and components can do that, and these are known not to. MariaDB
/// has nothing of the kind.
async fn logs_as_sent(link: &mut Link) -> Result<bool, SqlError> {
    const PLUGINS: &str = "SELECT 1 FROM information_schema.PLUGINS \
         WHERE PLUGIN_TYPE = 'AUDIT' AND PLUGIN_STATUS <> 'DISABLED' AND LOWER(PLUGIN_NAME) NOT IN \
         ('mysqlx_cache_cleaner', 'audit_log', 'server_audit', 'connection_control', \
         'mysql_firewall') LIMIT 1";
    const COMPONENTS: &str = "SELECT 1 FROM mysql.component WHERE component_urn NOT RLIKE \
         '^file://component_(validate_password|log_sink_[a-z]+|log_filter_[a-z]+|keyring_[a-z_]+\
         |query_attributes|mysqlbackup|reference_cache|connection_control|option_tracker|telemetry\
         |masking|masking_functions|scheduler|mysqlx|percona_telemetry)$' LIMIT 1";
    if link.flavour() == Flavour::MariaDb {
        return Ok(true);
    }
    if !link.rows(PLUGINS).await?.is_empty() {
        return Ok(false);
    }
    match link.rows(COMPONENTS).await {
        // It may not see them.
        Err(SqlError::Server(_)) => Ok(false),
        rows => Ok(rows?.is_empty()),
    }
}

fn nameless() -> Trouble {
    Trouble::Why("a table without a name in information_schema".to_owned())
}

fn pair(row: &mysql_async::Row, a: &str, b: &str) -> Option<(String, String)> {
    let row = Fields(row);
    Some((row.text(&[a])?, row.text(&[b])?))
}

/// Whether an account with these grants sees every table with its triggers and foreign keys.
fn sees_triggers(grants: &[String]) -> bool {
    let grants: Vec<_> = grants.iter().map(|line| line.to_ascii_uppercase()).collect();
    // MySQL's partial revokes.
    !grants.iter().any(|line| line.starts_with("REVOKE "))
        && grants.iter().any(|line| {
            let Some(rest) = line.strip_prefix("GRANT ") else { return false };
            let Some((list, _)) = rest.split_once(" ON *.* TO ") else { return false };
            list.split(',').any(|name| matches!(name.trim(), "TRIGGER" | "ALL PRIVILEGES"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_sees_everything_may_judge() {
        let sees = |lines: &[&str]| {
            sees_triggers(&lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>())
        };
        assert!(sees(&["GRANT TRIGGER, SLAVE MONITOR ON *.* TO `p`@`%`"]));
        assert!(sees(&["GRANT USAGE ON *.* TO `p`@`%`", "GRANT ALL PRIVILEGES ON *.* TO `p`@`%`"]));
        assert!(!sees(&["GRANT TRIGGER ON `app`.* TO `p`@`%`"]));
        assert!(!sees(&["GRANT SLAVE MONITOR ON *.* TO `p`@`%`"]));
        assert!(!sees(&[
            "GRANT TRIGGER ON *.* TO `p`@`%`",
            "REVOKE TRIGGER ON `app`.* FROM `p`@`%`"
        ]));
    }
}
