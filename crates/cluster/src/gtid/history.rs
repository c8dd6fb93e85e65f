//! All that a server has ever had: tells whether one has transactions of its own. Pure.

use super::{Flavour, Gtid, MariaDbPosition, MySqlGtidSet, ParseError};

/// In MariaDB a position names only the newest transaction of a domain, so two servers at the same
/// number may have different ones; the state of the binary log names the newest of each server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    MariaDb {
        /// `@@gtid_binlog_state`: the newest per domain and server.
        state: Vec<Gtid>,
        /// `@@gtid_slave_pos`, for one whose binary log does not reach back.
        replicated: MariaDbPosition,
    },
    MySql(MySqlGtidSet),
}

impl History {
    /// Reads `@@gtid_binlog_state` and `@@gtid_slave_pos`, or `@@gtid_executed`.
    ///
    /// # Errors
    /// The text is none of these.
    pub fn parse(flavour: Flavour, state: &str, replicated: &str) -> Result<Self, ParseError> {
        Ok(match flavour {
            Flavour::MariaDb => {
                let parts = state.split(',').map(str::trim).filter(|part| !part.is_empty());
                let state = parts
                    .map(|part| part.parse::<MariaDbPosition>().map(|one| one.domains[0]))
                    .collect::<Result<_, _>>()?;
                Self::MariaDb { state, replicated: replicated.parse()? }
            }
            Flavour::MySql => Self::MySql(state.parse()?),
        })
    }

    /// It knows of no transaction that it could have logged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::MariaDb { state, .. } => state.is_empty(),
            Self::MySql(set) => set.is_empty(),
        }
    }

    /// What this one has and `other` lacks; `None` if nothing. Where that can't be told it counts as
    /// lacking.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (
                Self::MariaDb { state, replicated: fetched },
                Self::MariaDb { state: theirs, replicated },
            ) => {
                let has = |gtid: &&Gtid| {
                    theirs.iter().chain(&replicated.domains).any(|known| {
                        (known.domain, known.server) == (gtid.domain, gtid.server)
                            && known.sequence >= gtid.sequence
                    })
                };
                let unlogged = fetched.domains.iter().filter(|gtid| !state.contains(gtid));
                let extra: Vec<_> = state
                    .iter()
                    .chain(unlogged)
                    .filter(|gtid| !has(gtid))
                    .map(|gtid| {
                        let upto = theirs.iter().find(|known| {
                            (known.domain, known.server) == (gtid.domain, gtid.server)
                        });
                        match upto {
                            Some(known) => format!("{gtid} (after {known})"),
                            None => gtid.to_string(),
                        }
                    })
                    .collect();
                (!extra.is_empty()).then(|| extra.join(", "))
            }
            (Self::MySql(own), Self::MySql(theirs)) => {
                let extra = own.minus(theirs);
                (!extra.is_empty()).then(|| extra.to_string())
            }
            _ => Some("it is another kind of database".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mariadb(state: &str, replicated: &str) -> History {
        History::parse(Flavour::MariaDb, state, replicated).unwrap()
    }

    #[test]
    fn in_mariadb_the_same_number_may_be_another_transaction() {
        let new = mariadb("0-1-100,0-2-105", "0-1-100");
        assert_eq!(mariadb("0-1-100", "").beyond(&new), None);
        assert_eq!(mariadb("", "").beyond(&new), None);
        let extra = mariadb("0-1-103", "").beyond(&new);
        assert_eq!(extra.as_deref(), Some("0-1-103 (after 0-1-100)"));
        assert_eq!(mariadb("0-1-100,7-1-1", "").beyond(&new).as_deref(), Some("7-1-1"));
        // Without `log_slave_updates`.
        assert!(mariadb("", "0-1-300").beyond(&mariadb("0-1-200", "")).is_some());
        // Set up from a backup, its binary log begins later.
        assert_eq!(mariadb("0-1-100", "").beyond(&mariadb("", "0-1-100")), None);
        assert!(mariadb("0-1-100", "").beyond(&mariadb("0-2-105", "0-2-104")).is_some());
    }

    #[test]
    fn in_mysql_sets_are_subtracted() {
        let a = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let b = "4e11fa47-71ca-11e1-9e33-c80aa9429562";
        let set = |text: String| History::parse(Flavour::MySql, &text, "").unwrap();
        let new = set(format!("{a}:1-100,{b}:1-5"));
        assert_eq!(set(format!("{a}:1-100")).beyond(&new), None);
        assert_eq!(set(format!("{a}:1-103")).beyond(&new), Some(format!("{a}:101-103")));
        assert_eq!(set(format!("{a}:1-3,{b}:4-7")).beyond(&new), Some(format!("{b}:6-7")));
        assert!(set(String::new()).beyond(&mariadb("", "")).is_some());
    }
}
