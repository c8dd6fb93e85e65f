//! System variables and schema as the server reported them, and how to give them to another server.

use std::collections::BTreeMap;
use std::num::NonZero;

/// A value and the version it was set with.
type Versioned = (u64, Box<[u8]>);

/// The session's state that any server can be given.
///
/// Every change gets the next version; a server that was brought up to version `n` needs only what
/// changed after it. So a statement on a server in step costs one comparison.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    version: u64,
    changed: BTreeMap<Box<[u8]>, Versioned>,
    schema: Option<Versioned>,
    names: Option<Versioned>,
    multi_statements: Option<(u64, bool)>,
    often: Often,
}

/// What is asked for with every command, so that nobody looks through the variables for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Often {
    /// `wait_timeout` in seconds, if the session has set it.
    pub wait_timeout: Option<NonZero<u32>>,
    /// `sql_mode` has ANSI_QUOTES in it.
    pub ansi_quotes: bool,
    /// `character_set_client`, if the session has set it, is one in which the second byte of a
    /// character may look like a quote or backslash.
    pub multibyte_trap: Option<bool>,
}

const MULTIBYTE_TRAPS: &[&[u8]] = &[b"big5", b"cp932", b"gb18030", b"gbk", b"sjis"];

impl Often {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"wait_timeout" => {
                self.wait_timeout = str::from_utf8(value).ok().and_then(|v| v.parse().ok());
            }
            b"sql_mode" => self.ansi_quotes = value.windows(11).any(|w| w == b"ANSI_QUOTES"),
            b"character_set_client" => self.multibyte_trap = Some(MULTIBYTE_TRAPS.contains(&value)),
            _ => {}
        }
    }
}

/// One step that brings a server up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restore {
    /// COM_INIT_DB with this schema.
    Schema(Box<[u8]>),
    /// COM_QUERY with this `SET` statement.
    Set(Vec<u8>),
    /// COM_SET_OPTION: multi-statements on or off.
    MultiStatements(bool),
}

/// Variables that say something about the server or a past statement, or that matter to writes
/// only. They stay where they were set; what is set by hand lives on the primary.
const STAYS: &[&[u8]] = &[
    b"last_gtid",
    b"last_insert_id",
    b"identity",
    b"insert_id",
    b"rand_seed1",
    b"rand_seed2",
    b"timestamp",
    b"sql_log_bin",
    b"skip_replication",
    b"pseudo_thread_id",
    b"pseudo_slave_mode",
    b"pseudo_replica_mode",
    b"warning_count",
    b"error_count",
    b"in_transaction",
    b"statement_id",
    b"session_track_system_variables",
    b"session_track_gtids",
    b"session_track_schema",
];

/// Whether a variable of this name is carried from server to server.
fn is_carried(name: &[u8]) -> bool {
    !STAYS.contains(&name) && !name.starts_with(b"gtid_") && !name.starts_with(b"wsrep_")
}

/// Variables that `SET NAMES` sets.
fn is_of_names(name: &[u8]) -> bool {
    name.starts_with(b"character_set_") || name == b"collation_connection"
}

