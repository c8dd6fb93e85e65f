//! Which changes of its session a client is told: what it asked servers to tell.
//!
//! On every backend all variables are reported, for our own use; so what the client set
//! (`session_track_system_variables` and its like) is kept here and applied to what is passed on.

use pointsman_wire::StateChange;

/// What servers report if nobody says otherwise (`session_track_system_variables`).
const DEFAULT: &[&[u8]] = &[
    b"autocommit",
    b"character_set_client",
    b"character_set_connection",
    b"character_set_results",
    b"redirect_url", // MariaDB, from 11.3 on
    b"time_zone",
];

/// What one client wants to be told. Every session has it, and few ever say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reporting(Option<Box<Wishes>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wishes {
    variables: Variables,
    schema: bool,
    gtids: bool,
    /// What it has set, as servers tell it.
    set: [Setting; 3],
}

/// A value and, as long as it is what servers begin with, none.
type Setting = Option<Box<[u8]>>;

/// Whose values [`Wishes::set`] has; MariaDB lacks the last.
pub const NAMES: [&[u8]; 3] =
    [b"session_track_system_variables", b"session_track_schema", b"session_track_gtids"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Variables {
    Default,
    All,
    /// In lower case.
    These(Box<[Box<[u8]>]>),
    AllBut(Box<[Box<[u8]>]>),
}

impl Default for Wishes {
    fn default() -> Self {
        Self { variables: Variables::Default, schema: true, gtids: false, set: [None, None, None] }
    }
}

impl Reporting {
    /// The client has set this; other names don't matter.
    pub fn note(&mut self, name: &[u8], value: &[u8]) {
        let is_on = || !matches!(value, b"OFF" | b"0");
        let Some(i) = NAMES.iter().position(|n| *n == name) else { return };
        let wishes = self.0.get_or_insert_default();
        wishes.set[i] = Some(value.into());
        match name {
            b"session_track_system_variables" => {
                let names = value.split(|b| *b == b',').map(|n| n.trim_ascii());
                let names = names.filter(|n| !n.is_empty());
                wishes.variables = if names.clone().any(|n| n == b"*") {
                    Variables::All
                } else {
                    Variables::These(names.map(|n| n.to_ascii_lowercase().into()).collect())
                };
            }
            b"session_track_schema" => wishes.schema = is_on(),
            _ => wishes.gtids = is_on(),
        }
    }

    /// The statement that has a server say of these variables what the client set. `gtids`: of that,
    /// too.
    #[must_use]
    pub fn as_set(&self, gtids: bool) -> Vec<u8> {
        let mut sql = b"SET ".to_vec();
        for (i, name) in NAMES[..if gtids { 3 } else { 2 }].iter().enumerate() {
            if i > 0 {
                sql.push(b',');
            }
            sql.extend_from_slice(name);
            sql.push(b'=');
            match self.0.as_ref().and_then(|wishes| wishes.set[i].as_deref()) {
                None => sql.extend_from_slice(b"DEFAULT"),
                Some([b @ b'0'..=b'9']) => sql.push(*b),
                // In which no quoting rule applies.
                Some(value) => {
                    sql.extend_from_slice(b"CONVERT(X'");
                    for byte in value {
                        sql.extend_from_slice(format!("{byte:02X}").as_bytes());
                    }
                    sql.extend_from_slice(b"' USING utf8)");
                }
            }
        }
        sql
    }

    /// The same without these variables, whatever it was told to tell of them.
    #[must_use]
    pub fn without(&self, untold: &[Box<[u8]>]) -> Self {
        let told = |name: &[u8]| !untold.iter().any(|n| **n == *name);
        let mut wishes = self.0.clone().unwrap_or_default();
        wishes.variables = match &wishes.variables {
            Variables::All => Variables::AllBut(untold.into()),
            Variables::AllBut(names) => {
                Variables::AllBut(names.iter().chain(untold).cloned().collect())
            }
            Variables::Default => {
                let names = DEFAULT.iter().filter(|n| told(n));
                Variables::These(names.map(|n| (*n).into()).collect())
            }
            Variables::These(names) => {
                Variables::These(names.iter().filter(|n| told(n)).cloned().collect())
            }
        };
        Self(Some(wishes))
    }

    /// Whether the client is told.
    #[must_use]
    pub fn wants(&self, change: StateChange<'_>) -> bool {
        let wishes = self.0.as_deref();
        match change {
            StateChange::Variable { name, .. } => match wishes.map(|w| &w.variables) {
                None | Some(Variables::Default) => DEFAULT.contains(&name),
                Some(Variables::All) => true,
                Some(Variables::AllBut(names)) => !names.iter().any(|n| **n == *name),
                Some(Variables::These(names)) => names.iter().any(|n| **n == *name),
            },
            StateChange::Schema(_) => wishes.is_none_or(|w| w.schema),
            StateChange::Gtids(_) => wishes.is_some_and(|w| w.gtids),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable<'a>(name: &'a [u8], value: &'a [u8]) -> StateChange<'a> {
        StateChange::Variable { name, value }
    }

    #[test]
    fn a_client_is_told_what_servers_tell_by_default() {
        let reporting = Reporting::default();
        assert!(reporting.wants(variable(b"time_zone", b"+00:00")));
        assert!(!reporting.wants(variable(b"last_gtid", b"0-1-1")));
        assert!(reporting.wants(StateChange::Schema(b"app")));
        assert!(!reporting.wants(StateChange::Gtids(b"x:1")));
    }

    #[test]
    fn a_client_is_told_what_it_asked_for() {
        let mut reporting = Reporting::default();
        reporting.note(b"session_track_system_variables", b"SQL_mode, last_gtid,");
        assert!(reporting.wants(variable(b"sql_mode", b"")));
        assert!(reporting.wants(variable(b"last_gtid", b"0-1-1")));
        assert!(!reporting.wants(variable(b"time_zone", b"+00:00")));
        reporting.note(b"session_track_system_variables", b"");
        assert!(!reporting.wants(variable(b"sql_mode", b"")));
        reporting.note(b"session_track_system_variables", b"*");
        assert!(reporting.wants(variable(b"anything", b"")));
        reporting.note(b"session_track_schema", b"OFF");
        assert!(!reporting.wants(StateChange::Schema(b"app")));
        reporting.note(b"session_track_gtids", b"OWN_GTID");
        assert!(reporting.wants(StateChange::Gtids(b"x:1")));
        let sql = "SET session_track_system_variables=CONVERT(X'2A' USING utf8),\
                   session_track_schema=CONVERT(X'4F4646' USING utf8)";
        assert_eq!(String::from_utf8_lossy(&reporting.as_set(false)), sql);
        let sql = "SET session_track_system_variables=DEFAULT,session_track_schema=DEFAULT,\
                   session_track_gtids=DEFAULT";
        assert_eq!(String::from_utf8_lossy(&Reporting::default().as_set(true)), sql);
    }
}
