//! What a write to a table can change besides. Pure.

use std::collections::{HashMap, HashSet};

use super::{Hasher, TableKey};

/// A row of `information_schema.TABLES`.
#[derive(Debug, Clone)]
pub struct TableRow {
    pub schema: String,
    pub name: String,
    /// `BASE TABLE`, `VIEW`, `SEQUENCE`, `SYSTEM VERSIONED`, ...
    pub kind: String,
    /// `NULL` for views and for tables that can't be opened.
    pub engine: Option<String>,
}

/// A foreign key by which changes of the one table change the other.
#[derive(Debug, Clone)]
pub struct ForeignKey {
    /// Schema and name of the table that is referred to.
    pub parent: (String, String),
    /// Of the one that has the foreign key.
    pub child: (String, String),
}

/// The tables of a server, as far as is certain what a read or a write of them touches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    /// The server logs the texts of statements as they are sent to it: nothing that rewrites them is
    /// installed.
    pub as_sent: bool,
    tables: HashMap<TableKey, Writes>,
}

/// What a write changes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Writes {
    /// This table and these.
    Also(Box<[TableKey]>),
    /// It has triggers, or a table that its foreign keys change has, or is none that is known.
    Anything,
}

/// Engines that keep a table's rows in the table itself, and nothing else in it.
const ENGINES: &[&str] = &["InnoDB", "MyISAM", "Aria", "MEMORY", "ROCKSDB"];
/// Schemas that are written to by other means than statements.
const SYSTEM: &[&str] = &["mysql", "sys", "information_schema", "performance_schema"];

impl Catalog {
    /// `triggers`: schema and name of each table that has one.
    #[must_use]
    pub fn new(
        hasher: &Hasher,
        tables: &[TableRow],
        triggers: &[(String, String)],
        foreign_keys: &[ForeignKey],
    ) -> Self {
        let key = |schema: &str, name: &str| hasher.key(schema.as_bytes(), name);
        let mut certain = HashSet::new();
        // Where names have a case: `T` may be a view, and `t` a table.
        let mut doubtful = HashSet::new();
        for row in tables {
            let Some(key) = key(&row.schema, &row.name) else { continue };
            let kind = matches!(row.kind.as_str(), "BASE TABLE" | "SYSTEM VERSIONED");
            let engine = row.engine.as_deref().is_some_and(|engine| {
                ENGINES.iter().any(|known| known.eq_ignore_ascii_case(engine))
            });
            let system = SYSTEM.iter().any(|name| name.eq_ignore_ascii_case(&row.schema));
            if kind && engine && !system {
                certain.insert(key);
            } else {
                doubtful.insert(key);
            }
        }
        let is_table = |key: &TableKey| certain.contains(key) && !doubtful.contains(key);
        let triggered: HashSet<_> = triggers.iter().filter_map(|(s, t)| key(s, t)).collect();
        let mut children: HashMap<TableKey, Vec<Option<TableKey>>> = HashMap::new();
        for foreign in foreign_keys {
            if let Some(parent) = key(&foreign.parent.0, &foreign.parent.1) {
                let child = key(&foreign.child.0, &foreign.child.1);
                children.entry(parent).or_default().push(child);
            }
        }
        let reach = |table: TableKey| {
            let mut found = vec![table];
            let mut next = 0;
            while let Some(at) = found.get(next).copied() {
                next += 1;
                if triggered.contains(&at) || !is_table(&at) {
                    return Writes::Anything;
                }
                for child in children.get(&at).into_iter().flatten() {
                    match child {
                        None => return Writes::Anything,
                        Some(child) if !found.contains(child) => found.push(*child),
                        Some(_) => {}
                    }
                }
            }
            Writes::Also(found.split_off(1).into_boxed_slice())
        };
        let tables = certain.iter().filter(|key| is_table(key));
        let tables = tables.map(|table| (*table, reach(*table))).collect();
        Self { as_sent: false, tables }
    }

    /// Whether it is a table that holds its own rows, as against a view, for one.
    #[must_use]
    pub fn is_table(&self, key: TableKey) -> bool {
        self.tables.contains_key(&key)
    }

    /// Which others a write to this table can change; `None`: any.
    #[must_use]
    pub fn written_with(&self, key: TableKey) -> Option<&[TableKey]> {
        match self.tables.get(&key)? {
            Writes::Also(others) => Some(others),
            Writes::Anything => None,
        }
    }

    /// How many tables are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}