impl Variables {
    /// Version a server must be at to be in step.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The server said that `name` now has `value`.
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        if is_carried(name) {
            self.version += 1;
            self.often.note(name, value);
            self.changed.insert(name.into(), (self.version, value.into()));
        }
    }

    /// The server said that the default schema is now `name`.
    pub fn set_schema(&mut self, name: &[u8]) {
        if self.schema() != Some(name) {
            self.version += 1;
            self.schema = Some((self.version, name.into()));
        }
    }

    /// `sql`, a `SET NAMES` or `SET CHARACTER SET`, succeeded. It is repeated as it was written:
    /// servers report the character sets it sets, but not the collation.
    pub fn set_names(&mut self, sql: &[u8]) {
        self.version += 1;
        self.names = Some((self.version, sql.into()));
    }

    /// COM_SET_OPTION succeeded.
    pub fn set_multi_statements(&mut self, on: bool) {
        self.version += 1;
        self.multi_statements = Some((self.version, on));
    }

    #[must_use]
    pub fn schema(&self) -> Option<&[u8]> {
        self.schema.as_ref().map(|(_, name)| &name[..])
    }

    #[must_use]
    pub fn often(&self) -> Often {
        self.often
    }

    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.changed.get(name).map(|(_, value)| &value[..])
    }

    /// As [`Variables::restore`], with a statement for each variable: for a server that lacks one.
    #[must_use]
    pub fn restore_each(&self, from: u64) -> Vec<Restore> {
        let changed = self.missing(from).into_iter().map(|(name, value)| {
            let mut sql = b"SET ".to_vec();
            put_assignment(&mut sql, name, value);
            Restore::Set(sql)
        });
        let names = self.names.as_ref().filter(|(v, _)| *v > from);
        names.map(|(_, sql)| Restore::Set(sql.to_vec())).into_iter().chain(changed).collect()
    }

    /// Goes back to what was. Versions go on, so that servers in step with what came after are given
    /// whatever changes from here.
    pub(crate) fn rewind(&mut self, earlier: Self) {
        *self = Self { version: self.version, ..earlier };
    }

    pub(crate) fn rewind_version(&mut self, later: &Self) {
        self.version = self.version.max(later.version);
    }

    /// What a server at version `from` is missing, in the order to send it.
    #[must_use]
    pub fn restore(&self, from: u64) -> Vec<Restore> {
        let mut steps = Vec::new();
        if let Some((_, on)) = self.multi_statements.filter(|(v, _)| *v > from) {
            steps.push(Restore::MultiStatements(on));
        }
        if let Some((v, name)) = &self.schema
            && *v > from
            && !name.is_empty()
        {
            steps.push(Restore::Schema(name.clone()));
        }
        if let Some((v, sql)) = &self.names
            && *v > from
        {
            steps.push(Restore::Set(sql.to_vec()));
        }
        let mut sql = b"SET ".to_vec();
        for (name, value) in self.missing(from) {
            if sql.len() > 4 {
                sql.push(b',');
            }
            put_assignment(&mut sql, name, value);
        }
        if sql.len() > 4 {
            steps.push(Restore::Set(sql));
        }
        steps
    }

    /// Variables changed after `from`, in the order they were set: a later one may depend on an
    /// earlier (character sets). What the last `SET NAMES` set comes with that.
    fn missing(&self, from: u64) -> Vec<(&[u8], &[u8])> {
        let names = self.names.as_ref().map_or(0, |(v, _)| *v);
        let mut changed: Vec<_> = self
            .changed
            .iter()
            .filter(|(name, (v, _))| *v > from && !(*v < names && is_of_names(name)))
            .collect();
        changed.sort_by_key(|(_, (v, _))| *v);
        changed.into_iter().map(|(name, (_, value))| (&name[..], &value[..])).collect()
    }
}

fn put_assignment(sql: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    sql.extend_from_slice(b"@@session.`");
    sql.extend(name.iter().copied().filter(|b| *b != b'`'));
    sql.extend_from_slice(b"`=");
    if value.is_empty() && name == b"character_set_results" {
        // Reported as an empty text, and not accepted as one.
        sql.extend_from_slice(b"NULL");
    } else {
        put_value(sql, value);
    }
}

