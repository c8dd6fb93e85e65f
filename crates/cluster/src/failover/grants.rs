//! What the account that changes the primary must be allowed to do. Pure.

use crate::gtid::Flavour;

/// For MariaDB from 10.5 on. `REPLICATION SLAVE` is what a former primary replicates with, unless
/// that has an account of its own.
const MARIADB: &[&str] = &[
    "REPLICATION SLAVE ADMIN",
    "REPLICATION MASTER ADMIN",
    "READ_ONLY ADMIN",
    "CONNECTION ADMIN",
    "PROCESS",
    "RELOAD",
    "REPLICATION SLAVE",
];

/// For MySQL from 8.0.23 on.
const MYSQL: &[&str] = &[
    "REPLICATION_SLAVE_ADMIN",
    "SYSTEM_VARIABLES_ADMIN",
    "CONNECTION_ADMIN",
    "PROCESS",
    "RELOAD",
    "REPLICATION SLAVE",
];

/// What it takes besides to have scheduled events run at the primary and nowhere else: to see and change
/// them, to leave them their definers, and to keep that out of the binary log. In MySQL the last is part of
/// what is needed anyway.
const MARIADB_EVENTS: &[&str] = &["EVENT", "SET USER", "BINLOG ADMIN"];
/// For MySQL from 8.2 on.
const MYSQL_EVENTS: &[&str] = &["EVENT", "SET_ANY_DEFINER"];

/// What is missing, given the lines of `SHOW GRANTS`. With `replicates` the account is also the one
/// that former primaries replicate with.
pub(super) fn missing<'a>(
    flavour: Flavour,
    lines: impl IntoIterator<Item = &'a str>,
    replicates: bool,
) -> Vec<&'static str> {
    let held = Held::read(lines);
    let wanted = match flavour {
        Flavour::MariaDb => MARIADB,
        Flavour::MySql => MYSQL,
    };
    let needed = wanted.iter().copied().filter(|name| replicates || *name != "REPLICATION SLAVE");
    needed.filter(|name| !held.has(name)).collect()
}

/// What is missing to carry scheduled events over.
pub(super) fn missing_for_events<'a>(
    flavour: Flavour,
    lines: impl IntoIterator<Item = &'a str>,
) -> Vec<&'static str> {
    let held = Held::read(lines);
    let wanted = match flavour {
        Flavour::MariaDb => MARIADB_EVENTS,
        Flavour::MySql => MYSQL_EVENTS,
    };
    // As it was called before.
    let older = |name: &str| name == "SET_ANY_DEFINER" && held.has("SET_USER_ID");
    wanted.iter().copied().filter(|name| !held.has(name) && !older(name)).collect()
}

/// Whether one privilege is held.
pub(super) fn has<'a>(lines: impl IntoIterator<Item = &'a str>, name: &str) -> bool {
    Held::read(lines).has(name)
}

/// Global privileges.
struct Held(Vec<String>);

impl Held {
    fn read<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut held = Vec::new();
        for line in lines {
            let line = line.to_ascii_uppercase();
            let Some(rest) = line.strip_prefix("GRANT ") else { continue };
            let Some((list, _)) = rest.split_once(" ON *.* TO ") else { continue };
            held.extend(list.split(',').map(|name| name.trim().to_owned()));
        }
        Self(held)
    }

    fn has(&self, wanted: &str) -> bool {
        self.0.iter().any(|name| name == wanted || name == "ALL PRIVILEGES" || name == "ALL")
    }
}

/// The statement that helps. In MariaDB `REPLICATION SLAVE` alone is spelled as it always was.
pub(super) fn grant(missing: &[&str], user: &str) -> String {
    format!("GRANT {} ON *.* TO '{user}'@'%'", missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_as_servers_write_them() {
        let mariadb = [
            "GRANT RELOAD, PROCESS, REPLICATION SLAVE, SLAVE MONITOR, REPLICATION SLAVE ADMIN, \
             READ_ONLY ADMIN ON *.* TO `pointsman`@`%` IDENTIFIED BY PASSWORD '*00'",
            "GRANT SELECT ON `mysql`.`user` TO `pointsman`@`%`",
        ];
        let lacks = missing(Flavour::MariaDb, mariadb, true);
        assert_eq!(lacks, ["REPLICATION MASTER ADMIN", "CONNECTION ADMIN"]);
        assert_eq!(
            grant(&lacks, "pointsman"),
            "GRANT REPLICATION MASTER ADMIN, CONNECTION ADMIN ON *.* TO 'pointsman'@'%'"
        );
        let mysql = [
            "GRANT RELOAD, PROCESS, REPLICATION CLIENT ON *.* TO `pointsman`@`%`",
            "GRANT CONNECTION_ADMIN,SYSTEM_VARIABLES_ADMIN ON *.* TO `pointsman`@`%`",
        ];
        assert_eq!(
            missing(Flavour::MySql, mysql, true),
            ["REPLICATION_SLAVE_ADMIN", "REPLICATION SLAVE"]
        );
        assert_eq!(missing(Flavour::MySql, mysql, false), ["REPLICATION_SLAVE_ADMIN"]);
        let all = ["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"];
        assert!(missing(Flavour::MariaDb, all, true).is_empty());
        assert!(missing_for_events(Flavour::MariaDb, all).is_empty());
        let some = ["GRANT EVENT, BINLOG ADMIN ON *.* TO `p`@`%`"];
        assert_eq!(missing_for_events(Flavour::MariaDb, some), ["SET USER"]);
        assert_eq!(missing_for_events(Flavour::MySql, some), ["SET_ANY_DEFINER"]);
    }
}
