//! Proof that no write reached a replica.
//!
//! The replicas are made writable first, so that a misrouted write would succeed, and three things
//! would show it: the general log, a GTID of the replica's own, data that differ.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use pointsman_sandbox::{APP_USER, Node, Sandbox};

pub struct Oracle<'a> {
    sandbox: &'a Sandbox,
}

/// First words that a replica may be sent by clients. All else is a finding.
const HARMLESS: &[&str] = &[
    "SELECT",
    "SHOW",
    "SET",
    "USE",
    "EXPLAIN",
    "DESCRIBE",
    "DESC",
    "WITH",
    "VALUES",
    "COMMIT",
    "ROLLBACK",
    "START",
    "BEGIN",
    "SAVEPOINT",
    "RELEASE",
    "(SELECT",
    "TABLE",
    "KILL",
];

/// What a statement that begins harmlessly must not have in it.
const HARMFUL: &[&str] = &[
    "FOR UPDATE",
    "FOR SHARE",
    "LOCK IN SHARE MODE",
    " INTO @",
    "INTO OUTFILE",
    "INTO DUMPFILE",
    "NEXTVAL",
    "NEXT VALUE",
    "SETVAL",
    "GET_LOCK",
    "RELEASE_LOCK",
    "SET GLOBAL",
    "@@GLOBAL.",
    "SET PASSWORD",
];

impl<'a> Oracle<'a> {
    #[track_caller]
    pub(crate) fn new(sandbox: &'a Sandbox) -> Self {
        for replica in sandbox.replicas() {
            replica.client_sql("SET GLOBAL read_only = 0").unwrap();
            replica.clear_general_log().unwrap();
            replica.set_general_log(true).unwrap();
        }
        Self { sandbox }
    }

    /// All statements the replica was sent by clients of the application.
    pub fn seen(&self, replica: &Node) -> Result<Vec<String>> {
        Ok(statements(&replica.general_log()?))
    }

    /// Panics if a write reached a replica, or data differ.
    #[track_caller]
    pub fn check(&self) {
        self.sandbox.wait_caught_up().unwrap();
        for replica in self.sandbox.replicas().iter().filter(|r| r.is_running()) {
            for statement in self.seen(replica).unwrap() {
                if let Some(why) = finding(&statement) {
                    panic!(
                        "{} was sent a statement that {why}: {statement}\n--- its log\n{}",
                        replica.name(),
                        replica.general_log().unwrap()
                    );
                }
            }
            // Transactions a replica made by itself carry its own server id.
            let gtids = replica.client_sql("SELECT @@gtid_binlog_state").unwrap();
            let own = format!("-{}-", replica.server_id());
            assert!(!gtids.contains(&own), "{} wrote by itself: {gtids}", replica.name());
            assert_eq!(
                checksums(replica).unwrap(),
                checksums(self.sandbox.primary()).unwrap(),
                "{} differs from the primary",
                replica.name()
            );
        }
    }
}

fn finding(statement: &str) -> Option<&'static str> {
    let upper = statement.to_ascii_uppercase();
    let upper = upper.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
    // Comments of the tests' own, as in "/* why */ SELECT".
    let upper = match upper.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
        Some((_, rest)) => rest.trim_start(),
        None => upper,
    };
    let first = upper.split_whitespace().next().unwrap_or_default();
    if !HARMLESS.iter().any(|word| first.trim_end_matches(';') == *word) {
        return Some("is not known to be harmless");
    }
    if (first == "BEGIN" || first == "START") && !upper.contains("READ ONLY") {
        return Some("begins a transaction that may write");
    }
    HARMFUL.iter().any(|words| upper.contains(words)).then_some("locks or writes")
}