/// A value as servers accept it whatever the variable's type and the `sql_mode`: numbers and words
/// bare, everything else in hexadecimal, where no quoting rule applies.
fn put_value(sql: &mut Vec<u8>, value: &[u8]) {
    let numeric = !value.is_empty()
        && value.iter().enumerate().all(|(i, b)| {
            b.is_ascii_digit() || *b == b'.' || (i == 0 && *b == b'-' && value.len() > 1)
        })
        && value.iter().filter(|b| **b == b'.').count() <= 1;
    if numeric || value == b"ON" || value == b"OFF" {
        sql.extend_from_slice(value);
    } else if value
        .iter()
        .all(|b| b.is_ascii_graphic() && !matches!(b, b'\'' | b'\\') || *b == b' ')
    {
        sql.push(b'\'');
        sql.extend_from_slice(value);
        sql.push(b'\'');
    } else {
        sql.extend_from_slice(b"CONVERT(X'");
        for byte in value {
            sql.extend_from_slice(format!("{byte:02X}").as_bytes());
        }
        sql.extend_from_slice(b"' USING utf8)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(steps: &[Restore]) -> String {
        match steps.last() {
            Some(Restore::Set(sql)) => String::from_utf8_lossy(sql).into_owned(),
            other => panic!("no SET in {other:?}"),
        }
    }

    #[test]
    fn what_is_asked_often_is_what_the_variables_say_wherever_they_go_back_to() {
        let mut v = Variables::default();
        v.set(b"wait_timeout", b"30");
        v.set(b"sql_mode", b"STRICT_TRANS_TABLES,ANSI_QUOTES");
        let earlier = v.clone();
        v.set(b"wait_timeout", b"28800");
        v.set(b"sql_mode", b"");
        v.set(b"character_set_client", b"sjis");
        let often = Often {
            wait_timeout: NonZero::new(28800),
            ansi_quotes: false,
            multibyte_trap: Some(true),
        };
        assert_eq!(v.often(), often);
        v.rewind(earlier);
        let often =
            Often { wait_timeout: NonZero::new(30), ansi_quotes: true, multibyte_trap: None };
        assert_eq!(v.often(), often);
    }

    #[test]
    fn a_server_gets_what_changed_since_it_was_in_step() {
        let mut v = Variables::default();
        assert!(v.restore(0).is_empty());
        v.set(b"character_set_client", b"utf8mb4");
        v.set(b"foreign_key_checks", b"OFF");
        let then = v.version();
        v.set(b"sort_buffer_size", b"1000000");
        v.set(b"character_set_client", b"latin1");
        v.set_schema(b"app");
        assert_eq!(
            set(&v.restore(then)),
            "SET @@session.`sort_buffer_size`=1000000,@@session.`character_set_client`='latin1'"
        );
        assert_eq!(v.restore(then)[0], Restore::Schema((*b"app").into()));
        assert_eq!(
            set(&v.restore(0)),
            "SET @@session.`foreign_key_checks`=OFF,@@session.`sort_buffer_size`=1000000,\
             @@session.`character_set_client`='latin1'"
        );
        assert!(v.restore(v.version()).is_empty());
    }

    #[test]
    fn no_character_set_for_results_is_null() {
        let mut v = Variables::default();
        v.set(b"character_set_results", b"");
        v.set(b"sql_mode", b"");
        assert_eq!(
            set(&v.restore(0)),
            "SET @@session.`character_set_results`=NULL,@@session.`sql_mode`=''"
        );
        assert_eq!(v.restore_each(0).len(), 2);
    }

    #[test]
    fn set_names_is_repeated_with_its_collation() {
        let mut v = Variables::default();
        v.set(b"character_set_client", b"utf8mb4");
        v.set(b"character_set_connection", b"utf8mb4");
        v.set_names(b"SET NAMES utf8mb4 COLLATE utf8mb4_bin");
        let steps = v.restore(0);
        assert_eq!(steps, [Restore::Set(b"SET NAMES utf8mb4 COLLATE utf8mb4_bin".to_vec())]);
        v.set(b"character_set_results", b"latin1");
        assert_eq!(v.restore(0).len(), 2);
        assert_eq!(set(&v.restore(0)), "SET @@session.`character_set_results`='latin1'");
    }

    #[test]
    fn what_belongs_to_one_server_stays_there() {
        let mut v = Variables::default();
        for name in [&b"last_gtid"[..], b"gtid_domain_id", b"wsrep_on", b"insert_id"] {
            v.set(name, b"1");
        }
        assert_eq!(v.version(), 0);
    }

    #[test]
    fn no_value_can_break_out_of_its_quotes() {
        let mut sql = Vec::new();
        put_value(&mut sql, b"a'; DROP TABLE t; -- ");
        assert!(sql.starts_with(b"CONVERT(X'61273B"));
        sql.clear();
        put_value(&mut sql, b"\\");
        assert_eq!(sql, b"CONVERT(X'5C' USING utf8)");
        sql.clear();
        put_value(&mut sql, b"+00:00");
        assert_eq!(sql, b"'+00:00'");
    }
}
