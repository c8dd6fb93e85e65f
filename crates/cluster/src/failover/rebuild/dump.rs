//! What `mariadb-dump` reads at the donor, and how it gets from there to `mariadb` at the recipient.

use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, ChildStdout};

use super::copy::texts;
use super::programs::{Place, Programs, Running};
use super::stock::{Progress, Stock};
use crate::link::Link;

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
const READING: usize = 256 << 10;

/// Where copying failed.
pub(super) enum Fed {
    Reading(String),
    Writing(String),
}

impl From<String> for Fed {
    fn from(why: String) -> Self {
        Self::Reading(why)
    }
}

pub(super) fn definitions(
    programs: &Programs,
    from: Place<'_>,
    stock: &Stock,
) -> tokio::process::Command {
    let mut dump = programs.dump(from);
    dump.args(["--no-data", "--skip-triggers", "--routines", "--events"]);
    dump.arg("--databases").arg("--").args(&stock.databases);
    dump
}

pub(super) fn triggers(
    programs: &Programs,
    from: Place<'_>,
    stock: &Stock,
) -> tokio::process::Command {
    let mut dump = programs.dump(from);
    dump.args(["--no-data", "--no-create-info", "--no-create-db", "--triggers"]);
    dump.arg("--databases").arg("--").args(&stock.databases);
    dump
}

/// Accounts with their privileges, and the like, to replace what is there.
pub(super) async fn read_accounts(
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

pub(super) fn start(mut dump: tokio::process::Command) -> Result<(Running, ChildStdout), Fed> {
    dump.stdout(Stdio::piped());
    let mut running = Running::start(dump, "mariadb-dump")?;
    let output = running.child.stdout.take();
    Ok((running, output.ok_or_else(|| Fed::Reading("mariadb-dump has no output".to_owned()))?))
}

pub(super) async fn read_all(dump: tokio::process::Command) -> Result<Vec<u8>, Fed> {
    let (running, mut output) = start(dump)?;
    let mut all = Vec::new();
    output.read_to_end(&mut all).await.map_err(|e| Fed::Reading(e.to_string()))?;
    running.ended().await?;
    Ok(all)
}

/// Reads until it is known where in the binary log the snapshot stands, or nothing more comes.
pub(super) async fn read_head(
    output: &mut ChildStdout,
) -> Result<(Vec<u8>, Option<(String, u64)>), Fed> {
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
pub(super) fn snapshot_stands(head: &[u8]) -> Option<(String, u64)> {
    const BEFORE: &[u8] = b"MASTER_LOG_FILE='";
    let at = head.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let end = at + head[at..].iter().position(|&byte| byte == b';')?;
    let text = std::str::from_utf8(&head[at..end]).ok()?;
    let (file, position) = text.split_once("', MASTER_LOG_POS=")?;
    Some((file.to_owned(), position.parse().ok()?))
}

pub(super) async fn write(input: &mut ChildStdin, bytes: &[u8]) -> Result<(), Fed> {
    input.write_all(bytes).await.map_err(|e| Fed::Writing(format!("mariadb ended early: {e}")))
}

pub(super) async fn pump(
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
pub(super) fn without_counters(definitions: &[u8]) -> String {
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
}