/// Statements of the application's connections, in the order of the log; continuation lines belong
/// to the statement before them.
fn statements(log: &str) -> Vec<String> {
    let mut ours = HashSet::new();
    let mut found: Vec<String> = Vec::new();
    // Whether a continuation line would belong to the last of `found`.
    let mut open = false;
    for line in log.lines() {
        let Some((id, command, argument)) = entry(line) else {
            if open && let Some(last) = found.last_mut() {
                last.push('\n');
                last.push_str(line);
            }
            continue;
        };
        open = false;
        match command {
            "Connect" | "Change user" => {
                if argument.starts_with(&format!("{APP_USER}@")) {
                    ours.insert(id);
                } else {
                    ours.remove(&id);
                }
            }
            "Query" | "Execute" if ours.contains(&id) => {
                found.push(argument.to_owned());
                open = true;
            }
            _ => {}
        }
    }
    found
}

/// `[time]\tID Command\targument`; the id and the command share a column.
fn entry(line: &str) -> Option<(u64, &str, &str)> {
    const COMMANDS: &[&str] = &[
        "Connect",
        "Query",
        "Prepare",
        "Execute",
        "Close stmt",
        "Quit",
        "Init DB",
        "Change user",
        "Reset stmt",
        "Long Data",
        "Ping",
        "Statistics",
        "Field List",
        "Fetch",
        "Set option",
        "Reset connection",
        "Binlog Dump",
        "Register Slave",
        "Kill",
        "Processlist",
        "Debug",
        "Bulk_execute",
    ];
    let mut rest = line;
    // The time, or tabs in its place.
    let tab = rest.find('\t')?;
    rest = rest[tab..].trim_start_matches(['\t', ' ']);
    let (id, rest) = rest.split_once(' ')?;
    let id = id.parse().ok()?;
    let command = COMMANDS.iter().find(|command| {
        rest.strip_prefix(**command)
            .is_some_and(|after| after.is_empty() || after.starts_with(['\t', ' ']))
    })?;
    Some((id, command, rest[command.len()..].trim_start_matches(['\t', ' '])))
}

/// `CHECKSUM TABLE` of all tables of the application.
fn checksums(node: &Node) -> Result<String> {
    let tables = node
        .client_sql(
            "SELECT CONCAT('`', table_name, '`') FROM information_schema.tables \
             WHERE table_schema = 'app' AND table_type = 'BASE TABLE' ORDER BY table_name",
        )
        .context("tables")?;
    let tables: Vec<_> = tables.lines().map(|t| format!("app.{t}")).collect();
    if tables.is_empty() {
        return Ok(String::new());
    }
    node.client_sql(&format!("CHECKSUM TABLE {}", tables.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read_as_servers_write_it() {
        let log = "/usr/sbin/mariadbd, Version: 10.11\nTcp port: 1  Unix socket: s\nTime\t\t    Id Command\tArgument\n\
                   261122 21:00:00\t     5 Connect\tapp@127.0.0.1 on app using TCP/IP\n\
                   \t\t     5 Query\tSELECT 1\n\
                   \t\t     6 Connect\tpointsman@127.0.0.1 on  using TCP/IP\n\
                   \t\t     6 Query\tSHOW STATUS\n\
                   \t\t     5 Prepare\tDELETE FROM t WHERE id = ?\n\
                   261122 21:00:01\t     5 Execute\tDELETE FROM t\n  WHERE id = 1\n\
                   \t\t     5 Quit\t\n";
        assert_eq!(statements(log), ["SELECT 1", "DELETE FROM t\n  WHERE id = 1"]);
    }

    #[test]
    fn writes_are_findings() {
        for bad in
            ["INSERT INTO t VALUES (1)", "BEGIN", "select 1 for update", "/* x */ DELETE FROM t"]
        {
            assert!(finding(bad).is_some(), "{bad}");
        }
        for good in
            ["SELECT 1", "START TRANSACTION READ ONLY", "/* x */ select 1", "SET NAMES utf8mb4"]
        {
            assert!(finding(good).is_none(), "{good}");
        }
    }
}
