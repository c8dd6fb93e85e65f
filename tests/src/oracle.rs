//! Proof that no write reached a replica.
//!
//! The replicas are made writable first, so that a misrouted write would succeed, and three things
//! would show it: the general log, a GTID of the replica's own, data that differ.

use std::cell::RefCell;
use std::collections::HashSet;

use anyhow::{Context as _, Result};
use pointsman_sandbox::{Flavour, MONITOR_USER, Node, Sandbox};

pub struct Oracle<'a> {
    sandbox: &'a Sandbox,
    /// Transactions of the replicas' own that were reported already.
    told: RefCell<HashSet<String>>,
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
        Self { sandbox, told: RefCell::default() }
    }

    /// All statements the replica was sent by clients of the application.
    pub fn seen(&self, replica: &Node) -> Result<Vec<String>> {
        Ok(statements(&replica.general_log()?))
    }

    /// Panics if a write reached a replica, or data differ.
    #[track_caller]
    pub fn check(&self) {
        let findings = self.findings().unwrap();
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    /// What was seen is not looked at again.
    ///
    /// # Errors
    /// A log can't be emptied.
    pub fn forget(&self) -> Result<()> {
        self.sandbox.replicas().iter().try_for_each(Node::clear_general_log)
    }

    /// Writes that reached a replica, and data that differ.
    ///
    /// # Errors
    /// A server can't be asked.
    pub fn findings(&self) -> Result<Vec<String>> {
        self.sandbox.wait_caught_up()?;
        let mut findings = Vec::new();
        for replica in self.sandbox.replicas().iter().filter(|r| r.is_running()) {
            let name = replica.name();
            for statement in self.seen(replica)? {
                if let Some(why) = finding(&statement, replica.flavour()) {
                    findings.push(format!("{name} was sent a statement that {why}: {statement}"));
                }
            }
            if let Some(own) = self.own_transactions(replica)?
                && self.told.borrow_mut().insert(own.clone())
            {
                findings.push(format!("{name} wrote by itself: {own}"));
            }
            let (here, there) = (checksums(replica)?, checksums(self.sandbox.primary())?);
            if here != there {
                findings.push(format!("{name} differs from the primary:\n{here}not\n{there}"));
            }
        }
        Ok(findings)
    }

    /// Transactions that did not come from the primary.
    fn own_transactions(&self, replica: &Node) -> Result<Option<String>> {
        match replica.flavour() {
            Flavour::MySql => {
                let primary = self.sandbox.primary().client_sql("SELECT @@server_uuid")?;
                let executed = replica.position()?;
                let own = executed.split(',').find(|set| !set.trim().starts_with(primary.trim()));
                Ok(own.filter(|own| !own.is_empty()).map(str::to_owned))
            }
            // They carry its own server id.
            _ => {
                let gtids = replica.client_sql("SELECT @@gtid_binlog_state")?;
                let own = format!("-{}-", replica.server_id());
                Ok(gtids.contains(&own).then(|| gtids.trim().to_owned()))
            }
        }
    }
}

fn finding(statement: &str, flavour: Flavour) -> Option<&'static str> {
    let upper = without_comments(&statement.to_ascii_uppercase(), flavour);
    let upper = upper.trim_start_matches(|c: char| c.is_whitespace() || c == ';' || c == '(');
    let first = upper.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    if upper.is_empty() {
        return None;
    }
    if !HARMLESS.contains(&first) {
        return Some("is not known to be harmless");
    }
    if (first == "BEGIN" || first == "START") && !upper.contains("READ ONLY") {
        return Some("begins a transaction that may write");
    }
    if first == "SET" && upper.contains("@@GLOBAL.") {
        return Some("may set a global variable");
    }
    HARMFUL.iter().any(|words| upper.contains(words)).then_some("locks or writes")
}

/// Newest version of a server these tests run, as executable comments give it.
const NEWEST: u32 = 200_000;

/// What a server would run: comments gone, but not those that servers execute.
fn without_comments(statement: &str, flavour: Flavour) -> String {
    // To MySQL they are comments like others.
    let code_of_mariadb = if flavour == Flavour::MySql { "/*!" } else { "/*M!" };
    let mut out = String::new();
    let mut rest = statement;
    while let Some(c) = rest.chars().next() {
        if let '\'' | '"' | '`' = c {
            let end = rest[1..].find(c).map_or(rest.len(), |at| at + 2);
            // Not what is in it: `SELECT 'for update'` locks nothing.
            out.push_str("''");
            rest = &rest[end..];
        } else if rest.starts_with('#')
            || rest.strip_prefix("--").is_some_and(|after| !after.starts_with(|c: char| c > ' '))
        {
            rest = rest.find('\n').map_or("", |at| &rest[at..]);
        } else if let Some(code) =
            rest.strip_prefix("/*!").or_else(|| rest.strip_prefix(code_of_mariadb))
        {
            let digits = code.find(|c: char| !c.is_ascii_digit()).unwrap_or(code.len());
            let runs = code[..digits].parse().is_ok_and(|version: u32| version < NEWEST);
            let (inside, after) = code[digits..].split_once("*/").unwrap_or((&code[digits..], ""));
            if runs || digits == 0 {
                out.push_str(inside);
            }
            rest = after;
        } else if let Some(comment) = rest.strip_prefix("/*") {
            out.push(' ');
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
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
                // Clients, whoever they are: not the proxy's watcher, not the tests' own administrator,
                // who comes by the unix socket.
                if argument.ends_with("using TCP/IP")
                    && !argument.starts_with(&format!("{MONITOR_USER}@"))
                {
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
        for bad in [
            "INSERT INTO t VALUES (1)",
            "BEGIN",
            "select 1 for update",
            "/* x */ DELETE FROM t",
            "/*!50000 DELETE */ FROM t",
            "SELECT 1 /*! FOR UPDATE */",
            "((SELECT 1)) FOR UPDATE",
            "-- x\nDELETE FROM t",
        ] {
            assert!(finding(bad, Flavour::MariaDb).is_some(), "{bad}");
        }
        for good in [
            "SELECT 1",
            "select* from t",
            "START TRANSACTION READ ONLY",
            "/* x */ select 1",
            "SET NAMES utf8mb4",
            "SELECT 1 -- FOR UPDATE",
            "SELECT 1 /*!999999 FOR UPDATE */",
            "((SELECT 1))",
            "-- x\nSELECT 1",
            "; /* x */",
        ] {
            assert!(finding(good, Flavour::MariaDb).is_none(), "{good}");
        }
    }
}
