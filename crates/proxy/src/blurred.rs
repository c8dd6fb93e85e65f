//! Variables that a newer MariaDB reports by another's name.
//!
//! From 11 on (10.11 does not, 11.8 does) it finds changed variables by where their values lie. Of
//! several that lie in one word, or nowhere, it reports the one that was first named to it, with that
//! one's value: `SET foreign_key_checks = 0` as `autocommit=ON` and, after `SET timestamp`, the
//! position of every write as `timestamp`. So those go first that must be told rightly, and when they
//! are told, the others are asked for.

use std::fmt::Write as _;

use pointsman_wire::StateChange;

use crate::backend::{Backend, Broken};

/// What is named before `*` to a MariaDB that is to report all variables: what clients are told by
/// default, and the position of a write.
macro_rules! first {
    () => {
        "autocommit,character_set_connection,character_set_server,last_gtid"
    };
}
pub(crate) use first;

/// What shares its place with `autocommit`: bits of one word. Some more matter to writes only.
const OPTIONS: &[&str] = &[
    "foreign_key_checks",
    "unique_checks",
    "check_constraint_checks",
    "sql_auto_is_null",
    "sql_big_selects",
    "sql_buffer_result",
    "sql_if_exists",
    "sql_log_off",
    "sql_notes",
    "sql_quote_show_create",
    "sql_safe_updates",
    "sql_warnings",
    "explicit_defaults_for_timestamp",
    "system_versioning_insert_history",
];

/// Which reports came that may have meant something else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Blurred {
    options: bool,
    connection: bool,
    server: bool,
}

impl Blurred {
    pub fn note(&mut self, name: &[u8]) {
        match name {
            b"autocommit" => self.options = true,
            b"character_set_connection" => self.connection = true,
            b"character_set_server" => self.server = true,
            _ => {}
        }
    }

    #[must_use]
    pub fn is_any(self) -> bool {
        self != Self::default()
    }

    /// Only `autocommit` was set, or only the character sets by `SET NAMES`, which is repeated as it
    /// was written.
    pub fn was_meant(&mut self, autocommit: bool, names: bool) {
        self.options &= !autocommit;
        self.connection &= !names;
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let of = |told, names: &'static [&'static str]| if told { names } else { &[] };
        of(self.options, OPTIONS)
            .iter()
            .chain(of(self.connection, &["collation_connection"]))
            .chain(of(self.server, &["collation_server"]))
            .copied()
    }

    /// Asks the server and hands on what is not as the server's own settings. False: it does not say.
    pub async fn resolve(
        self,
        backend: &mut Backend,
        is_known: impl Fn(&[u8]) -> bool,
        mut changed: impl FnMut(StateChange<'_>),
    ) -> Result<bool, Broken> {
        let mut ask = String::from("\x03SELECT 1");
        for name in self.names() {
            let _ = write!(ask, ",@@{name},@@{name}<=>@@global.{name}");
        }
        let row = backend.row(ask.as_bytes()).await?;
        for (name, told) in self.names().zip(row.get(1..).unwrap_or_default().chunks(2)) {
            let [value, is_global] = told else { continue };
            if is_global.as_deref() != Some(b"1") || is_known(name.as_bytes()) {
                let value = value.as_deref().unwrap_or_default();
                changed(StateChange::Variable { name: name.as_bytes(), value });
            }
        }
        Ok(!row.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_with_it_is_asked_for() {
        let mut blurred = Blurred::default();
        blurred.note(b"sql_mode");
        assert!(!blurred.is_any());
        blurred.note(b"autocommit");
        blurred.note(b"character_set_connection");
        assert!(blurred.names().any(|n| n == "foreign_key_checks"));
        blurred.was_meant(true, false);
        assert!(blurred.names().eq(["collation_connection"]));
        blurred.was_meant(false, true);
        assert!(!blurred.is_any());
    }
}
